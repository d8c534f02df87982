// The small images: pageData.images[row] has the key of a row, its class (truth), the answer of the
// head and its score (null where it was not scored), its split, its thumbnail or the reason why
// there is none. Classes are numbers; className gives their names.
const { names: classNames, reasons, rows: imageRows, splits: splitNames } = pageData.images;
const className = number => classNames[number];
pageData.images = Object.fromEntries(Object.entries(imageRows).map(
  ([row, [key, truth, answer, score, split, small]]) => {
    const onPage = document.querySelector(`img[data-row="${row}"]`)?.src;
    const thumbnail = onPage ?? (typeof small === "string" ? small : null);
    const reason = thumbnail ? "" : reasons[small];
    return [row, { key, truth, answer, score, split: splitNames[split], thumbnail, reason }];
  }));

function nameElement(text, tag = "bdi") { return element(tag, { class: "name" }, text); }

function imageFigure(row) {
  const { key, truth, answer, score, split, thumbnail, reason } = pageData.images[row];
  const words = { train: "training", validation: "validation", test: "test" }[split];
  const lines = [element("span", {}, "labelled ", nameElement(className(truth)))];
  if (answer !== null) {
    const wrong = answer === truth ? {} : { class: "wrong" };
    lines.push(element("span", { class: "answer" }, "predicted as ",
      nameElement(className(answer)), " ", element("b", wrong, score.toFixed(2))));
  }
  return element("figure", { class: "small" },
    thumbnail ? element("img", { src: thumbnail, alt: "" }) : element("div", { class: "gone" }, reason),
    element("figcaption", {}, ...lines, element("span", {}, `${words} image`),
      element("code", {}, nameElement(key))));
}

// One tooltip for the page: it stays inside the window, Escape closes it, and the pointer may go
// onto it.
const tip = element("div", { id: "tip", role: "tooltip", hidden: "" });
document.body.append(tip);
let tipTimer, tipOwner = null;

// Shows a row beside a box (left, top, right, bottom in the window); `owner` is described by it.
function showTip(owner, row, box) {
  clearTimeout(tipTimer);
  if (tipOwner !== owner) hideTip();
  tipOwner = owner;
  owner.setAttribute("aria-describedby", "tip");
  tip.replaceChildren(imageFigure(row));
  tip.hidden = false;
  const { offsetWidth: width, offsetHeight: height } = tip;
  const page = document.documentElement, gap = 10;
  const left = box.right + gap + width < page.clientWidth ? box.right + gap : box.left - gap - width;
  const top = Math.min(box.top, page.clientHeight - height - gap);
  tip.style.left = `${Math.max(gap, Math.min(left, page.clientWidth - width - gap))}px`;
  tip.style.top = `${Math.max(gap, top)}px`;
}
function hideTip() {
  clearTimeout(tipTimer);
  tipOwner?.removeAttribute("aria-describedby");
  tipOwner = null;
  tip.hidden = true;
}
function hideTipSoon() {
  clearTimeout(tipTimer);
  tipTimer = setTimeout(hideTip, 200);
}
tip.addEventListener("pointerenter", () => clearTimeout(tipTimer));
tip.addEventListener("pointerleave", hideTipSoon);
addEventListener("keydown", event => { if (event.key === "Escape") hideTip(); });
addEventListener("scroll", hideTip, { passive: true });

// The tooltip of an element that stands for a row.
function tipFor(owner, row) {
  const show = () => showTip(owner, row, owner.getBoundingClientRect());
  owner.addEventListener("pointerenter", show);
  owner.addEventListener("focus", show);
  owner.addEventListener("pointerleave", hideTipSoon);
  owner.addEventListener("blur", hideTip);
}

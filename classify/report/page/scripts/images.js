// The small images: pageData.images[row] has the key of a row, its class (truth), the answer of the
// head and its score (null where it was not scored), its split, its thumbnail or the reason why
// there is none. Classes are numbers; className gives their names.
const { names: classNames, reasons, rows: imageRows, splits: splitNames } = pageData.images;
const splitWords = { train: "training", validation: "validation", test: "test" };
const className = number => classNames[number];
const largeImages = Object.fromEntries(
  [...document.querySelectorAll("img[data-row]")].map(image => [image.dataset.row, image.src]));
pageData.images = Object.fromEntries(Object.entries(imageRows).map(
  ([row, [key, truth, answer, score, split, small]]) => {
    const thumbnail = largeImages[row] ?? (typeof small === "string" ? small : null);
    const reason = thumbnail ? "" : reasons[small];
    return [row, { key, truth, answer, score, split: splitNames[split], thumbnail, reason }];
  }));

// A name may break after a mark, as in the templates.
function nameElement(text, tag = "bdi") {
  const parts = text.split(/(?<=[_/\\.-])(?=\w)/u);
  return element(tag, { class: "name" }, ...parts.flatMap((part, i) => i ? [element("wbr"), part] : [part]));
}

// Where all images are of one split, no one needs to be told which.
function imageFigure(row, tellSplit = true) {
  const { key, truth, answer, score, split, thumbnail, reason } = pageData.images[row];
  const lines = [element("span", {}, "labelled ", nameElement(className(truth)))];
  if (answer !== null) {
    const wrong = answer === truth ? {} : { class: "wrong" };
    lines.push(element("span", { class: "answer" }, "predicted as ",
      nameElement(className(answer)), " ", element("b", wrong, score.toFixed(2))));
  }
  return element("figure", { class: "small" },
    thumbnail ? element("img", { src: thumbnail, alt: "" }) : element("div", { class: "gone" }, reason),
    element("figcaption", {}, ...lines, ...(tellSplit ? [element("span", {}, `${splitWords[split]} image`)] : []),
      element("code", {}, nameElement(key))));
}

// One tooltip for the page: it stays inside the window, Escape closes it, and the pointer may go
// onto it.
const tip = element("div", { id: "tip", role: "tooltip", hidden: "" });
document.body.append(tip);
let tipTimer, tipOwner = null, tipClosed = null;

// Shows a row beside a box (left, top, right, bottom in the window); `owner` is described by it.
// Where its end matters, `closed` is called then, and the pointer goes through it to more marks.
function showTip(owner, row, box, closed = null) {
  clearTimeout(tipTimer);
  if (tipOwner !== owner) hideTip();
  [tipOwner, tipClosed] = [owner, closed];
  owner.setAttribute("aria-describedby", "tip");
  tip.replaceChildren(imageFigure(row));
  tip.hidden = false;
  tip.classList.toggle("through", closed !== null);
  const { offsetWidth: width, offsetHeight: height } = tip;
  const { clientWidth, clientHeight } = document.documentElement, gap = 10;
  const right = box.right + gap, fits = right + width + gap <= clientWidth;
  const left = fits ? right : box.left - gap - width;
  const inside = (value, most) => Math.max(gap, Math.min(value, most - gap));
  tip.style.left = `${scrollX + inside(left, clientWidth - width)}px`;
  tip.style.top = `${scrollY + inside(box.top, clientHeight - height)}px`;
}
function hideTip() {
  clearTimeout(tipTimer);
  tipOwner?.removeAttribute("aria-describedby");
  tip.hidden = true;
  const closed = tipClosed;
  tipOwner = tipClosed = null;
  closed?.();
}
function hideTipSoon() {
  clearTimeout(tipTimer);
  tipTimer = setTimeout(hideTip, 200);
}
// A finger leaves no mark that could leave it: the next touch elsewhere closes it, and so does scrolling.
let byTouch = false;
addEventListener("pointerdown", event => {
  byTouch = event.pointerType === "touch";
  if (byTouch && !event.target.closest("#tip") && !tipOwner?.contains(event.target)) hideTip();
});
addEventListener("scroll", () => { if (byTouch) hideTip(); }, { passive: true, capture: true });
tip.addEventListener("pointerenter", () => clearTimeout(tipTimer));
tip.addEventListener("pointerleave", () => { if (!tip.classList.contains("kept")) hideTipSoon(); });
addEventListener("keydown", event => { if (event.key === "Escape") hideTip(); });

// The tooltip of an element that stands for a row.
function tipFor(owner, row) {
  const show = () => showTip(owner, row, owner.getBoundingClientRect());
  owner.addEventListener("pointerenter", show);
  owner.addEventListener("focus", show);
  owner.addEventListener("pointerleave", hideTipSoon);
  owner.addEventListener("blur", hideTip);
}

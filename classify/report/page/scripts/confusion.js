// The confusion matrix: the numbers of a cell on hover and by keyboard, its images on a click.

// The images of some rows, and the keys of those without an image.
function imageList(rows, figure = row => imageFigure(row, false)) {
  const shown = rows.filter(row => pageData.images[row]?.thumbnail);
  const others = rows.filter(row => !pageData.images[row]?.thumbnail);
  const parts = [];
  if (shown.length) parts.push(element("div", { class: "images" }, ...shown.map(row => figure(row))));
  if (others.length) {
    const some = shown.length ? "Further images, which are not in this page" : "The images are not in this page; their keys";
    const key = row => pageData.keys[row] ?? pageData.images[row].key;
    parts.push(element("p", { class: "note" }, `${some}:`), element("ul", { class: "keys" },
      ...others.map(row => element("li", {}, element("code", {}, element("bdi", { class: "name" }, key(row)))))));
  }
  return parts;
}

{
  const { side, names, steps, counts, truths, answers, rows } = pageData.confusion;
  const region = document.querySelector("#confusions .matrix"), svg = region.querySelector("svg");
  const panel = document.getElementById("cell-images");
  const [left, top, width, height] = JSON.parse(svg.dataset.axes)[0];
  const [cellWidth, cellHeight] = [width / side, height / side];
  const filled = new Map();
  steps.reduce((before, step, i) => (filled.set(before + step, counts[i]), before + step), 0);

  const shape = kind => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    made.setAttribute("class", kind);
    made.style.display = "none";
    return made;
  };
  const bands = [shape("band"), shape("band")], outline = shape("cell");
  svg.prepend(...bands); // below the numbers
  svg.append(outline);
  const tip = element("div", { class: "cell-tip", "aria-hidden": "true", hidden: "" });
  const live = element("p", { class: "unseen", role: "status", "aria-live": "polite" });
  region.after(tip, live);
  const label = "Confusion matrix: the arrow keys move over its cells, Enter shows the images of a cell";
  for (const [name, value] of [["role", "application"], ["aria-label", label]]) region.setAttribute(name, value);
  region.classList.add("live");
  document.getElementById("matrix-help").hidden = false;

  // Of many classes a row stands for several neighbours.
  const nameOf = i => (typeof names[i] === "string" ? [names[i]] : [...new Set(names[i])])
    .flatMap((text, n) => [n ? " to " : "", element("bdi", { class: "name" }, text)]);
  const images = count => (count === 1 ? "1 image" : `${count} images`);
  function describe(row, column) {
    const count = filled.get(row * side + column) ?? 0;
    const first = element("b", {}, `${count} of ${images(truths[row])} of `, ...nameOf(row),
      " predicted as ", ...nameOf(column), ` (${percent(count, truths[row])})`);
    if (!answers[column]) return [first];
    const predictions = answers[column] === 1 ? "the 1 prediction" : `the ${answers[column]} predictions`;
    return [first, element("span", {}, ` ${percent(count, answers[column])} of ${predictions} of `, ...nameOf(column))];
  }

  function draw(rect, x, y, w, h) {
    for (const [name, value] of Object.entries({ x, y, width: w, height: h })) rect.setAttribute(name, value);
    rect.style.display = "";
  }
  let at = [0, 0], labels = [];
  function mark(row, column) {
    const [x, y] = [left + column * cellWidth, top + row * cellHeight];
    draw(bands[0], 0, y, left + width, cellHeight);
    draw(bands[1], x, 0, cellWidth, top + height);
    const grow = Math.max(0, 5 - cellWidth) / 2; // the cells of many classes are small
    draw(outline, x - grow, y - grow, cellWidth + 2 * grow, cellHeight + 2 * grow);
    for (const one of labels) one?.classList.remove("on");
    labels = [`confusion-xtick_${column + 1}`, `confusion-ytick_${row + 1}`].map(id => document.getElementById(id));
    for (const one of labels) one?.classList.add("on");
    tip.replaceChildren(...describe(row, column));
    tip.hidden = false;
    placeTip();
  }
  function placeTip() {
    if (tip.hidden) return;
    const box = outline.getBoundingClientRect(), page = document.documentElement;
    const below = box.bottom + 8 + tip.offsetHeight < page.clientHeight;
    tip.style.top = `${below ? box.bottom + 8 : Math.max(8, box.top - 8 - tip.offsetHeight)}px`;
    tip.style.left = `${Math.max(8, Math.min(box.left, page.clientWidth - tip.offsetWidth - 8))}px`;
  }
  function unmark() {
    for (const one of [...bands, outline]) one.style.display = "none";
    for (const one of labels) one?.classList.remove("on");
    tip.hidden = true;
  }
  function cellAt(event) {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const cell = [Math.floor((y - top) / cellHeight), Math.floor((x - left) / cellWidth)];
    return cell.every(i => i >= 0 && i < side) ? cell : null;
  }

  function showImages(row, column) {
    const count = filled.get(row * side + column) ?? 0, listed = rows[row * side + column] ?? [];
    panel.hidden = false;
    panel.replaceChildren(element("h3", {}, ...describe(row, column)[0].childNodes));
    if (listed.length) panel.append(...imageList(listed));
    if (count > listed.length) {
      const most = listed.length ? `These are the ${listed.length} with the highest scores. ` : "";
      panel.append(element("p", { class: "note" }, most,
        element("code", {}, "predictions.csv"), " next to this report lists every image."));
    }
    live.textContent = count ? `${images(listed.length)} of this cell below the matrix` : "no image in this cell";
  }

  region.addEventListener("pointermove", event => {
    const cell = cellAt(event);
    if (cell) mark(...cell); else unmark();
  });
  region.addEventListener("pointerleave", unmark);
  region.addEventListener("click", event => {
    const cell = cellAt(event);
    if (cell) showImages(...(at = cell));
  });
  function go(row, column) {
    at = [row, column].map(i => Math.max(0, Math.min(side - 1, i)));
    mark(...at);
    outline.scrollIntoView({ block: "nearest", inline: "nearest", behavior: "instant" });
    placeTip();
    live.replaceChildren(...describe(...at));
  }
  region.addEventListener("focus", () => { if (region.matches(":focus-visible")) go(...at); });
  region.addEventListener("blur", unmark);
  region.addEventListener("keydown", event => {
    const [row, column] = at;
    const moves = {
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      Home: [row, 0], End: [row, side - 1], PageUp: [0, column], PageDown: [side - 1, column],
    };
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (moves[event.key]) go(...moves[event.key]);
    else if (event.key === "Enter" || event.key === " ") showImages(...at);
    else if (event.key === "Escape") return void unmark();
    else return;
    event.preventDefault();
  });
  addEventListener("scroll", () => (byTouch ? unmark() : placeTip()), { passive: true, capture: true });
}

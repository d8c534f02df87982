// The maps: pointer and arrow keys show the image of a mark, on all maps at once; a click or Enter
// keeps it. Classes are isolated by the legend. pageData.maps has the rows, their places by the name
// of a map, and the styles of classes, see feature_map.py.
const isKept = () => tip.classList.contains("kept");
const styleOf = row => pageData.maps.styles[pageData.images[row].truth] ?? -1;
const isWrong = row => ![null, pageData.images[row].truth].includes(pageData.images[row].answer);

function readMap(figure) {
  const svg = figure.querySelector("svg"), name = figure.dataset.map;
  const [left, top, width, height, x0, x1, y0, y1] = JSON.parse(svg.dataset.axes)[0];
  const [xs, ys] = pageData.maps.places[name], marks = {};
  const next = id => {
    marks[id] ??= [...document.getElementById(`${name}-${id}`).querySelectorAll("use")];
    return marks[id].shift();
  };
  const points = pageData.maps.rows.map((row, i) => ({
    row,
    x: left + (xs[i] - x0) / (x1 - x0) * width,
    y: top + (y1 - ys[i]) / (y1 - y0) * height,
    marks: [next(`points-${styleOf(row)}-${pageData.images[row].split}`),
      ...isWrong(row) ? [next("rings")] : []],
  }));
  const frame = element("div", {
    class: "frame", tabindex: "0", role: "application", "aria-roledescription": "map",
    "aria-label": `${svg.getAttribute("aria-label")}; arrow keys go from image to image, `
      + "Enter keeps an image, Escape closes it",
  });
  svg.replaceWith(frame);
  svg.setAttribute("aria-hidden", "true");
  const here = document.createElementNS(svg.namespaceURI, "circle");
  here.classList.add("here");
  here.setAttribute("r", 0);
  frame.append(svg);
  return { svg, name, points, frame, here, at: null };
}

const maps = pageData.maps ? [...document.querySelectorAll("figure[data-map]")].map(readMap) : [];
const announced = element("p", { class: "unseen", "aria-live": "polite" });
let isolated = null;
const isShown = point => isolated === null || pageData.images[point.row].truth === isolated;

function clearHere() {
  tip.classList.remove("kept");
  for (const { here } of maps) here.setAttribute("r", 0);
}
function goTo(map, point) {
  const { a: scale, e, f } = map.svg.getScreenCTM();
  const [x, y] = [point.x * scale + e, point.y * scale + f];
  map.at = point;
  showTip(map.frame, point.row, { left: x - 8, right: x + 8, top: y - 8, bottom: y + 8 }, clearHere);
  for (const each of maps) {
    const same = each.points.find(other => other.row === point.row);
    for (const [key, value] of Object.entries({ cx: same.x, cy: same.y, r: 7 })) {
      each.here.setAttribute(key, value);
    }
    each.svg.append(each.here);
  }
}
function announce({ row }) {
  const { key, truth, answer, score, split } = pageData.images[row];
  const said = answer === null ? "" : `, predicted as ${className(answer)} ${score.toFixed(2)}`;
  announced.textContent = `${key}, labelled ${className(truth)}${said}, ${splitWords[split]} image`;
}
function nearest(points, distance) {
  let best = null, least = Infinity;
  for (const point of points) {
    const far = distance(point);
    if (far < least) [best, least] = [point, far];
  }
  return [best, least];
}
function underPointer(map, event) {
  const place = new DOMPoint(event.clientX, event.clientY);
  const { x, y } = place.matrixTransform(map.svg.getScreenCTM().inverse());
  const [point, far] = nearest(map.points.filter(isShown), p => Math.hypot(p.x - x, p.y - y));
  return far * map.svg.getScreenCTM().a <= 16 ? point : null;
}
// The nearest point in a quarter of the plane; points at one place follow each other.
function neighbour(map, [dx, dy]) {
  const from = map.at, start = map.points.indexOf(from);
  const [point] = nearest(map.points, to => {
    const step = (map.points.indexOf(to) - start) * 1e-6;
    const [x, y] = [to.x - from.x + step, to.y - from.y + step];
    const along = x * dx + y * dy, across = Math.abs(x * dy) + Math.abs(y * dx);
    return to === from || !isShown(to) || along <= 0 || across > along ? Infinity : along + across;
  });
  return point ?? from;
}
const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function listen(map) {
  const { frame, svg } = map;
  const start = () => {
    if (map.at && isShown(map.at)) return map.at;
    const { width, height } = svg.viewBox.baseVal;
    return nearest(map.points.filter(isShown), p => Math.hypot(p.x - width / 2, p.y - height / 2))[0];
  };
  const show = point => { goTo(map, point); announce(point); };
  frame.addEventListener("pointermove", event => {
    if (isKept()) return;
    const point = underPointer(map, event);
    if (point) goTo(map, point);
    else if (tipOwner === frame) hideTipSoon();
  });
  frame.addEventListener("pointerleave", () => { if (!isKept()) hideTipSoon(); });
  frame.addEventListener("click", event => {
    const point = underPointer(map, event), again = isKept() && point === map.at;
    if (!point || again) return hideTip();
    show(point);
    tip.classList.add("kept");
  });
  frame.addEventListener("focus", () => { if (frame.matches(":focus-visible")) show(start()); });
  frame.addEventListener("blur", () => { if (!isKept()) hideTip(); });
  frame.addEventListener("keydown", event => {
    if (event.key in steps) show(tip.hidden || tipOwner !== frame ? start() : neighbour(map, steps[event.key]));
    else if (event.key === "Enter" || event.key === " ") { show(start()); tip.classList.toggle("kept"); }
    else return;
    event.preventDefault();
  });
}
addEventListener("pointerdown", event => {
  if (isKept() && !event.target.closest("#tip, .frame")) hideTip();
});

function isolate(label) {
  isolated = label === isolated ? null : label;
  hideTip();
  for (const map of maps) {
    for (const point of map.points) {
      for (const mark of point.marks) mark.classList.toggle("faded", !isShown(point));
    }
  }
  for (const button of document.querySelectorAll("#map-classes button")) {
    button.setAttribute("aria-pressed", Number(button.parentNode.dataset.class) === isolated);
  }
  const choice = document.querySelector("#map-tools select");
  if (choice) choice.value = isolated ?? "";
}
// Groups of marks have the colours of their split, or again those of their class.
function colourBy(split) {
  for (const map of maps) {
    for (const group of map.svg.querySelectorAll('[id*="-points-"]')) {
      const [, number, own] = group.id.match(/-points-(-?\d+)-(\w+)$/);
      const colour = number < 0 ? "--muted" : `--s${number % 8}`;
      if (split) group.style.setProperty(colour, own === "train" ? "var(--train)" : "var(--held)");
      else group.style.removeProperty(colour);
    }
  }
  for (const item of document.querySelectorAll("#map-marks [data-split]")) {
    const colour = { train: "var(--train)", validation: "var(--held)" }[item.dataset.split];
    item.querySelector("svg").style.setProperty("--colour", split ? colour : "var(--muted)");
  }
}

function addTools() {
  const tools = element("div", { id: "map-tools" });
  for (const item of document.querySelectorAll("#map-classes [data-class]")) {
    const button = element("button", { type: "button", "aria-pressed": "false" }, ...item.childNodes);
    item.replaceChildren(button);
    button.addEventListener("click", () => isolate(Number(item.dataset.class)));
  }
  if (document.querySelectorAll("#map-marks [data-split]").length > 1) {
    const buttons = ["class", "split"].map(by => {
      const button = element("button", { type: "button", "aria-pressed": by === "class" }, by);
      button.addEventListener("click", () => {
        colourBy(by === "split");
        for (const each of buttons) each.setAttribute("aria-pressed", each === button);
      });
      return button;
    });
    tools.append(element("span", { role: "group", "aria-label": "Colour by" }, "colour by", ...buttons));
  }
  const shown = new Set(pageData.maps.rows.map(row => pageData.images[row].truth));
  if ([...shown].some(label => !(label in pageData.maps.styles))) {
    const choice = element("select", {}, element("option", { value: "" }, "all classes"));
    const labels = [...shown].sort((a, b) => a - b);
    choice.append(...labels.map(label => element("option", { value: label }, className(label))));
    choice.addEventListener("change", () => {
      isolated = null;
      isolate(choice.value === "" ? null : Number(choice.value));
    });
    tools.append(element("label", {}, "show", choice));
  }
  maps[0].frame.closest(".maps").before(tools, announced);
}
if (maps.length) {
  maps.forEach(listen);
  addTools();
}

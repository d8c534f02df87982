// Overlays can be hidden, and a row of the table shows its image.
const hideOverlays = document.getElementById("hide-overlays");
if (hideOverlays) {
  hideOverlays.hidden = false;
  hideOverlays.addEventListener("click", () => {
    const hidden = document.getElementById("mistakes").classList.toggle("without-overlays");
    hideOverlays.setAttribute("aria-pressed", hidden);
  });
}
for (const cell of document.querySelectorAll("#all-mistakes tbody th")) {
  const row = cell.parentElement.dataset.row;
  if (!pageData.images[row]?.thumbnail) continue;
  const button = element("button", { type: "button", "aria-expanded": "false" }, ...cell.childNodes);
  cell.append(button);
  tipFor(button, row);
  button.addEventListener("click", () => {
    const open = cell.querySelector("figure");
    hideTip();
    button.setAttribute("aria-expanded", !open);
    open ? open.remove() : cell.append(imageFigure(row));
  });
}

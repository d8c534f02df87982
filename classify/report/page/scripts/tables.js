// Sorting tables by a click on a heading.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const other = { ascending: "descending", descending: "ascending" };
    const order = other[head.getAttribute("aria-sort")] ?? head.dataset.first ?? "ascending";
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const compare = (a, b) => a.localeCompare(b, "en", { numeric: true });
    const rows = [...table.tBodies[0].rows].map(row => [value(row), row]);
    const numbers = rows.every(([text]) => text === "" || !isNaN(text));
    rows.sort(([a], [b]) => (a === "") - (b === "") // unknown values stay last
      || (numbers ? a - b : compare(a, b)) * (order === "ascending" ? 1 : -1));
    for (const each of heads) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
}

// Copying and saving tables: all digits, and the ends of intervals in columns of their own.
function tableText(cell) {
  return (cell.dataset.value ?? cell.textContent).replace(/\s+/g, " ").trim();
}

function tableRows(table) {
  const heads = [...table.tHead.rows[0].cells], rows = [...table.tBodies[0].rows];
  const has = (column, name) => rows.some(row => row.cells[column]?.dataset[name] !== undefined);
  // A column of intervals has no value of its own.
  const kinds = heads.map((_, column) => (has(column, "low") ? (has(column, "value") ? "both" : "ends") : "value"));
  const spread = (cells, ends) => cells.flatMap((cell, column) => [
    ...(kinds[column] === "ends" ? [] : [tableText(cell)]), ...(kinds[column] === "value" ? [] : ends(cell)),
  ]);
  return [
    spread(heads, head => [`${tableText(head)} low`, `${tableText(head)} high`]),
    ...rows.map(row => spread([...row.cells], cell => [cell.dataset.low ?? "", cell.dataset.high ?? ""])),
  ];
}

// As in the files of the folder: an apostrophe precedes what a spreadsheet would run.
const safeCell = text => (/^'*[=+\-@\t\r]/.test(text) && isNaN(text) ? `'${text}` : text);
const csvCell = text => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const toCsv = rows => rows.map(row => row.map(text => csvCell(safeCell(text))).join(",") + "\n").join("");
const toTabs = rows => rows.map(row => row.map(safeCell).join("\t")).join("\n");

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // not allowed, or not there
    const area = element("textarea", { class: "unseen", "aria-label": "text to copy" });
    const focused = document.activeElement;
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return done;
  }
}

function saveText(text, name) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

for (const table of document.querySelectorAll("main table")) {
  const scroll = table.closest(".scroll"), section = table.closest("section");
  const title = scroll?.getAttribute("aria-label")
    ?? table.parentElement.querySelector("h3")?.textContent ?? section.querySelector("h2").textContent;
  const said = element("span", { role: "status" });
  const button = (text, act) => {
    const made = element("button", { type: "button", "aria-label": `${text} the table ${title}` }, text);
    made.addEventListener("click", act);
    return made;
  };
  const box = element("div", { class: "table-box" }), shown = scroll ?? table;
  shown.replaceWith(box);
  box.append(shown, element("div", { class: "table-tools" },
    button("Copy", async () => {
      said.textContent = "";
      said.textContent = await copyText(toTabs(tableRows(table))) ? "copied" : "not copied: select the table instead";
    }),
    button("Save as CSV", () => {
      saveText(toCsv(tableRows(table)), `${title.toLowerCase().replace(/[^a-z0-9]+/g, "_")}.csv`);
      said.textContent = "saved";
    }), said));
}

// Paper has the tables, to their fortieth row, but no more images than the page shows at first.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not(:has(figure))")) part.open = true;
});

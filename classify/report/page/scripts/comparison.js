// Two heads: any pair of them, and the images on which they disagree.
if (pageData.comparison.length) {
  const pairs = pageData.comparison;
  const section = document.getElementById("two-heads"), sides = section.querySelector(".sides");
  const heads = [...new Set(pairs.flatMap(pair => [pair.first, pair.second]))];
  const selects = ["first-head", "second-head"].map(id => document.getElementById(id));
  const headName = text => element("bdi", { class: "name" }, text);

  const turn = ({ row, first: second, second: first }) => ({ row, first, second });

  // The pair in the order of the selects: a pair of the data, or one turned round.
  function find(first, second) {
    const same = pairs.find(pair => pair.first === first && pair.second === second);
    if (same) return same;
    const other = pairs.find(pair => pair.first === second && pair.second === first);
    return {
      ...other, first, second, only_first: other.only_second, only_second: other.only_first,
      words: other.words_turned,
      first_rows: other.second_rows.map(turn), second_rows: other.first_rows.map(turn),
    };
  }

  function gallery(pair, rows, count, right) {
    const answers = new Map(rows.map(one => [one.row, [one.first, one.second]]));
    const figure = row => {
      const made = imageFigure(row, false);
      made.querySelector(".answer")?.remove();
      const lines = [pair.first, pair.second].map((head, i) => element("span",
        { class: head === right ? "right" : "wrong-answer" }, headName(head), ": ", headName(answers.get(row)[i])));
      made.querySelector("figcaption span").after(...lines);
      return made;
    };
    const parts = [element("h3", {}, "Only ", headName(right), ` is right: ${count === 1 ? "1 image" : `${count} images`}`)];
    if (rows.length < count) parts.push(element("p", { class: "note" }, `The ${rows.length} on which the scores of the true class differ most:`));
    const all = rows.map(one => one.row), open = 6;
    const made = element("div", {}, ...parts, ...imageList(all.slice(0, open), figure));
    if (all.length > open) {
      made.append(element("details", {}, element("summary", {}, `${all.length - open} more`), ...imageList(all.slice(open), figure)));
    }
    return made;
  }

  function show() {
    const pair = find(...selects.map(select => select.value));
    for (const part of section.querySelectorAll("[data-head]")) part.replaceChildren(headName(pair[part.dataset.head]));
    for (const cell of section.querySelectorAll("[data-count]")) cell.textContent = pair[cell.dataset.count];
    section.querySelector(".difference").textContent = pair.words;
    sides.replaceChildren(gallery(pair, pair.first_rows, pair.only_first, pair.first),
      gallery(pair, pair.second_rows, pair.only_second, pair.second));
  }

  selects.forEach((select, i) => {
    select.append(...heads.map(head => element("option", { value: head }, head)));
    select.value = heads[i];
    let before = heads[i];
    select.addEventListener("change", () => {
      // A head is compared with another one: the same choice twice swaps them.
      if (selects[1 - i].value === select.value) {
        selects[1 - i].value = before;
        selects[1 - i].dispatchEvent(new Event("swap"));
      }
      before = select.value;
      show();
    });
    select.addEventListener("swap", () => { before = select.value; });
  });
  section.querySelector(".pickers").hidden = false;
  sides.hidden = false;
  show();
}

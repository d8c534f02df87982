// Sliders of thresholds: exact counts of the validation images, and marks on the figures.
// Quotes a word for a shell, in the way of Windows where the path begins with a drive.
function shellWord(word, onWindows) {
  if (word.startsWith("-")) word = `./${word}`;
  if (onWindows && /["$%`]/.test(word)) return "SOURCE"; // its shells would read these
  if (/^[\w@%+=:,.\/-]+$/.test(word)) return word;
  if (onWindows) return `"${word}"`;
  return `'${word.replaceAll("'", `'"'"'`)}'`;
}

// The command for this page's folder, which is that of the head.
function predictCommand(source, score) {
  let folder = "HEAD_DIR";
  if (location.protocol === "file:") folder = decodeURIComponent(location.pathname).replace(/[^/]*$/, "");
  const onWindows = /^\/[A-Za-z]:\//.test(folder);
  if (onWindows) folder = folder.slice(1);
  return ["predict-images", ...[folder, source].map(word => shellWord(word, onWindows)), "--min-score", score].join(" ");
}

// Connects a slider with the figure that it names: `at` returns x and y of the mark, or null, and the words.
function connectSlider(input, at) {
  const svg = document.querySelector(`#${input.parentElement.dataset.figure} svg`);
  const [left, top, width, height, x0, x1, y0, y1] = JSON.parse(svg.dataset.axes)[0];
  const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  for (const [name, value] of [["class", "threshold-mark"], ["r", 6]]) dot.setAttribute(name, value);
  svg.append(dot);
  const show = () => {
    const { place, words } = at(Math.round(input.value * 100), Number(input.value).toFixed(2));
    const [x, y] = place ?? [0, 0];
    dot.setAttribute("cx", left + (x - x0) / (x1 - x0) * width);
    dot.setAttribute("cy", top + Math.max(0, Math.min(1, (y1 - y) / (y1 - y0))) * height);
    dot.style.display = place ? "" : "none";
    input.setAttribute("aria-valuetext", Number(input.value).toFixed(2));
    input.parentElement.querySelector("output").replaceChildren(...words);
  };
  input.addEventListener("input", show);
  input.parentElement.hidden = false;
  show();
}

{
  const { images, labelled, right, positives, hits, false_alarms: falseAlarms } = pageData.thresholds;
  const least = document.getElementById("min-score"), command = least.parentElement.querySelector("pre code");
  connectSlider(least, (i, score) => {
    command.textContent = predictCommand(least.parentElement.dataset.source, score);
    const share = `At score ${score} or more, ${percent(labelled[i], images)} of the images (${labelled[i]} of ${images}) are labelled`;
    if (!labelled[i]) return { place: null, words: [`${share}.`] };
    const correct = `${percent(right[i], labelled[i])} of those correctly (${right[i]} of ${labelled[i]})`;
    return { place: [labelled[i] / images, right[i] / labelled[i]], words: [`${share}, and ${correct}.`] };
  });
  const positive = document.getElementById("positive-score");
  if (positive) {
    const negatives = images - positives, name = positive.parentElement.querySelector("label .name");
    connectSlider(positive, (i, score) => ({
      place: [falseAlarms[i] / negatives, hits[i] / positives],
      words: ["An image with a score of ", name.cloneNode(true), ` of ${score} or more counts as it: sensitivity `,
        `${percent(hits[i], positives)} (${hits[i]} of ${positives}), specificity `,
        `${percent(negatives - falseAlarms[i], negatives)} (${negatives - falseAlarms[i]} of ${negatives}). `,
        element("code", {}, "predict-images --scores"), " writes this score."],
    }));
  }
}

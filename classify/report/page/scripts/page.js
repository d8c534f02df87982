"use strict";
// The data of the page, and elements whose text is never read as HTML.
const pageData = JSON.parse(document.getElementById("page-data").textContent);

// The policy of the page allows no style attribute, but styles that a script sets.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") made.style.cssText = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// A share, as in the templates: 100 % and 0 % only of all and none.
function percent(part, whole) {
  if (part === 0 || part === whole) return `${part ? 100 : 0}\u00a0%`;
  const thousandths = Math.floor(1000 * (part / whole) + 0.5);
  return `${(Math.min(Math.max(thousandths, 1), 999) / 10).toFixed(1)}\u00a0%`;
}

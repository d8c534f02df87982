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

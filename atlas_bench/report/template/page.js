"use strict";

// A header's first click puts words from A to Z and numbers from the largest; the next turns it.
// Cells without a value come last either way.
function sortBy(header) {
  const table = header.closest("table");
  const body = table.tBodies[0];
  const column = header.cellIndex;
  const words = header.classList.contains("text");
  const before = header.getAttribute("aria-sort");
  const ascending = before === "none" ? words : before === "descending";
  const key = (row) => {
    const order = row.cells[column].dataset.order;
    return words ? row.cells[column].textContent.trim() : order === undefined ? null : Number(order);
  };
  const compare = (one, other) => {
    if (one === null || other === null) return (one === null) - (other === null);
    const found = words ? one.localeCompare(other, "en", { numeric: true }) : one - other;
    return ascending ? found : -found;
  };
  const rows = Array.from(body.rows).map((row) => [key(row), row]);
  rows.sort((one, other) => compare(one[0], other[0]));
  body.append(...rows.map((pair) => pair[1]));
  for (const each of header.parentElement.cells) {
    if (each.hasAttribute("aria-sort")) each.setAttribute("aria-sort", "none");
  }
  const direction = ascending ? "ascending" : "descending";
  header.setAttribute("aria-sort", direction);
  document.getElementById("status").textContent = `sorted by ${header.textContent}, ${direction}`;
}

for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

document.querySelector(".filter input").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase().split(/\s+/);
  for (const row of document.querySelectorAll("table.sortable tbody tr")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !wanted.every((word) => text.includes(word));
  }
});

// A link to a config opens it.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
window.addEventListener("hashchange", openTarget);
openTarget();

(() => {
  "use strict";
  const root = document.documentElement;
  const collator = new Intl.Collator(undefined, { numeric: true });

  function sortBy(table, header, ascending) {
    const column = header.cellIndex;
    const isNumber = header.classList.contains("number");
    const body = table.tBodies[0];
    const key = (row) => row.cells[column].dataset.key;
    const compare = (a, b) => (isNumber ? Number(a) - Number(b) : collator.compare(a, b));
    const rows = Array.from(body.rows).sort((first, second) => {
      const a = key(first);
      const b = key(second);
      if (a === "" || b === "") return (a === "") - (b === "");
      return ascending ? compare(a, b) : compare(b, a);
    });
    body.append(...rows);
    for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  }

  let sortable = 0;
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    for (const button of table.querySelectorAll("thead button")) {
      const header = button.closest("th");
      button.addEventListener("click", () =>
        sortBy(table, header, header.getAttribute("aria-sort") !== "ascending"),
      );
    }
    sortable += 1;
  }
  root.dataset.sortableTables = String(sortable);

  // a closed block would be missing on paper
  window.addEventListener("beforeprint", () => {
    for (const block of document.querySelectorAll("details")) block.open = true;
  });

  // for whoever checks that all of the page is there
  window.addEventListener("load", () => {
    const pictures = Array.from(document.images);
    const plots = Array.from(document.querySelectorAll("svg[data-figure]"));
    const shown = pictures.filter((picture) => picture.complete && picture.naturalWidth > 0);
    const drawn = plots.filter((plot) => plot.getBoundingClientRect().height > 0);
    root.dataset.pictures = `${shown.length}/${pictures.length}`;
    root.dataset.plots = `${drawn.length}/${plots.length}`;
    root.dataset.overflow = String(root.scrollWidth > root.clientWidth);
  });
})();

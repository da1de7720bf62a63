"use strict";
// The page reads well without this file: it adds enlarging, filtering and sorting.

(() => {
  const viewer = document.getElementById("viewer");
  const tiles = [...document.querySelectorAll(".tile")];
  const image = document.getElementById("viewer-image");
  const marks = document.getElementById("viewer-marks");
  let shown = -1;

  const show = (index) => {
    shown = (index + tiles.length) % tiles.length;
    const picture = tiles[shown].querySelector("img");
    const drawing = tiles[shown].querySelector("svg");
    image.src = picture.src;
    image.alt = picture.alt;
    marks.replaceChildren(...(drawing ? [drawing.cloneNode(true)] : []));
    document.getElementById("viewer-caption").textContent = picture.alt;
  };
  tiles.forEach((tile, index) => tile.addEventListener("click", () => {
    show(index);
    viewer.showModal();
  }));
  document.getElementById("viewer-back").addEventListener("click", () => show(shown - 1));
  document.getElementById("viewer-next").addEventListener("click", () => show(shown + 1));
  document.getElementById("viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close();
  });
  viewer.addEventListener("close", () => {
    const tile = tiles[shown];
    if (!tile) return;
    const folded = tile.closest("details");
    if (folded) folded.open = true;
    tile.focus();
  });
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && viewer.open) {
      event.preventDefault();
      show(shown + step);
    }
  });
})();

(() => {
  const table = document.getElementById("ledger");
  if (!table) return;
  const rows = [...table.tBodies[0].rows];
  const words = document.getElementById("find");
  const tally = document.getElementById("tally");
  const buttons = [...document.querySelectorAll("[data-status]")];
  let status = "";

  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = (status && row.dataset.is !== status) || !wanted.every((word) => text.includes(word));
      left += row.hidden ? 0 : 1;
    }
    tally.textContent = left === rows.length ? "" : `${left.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  };
  words.addEventListener("input", filter);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      status = button.dataset.status;
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      filter();
    });
  }

  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent.toLowerCase() : Number(cell.dataset.v);
  };
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1);
    rows.sort((a, b) => order(value(a, column), value(b, column)));
    table.tBodies[0].append(...rows);
  }));
  document.querySelector(".filter").hidden = false;
})();

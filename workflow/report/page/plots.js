"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const plots = Object.keys(figures).map((id) => document.getElementById(id));
const font = { family: getComputedStyle(document.body).fontFamily, size: 13 };
// On a touch screen a finger scrolls the page; elsewhere dragging zooms, a double click zooms out.
const dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
const drawn = new Set();
const hidden = new Set();
const isHidden = (trace) => hidden.has(trace.meta);
let only = null;

// A figure is drawn when it comes into sight: dozens at once would make the page slow to open.
function draw(plot) {
  if (drawn.has(plot)) return;
  drawn.add(plot);
  const { data, layout } = figures[plot.id];
  for (const trace of data) {
    if (trace.meta === undefined) continue;
    if (plot.id.startsWith("parity-")) { if (only !== null) trace.visible = trace.meta === only; }
    else if (isHidden(trace)) trace.visible = false;
  }
  if (plot.id.startsWith("cli-") && logarithmic.checked) layout.yaxis.type = "log";
  Plotly.newPlot(plot, data, { ...layout, font, dragmode }, { responsive: true, displayModeBar: false });
}
const logarithmic = document.getElementById("logarithmic");
const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { sight.unobserve(entry.target); draw(entry.target); }
}, { rootMargin: "600px" });
plots.forEach((plot) => sight.observe(plot));

function show(plot, isShown) {
  if (!drawn.has(plot)) return;
  const which = plot.data.flatMap((trace, i) => (trace.meta !== undefined ? [i] : []));
  if (which.length) Plotly.restyle(plot, { visible: which.map((i) => isShown(plot.data[i])) }, which);
}
for (const box of document.querySelectorAll("[data-generation]")) {
  box.addEventListener("change", () => {
    const generation = Number(box.dataset.generation);
    hidden[box.checked ? "delete" : "add"](generation);
    for (const twin of document.querySelectorAll(`[data-generation="${generation}"]`)) twin.checked = box.checked;
    for (const plot of plots) if (!plot.id.startsWith("parity-")) show(plot, (trace) => !isHidden(trace));
  });
}
for (const button of document.querySelectorAll("[data-only]")) {
  button.addEventListener("change", () => {
    only = Number(button.dataset.only);
    for (const plot of plots) if (plot.id.startsWith("parity-")) show(plot, (trace) => trace.meta === only);
  });
}
logarithmic.addEventListener("change", () => {
  for (const plot of plots) {
    if (plot.id.startsWith("cli-") && drawn.has(plot)) {
      Plotly.relayout(plot, { "yaxis.type": logarithmic.checked ? "log" : "linear", "yaxis.autorange": true });
    }
  }
});

// The numbers of a figure as a table, made when they are asked for.
const MOST_ROWS = 2000;
function tableOf(head, rows) {
  const table = document.createElement("table");
  const add = (parent, tag, text) => { const cell = parent.appendChild(document.createElement(tag)); cell.textContent = text; return cell; };
  const top = table.createTHead().insertRow();
  for (const text of head) add(top, "th", text).scope = "col";
  const body = table.createTBody();
  for (const row of rows) { const line = body.insertRow(); for (const text of row) add(line, "td", text ?? "–"); }
  return table;
}
for (const details of document.querySelectorAll("details[data-of]")) {
  details.addEventListener("toggle", () => {
    const place = details.querySelector("div");
    if (!details.open || place.childElementCount) return;
    const { data, layout } = figures[details.dataset.of];
    const rows = [];
    for (const trace of data) {
      if (trace.counts) { for (const [x, y] of trace.counts) rows.push([trace.name, x, y]); continue; }
      if (trace.hoverinfo === "skip" && trace.mode === "lines" && trace.line.width) continue;
      (trace.x ?? []).forEach((x, i) => { if (x !== null) rows.push([trace.name, x, trace.y[i]]); });
    }
    place.append(tableOf(["Series", layout.xaxis.title.text, layout.yaxis.title?.text ?? ""], rows.slice(0, MOST_ROWS)));
    if (rows.length > MOST_ROWS) place.append(`The first ${MOST_ROWS} of ${rows.length} points are listed.`);
  });
}

let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open]):not(.data)")];
  for (const each of closed) each.open = true;
  for (const plot of plots) { draw(plot); Plotly.relayout(plot, { width: 640, height: 280 }); }
});
addEventListener("afterprint", () => {
  for (const each of closed) each.open = false;
  for (const plot of plots) Plotly.relayout(plot, { width: null, height: null, autosize: true });
});

// Draws the table "By time" of the page Metrics. What is drawn can be read in the table, so nothing needs it.
"use strict";
(() => {
  const drawn = [];
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const span = (seconds) => {
    if (seconds == null) return "–";
    if (seconds < 1) return +(seconds * 1000).toPrecision(3) + " ms";
    if (seconds < 120) return +seconds.toPrecision(3) + " s";
    if (seconds < 7200) return +(seconds / 60).toPrecision(3) + " min";
    return +(seconds / 3600).toPrecision(3) + " h";
  };
  const number = (value) => (value == null ? "–" : value.toLocaleString("en"));
  const draw = () => {
    while (drawn.length) drawn.pop().destroy();
    const table = document.getElementById("by-time");
    if (!table || !window.uPlot) return;
    const rows = [...table.tBodies[0].rows].reverse();
    const heads = [...table.tHead.rows[0].cells];
    for (const figure of document.querySelectorAll("[data-chart]")) {
      const place = figure.querySelector(".plot");
      const columns = heads.map((head, at) => [head, at]).filter(([head]) => head.dataset.of === figure.dataset.chart);
      const read = (row, at) => { const v = row.cells[at].dataset.v; return v === "" ? null : Number(v); };
      const data = [rows.map((row) => Number(row.dataset.at)), ...columns.map(([, at]) => rows.map((row) => read(row, at)))];
      const shown = figure.dataset.unit === "seconds" ? span : number;
      const axis = { stroke: color("soft"), grid: { stroke: color("line"), width: 1 }, ticks: { stroke: color("line"), width: 1 } };
      drawn.push(new uPlot({
        width: Math.max(place.clientWidth, 200),
        height: 200,
        cursor: { sync: { key: "metrics" } },
        scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.05 : 1] } },
        axes: [axis, { ...axis, size: 64, values: (_, ticks) => ticks.map(shown) }],
        series: [
          { value: (_, at) => (at == null ? "–" : new Date(at * 1000).toLocaleString()) },
          ...columns.map(([head]) => ({
            label: head.textContent, stroke: color(head.dataset.color), width: 1.5, spanGaps: false,
            points: { show: rows.length < 40, size: 5 }, value: (_, value) => shown(value),
          })),
        ],
      }, data, place));
    }
  };
  let waiting = 0;
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(draw, 50); };
  draw();
  document.addEventListener("htmx:after:swap", soon);
  addEventListener("resize", soon);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", soon);
  new MutationObserver(soon).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
})();

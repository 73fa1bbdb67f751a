"use strict";
// Charts: each section's data and Vega-Lite specification, drawn as SVG, and its numbers as a CSV file.
const csvCell = (v) => (v === null ? "" : /[",\n]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : String(v));
const csvOf = (columns, rows) => [columns, ...rows].map((row) => row.map(csvCell).join(",") + "\n").join("");

async function draw(section) {
  const chart = JSON.parse(section.querySelector("script[type='application/json']").textContent);
  const place = section.querySelector(".chart");
  const link = document.createElement("a");
  link.href = "data:text/csv;charset=utf-8," + encodeURIComponent(csvOf(chart.columns, chart.rows));
  link.download = chart.name + ".csv";
  link.textContent = "numbers (CSV)";
  link.setAttribute("aria-label", "numbers of this chart as a CSV file: " + section.querySelector("h2").textContent);
  const line = document.createElement("p");
  line.className = "numbers";
  line.append(link);
  section.append(line);
  const values = chart.rows.map((row) => Object.fromEntries(chart.columns.map((c, i) => [c, row[i]])));
  const groups = chart.each ? [...new Set(values.map((v) => v[chart.each]))] : [null];
  for (const group of groups) {
    let into = place;
    if (chart.each) {
      const small = document.createElement("div");
      const title = document.createElement("h3");
      title.textContent = group;
      into = document.createElement("div");
      small.append(title, into);
      place.append(small);
    }
    const own = chart.each ? values.filter((v) => v[chart.each] === group) : values;
    const spec = { ...chart.spec, data: { values: own } };
    const width = into.clientWidth; // names take at most two fifths of it, a legend's columns as many as fit
    const legend = { ...spec.config.legend, columns: Math.max(1, Math.floor(width / 150)) };
    spec.config = { ...spec.config, legend, axisLeft: { labelLimit: Math.round(width * 0.4) } };
    if (chart.each) spec.description = `${group}: ${spec.description}`;
    await vegaEmbed(into, spec, {
      renderer: "svg", actions: false, defaultStyle: false, tooltip: { theme: "custom", disableDefaultStyle: true },
    });
  }
}

window.reportDrawn = (async () => {
  for (const section of document.querySelectorAll("section.drawn")) await draw(section);
})();

// Tables: a click on a heading sorts by it, numbers first the largest; another click turns the order round.
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
    const number = head.classList.contains("number");
    const down = head.ariaSort ? head.ariaSort === "ascending" : number;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => (number ? parseFloat(row.cells[i].dataset.value) : row.cells[i].textContent);
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (number && (isNaN(x) || isNaN(y))) return isNaN(x) - isNaN(y); // what is not known comes last
      const less = number ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return down ? -less : less;
    };
    body.append(...[...body.rows].sort(order));
  }));
}

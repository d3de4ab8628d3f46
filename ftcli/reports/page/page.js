"use strict";
// The values under the pointer, or at the place that the arrow keys chose; and each chart as a file.
const panels = JSON.parse(document.getElementById("data").textContent);

const nearest = (points, step) => points.reduce((best, point) =>
  Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best);

function show(chart, step) {
  const panel = panels[chart.dataset.panel];
  const [low, high] = chart.dataset.x.split(" ").map(Number);
  const [left, right] = panel.plot;
  const cursor = chart.querySelector(".cursor");
  const at = left + (step - low) / (high - low) * (right - left);
  cursor.setAttribute("x1", at);
  cursor.setAttribute("x2", at);
  cursor.setAttribute("visibility", "visible");
  chart.dataset.step = step;
  const values = panel.curves.map((curve) => {
    const [near, value] = nearest(curve.points, step);
    return `${curve.label} ${Number(value.toPrecision(5))}${near === step ? "" : ` (step ${near})`}`;
  });
  chart.closest("figure").querySelector("output").textContent = `step ${step}: ${values.join(" · ")}`;
}

const steps = (chart) =>
  [...new Set(panels[chart.dataset.panel].curves.flatMap((curve) => curve.points.map((point) => point[0])))]
    .sort((one, other) => one - other);

function point(event) {
  const chart = event.currentTarget, box = chart.getBoundingClientRect();
  const [low, high] = chart.dataset.x.split(" ").map(Number);
  const [left, right] = panels[chart.dataset.panel].plot;
  const x = (event.clientX - box.left) / box.width * chart.viewBox.baseVal.width;
  const wanted = low + (x - left) / (right - left) * (high - low);
  show(chart, steps(chart).reduce((best, step) => Math.abs(step - wanted) < Math.abs(best - wanted) ? step : best));
}

function press(event) {
  const chart = event.currentTarget, all = steps(chart);
  const now = all.indexOf(Number(chart.dataset.step));
  const to = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: all.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  show(chart, all[Math.min(Math.max(to, 0), all.length - 1)]);
}

function keep(content, type, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function image(chart) {
  const copy = chart.cloneNode(true);
  copy.querySelector(".cursor").remove();
  copy.setAttribute("width", 2 * chart.viewBox.baseVal.width);
  copy.setAttribute("height", 2 * chart.viewBox.baseVal.height);
  return new XMLSerializer().serializeToString(copy);
}

function csv(panel) {
  // A spreadsheet takes what begins like these for a formula.
  const inert = (text) => /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  const cell = (value) => typeof value === "number" ? value : `"${inert(value).replaceAll('"', '""')}"`;
  const rows = panel.curves.flatMap((curve) => curve.points.map(([step, value]) => [curve.run, curve.key, step, value]));
  return [["run", "measure", "step", "value"], ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

function save(event) {
  const chart = event.currentTarget.closest("figure").querySelector(".chart"), panel = panels[chart.dataset.panel];
  const name = panel.title.replaceAll(/[^\w.-]+/g, "-");
  switch (event.currentTarget.dataset.as) {
    case "csv": return keep(csv(panel), "text/csv", `${name}.csv`);
    case "svg": return keep(image(chart), "image/svg+xml", `${name}.svg`);
  }
  const picture = new Image();
  picture.onload = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [picture.width, picture.height];
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(picture, 0, 0);
    canvas.toBlob((content) => keep(content, "image/png", `${name}.png`));
  };
  picture.src = URL.createObjectURL(new Blob([image(chart)], { type: "image/svg+xml" }));
}

for (const chart of document.querySelectorAll(".chart")) {
  chart.addEventListener("pointermove", point);
  chart.addEventListener("pointerdown", point);
  chart.addEventListener("keydown", press);
}
for (const button of document.querySelectorAll("button[data-as]")) button.addEventListener("click", save);

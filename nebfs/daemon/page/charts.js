// Lines over the last hour, and the maps of images: SVG, drawn anew with each answer.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

// Minutes that a chart can go back, and where its axis has words.
const SPANS = { 6: [6, 4, 2, 0], 20: [20, 15, 10, 5, 0], 60: [60, 40, 20, 0] };

function spanFor(samples, every) {
  return 60 * ([6, 20].find((minutes) => samples * every <= minutes * 60) || 60);
}

function drawn(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// The next of 1, 2, 5, 10, ... times 1024 to some power that is not smaller: steps that bytes have.
function roundUp(value) {
  let step = 1;
  while (step * 1000 < value) step *= 1024;
  for (const factor of [1, 2, 5, 10, 20, 50, 100, 200, 500]) {
    if (step * factor >= value) return step * factor;
  }
  return step * 1024;
}

// chart: {title, note, lines: [{name, kind, values, area}], top, format, every, span}
function drawChart(figure, chart) {
  const width = Math.max(240, figure.clientWidth - 30);
  const height = 150;
  const left = 66, right = 10, upper = 8, lower = 20;
  const inner = width - left - right, tall = height - upper - lower;
  const x = (index, count) => left + inner * (1 - ((count - 1 - index) * chart.every) / chart.span);
  const y = (value) => upper + tall * (1 - Math.min(value, chart.top) / chart.top);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  svg.setAttribute("aria-label", `${chart.title}, last ${chart.span / 60} minutes. ${chart.lines.map((line) =>
    `${line.name}: ${newest(line.values, chart.format)}`).join("; ")}`);
  for (const share of [0, 0.5, 1]) {
    const at = y(chart.top * share);
    svg.append(drawn("line", { class: "grid", x1: left, x2: width - right, y1: at, y2: at }));
    svg.append(drawn("text", { class: "axis", x: left - 6, y: at + 4, "text-anchor": "end" },
      chart.format(chart.top * share)));
  }
  const most = chart.span / 60;
  for (const minutes of SPANS[most]) {
    const at = left + inner * (1 - (minutes * 60) / chart.span);
    const anchor = minutes === 0 ? "end" : minutes === most ? "start" : "middle";
    svg.append(drawn("text", { class: "axis", x: at, y: height - 4, "text-anchor": anchor },
      minutes ? `−${minutes} min` : "now"));
  }
  for (const line of chart.lines) drawLine(svg, line, x, y, upper + tall);
  const pointer = drawn("g", { visibility: "hidden" });
  svg.append(pointer);
  const words = figure.querySelectorAll(".reading");
  const read = (event) => {
    const box = svg.getBoundingClientRect();
    const count = chart.lines[0].values.length;
    const share = ((event.clientX - box.left) * (width / box.width) - left) / inner;
    const index = count - 1 - Math.round((1 - share) * (chart.span / chart.every));
    if (index < 0 || index >= count) return leave();
    const at = x(index, count);
    const marks = [drawn("line", { class: "cross", x1: at, x2: at, y1: upper, y2: upper + tall })];
    chart.lines.forEach((line, number) => {
      const value = line.values[index];
      words[number].textContent = value === null ? "–" : chart.format(value);
      if (value !== null) marks.push(drawn("circle", { class: `dot ${line.kind}`, cx: at, cy: y(value), r: 3.5 }));
    });
    pointer.replaceChildren(...marks);
    pointer.setAttribute("visibility", "visible");
  };
  const leave = () => {
    pointer.setAttribute("visibility", "hidden");
    chart.lines.forEach((line, number) => {
      words[number].textContent = newest(line.values, chart.format);
    });
  };
  svg.addEventListener("pointermove", read);
  svg.addEventListener("pointerdown", read);
  svg.addEventListener("pointerleave", leave);
  caption(figure, chart, svg);
}

function drawLine(svg, line, x, y, bottom) {
  // What is not known is a gap, and not a zero.
  let run = [];
  const end = () => {
    if (!run.length) return;
    const points = run.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`);
    if (run.length === 1) {
      svg.append(drawn("circle", { class: `dot ${line.kind}`, cx: run[0][0], cy: run[0][1], r: 1 }));
    } else {
      if (line.area) {
        const edge = [`${run[0][0]},${bottom}`, ...points, `${run.at(-1)[0]},${bottom}`];
        svg.append(drawn("polygon", { class: "area", points: edge.join(" ") }));
      }
      svg.append(drawn("polyline", { class: `line ${line.kind}`, points: points.join(" ") }));
    }
    run = [];
  };
  line.values.forEach((value, index) => {
    if (value === null) end();
    else run.push([x(index, line.values.length), y(value)]);
  });
  end();
}

function newest(values, format) {
  for (let index = values.length - 1; index >= 0; index -= 1) {
    if (values[index] !== null) return format(values[index]);
  }
  return "–";
}

function caption(figure, chart, svg) {
  if (!figure.firstChild) {
    const head = document.createElement("figcaption");
    head.append(chart.title);
    for (const line of chart.lines) {
      const one = document.createElement("span");
      one.className = "quiet";
      const swatch = document.createElement("span");
      swatch.className = `swatch ${line.kind}`;
      const reading = document.createElement("span");
      reading.className = "reading";
      reading.textContent = newest(line.values, chart.format);
      one.append(swatch, `${line.name} `, reading);
      head.append(one);
    }
    if (chart.note) {
      const note = document.createElement("span");
      note.className = "quiet";
      note.textContent = chart.note;
      head.append(note);
    }
    figure.append(head, svg);
    return drawChart(figure, chart);  // once more, with the words to read out to
  }
  figure.replaceChild(svg, figure.querySelector("svg"));
  figure.querySelectorAll(".reading").forEach((reading, number) => {
    reading.textContent = newest(chart.lines[number].values, chart.format);
  });
}

// `here` has a digit for each cell, 0 to 9; `way` are the numbers of cells under way.
function drawMap(here, way, label) {
  const columns = 40, step = 10, size = 8.4;
  const rows = Math.max(1, Math.ceil(here.length / columns));
  const svg = drawn("svg", {
    viewBox: `-1 -1 ${columns * step + 1} ${rows * step + 1}`, role: "img", "aria-label": label,
  });
  const under = new Set(way);
  for (let cell = 0; cell < here.length; cell += 1) {
    const share = Number(here[cell]);
    const place = {
      x: (cell % columns) * step, y: Math.floor(cell / columns) * step,
      width: size, height: size, rx: 1.5,
    };
    svg.append(drawn("rect", { ...place, class: "cell" }));
    if (share) {
      const kind = share === 9 ? "here" : "part";
      svg.append(drawn("rect", { ...place, class: `cell ${kind}`,
        "fill-opacity": share === 9 ? 1 : 0.25 + share / 20 }));
    }
    if (under.has(cell)) {
      svg.append(drawn("rect", { ...place, class: "cell way", "fill-opacity": 0 }));
    }
  }
  return svg;
}

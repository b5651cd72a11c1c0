"use strict";
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const trials = data.rows.map((row) => Object.fromEntries(data.columns.map(({ name }, i) => [name, row[i]])));
  const columns = Object.fromEntries(data.columns.map((column) => [column.name, column]));
  const swept = data.columns.filter((column) => column.swept);
  const label = (name) => columns[name].label;
  const find = (id) => document.getElementById(id);
  let visible = trials; // those that the filters let through

  // ------------------------------------------------------------------ tables

  const collator = new Intl.Collator("en", { numeric: true });

  function compare(a, b) { // missing values come last
    if (a === "-" || b === "-") return (a === "-") - (b === "-");
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? collator.compare(a, b) : x - y;
  }

  function sort(table, place, downward) {
    const key = (row) => row.cells[place].dataset.value ?? row.cells[place].textContent;
    const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
    const missing = (value) => value === "-";
    rows.sort(([a], [b]) => compare(a, b) * (downward && !missing(a) && !missing(b) ? -1 : 1));
    table.tBodies[0].append(...rows.map(([, row]) => row));
    for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
    table.tHead.rows[0].cells[place].setAttribute("aria-sort", downward ? "descending" : "ascending");
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, place, head.ariaSort === "ascending"));
      head.append(button);
    });
  }

  // ------------------------------------------------------------------ charts

  const LIGHT = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#7F7F7F"]; // as in the pictures
  const DARK = ["#4BA3E3", "#E69F00", "#2BBF95", "#F08A4B", "#9BD3F5", "#DE9BC4", "#A8A8A8"];
  const draws = []; // functions that draw the charts again
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  let printing = false;

  const dark = () => darkness.matches && !printing;
  const colors = () => (dark() ? DARK : LIGHT);
  const written = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))) : value ?? "-");
  const distinct = (values) => [...new Set(values)].sort((a, b) => compare(written(a), written(b)));
  const numeric = (values) => values.every((value) => typeof value === "number");
  const wide = (values) => Math.min(...values) > 0 && Math.max(...values) > 10 * Math.min(...values);

  function logTicks(low, high) { // round numbers, at most about 8
    const decades = Math.log10(high / low);
    if (decades < 0.7) return d3.ticks(low, high, 6);
    const digits = decades > 3 ? [1] : decades > 1.5 ? [1, 3] : [1, 2, 5];
    const powers = d3.range(Math.floor(Math.log10(low)), Math.ceil(Math.log10(high)) + 1);
    const every = powers.flatMap((power) => digits.map((digit) => Number(`${digit}e${power}`)));
    return every.filter((tick, i) => tick >= low && tick <= high && (decades < 8 || i % Math.ceil(decades / 8) === 0));
  }

  // A scale, and the function that maps values to it: a high percentage is drawn by its distance from 100.
  function scaleOf(name, values, logarithmic) {
    const found = values.filter((value) => value !== null);
    const options = { label: label(name), labelArrow: "none", grid: true };
    if (!numeric(found)) return [{ ...options, type: "point", domain: distinct(values.map(written)), grid: false }, written];
    const percent = columns[name].kind === "percent" && data.higher;
    const distances = found.map((value) => 100 - value).filter((value) => value > 0);
    const least = (d3.min(distances) ?? 0.2) / 2; // where 100 % is drawn
    const place = logarithmic && percent ? (value) => Math.max(100 - value, least) : (value) => value;
    const [low, high] = d3.extent(found, place);
    if (!(logarithmic && low > 0 && high > low)) return [{ ...options, type: "linear", zero: false }, (value) => value];
    const margin = (high / low) ** 0.04;
    const domain = [low / margin, high * margin];
    const tickFormat = (value) => written(percent ? 100 - value : value);
    return [{ ...options, type: "log", domain, reverse: percent, ticks: logTicks(...domain), tickFormat }, place];
  }

  function colorOf(name, values) {
    const different = distinct(values.filter((value) => value !== null));
    const shade = (t) => d3.interpolateViridis(dark() ? 0.3 + 0.7 * t : 0.85 * t);
    const title = { label: label(name), legend: true };
    if (numeric(different) && different.length > LIGHT.length) {
      const type = wide(different) ? "log" : "linear";
      const ticks = type === "log" ? logTicks(different[0], different.at(-1)).filter((_, i, all) => i % Math.ceil(all.length / 4) === 0) : 4;
      return [{ ...title, type, interpolate: shade, ticks, tickFormat: written }, (value) => value];
    }
    const ordered = numeric(different) && different.length > 2;
    const range = ordered ? different.map((_, i) => shade(i / (different.length - 1))) : colors();
    return [{ ...title, type: "categorical", domain: different.map(written), range }, written];
  }

  // Draws a chart in an element, with a tip for the pointer and for arrow keys. `points` have x, y and text.
  function draw(holder, points, make, jump) {
    const output = holder.nextElementSibling;
    const width = holder.clientWidth;
    if (!width) return;
    if (!points.length) {
      holder.replaceChildren("No values to show.");
      output.textContent = "";
      return;
    }
    const tip = Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: "text", maxRadius: 60, fontSize: 12 }));
    const dot = Plot.dot(points, Plot.pointer({ x: "x", y: "y", r: 5, strokeWidth: 2, maxRadius: 60 }));
    const height = Math.max(260, Math.min(420, 0.55 * width));
    const style = { background: "transparent", fontSize: "12px", overflow: "visible" };
    const size = { width, height, marginLeft: 56, marginRight: 20, marginBottom: 40, marginTop: 32, style };
    const made = make(size, [dot, tip]);
    const chart = made.tagName === "svg" ? made : made.querySelector(":scope > svg:last-of-type");
    made.setAttribute("aria-hidden", "true"); // the element has a name, and `output` says what the tip shows
    holder.replaceChildren(made);
    output.textContent = "";
    made.addEventListener("input", () => (output.textContent = made.value ? made.value.text.replaceAll("\n", ", ") : ""));
    let place = -1;
    holder.onkeydown = (event) => {
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: jump, ArrowUp: -jump, Home: -Infinity, End: Infinity };
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      place = Math.max(0, Math.min(points.length - 1, place + step));
      const box = chart.getBoundingClientRect();
      const at = (axis) => made.scale(axis).apply(points[place][axis]);
      const where = { clientX: box.left + at("x"), clientY: box.top + at("y"), pointerType: "mouse", bubbles: true };
      chart.dispatchEvent(new PointerEvent("pointermove", where));
      output.textContent = points[place].text.replaceAll("\n", ", ");
    };
  }

  const of = (trial) => [...swept.map(({ name, label }) => `${label} ${written(trial[name])}`), `seed ${trial.seed}`].join("\n");

  function lines(trial, name) {
    const values = data.curves[name][trials.indexOf(trial)];
    return data.epochs.map((epoch, i) => ({ epoch, value: values[i], trial })).filter(({ value }) => value !== null);
  }

  function single(holder, names) {
    const logarithmic = find("log").checked;
    const rows = names.flatMap((name) => lines(trials[0], name).map((row) => ({ ...row, name })));
    const [y, place] = scaleOf(names[0], rows.map(({ value }) => value), logarithmic);
    const points = rows.map(({ epoch, value, name }) => (
      { x: epoch, y: place(value), text: `epoch ${epoch}\n${label(name)} ${written(value)}`, color: label(name) }));
    draw(holder, points, (size, marks) => Plot.plot({
      ...size, x: epochs(size.width), y: { ...y, label: null },
      color: { domain: names.map(label), range: colors(), legend: true },
      marks: [Plot.line(points, { x: "x", y: "y", z: "color", stroke: "color", strokeWidth: 1.8, marker }), ...marks],
    }), data.epochs.length);
  }

  const marker = data.epochs.length > 1 ? null : "dot"; // a line of one point is not visible

  function epochs(width) { // the horizontal axis, with whole epochs
    const ticks = d3.ticks(data.epochs[0], data.epochs.at(-1), width / 80).filter(Number.isInteger);
    return { label: "epoch", labelArrow: "none", labelAnchor: "center", ticks, tickFormat: "d" };
  }

  function curves(holder) {
    const name = find("curve-y").value, field = find("curve-color").value;
    const rows = visible.flatMap((trial) => lines(trial, name));
    const [y, place] = scaleOf(name, rows.map(({ value }) => value), find("log").checked);
    const [color, shade] = colorOf(field, trials.map((trial) => trial[field]));
    const points = rows.map(({ epoch, value, trial }) => ({
      x: epoch, y: place(value), z: trial.trial, color: shade(trial[field]),
      text: `epoch ${epoch}\n${label(name)} ${written(value)}\n${of(trial)}`,
    }));
    const opacity = Math.max(0.15, Math.min(0.9, 40 / visible.length));
    const line = { x: "x", y: "y", z: "z", stroke: "color", strokeOpacity: opacity, strokeWidth: 1.3, marker };
    draw(holder, points, (size, marks) => Plot.plot({
      ...size, x: epochs(size.width), y, color, marks: [Plot.line(points, line), ...marks],
    }), data.epochs.length);
  }

  function dots(holder) {
    const [across, up, field] = ["dot-x", "dot-y", "dot-color"].map((id) => find(id).value);
    const shown = visible.filter((trial) => trial[up] !== null);
    const numbers = shown.map((trial) => trial[across]).filter((value) => value !== null);
    const log = find("log").checked;
    const [xs, placeX] = scaleOf(across, shown.map((trial) => trial[across]), log && numeric(numbers) && wide(numbers));
    const [y, placeY] = scaleOf(up, shown.map((trial) => trial[up]), log);
    const [color, shade] = colorOf(field, trials.map((trial) => trial[field]));
    const points = shown.map((trial) => ({
      x: placeX(trial[across]), y: placeY(trial[up]), color: shade(trial[field]),
      text: `${label(up)} ${written(trial[up])}\n${label(across)} ${written(trial[across])}\n${of(trial)}`,
    }));
    points.sort((a, b) => compare(written(a.x), written(b.x)) || a.y - b.y);
    const dot = { x: "x", y: "y", stroke: "color", fill: "color", fillOpacity: 0.45, r: 4 };
    draw(holder, points, (size, marks) => Plot.plot({ ...size, x: { ...xs, labelAnchor: "center" }, y, color, marks: [Plot.dot(points, dot), ...marks] }), 1);
  }

  function offer(id, names, chosen) {
    for (const name of names) find(id).append(new Option(label(name), name, false, name === chosen));
  }

  const again = () => draws.forEach((redraw) => redraw());

  function start() {
    for (const part of document.querySelectorAll(".interactive")) part.hidden = false;
    if (data.single) {
      const names = (rest) => data.quantities.filter((name) => name.endsWith("_loss") === rest);
      draws.push(() => single(find("metric"), names(false)), () => single(find("loss"), names(true)));
    } else {
      const fields = swept.map(({ name }) => name);
      const results = data.columns.filter(({ kind }) => kind !== "text").map(({ name }) => name);
      const shades = [...fields, "rank", "seed", "status"];
      offer("curve-y", data.quantities, data.main);
      offer("curve-color", shades, shades[0]);
      offer("dot-x", [...new Set([...fields, ...results])], fields[0] ?? "seed");
      offer("dot-y", results.filter((name) => !columns[name].swept).reverse(), data.main);
      offer("dot-color", shades, shades[1]);
      draws.push(() => curves(find("curves")), () => dots(find("dots")));
    }
    for (const control of document.querySelectorAll(".controls select, .controls input")) {
      control.addEventListener("change", again);
    }
    const width = new Map();
    const observer = new ResizeObserver((entries) => {
      const changed = entries.filter(({ target, contentRect }) => width.get(target) !== contentRect.width);
      for (const { target, contentRect } of changed) width.set(target, contentRect.width);
      if (changed.length) again();
    });
    for (const holder of document.querySelectorAll(".chart")) observer.observe(holder);
    darkness.addEventListener("change", again);
    for (const [name, state] of [["beforeprint", true], ["afterprint", false]]) {
      addEventListener(name, () => {
        printing = state;
        for (const part of document.querySelectorAll("details.printed")) part.open = state;
        again();
      });
    }
  }

  // ------------------------------------------------------------------ filters

  function filters() {
    const search = find("search"), points = [...find("points").tBodies[0].rows], rows = [...find("trials").tBodies[0].rows];
    const number = (row) => Number(row.dataset.row);
    const byRank = new Map(points.map((row) => [number(row), row]));
    const words = new Map([...points, ...rows].map((row) => [row, row.textContent.toLowerCase()]));
    const chosen = [...swept, columns.status].map((column) => {
      const values = distinct(trials.map((trial) => written(trial[column.name])));
      if (values.length < 2 || values.length > 30) return null;
      const select = document.createElement("select");
      select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
      const named = document.createElement("label");
      named.append(column.label, select);
      find("filters").insertBefore(named, find("filters").lastElementChild);
      return [column.name, select];
    }).filter(Boolean);

    function apply() {
      const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const said = (row) => wanted.every((word) => words.get(row).includes(word));
      visible = trials.filter((trial, i) =>
        chosen.every(([name, select]) => !select.value || written(trial[name]) === select.value) &&
        (said(rows[i]) || said(byRank.get(trial.rank))));
      const there = new Set(visible), ranks = new Set(visible.map(({ rank }) => rank));
      rows.forEach((row) => (row.hidden = !there.has(trials[number(row)])));
      points.forEach((row) => (row.hidden = !ranks.has(number(row))));
      find("count").textContent = `${ranks.size} of ${points.length} points, ${visible.length} of ${trials.length} trials`;
    }

    function changed() {
      apply();
      again();
    }
    search.addEventListener("input", changed);
    for (const [, select] of chosen) select.addEventListener("change", changed);
    find("reset").addEventListener("click", () => {
      search.value = "";
      for (const [, select] of chosen) select.value = "";
      changed();
    });
    apply(); // the charts are drawn once their widths are known
  }

  start();
  if (!data.single) filters();
}

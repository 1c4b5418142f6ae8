// Draws the figures, whose data is next to them as JSON: unpacks heat maps, shows one layer at a time, follows one gradient
// through a heat map. Its only arithmetic is on the norms that it shows.
"use strict";
(() => {
  const NO_PATH = 32767, ZERO = 32766, INFINITE = 32765, NAN = 32764; // as in sections/heatmap.py
  const figures = [];

  async function inflated(base64, format) {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format)));
  }

  // plotly.js comes compressed; the policy of the page names its hash.
  async function load() {
    const script = document.createElement("script");
    script.textContent = await (await inflated(document.getElementById("plotly").textContent, "gzip")).text();
    document.head.append(script);
  }

  // A heat map comes as 16-bit codes of log10, in base64; see pack() in sections/heatmap.py.
  async function unpack(trace) {
    const { rows, columns, unit, deflated } = trace.meta.packed, size = rows * columns;
    const bytes = new Uint8Array(await (await inflated(deflated, "deflate")).arrayBuffer());
    trace.z = [];
    trace.customdata = [];
    trace.meta.logs = [];
    for (let row = 0; row < rows; row++) {
      const colors = new Array(columns), values = new Array(columns), logs = new Array(columns).fill(null);
      for (let column = 0, code = 0; column < columns; column++) {
        const at = row * columns + column;
        code = ((code + bytes[at] + 256 * bytes[size + at]) << 16) >> 16;
        const log = code * unit;
        if (code === NO_PATH || code === NAN) colors[column] = null;
        else if (code === ZERO) [colors[column], values[column], logs[column]] = [trace.zmin, "0", -Infinity];
        else if (code === INFINITE) [colors[column], values[column], logs[column]] = [trace.zmax, "∞", Infinity];
        else [colors[column], values[column], logs[column]] = [log, (10 ** log).toPrecision(3), log];
      }
      trace.z.push(colors);
      trace.customdata.push(values);
      trace.meta.logs.push(logs);
    }
    delete trace.meta.packed;
  }

  const shown = (trace, choice) => trace.meta?.choice === undefined || trace.meta.choice === choice;

  async function draw(plot) {
    await loaded;
    const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
    await Promise.all(data.filter((trace) => trace.meta?.packed).map(unpack));
    for (const trace of data) trace.visible = shown(trace, 0);
    const finger = matchMedia("(pointer: coarse)").matches; // a finger on a figure scrolls the page
    if (finger) layout.dragmode = false;
    await Plotly.newPlot(plot, data, layout, { responsive: true, displaylogo: false, displayModeBar: finger ? false : "hover", modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] });
    figures.push(plot);
  }

  // -- The path of one gradient: a row of the heat map, from the step where it starts back to the column chosen. ----------

  const SUPER = { "-": "⁻", "+": "" };
  const power = (text) => [...text].map((sign) => SUPER[sign] ?? "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign]).join("");

  // 10 ** log in words; logs of what was not measured are null.
  function number(log, digits = 3) {
    if (log === null || Number.isNaN(log)) return "—";
    if (!Number.isFinite(log)) return log < 0 ? "0" : "∞";
    if (log >= -3 && log < 5) return String(Number((10 ** log).toPrecision(digits)));
    const [factor, exponent] = (10 ** (log - Math.floor(log))).toExponential(digits - 1).split("e");
    return `${Number(factor)}×10${power(String(Math.floor(log) + Number(exponent)))}`;
  }

  const share = (log) => (log > 1e-4 ? `it grows to ${number(log, 2)} times that` : log >= -5 ? `${number(log + 2, 2)} % of it is left` : `${number(log, 2)} of it is left`);

  function follow(figure) {
    const section = figure.closest("section"), drawing = figure.querySelector(".plot"), chosen = {};
    const plots = [...section.querySelectorAll(".plot")].filter((plot) => plot.data?.some((trace) => trace.meta?.start));
    const visible = () => plots.flatMap((plot) => plot.data.filter((trace) => trace.meta.start && trace.visible).map((trace) => ({ plot, trace })));
    const inputs = Object.fromEntries([...figure.querySelectorAll("input")].map((input) => [input.dataset.pair, input]));
    const label = (trace, row) => (trace.type === "heatmap" ? trace.y[row] : "the end");

    function show() {
      const all = visible(), [{ trace: first }] = all, { start, back, logs } = first.meta;
      const last = back < 0 ? 0 : logs[0].length - 1, usable = start.map((at, row) => row).filter((row) => start[row] >= 0);
      figure.hidden = !usable.length;
      if (figure.hidden) return;
      if (!usable.includes(chosen.row)) chosen.row = usable.at(-1);
      const row = chosen.row, from = start[row], inside = (column) => (column - from) * back >= 0 && (column - last) * back <= 0;
      if (!inside(chosen.column)) chosen.column = chosen.column === undefined ? Math.round(from + (last - from) * 0.4) : from;
      const { column } = chosen, path = Array.from({ length: (column - from) * back + 1 }, (_, i) => from + i * back);
      for (const [key, low, high, text] of [["row", usable[0], usable.at(-1), label(first, row)], ["column", Math.min(from, last), Math.max(from, last), column]]) {
        Object.assign(inputs[key], { min: low, max: high, value: chosen[key] });
        inputs[key].setAttribute("aria-valuetext", text);
        inputs[key].parentElement.querySelector("b").textContent = text;
        inputs[key].parentElement.hidden = low === high;
      }
      tell(all, row, path);
      draw(all, row, from, last, back, column);
      for (const { plot, trace } of all) mark(plot, trace, row, from, column);
    }

    function tell(all, row, path) {
      const [from, column, n] = [path[0], path.at(-1), path.length - 1], t = label(all[0].trace, row);
      const jacobians = n === 0 ? "No Jacobian lies between them" : n === 1 ? "One Jacobian lies between them" : `${n} Jacobians lie between them`;
      const reaches = String(t) === String(from) ? "" : `, which reaches the layer at step ${from},`;
      const words = [`From the error at ${t === "the end" ? t : `step ${t}`}${reaches} back to the state at step ${column}. ${jacobians}.`];
      for (const { trace: { name, meta } } of all) {
        const logs = path.map((j) => meta.logs[row][j]), [a, b] = [logs[0], logs.at(-1)];
        let text = `${name}: the norm is ${number(a)} at step ${from}`;
        if (n) text += ` and ${number(b)} at step ${column}`;
        if (meta.mixed) text += ". Its sequences have their errors at different steps, so this is a mean over them and not one product of Jacobians";
        else if (n && Number.isFinite(b - a) && a !== null && b !== null) {
          const factors = logs.slice(1).map((log, i) => (log === null ? NaN : log - logs[i])), low = Math.min(...factors), at = factors.indexOf(low);
          text += `: ${share(b - a)}. Its Jacobians multiply it by ${number((b - a) / n, 2)} on average`;
          if (n > 1 && at >= 0) text += `, by ${number(low, 2)} at the least, from step ${path[at]} to ${path[at + 1]}`;
        }
        words.push(text + ".");
      }
      figure.querySelector(".path-words").replaceChildren(...words.map((text) => element("p", text)));
      const head = element("tr", ...["state at step", ...all.flatMap(({ trace }) => [`${trace.name}: norm`, "factor"])].map((text) => element("th", text)));
      const body = path.map((j, i) => element("tr", element("th", String(j)), ...all.flatMap(({ trace: { meta } }) => {
        const [now, before] = [meta.logs[row][j], i ? meta.logs[row][path[i - 1]] : null];
        return [number(now), meta.mixed || now === null || before === null ? "—" : number(now - before)].map((text) => element("td", text));
      })));
      figure.querySelector("table").replaceChildren(element("thead", head), element("tbody", ...body));
    }

    // The whole row, with the way from the start to the column shaded.
    function draw(all, row, from, last, back, column) {
      const x = Array.from({ length: Math.abs(last - from) + 1 }, (_, i) => from + i * back);
      drawing.data.forEach((trace) => {
        const source = all.find((one) => one.trace.name === trace.name);
        trace.x = x;
        trace.y = source ? x.map((j) => (Number.isFinite(source.trace.meta.logs[row][j] ?? NaN) ? 10 ** source.trace.meta.logs[row][j] : null)) : [];
        trace.mode = x.length > 60 ? "lines" : "lines+markers";
      });
      drawing.layout.shapes = [
        { type: "rect", xref: "x", yref: "paper", x0: from, x1: column, y0: 0, y1: 1, fillcolor: "rgba(217,113,31,.14)", line: { width: 0 }, layer: "below" },
        { type: "line", xref: "x", yref: "paper", x0: column, x1: column, y0: 0, y1: 1, line: { color: "#d9711f", width: 2 } },
      ];
      drawing.layout.xaxis.range = [Math.min(from, last) - 0.5, Math.max(from, last) + 0.5];
      Plotly.redraw(drawing);
    }

    function mark(plot, trace, row, from, column) {
      if (trace.type !== "heatmap") return;
      const at = typeof trace.y[row] === "number" ? trace.y[row] : row, tall = typeof trace.y[row] === "number" && trace.y.length > 1 ? Math.abs(trace.y[1] - trace.y[0]) / 2 : 0.5;
      const cell = { type: "rect", x0: column - 0.5, x1: column + 0.5, y0: at - tall, y1: at + tall };
      const way = { type: "line", x0: from, x1: column, y0: at, y1: at };
      const lines = [["#fff", 4], ["#d9711f", 2]].flatMap(([color, width]) => [way, cell].map((shape) => ({ ...shape, line: { color, width } })));
      Plotly.relayout(plot, { shapes: lines });
    }

    const choose = (row, column) => {
      Object.assign(chosen, { row, column });
      show();
    };
    for (const plot of plots) {
      plot.on("plotly_click", ({ points: [point] }) => (Array.isArray(point.pointIndex) ? choose(...point.pointIndex) : choose(0, point.x)));
      plot.tabIndex = 0;
      plot.addEventListener("keydown", (event) => {
        const moved = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
        const { start } = visible()[0].trace.meta;
        if (!moved || event.ctrlKey || event.metaKey || !((start[chosen.row + moved[0]] ?? -1) >= 0)) return;
        event.preventDefault();
        choose(chosen.row + moved[0], chosen.column + moved[1]);
      });
    }
    drawing.on("plotly_click", ({ points: [point] }) => choose(chosen.row, point.x));
    for (const [key, input] of Object.entries(inputs)) input.addEventListener("input", () => choose(...Object.values({ row: chosen.row, column: chosen.column, [key]: Number(input.value) })));
    section.querySelector("[data-choice]")?.addEventListener("change", show);
    figure.hidden = false;
    Plotly.Plots.resize(drawing);
    show();
  }

  function element(tag, ...children) {
    const made = document.createElement(tag);
    made.append(...children);
    return made;
  }

  for (const select of document.querySelectorAll("[data-choice]")) {
    select.addEventListener("change", () => {
      for (const plot of select.closest("section").querySelectorAll(".plot"))
        Plotly.restyle(plot, { visible: plot.data.map((trace) => shown(trace, Number(select.value))) });
    });
  }

  // Paper is narrower than most screens, and plotly does not hear of it.
  addEventListener("beforeprint", () => {
    for (const plot of figures) Plotly.relayout(plot, { width: Math.min(plot.clientWidth, plot.closest(".side-by-side") ? 310 : 640) });
  });
  addEventListener("afterprint", () => {
    for (const plot of figures) Plotly.relayout(plot, { width: null, autosize: true });
  });

  const loaded = load();
  const drawings = [...document.querySelectorAll(".plot")].map((plot) =>
    draw(plot).catch((error) => {
      plot.textContent = `This figure could not be drawn here (${error.message}).`;
      console.error(error);
    }));
  Promise.all(drawings).then(() => {
    for (const figure of document.querySelectorAll(".path")) follow(figure);
    for (const plot of document.querySelectorAll(".plot:has(.main-svg)")) { // the drawing is the image; next to it are buttons
      const [drawing, ...above] = plot.querySelectorAll("svg.main-svg");
      for (const name of ["role", "aria-label"]) {
        drawing.setAttribute(name, plot.getAttribute(name));
        plot.removeAttribute(name);
      }
      for (const one of [...above, ...plot.querySelectorAll(".modebar svg")]) one.setAttribute("aria-hidden", "true");
    }
    document.querySelector("#js-plotly-tester")?.setAttribute("aria-hidden", "true"); // where plotly measures texts
    document.documentElement.dataset.drawn = "true";
  });
})();

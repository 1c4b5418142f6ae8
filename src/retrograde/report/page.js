// Draws the figures, whose data is next to them as JSON. Computes nothing: it unpacks heat maps and shows one layer at a time.
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

  // A heat map comes as 16-bit codes of log10, deflated, in base64; see pack() in sections/heatmap.py.
  async function unpack(trace) {
    const { rows, columns, unit, deflated } = trace.meta.packed;
    const view = new DataView(await (await inflated(deflated, "deflate")).arrayBuffer());
    trace.z = [];
    trace.customdata = [];
    for (let row = 0; row < rows; row++) {
      const colors = new Array(columns), values = new Array(columns);
      for (let column = 0; column < columns; column++) {
        const code = view.getInt16(2 * (row * columns + column), true);
        const log = code * unit;
        if (code === NO_PATH || code === NAN) colors[column] = null;
        else if (code === ZERO) [colors[column], values[column]] = [trace.zmin, "0"];
        else if (code === INFINITE) [colors[column], values[column]] = [trace.zmax, "∞"];
        else [colors[column], values[column]] = [log, (10 ** log).toPrecision(3)];
      }
      trace.z.push(colors);
      trace.customdata.push(values);
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
  Promise.all(drawings).then(() => (document.documentElement.dataset.drawn = "true"));
})();

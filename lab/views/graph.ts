/** The unrolled network: inputs, states, outputs and losses, and the way of the gradient from E_t back to s_k. */
import { BLUE, diverging, largest, line, number, ORANGE, sheet, up, write } from "./pen";
import type { Frame, Pen } from "./pen";
import type { Picture, Scene } from "./picture";
import type { Shown } from "../shown";

interface Layout { left: number; column: number; block: number; top: number; bottom: number; bars: Frame; symbols: boolean }

function layout(pen: Pen, { shown: { T } }: Scene): Layout {
  const left = 34, column = (pen.width - left - 8) / (T + 0.5), block = Math.min(46, column * 0.66);
  const symbols = column >= 13;
  const bars: Frame = { left, right: pen.width, top: 10, bottom: 46, x: [0, T], y: [0, 1] };
  return { left: left + column * 0.5, column, block, top: symbols ? 84 : 62, bottom: pen.height - (symbols ? 34 : 12), bars, symbols };
}

const center = (own: Layout, t: number): number => own.left + (t + 0.5) * own.column;

/** What step t reads, should say, and says, as text. */
function symbols({ shown: { inside, batch }, task }: Scene, t: number): [string, string, string] {
  if (!inside || !batch || !task) return ["", "", ""];
  const { D, K, x, y } = { D: task.D, K: task.K, x: batch.x, y: batch.y };
  const at = (values: Float32Array, size: number) => values.subarray(t * size, (t + 1) * size);
  const name = (values: Float32Array, names: string[], size: number) => {
    const own = at(values, size);
    return names.length ? (names[own.indexOf(Math.max(...own))] ?? "–").replace(" ", "␣") : own[0].toFixed(1);
  };
  const marked = !task.inputs.length && x[t * D + 1] ? "*" : "";
  const scored = batch.scored[t] > 0;
  return [name(x, task.inputs, D) + marked, scored ? name(y, task.outputs, K) : "", scored ? name(inside.run.y, task.outputs, K) : ""];
}

/** All states as one sheet of cells, each column of it then drawn at its place. */
function paintStates(pen: Pen, own: Layout, shown: Shown): void {
  const { inside, T } = shown, { ctx, colors } = pen, height = own.bottom - own.top;
  const place = (t: number): [number, number] =>
    t < 0 ? [own.left - own.column * 0.42, Math.min(own.block, own.column * 0.3)] : [center(own, t) - own.block / 2, own.block];
  if (inside) {
    const { run, network: { H, cell }, sequence } = inside;
    const columns = Math.max(1, Math.min(H, Math.round(Math.sqrt((H * own.block) / height)))), rows = Math.ceil(H / columns);
    const range = cell === "relu" ? Math.max(1e-9, largest(run.h)) : 1;
    sheet(rows, columns * (T + 1), (row, column) => {
      const t = Math.floor(column / columns), unit = row * columns + (column % columns);
      return unit < H ? diverging(run.h[(t * run.B + sequence) * H + unit] / range, colors.dark) : 0;
    }, (image) => {
      for (let t = -1; t < T; t++) ctx.drawImage(image, (t + 1) * columns, 0, columns, rows, place(t)[0], own.top, place(t)[1], height);
    }, pen);
  }
  ctx.strokeStyle = colors.line;
  ctx.lineWidth = 1;
  for (let t = -1; t < T; t++) ctx.strokeRect(place(t)[0] - 0.5, own.top - 0.5, place(t)[1] + 1, height + 1);
}

/** Between two states: thick and orange where the Jacobian stretches, thin and blue where it shrinks. */
function paintLinks(pen: Pen, own: Layout, { chain }: Shown): void {
  if (!chain || own.column - own.block < 5) return;
  const y = (own.top + own.bottom) / 2;
  for (let t = 0; t < chain.steps.length; t++) {
    const log = Math.log10(chain.steps[t] || 1e-9), to = center(own, t) - own.block / 2 - 1.5;
    const from = t ? center(own, t - 1) + own.block / 2 + 1.5 : own.left - own.column * 0.42 + Math.min(own.block, own.column * 0.3) + 1.5;
    const color = log < 0 ? BLUE : ORANGE, thick = Math.max(0.6, Math.min(6, 2.2 * (1 + log * 1.6)));
    line(pen, [[from, y], [to - 2, y]], color, thick);
    const tip = Math.min(5, (to - from) / 2) + thick / 3;
    pen.ctx.fillStyle = color;
    pen.ctx.beginPath();
    pen.ctx.moveTo(to, y);
    pen.ctx.lineTo(to - tip, y - tip * 0.8);
    pen.ctx.lineTo(to - tip, y + tip * 0.8);
    pen.ctx.fill();
  }
}

/** From E_t down into s_t and back to s_k; as thick as the gradient that is left, on a logarithmic scale. */
function paintPath(pen: Pen, own: Layout, { shown, t, k }: Scene): void {
  const { ctx, colors } = pen, y = (own.top + own.bottom) / 2 + 12, { norms, T } = shown, first = norms[t * T + t];
  const part = (j: number) => Math.min(1.6, Math.max(0, 1 + Math.log10(norms[t * T + j] / first) / 4)) || 0;
  const thick = (j: number) => 1.2 + 5 * part(j);
  line(pen, [[center(own, t), 46], [center(own, t), y]], ORANGE, thick(t));
  for (let j = t; j > k; j--) line(pen, [[center(own, j), y], [center(own, j - 1), y]], ORANGE, thick(j - 1));
  for (let j = t; j >= k; j--) {
    ctx.fillStyle = ORANGE;
    ctx.beginPath();
    ctx.arc(center(own, j), y, Math.min(own.column / 2.2, thick(j) * 0.5 + 2.2), 0, 7);
    ctx.fill();
    ctx.strokeStyle = colors.card;
    ctx.lineWidth = 1.2;
    ctx.stroke();
  }
  for (const [j, color] of [[k, ORANGE], [t, colors.text]] as const) {
    ctx.strokeStyle = color;
    ctx.lineWidth = 2;
    ctx.strokeRect(center(own, j) - own.block / 2 - 3, own.top - 3, own.block + 6, own.bottom - own.top + 6);
  }
}

function paintBars(pen: Pen, own: Layout, { shown: { inside, T }, t }: Scene): void {
  if (!inside || !inside.run.y.length) return;
  const { losses, B } = inside.run, at = (j: number) => losses[j * B + inside.sequence];
  let top = 1e-9;
  for (let j = 0; j < T; j++) top = Math.max(top, at(j));
  own.bars.y = [0, top];
  for (let j = 0; j < T; j++) {
    const y = up(own.bars, at(j)), width = Math.max(2, Math.min(14, own.column * 0.4));
    pen.ctx.fillStyle = j === t ? ORANGE : BLUE;
    pen.ctx.globalAlpha = j === t ? 1 : 0.55;
    if (at(j) > 0) pen.ctx.fillRect(center(own, j) - width / 2, Math.min(y, 45), width, Math.max(1, 46 - y));
    pen.ctx.globalAlpha = 1;
  }
  line(pen, [[own.left, 46.5], [pen.width - 4, 46.5]], pen.colors.line);
}

export const graph: Picture = {
  name: "graph",
  fits: () => true,
  height: (width, { shown: { T } }) => ((width - 42) / (T + 0.5) >= 13 ? 232 : 178),
  paint(pen, scene) {
    const own = layout(pen, scene), { shown, t } = scene, small = { size: own.column < 22 ? 10 : 12 };
    paintBars(pen, own, scene);
    paintStates(pen, own, shown);
    paintLinks(pen, own, shown);
    paintPath(pen, own, scene);
    write(pen, "Eₜ", 4, 30, { align: "left" });
    write(pen, "sₜ", 4, (own.top + own.bottom) / 2, { align: "left" });
    if (!own.symbols) return;
    const known = shown.batch && scene.task;
    const beside = own.column >= 34, [above, below] = beside ? [66, 66] : [58, 73]; // of y_t and ŷ_t
    if (known) {
      for (const [name, y] of beside ? [["yₜ ŷₜ", 66] as const] : [["yₜ", above] as const, ["ŷₜ", below] as const]) write(pen, name, 4, y, { align: "left" });
      write(pen, "xₜ", 4, own.bottom + 13, { align: "left" });
    }
    for (let j = 0; j < shown.T; j++) {
      const [input, target, output] = symbols(scene, j), x = center(own, j), color = j === t ? pen.colors.text : pen.colors.quiet;
      write(pen, input, x, own.bottom + 13, { ...small, color: pen.colors.text });
      write(pen, String(j + 1), x, own.bottom + 27, { size: 9.5 });
      if (!target) continue;
      const right = scene.task?.outputs.length ? target === output : true, aside = beside ? own.column / 6 : 0;
      if (!beside && j === t) { // the way of the gradient goes behind them
        pen.ctx.fillStyle = pen.colors.card;
        pen.ctx.fillRect(x - 6, above - 7, 12, below - above + 14);
      }
      write(pen, target, x - aside, above, { ...small, color });
      write(pen, output, x + aside, below, { ...small, bold: true, color: right ? pen.colors.blue : pen.colors.orange });
    }
  },
  describe: ({ words, t, k, shown: { norms, T } }) => words.pictures.graph.now(t + 1, k + 1, number(norms[t * T + k], 3)),
  pick(x, y, pen, scene) {
    const own = layout(pen, scene), step = Math.floor((x - own.left) / own.column);
    if (step < 0 || step >= scene.shown.T) return undefined;
    return y < own.top - 6 ? { t: step } : { k: step };
  },
};

/** ‖∂E_t/∂s_k‖ for every pair of steps, on a logarithmic scale: t downwards, k to the right. */
import { cells, line, number, packed, viridis, write } from "./pen";
import type { Pen } from "./pen";
import type { Picture, Scene } from "./picture";

const DECADES = 8; // colors span at most so many powers of ten, as in the report
const LEFT = 40, TOP = 8;

const side = (pen: Pen): number => Math.min(pen.width - LEFT - 14, pen.height - TOP - 74);

/** The powers of ten at both ends of the colors. */
export function scale(norms: Float32Array): [number, number] {
  let top = -Infinity, bottom = Infinity;
  for (const value of norms) {
    if (!(value > 0 && value < Infinity)) continue;
    const log = Math.log10(value);
    if (log > top) top = log;
    if (log < bottom) bottom = log;
  }
  if (top === -Infinity) return [-1, 0];
  top = Math.ceil(top);
  return [Math.max(Math.min(Math.floor(bottom), top - 2), top - DECADES), top];
}

function paintScale(pen: Pen, [low, high]: [number, number], y: number, size: number): void {
  const width = size * 0.86, x = LEFT + (size - width) / 2;
  cells(pen, 1, 64, x, y, width, 8, (_, column) => viridis(column / 63));
  const every = Math.max(1, Math.ceil((high - low) / 4));
  for (let power = high; power >= low; power -= every)
    write(pen, number(10 ** power, 1), x + ((power - low) / (high - low)) * width, y + 19, { size: 10.5 });
}

export const heatmap: Picture = {
  name: "heatmap",
  fits: () => true,
  height: (width) => Math.min(width - LEFT - 14, 330) + TOP + 74,
  paint(pen, { shown: { norms, T }, t, k, truncation, words }) {
    const size = side(pen), cell = size / T, ends = scale(norms), { ctx, colors } = pen;
    const nothing = packed(colors.dark ? [42, 48, 57] : [235, 233, 228]);
    cells(pen, T, T, LEFT, TOP, size, size, (row, column) => {
      const value = norms[row * T + column];
      if (column > row || Number.isNaN(value)) return 0;
      if (norms[row * T + row] === 0 && value === 0) return nothing; // no loss at this step
      return viridis((Math.log10(value) - ends[0]) / (ends[1] - ends[0]));
    });
    if (truncation && truncation < T) { // what truncation cuts off: veiled, behind a dashed stair
      ctx.fillStyle = colors.card;
      ctx.globalAlpha = 0.72;
      for (let row = truncation; row < T; row++)
        ctx.fillRect(LEFT, TOP + row * cell, (row - truncation + 1) * cell, cell + 0.5);
      ctx.globalAlpha = 1;
      const stair: [number, number][] = [];
      for (let row = truncation; row < T; row++)
        stair.push([LEFT + (row - truncation + 1) * cell, TOP + row * cell], [LEFT + (row - truncation + 1) * cell, TOP + (row + 1) * cell]);
      line(pen, stair, colors.text, 1.5, [4, 3]);
    }
    const x = LEFT + k * cell, y = TOP + t * cell;
    line(pen, [[LEFT, y + cell / 2], [x, y + cell / 2]], colors.card, 1);
    line(pen, [[x + cell / 2, y + cell], [x + cell / 2, TOP + size]], colors.card, 1);
    for (const [color, width] of [["#fff", 4], ["#d9711f", 2]] as const) {
      ctx.strokeStyle = color;
      ctx.lineWidth = width;
      ctx.strokeRect(x, y, Math.max(cell, 3), Math.max(cell, 3));
    }
    const every = [1, 2, 5, 10, 20].find((step) => (size / T) * step >= 22) ?? 50;
    for (let j = 0; j < T; j++)
      if ((j + 1) % every === 0 || (j === 0 && every < 5)) {
        write(pen, String(j + 1), LEFT - 5, TOP + (j + 0.5) * cell, { align: "right", size: 10.5 });
        write(pen, String(j + 1), LEFT + (j + 0.5) * cell, TOP + size + 10, { size: 10.5 });
      }
    ctx.save();
    ctx.translate(9, TOP + size / 2);
    ctx.rotate(-Math.PI / 2);
    write(pen, words.axes.error, 0, 0);
    ctx.restore();
    pen.font = ""; // what it was before
    write(pen, words.axes.state, LEFT + size / 2, TOP + size + 26);
    paintScale(pen, ends, TOP + size + 40, size);
  },
  describe({ words, shown: { norms, T }, t, k, truncation }: Scene) {
    const say = words.pictures.heatmap, now = say.now(t + 1, k + 1, number(norms[t * T + k], 3), number(norms[t * T + t], 3));
    return truncation && truncation < T ? now + say.cut(truncation) : now;
  },
  pick(x, y, pen, { shown: { T } }) {
    const size = side(pen), t = Math.floor(((y - TOP) / size) * T), k = Math.floor(((x - LEFT) / size) * T);
    return t >= 0 && t < T && k >= 0 && k < T ? { t: Math.max(t, k), k } : undefined;
  },
};

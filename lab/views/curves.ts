/** Training over time: the loss, and the norm of the gradient with the line at which it is clipped. */
import { across, BLUE, leftAxis, line, number, ORANGE, up, write } from "./pen";
import type { Frame, Pen } from "./pen";
import type { Picture } from "./picture";

const SHOWN = 600; // points at most

/** Updates as [place, value]: all of them, or the lowest and highest of each group. */
function thinned(values: number[]): [number, number][] {
  const group = Math.ceil(values.length / SHOWN), found: [number, number][] = [];
  for (let i = 0; i < values.length; i += group) {
    const part = values.slice(i, i + group), finite = part.filter(Number.isFinite);
    if (group === 1) found.push([i + 1, part[0]]);
    else found.push([i + 1, Math.min(...finite)], [i + group / 2 + 1, Math.max(...finite)]);
  }
  return found;
}

function smooth(values: number[]): number[] {
  let mean = values[0];
  return values.map((value, i) => (mean += (Number.isFinite(value) ? value - mean : 0) / Math.min(i + 1, 20)));
}

function frame(pen: Pen, count: number, low: number, high: number, log: boolean): Frame {
  return { left: 44, right: pen.width - 12, top: 12, bottom: pen.height - 42, x: [0, Math.max(20, count)], y: [low, high], log };
}

function paintAxis(pen: Pen, own: Frame, label: string): void {
  leftAxis(pen, own);
  const step = 10 ** Math.floor(Math.log10(own.x[1])), every = own.x[1] / step > 4 ? 2 * step : own.x[1] / step > 2 ? step : step / 2;
  for (let at = 0; at <= own.x[1]; at += every) write(pen, String(at), across(own, at), own.bottom + 11);
  write(pen, label, (own.left + own.right) / 2, own.bottom + 27);
}

export const loss: Picture = {
  name: "loss",
  fits: ({ task }) => task !== undefined,
  height: () => 230,
  paint(pen, { history, task, words }) {
    const chance = task!.chance, points = thinned(history.loss), high = Math.min(20 * chance, Math.max(chance, ...points.map((p) => p[1]).filter(Number.isFinite)));
    const own = frame(pen, history.loss.length, 0, high * 1.12, false);
    paintAxis(pen, own, words.axes.updates);
    line(pen, [[own.left, up(own, chance)], [own.right, up(own, chance)]], pen.colors.quiet, 1.5, [5, 4]);
    write(pen, words.chance, own.right - 2, up(own, chance) - 9, { align: "right" });
    pen.ctx.globalAlpha = 0.4;
    line(pen, points.map(([x, y]) => [across(own, x), up(own, y)]), BLUE, 1);
    pen.ctx.globalAlpha = 1;
    if (history.loss.length > 1) line(pen, thinned(smooth(history.loss)).map(([x, y]) => [across(own, x), up(own, y)]), BLUE, 2.5);
  },
  describe({ history, task, words }) {
    const now = smooth(history.loss).at(-1);
    return now === undefined ? words.pictures.loss.none : words.pictures.loss.now(history.loss.length, number(now, 3), number(task!.chance, 3));
  },
};

export const norm: Picture = {
  name: "norm",
  fits: ({ task }) => task !== undefined,
  height: () => 230,
  paint(pen, { history, clip, words }) {
    const points = thinned(history.norm), finite = points.map((p) => p[1]).filter((value) => value > 0 && value < Infinity);
    if (clip) finite.push(clip);
    const low = Math.min(0.1, ...finite), high = Math.max(1, ...finite);
    const own = frame(pen, history.norm.length, 10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high * 1.05)), true);
    paintAxis(pen, own, words.axes.updates);
    line(pen, points.map(([x, y]) => [across(own, x), up(own, y)]), BLUE, 1.6);
    if (!clip) return;
    line(pen, [[own.left, up(own, clip)], [own.right, up(own, clip)]], ORANGE, 2, [6, 4]);
    write(pen, words.clippedAt(number(clip)), own.right - 2, up(own, clip) - 9, { align: "right", color: pen.colors.orange });
    pen.ctx.fillStyle = ORANGE;
    for (const [x, y] of points) if (y > clip) pen.ctx.fillRect(across(own, x) - 1.5, up(own, y) - 1.5, 3, 3);
  },
  describe({ history: { norm: all }, clip, words }) {
    if (!all.length) return words.pictures.norm.none;
    const recent = all.slice(-100), most = Math.max(...recent), clipped = clip ? recent.filter((value) => value > clip).length / recent.length : 0;
    return words.pictures.norm.now(number(all.at(-1)!, 3), number(most, 3)) + (clip ? words.pictures.norm.clipped(number(100 * clipped, 2)) : "");
  },
};

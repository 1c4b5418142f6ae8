/** The terms of ∂E_t/∂W, one per step k: how large each is, and what the matrix looks like. */
import { GATES, term } from "../network";
import { across, BLUE, bottomAxis, GREY, largest, leftAxis, number, ORANGE, thumbnail, up, write } from "./pen";
import type { Frame, Pen } from "./pen";
import type { Picture, Scene } from "./picture";

const sizes = ({ shown: { inside, T }, t }: Scene): Float32Array => inside!.pairs.terms.subarray(t * T, t * T + t + 1);

function frame(pen: Pen, scene: Scene): Frame {
  const values = [...sizes(scene)].filter((value) => value > 0 && value < Infinity), high = Math.max(1e-11, ...values);
  const top = 10 ** Math.ceil(Math.log10(high)), low = Math.max(top / 1e10, Math.min(top / 100, ...values));
  return { left: 44, right: pen.width - 10, top: 10, bottom: pen.height - 124, x: [-0.5, scene.t + 0.5], y: [low / 1.5, top], log: true };
}

/** The terms that have room as matrices: the last ones, or those around k. */
function window(pen: Pen, { t, k }: Scene): number[] {
  const room = Math.max(1, Math.floor((pen.width - 20) / 46)), count = Math.min(room, t + 1);
  const first = Math.max(0, Math.min(t + 1 - count, k - Math.floor(count / 2)));
  return Array.from({ length: count }, (_, i) => first + i);
}

export const terms: Picture = {
  name: "terms",
  fits: ({ shown }) => shown.inside !== undefined,
  height: () => 330,
  paint(pen, scene) {
    const { shown, t, k, truncation } = scene, own = frame(pen, scene), width = Math.max(2, Math.min(28, ((own.right - own.left) / (t + 1)) * 0.66));
    leftAxis(pen, own);
    bottomAxis(pen, own, scene.words.axes.term, 1);
    sizes(scene).forEach((value, j) => {
      const y = up(own, Math.max(value, own.y[0]));
      pen.ctx.fillStyle = truncation && t - j >= truncation ? GREY : j === k ? ORANGE : BLUE;
      pen.ctx.globalAlpha = truncation && t - j >= truncation ? 0.35 : 1;
      if (value > 0) pen.ctx.fillRect(across(own, j) - width / 2, y, width, Math.max(1, own.bottom - y));
      else write(pen, "0", across(own, j), own.bottom - 7, { size: 10 });
      pen.ctx.globalAlpha = 1;
    });
    const { network, run, sequence, pairs } = shown.inside!, which = window(pen, scene);
    const matrices = which.map((j) => term(network, run, sequence, pairs, t, j)), rows = GATES[network.cell] * network.H;
    const all = Math.max(...matrices.map(largest)), step = (pen.width - 20) / which.length, size = Math.min(40, step - 6);
    const tall = Math.min(60, (size * rows) / network.H), top = pen.height - 80;
    matrices.forEach((matrix, i) => {
      const x = 10 + (i + 0.5) * step - size / 2;
      thumbnail(pen, matrix, rows, network.H, x, top, size, tall, all);
      if (which[i] === k) {
        pen.ctx.strokeStyle = ORANGE;
        pen.ctx.lineWidth = 2.5;
        pen.ctx.strokeRect(x - 2, top - 2, size + 4, tall + 4);
      }
      write(pen, `k=${which[i] + 1}`, x + size / 2, top + tall + 11, { size: 10 });
      if (i) write(pen, "+", 10 + i * step, top + tall / 2, { size: 12 });
    });
  },
  describe(scene) {
    const own = sizes(scene), { t, k, words } = scene, sum = own.reduce((a, b) => a + b, 0);
    return words.pictures.terms.now(t + 1, k + 1, number(own[k], 3), number(100 * (own[t] / sum || 0), 2));
  },
  pick(x, y, pen, scene) {
    if (y > pen.height - 84) {
      const which = window(pen, scene), k = which[Math.floor(((x - 10) / (pen.width - 20)) * which.length)];
      return k === undefined ? undefined : { k };
    }
    const own = frame(pen, scene), k = Math.round(((x - own.left) / (own.right - own.left)) * (scene.t + 1) - 0.5);
    return k >= 0 && k <= scene.t ? { k } : undefined;
  },
};

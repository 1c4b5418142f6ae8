/** The chain of Jacobians back from step t: the norm of each, their running product, and both as matrices at step k. */
import { stateSize } from "../network";
import { across, BLUE, bottomAxis, largest, leftAxis, line, number, ORANGE, thumbnail, up, write } from "./pen";
import type { Frame, Pen } from "./pen";
import type { Picture, Scene } from "./picture";

const THUMBNAIL = 62;

function frame(pen: Pen, { shown: { chain, T } }: Scene): Frame {
  const values = [...(chain?.steps ?? []), ...(chain?.products ?? [])].filter((value) => value > 0 && value < Infinity);
  const low = Math.max(1e-12, Math.min(0.1, ...values)), high = Math.min(1e12, Math.max(10, ...values));
  return { left: 44, right: pen.width - 12, top: 20, bottom: pen.height - 124, x: [-0.5, T - 0.5], y: [low, high], log: true };
}

export const chain: Picture = {
  name: "chain",
  fits: ({ shown }) => shown.chain !== undefined,
  height: () => 340,
  paint(pen, scene) {
    const { shown, t, k, words } = scene, found = shown.chain!, own = frame(pen, scene), { ctx, colors } = pen;
    leftAxis(pen, own);
    bottomAxis(pen, own, words.axes.step, 1);
    const width = Math.max(2, Math.min(16, ((own.right - own.left) / shown.T) * 0.6));
    line(pen, [[own.left, up(own, 1)], [own.right, up(own, 1)]], colors.text, 1, [5, 4]);
    write(pen, "1", own.right + 8, up(own, 1), { color: colors.text, bold: true });
    found.steps.forEach((value, j) => { // bars hang from the line at 1, or stand on it
      const y = up(own, Math.max(value, 1e-12)), one = up(own, 1);
      ctx.fillStyle = value < 1 ? BLUE : ORANGE;
      ctx.globalAlpha = j <= t && j > k ? 0.75 : 0.28;
      ctx.fillRect(across(own, j) - width / 2, Math.min(y, one), width, Math.max(1, Math.abs(y - one)));
      ctx.globalAlpha = 1;
    });
    if (found.products.length) {
      line(pen, [...found.products].map((value, j) => [across(own, j), up(own, value || 1e-13)]), colors.text, 2.5);
      const x = across(own, k), y = up(own, found.products[k] || 1e-13);
      ctx.fillStyle = ORANGE;
      ctx.beginPath();
      ctx.arc(x, y, 5, 0, 7);
      ctx.fill();
      ctx.strokeStyle = colors.card;
      ctx.lineWidth = 1.5;
      ctx.stroke();
    }
    const key = own.top - 10;
    ctx.fillStyle = BLUE;
    ctx.fillRect(own.left, key - 4, 4, 8);
    ctx.fillStyle = ORANGE;
    ctx.fillRect(own.left + 5, key - 4, 4, 8);
    write(pen, "‖∂sⱼ/∂sⱼ₋₁‖", own.left + 14, key, { align: "left" });
    if (!found.products.length || !shown.inside) return;
    line(pen, [[own.left + 100, key], [own.left + 120, key]], colors.text, 2.5);
    write(pen, `‖∂s${sub(t + 1)}/∂sₖ‖`, own.left + 126, key, { align: "left" });
    paintMatrices(pen, scene);
  },
  describe({ words, shown: { chain: found, inside }, t, k }) {
    if (!found) return "";
    const below = [...found.steps.slice(k + 1, t + 1)].filter((value) => value < 1).length;
    const say = words.pictures.chain;
    return inside ? say.now(t - k, below, number(found.products[k], 3)) : say.steps(found.steps.filter((value) => value < 1).length, found.steps.length);
  },
  pick(x, _, pen, scene) {
    const own = frame(pen, scene), k = Math.round(((x - own.left) / (own.right - own.left)) * scene.shown.T - 0.5);
    return k >= 0 && k <= scene.t ? { k } : undefined;
  },
};

export const sub = (step: number): string => [...String(step)].map((sign) => "₀₁₂₃₄₅₆₇₈₉"[Number(sign)]).join("");

/** ∂s_t/∂s_k as the product that it is. */
function paintMatrices(pen: Pen, { shown, t, k }: Scene): void {
  const { network } = shown.inside!, n = stateSize(network), top = pen.height - THUMBNAIL - 18;
  const { product } = shown.chain!, x = pen.width / 2 - THUMBNAIL / 2 + 56;
  const one = largest(product);
  thumbnail(pen, product, n, n, x, top, THUMBNAIL, THUMBNAIL, Math.max(1, one));
  const count = t - k, factors = count === 0 ? "1" : count <= 3 ? Array.from({ length: count }, (_, i) => `J${sub(t + 1 - i)}`).join(" ") : `J${sub(t + 1)} J${sub(t)} ⋯ J${sub(k + 2)}`;
  write(pen, `∂s${sub(t + 1)}/∂s${sub(k + 1)} = ${factors} =`, x - 12, top + THUMBNAIL / 2, { align: "right", color: pen.colors.text, size: 13 });
  write(pen, number(Math.max(1, one), 2), x + THUMBNAIL + 8, top + 6, { align: "left", size: 10, color: pen.colors.orange });
  write(pen, "−" + number(Math.max(1, one), 2), x + THUMBNAIL + 8, top + THUMBNAIL - 6, { align: "left", size: 10, color: pen.colors.blue });
}

/** How much of ∂E/∂W each lag t − k brings. */
import { across, BLUE, bottomAxis, GREY, leftAxis, line, number, ORANGE, up } from "./pen";
import type { Frame, Pen } from "./pen";
import type { Picture, Scene } from "./picture";

function frame(pen: Pen, { shown: { share, T } }: Scene): Frame {
  const values = [...share!].filter(Number.isFinite), high = Math.max(0.1, ...values), low = Math.min(0, ...values);
  return { left: 44, right: pen.width - 10, top: 10, bottom: pen.height - 42, x: [-0.6, T - 0.4], y: [low < 0 ? low * 1.1 : 0, high * 1.05] };
}

/** The part of the gradient that the lags below `lag` bring. */
const upTo = (share: Float32Array, lag: number): number => share.subarray(0, lag).reduce((a, b) => a + b, 0);

export const lags: Picture = {
  name: "lags",
  fits: ({ shown }) => shown.share !== undefined,
  height: () => 330,
  paint(pen, scene) {
    const { shown, t, k, truncation, words } = scene, own = frame(pen, scene), width = Math.max(1.5, Math.min(26, ((own.right - own.left) / shown.T) * 0.7));
    leftAxis(pen, own);
    bottomAxis(pen, own, words.axes.lag);
    shown.share!.forEach((value, lag) => {
      const cut = truncation > 0 && lag >= truncation, [a, b] = [up(own, value), up(own, 0)];
      pen.ctx.fillStyle = cut ? GREY : lag === t - k ? ORANGE : BLUE;
      pen.ctx.globalAlpha = cut ? 0.35 : 1;
      pen.ctx.fillRect(across(own, lag) - width / 2, Math.min(a, b), width, Math.max(0.5, Math.abs(a - b)));
      pen.ctx.globalAlpha = 1;
    });
    line(pen, [[own.left, up(own, 0)], [own.right, up(own, 0)]], pen.colors.quiet);
    if (truncation > 0 && truncation < shown.T) {
      const x = across(own, truncation - 0.5);
      line(pen, [[x, own.top], [x, own.bottom]], pen.colors.text, 1.5, [4, 3]);
    }
  },
  describe({ shown: { share, T }, t, k, truncation, words }) {
    const own = share!, say = words.pictures.lags, per = (value: number) => number(100 * value, 2);
    const kept = truncation && truncation < T ? say.kept(truncation, per(upTo(own, truncation))) : "";
    return say.now(t - k, per(own[t - k]), per(upTo(own, 3))) + kept;
  },
  pick(x, _, pen, scene) {
    const own = frame(pen, scene), lag = Math.round(own.x[0] + ((x - own.left) / (own.right - own.left)) * (own.x[1] - own.x[0]));
    return lag >= 0 && lag <= scene.t ? { k: scene.t - lag } : undefined;
  },
};

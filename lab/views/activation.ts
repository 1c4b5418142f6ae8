/** The nonlinearities with their slopes, and where on them the network's own pre-activations lie. */
import { GATES } from "../network";
import { across, BLUE, line, number, ORANGE, up, write } from "./pen";
import type { Frame, Pen } from "./pen";
import type { Picture, Scene } from "./picture";

interface Curve { title: string; gate: number; value(z: number): number; slope(z: number): number; y: [number, number] }

const tanh = { value: Math.tanh, slope: (z: number) => 1 - Math.tanh(z) ** 2, y: [-1.05, 1.05] as [number, number] };
const relu = { value: (z: number) => Math.max(0, z), slope: (z: number) => Number(z > 0), y: [-0.1, 2.2] as [number, number] };
const logistic = (z: number): number => 1 / (1 + Math.exp(-z));
const sigma = { value: logistic, slope: (z: number) => logistic(z) * (1 - logistic(z)), y: [-0.05, 1.05] as [number, number] };

function curves({ shown: { inside }, words }: Scene): Curve[] {
  switch (inside!.network.cell) {
    case "tanh": return [{ ...tanh, title: "tanh", gate: 0 }];
    case "relu": return [{ ...relu, title: "ReLU", gate: 0 }];
    case "gru": return [{ ...tanh, title: words.gates.candidate, gate: 2 }, { ...sigma, title: words.gates.update, gate: 1 }];
    case "lstm": return [{ ...tanh, title: words.gates.candidate, gate: 2 }, { ...sigma, title: words.gates.forget, gate: 1 }];
  }
}

/** The pre-activations of a gate, of the sequence drawn. */
function preactivations({ shown: { inside, T } }: Scene, gate: number): Float32Array {
  const { network: { H, cell }, run, sequence } = inside!, GH = GATES[cell] * H, found = new Float32Array(T * H);
  for (let t = 0; t < T; t++) {
    const o = (t * run.B + sequence) * GH + gate * H;
    found.set(run.z.subarray(o, o + H), t * H);
  }
  return found;
}

const mean = (values: Float32Array, f: (z: number) => number): number => values.reduce((sum, z) => sum + f(z), 0) / values.length;

/** Mean sizes of the two parts of the argument of a layer without gates: U x_t + b, and W s_{t−1}. */
function parts({ shown: { inside, T } }: Scene): [number, number] {
  const { network: { H, parameters: { W } }, run, sequence } = inside!;
  let input = 0, recurrent = 0;
  for (let t = 0; t < T; t++) {
    const o = (t * run.B + sequence) * H; // row t of h is the state before step t
    for (let i = 0; i < H; i++) {
      let sum = 0;
      for (let j = 0; j < H; j++) sum += W[i * H + j] * run.h[o + j];
      input += Math.abs(run.z[o + i] - sum);
      recurrent += Math.abs(sum);
    }
  }
  return [input / (T * H), recurrent / (T * H)];
}

function paintCurve(pen: Pen, own: Frame, curve: Curve, z: Float32Array, now: Float32Array): void {
  const { ctx, colors } = pen;
  line(pen, [[own.left, up(own, 0)], [own.right, up(own, 0)]], colors.line);
  line(pen, [[across(own, 0), own.top], [across(own, 0), own.bottom]], colors.line);
  const bins = new Float32Array(48), [low, high] = own.x;
  for (const value of z) bins[Math.min(47, Math.max(0, Math.floor(((value - low) / (high - low)) * 48)))]++;
  const most = largestOf(bins), width = (own.right - own.left) / 48;
  ctx.fillStyle = colors.quiet;
  ctx.globalAlpha = 0.3;
  bins.forEach((count, i) => ctx.fillRect(own.left + i * width, own.bottom - (count / most) * (own.bottom - own.top) * 0.42, width - 0.5, (count / most) * (own.bottom - own.top) * 0.42));
  ctx.globalAlpha = 1;
  for (const [f, color, dash] of [[curve.value, BLUE, []], [curve.slope, ORANGE, [6, 4]]] as const) {
    line(pen, Array.from({ length: 121 }, (_, i) => { const at = low + ((high - low) * i) / 120; return [across(own, at), up(own, f(at))]; }), color, 2.2, [...dash]);
    ctx.fillStyle = color;
    ctx.globalAlpha = 0.75;
    for (const value of now) {
      ctx.beginPath();
      ctx.arc(across(own, Math.min(high, Math.max(low, value))), up(own, f(value)), 2.6, 0, 7);
      ctx.fill();
    }
    ctx.globalAlpha = 1;
  }
  for (const at of [-4, -2, 2, 4].filter((tick) => tick > low && tick < high)) write(pen, number(at), across(own, at), own.bottom + 10, { size: 10.5 });
  for (const at of curve.y[0] < -0.5 ? [-1, 1] : [1]) write(pen, number(at), own.left - 5, up(own, at), { size: 10.5, align: "right" });
}

const largestOf = (values: Float32Array): number => values.reduce((a, b) => Math.max(a, b), 1);

export const activation: Picture = {
  name: "activation",
  fits: ({ shown }) => shown.inside !== undefined,
  height: () => 340,
  paint(pen, scene) {
    const all = curves(scene), each = (pen.height - 20) / all.length, H = scene.shown.inside!.network.H;
    all.forEach((curve, i) => {
      const z = preactivations(scene, curve.gate), reach = 4.6;
      const own: Frame = { left: 30, right: pen.width - 10, top: 34 + i * each, bottom: i * each + each - 18, x: [-reach, reach], y: curve.y };
      write(pen, curve.title, own.left, own.top - 16, { align: "left", color: pen.colors.text, size: 12, bold: true });
      const at = own.left + pen.ctx.measureText(curve.title).width + 12;
      line(pen, [[at, own.top - 16], [at + 16, own.top - 16]], BLUE, 2.2);
      write(pen, "f", at + 24, own.top - 16);
      line(pen, [[at + 40, own.top - 16], [at + 58, own.top - 16]], ORANGE, 2.2, [6, 4]);
      write(pen, "f′", at + 67, own.top - 16);
      write(pen, `${scene.words.mean} f′ = ${number(mean(z, curve.slope))}`, own.right, up(own, 0.6 * curve.y[1]), { align: "right", color: pen.colors.text });
      paintCurve(pen, own, curve, z, z.subarray(scene.t * H, (scene.t + 1) * H));
    });
  },
  describe(scene) {
    const all = curves(scene), say = scene.words.pictures.activation;
    const [input, recurrent] = all.length === 1 ? parts(scene).map((size) => number(size)) : [];
    return all.map((curve, i) => {
      const z = preactivations(scene, curve.gate);
      return i ? say.gate(curve.title, number(mean(z, curve.value))) : say.now(number(mean(z, curve.slope)), number(mean(z, Math.abs)));
    }).concat(input && recurrent ? [say.parts(input, recurrent)] : []).join("");
  },
};

/** The numbers behind the pictures: of a network in training on an example, or measured by Python on a reader's own. */
import { norm } from "./linear";
import { chain, emptyParameters, forward, pairsFrom } from "./network";
import type { Batch, Cell, Chain, Network, Pairs, Run } from "./network";

/** One sequence and its gradient. What is not known is left out, and its pictures with it. */
export interface Shown {
  T: number;
  /** ‖∂E_t/∂s_k‖ (T, T). */
  norms: Float32Array;
  /** Share of ∂E/∂W by lag. */
  share?: Float32Array;
  /** Network, its run on a batch, the sequence of it that is drawn, and the gradient taken apart. */
  inside?: { network: Network; run: Run; sequence: number; pairs: Pairs };
  /** With a linear output: the batch, and the first two factors of the chain rule. */
  batch?: Batch;
  chain?: Chain;
}

/** Right enough for a picture, and fast. */
const PICTURE = 1e-4;

/** A network on a batch, with its first sequence taken apart (now or a moment before). */
export function shownOf(network: Network, batch: Batch, run: Run, apart: Pairs): Shown {
  return { T: batch.T, norms: apart.norms, share: apart.share, inside: { network, run, sequence: 0, pairs: apart }, batch };
}

/** The chain of Jacobians from t back to k. */
export const chainOf = ({ network, run, sequence }: { network: Network; run: Run; sequence: number }, t: number, k: number): Chain =>
  chain(network, run, sequence, t, k, PICTURE);

/** ‖∂E_t/∂ŷ_t‖ and ‖∂ŷ_t/∂s_t‖ (Frobenius) of one step. */
export function outputFactors(network: Network, batch: Batch, run: Run, sequence: number, t: number): [number, number] {
  const { K, H, head } = network, { V } = network.parameters, o = (t * run.B + sequence) * K;
  const y = run.y.subarray(o, o + K), target = batch.y.subarray(o, o + K);
  if (head === "squares") return [norm(y.map((value, i) => value - target[i])), norm(V)];
  const byOutput = norm(y.map((value, i) => (target[i] ? -target[i] / value : 0))); // −y_t / ŷ_t
  const mean = new Float64Array(H); // ŷᵀ V
  for (let i = 0; i < K; i++) for (let j = 0; j < H; j++) mean[j] += y[i] * V[i * H + j];
  let squares = 0; // (diag ŷ − ŷ ŷᵀ) V
  for (let i = 0; i < K; i++) for (let j = 0; j < H; j++) squares += (y[i] * (V[i * H + j] - mean[j])) ** 2;
  return [byOutput, Math.sqrt(squares)];
}

/** What Python hands over: norms measured in any network, and its layer's weights where they explain them. */
export interface Measured {
  title: string; notes: string[]; cell: Cell | null; H: number; T: number;
  norms: number[]; share: number[] | null; jacobians: number[] | null;
  /** Weights of the layer, its input x (T, D), its initial state, and ∂E_t/∂h_t (T, H), of one sequence. */
  layer: { D: number; U: number[]; W: number[]; b: number[]; n: number[]; x: number[]; h: number[]; c: number[]; own: number[] } | null;
}

export function shownFrom(measured: Measured): Shown {
  const { T, H, cell, layer } = measured, norms = Float32Array.from(measured.norms);
  const share = measured.share ? Float32Array.from(measured.share) : undefined;
  if (!layer || !cell) {
    const steps = measured.jacobians && Float32Array.from(measured.jacobians);
    return { T, norms, share, chain: steps ? { t: T - 1, steps, products: new Float32Array(), product: new Float32Array() } : undefined };
  }
  const shape = { cell, D: layer.D, H, K: 0, head: "softmax" as const }, parameters = emptyParameters(shape);
  for (const name of ["U", "W", "b", "n"] as const) parameters[name].set(layer[name]);
  const network = { ...shape, parameters }, x = Float32Array.from(layer.x);
  const run = forward(network, { T, B: 1, x, y: new Float32Array(), scored: new Float32Array(T) }, layer);
  const apart = pairsFrom(network, run, 0, Float32Array.from(layer.own));
  return { T, norms: apart.norms, share: apart.share, inside: { network, run, sequence: 0, pairs: apart } };
}

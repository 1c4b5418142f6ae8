/** `window.retrograde`: the numbers behind the pictures, for tests and for the console. Plain arrays in and out. */
import { chain, emptyParameters, forward, gradients, NAMES, pairs, stateSize, term } from "./network";
import type { Batch, Cell, Network, Parameters } from "./network";

/** A network and one batch: x (T, B, D), y (T, B, K), matrices row by row, all flattened. */
export interface Problem {
  cell: Cell; head?: "softmax" | "squares";
  D: number; H: number; K: number; T: number; B?: number;
  parameters: Partial<Record<keyof Parameters, ArrayLike<number>>>;
  x: ArrayLike<number>; y: ArrayLike<number>;
  /** 1 where E_t is scored (T, B); every step by default. */
  scored?: ArrayLike<number>;
  truncation?: number;
}

export function compute(problem: Problem, sequence = 0, t = problem.T - 1, k = 0) {
  const { cell, D, H, K, T, B = 1, head = "softmax" } = problem;
  const net: Network = { cell, D, H, K, head, parameters: emptyParameters({ cell, D, H, K, head }) };
  for (const name of NAMES) net.parameters[name].set(problem.parameters[name] ?? []);
  const scored = Float32Array.from(problem.scored ?? new Float32Array(T * B).fill(1));
  const batch: Batch = { T, B, x: Float32Array.from(problem.x), y: Float32Array.from(problem.y), scored };
  return numbers(net, batch, sequence, t, k, problem.truncation);
}

/** Everything that the pictures show of a network on a batch. */
export function numbers(net: Network, batch: Batch, sequence: number, t: number, k: number, truncation?: number) {
  const run = forward(net, batch), found = gradients(net, batch, run, truncation ?? Infinity);
  const apart = pairs(net, batch, run, sequence), links = chain(net, run, sequence, t, k), { T } = batch;
  return {
    loss: run.loss, losses: [...run.losses], h: [...run.h], c: [...run.c], y: [...run.y], z: [...run.z],
    gradients: Object.fromEntries(NAMES.map((name) => [name, [...found[name]]])),
    norms: rows(apart.norms, T), terms: rows(apart.terms, T), share: [...apart.share], total: apart.total,
    term: [...term(net, run, sequence, apart, t, k)],
    jacobians: [...links.steps], products: [...links.products], product: rows(links.product, stateSize(net)),
  };
}

const rows = (matrix: Float32Array, columns: number): number[][] =>
  Array.from({ length: matrix.length / columns }, (_, row) => [...matrix.subarray(row * columns, (row + 1) * columns)]);

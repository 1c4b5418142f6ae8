/**
 * One recurrent layer under a linear output, and the exact gradient of its loss through time.
 *
 *     s_t = f(U x_t + W s_{t−1} + b)        tanh, ReLU; GRU and LSTM with torch's equations and order of gates
 *     ŷ_t = softmax(V s_t + c)              or V s_t + c with squared errors
 *     E   = Σ_t E_t,  E_t = −y_t · log ŷ_t  summed over the steps that are scored, mean over the B sequences
 *
 *     ∂E_t/∂W = Σ_{k≤t} ∂E_t/∂ŷ_t · ∂ŷ_t/∂s_t · ( Π_{j=k+1..t} ∂s_j/∂s_{j−1} ) · ∂s_k/∂W
 *
 * Arrays of steps are laid out (T, B, …): row t · B + b. Steps count from 0 here, as everywhere but in the equations:
 * h and c have T + 1 rows, and the state after step t is in row t + 1. Tested against `retrograde.reference`.
 */
import { norm, product, spectralNorm, squash } from "./linear";

export type Cell = "tanh" | "relu" | "gru" | "lstm";
export const GATES: Record<Cell, number> = { tanh: 1, relu: 1, gru: 3, lstm: 4 };

/** Which blocks of z_t go through σ (false) or tanh (true) together; the candidate of a GRU waits for its reset gate. */
const ACTIVATIONS: Record<Exclude<Cell, "relu">, [number, number, boolean][]> = {
  tanh: [[0, 1, true]], gru: [[0, 2, false]], lstm: [[0, 2, false], [2, 3, true], [3, 4, false]],
};

export interface Shape {
  cell: Cell;
  /** Entries of x_t, of the state, of ŷ_t. */
  D: number; H: number; K: number;
  head: "softmax" | "squares";
}

/** U (GH, D), W (GH, H), b (GH), V (K, H), c (K); n (H) is b_hn of a GRU, inside the reset gate, and empty otherwise. */
export type Parameters = Record<"U" | "W" | "b" | "n" | "V" | "c", Float32Array>;
export const NAMES = ["U", "W", "b", "n", "V", "c"] as const;

export interface Network extends Shape { parameters: Parameters }

/** x (T, B, D), y (T, B, K), and 1 where E_t is scored, 0 elsewhere (T, B). */
export interface Batch { T: number; B: number; x: Float32Array; y: Float32Array; scored: Float32Array }

export const emptyParameters = ({ cell, D, H, K }: Shape): Parameters => ({
  U: new Float32Array(GATES[cell] * H * D), W: new Float32Array(GATES[cell] * H * H),
  b: new Float32Array(GATES[cell] * H), n: new Float32Array(cell === "gru" ? H : 0),
  V: new Float32Array(K * H), c: new Float32Array(K),
});

/** All that a run computes. z are the arguments of the nonlinearities, a their values (T, B, GH); q is W_hn h + b_hn, m is tanh(c). */
export interface Run {
  T: number; B: number;
  z: Float32Array; a: Float32Array; q: Float32Array;
  h: Float32Array; c: Float32Array; m: Float32Array;
  y: Float32Array; losses: Float32Array; loss: number;
}

// -- forward ----------------------------------------------------------------------------------------------------------

/** The states before the first step are zero, or `initial` of one sequence. */
export function forward(net: Network, batch: Batch, initial?: { h: ArrayLike<number>; c: ArrayLike<number> }): Run {
  const { cell, D, H, K } = net, { U, W, b, n, V, c: bias } = net.parameters, { T, B, x } = batch;
  const GH = GATES[cell] * H, lstm = cell === "lstm", gru = cell === "gru";
  const z = new Float32Array(T * B * GH), a = new Float32Array(T * B * GH);
  const q = new Float32Array(gru ? T * B * H : 0), h = new Float32Array((T + 1) * B * H);
  const c = new Float32Array(lstm ? (T + 1) * B * H : 0), m = new Float32Array(lstm ? T * B * H : 0);
  const fromState = new Float32Array(gru ? B * GH : 0);
  if (initial) h.set(initial.h), c.set(initial.c);
  for (let row = 0; row < T * B; row++) {
    z.set(b, row * GH); // z = b + U x_t; most entries of x_t are zero
    for (let d = 0; d < D; d++) {
      const value = x[row * D + d];
      if (value !== 0) for (let i = 0, o = row * GH; i < GH; i++) z[o + i] += U[i * D + d] * value;
    }
  }
  for (let t = 0; t < T; t++) {
    const o = t * B * GH, before = t * B * H, after = before + B * H, N = B * H;
    if (gru) product(fromState, 0, GH, h, before, H, 1, W, 0, 1, H, B, GH, H, false); // W s_{t−1}
    else product(z, o, GH, h, before, H, 1, W, 0, 1, H, B, GH, H, true); // z_t = b + U x_t + W s_{t−1}
    if (gru)
      for (let s = 0, r = o, w = 0; s < B; s++, r += H, w += H)
        for (let i = 0; i < 2 * H; i++, r++, w++) z[r] += fromState[w];
    a.set(z.subarray(o, o + B * GH), o);
    if (cell === "relu") for (let i = o; i < o + N; i++) a[i] = z[i] > 0 ? z[i] : 0;
    else squash(a, o, B, GH, ACTIVATIONS[cell].map(([first, end, tanh]) => [first * H, end * H, tanh]));
    if (cell === "tanh" || cell === "relu") h.set(a.subarray(o, o + N), after);
    else if (gru) {
      for (let s = 0, i = before; s < B; s++)
        for (let j = 0, r = o + s * GH, w = s * GH + 2 * H; j < H; j++, i++, r++, w++) {
          q[i] = fromState[w] + n[j];
          a[r + 2 * H] = z[r + 2 * H] += a[r] * q[i]; // z of n_t: W_in x_t + b_in + r_t ⊙ (W_hn h_{t−1} + b_hn)
        }
      squash(a, o, B, GH, [[2 * H, 3 * H, true]]);
      for (let s = 0, i = before; s < B; s++)
        for (let j = 0, u = o + s * GH + H; j < H; j++, i++, u++)
          h[i + N] = (1 - a[u]) * a[u + H] + a[u] * h[i]; // h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t−1}
    } else {
      for (let s = 0, i = before; s < B; s++)
        for (let j = 0, I = o + s * GH; j < H; j++, i++, I++)
          m[i] = c[i + N] = a[I + H] * c[i] + a[I] * a[I + 2 * H]; // c_t = f_t ⊙ c_{t−1} + i_t ⊙ g_t
      squash(m, before, 1, N, [[0, N, true]]);
      for (let s = 0, i = before; s < B; s++)
        for (let j = 0, O = o + s * GH + 3 * H; j < H; j++, i++, O++) h[i + N] = a[O] * m[i]; // h_t = o_t ⊙ tanh(c_t)
    }
  }
  const y = new Float32Array(T * B * K), losses = new Float32Array(T * B);
  for (let row = 0; row < T * B; row++) y.set(bias, row * K);
  product(y, 0, K, h, B * H, H, 1, V, 0, 1, H, T * B, K, H, true); // V s_t + c
  let total = 0;
  for (let row = 0; row < T * B; row++) {
    losses[row] = batch.scored[row] * outputLoss(net, y, batch.y, row * K);
    total += losses[row];
  }
  return { T, B, z, a, q, h, c, m, y, losses, loss: total / B };
}

/** E_t of one step; the logits in `y` become ŷ_t. */
function outputLoss({ K, head }: Shape, y: Float32Array, target: Float32Array, o: number): number {
  let loss = 0;
  if (head === "squares") {
    for (let i = o; i < o + K; i++) loss += (y[i] - target[i]) ** 2 / 2; // E_t = ½ ‖ŷ_t − y_t‖²
    return loss;
  }
  let top = -Infinity, sum = 0;
  for (let i = o; i < o + K; i++) top = Math.max(top, y[i]);
  for (let i = o; i < o + K; i++) sum += Math.exp(y[i] - top);
  for (let i = o; i < o + K; i++) {
    const log = y[i] - top - Math.log(sum); // log ŷ_i
    if (target[i] !== 0) loss -= target[i] * log; // E_t = −y_t · log ŷ_t
    y[i] = Math.exp(log);
  }
  return loss;
}

// -- one step back ----------------------------------------------------------------------------------------------------

/**
 * Send R rows of ∂E/∂s_t one step back: dh and dc become ∂E/∂s_{t−1}. Row r belongs to sequence `first` + r mod `S`.
 * `p` and `q` get ∂E/∂(U x_t + b) and ∂E/∂(W s_{t−1}), (R, GH); they are one array unless the cell is a GRU.
 */
function stepBack(
  net: Network, run: Run, t: number, first: number, S: number, R: number,
  dh: Float32Array, dc: Float32Array, p: Float32Array, q: Float32Array,
): void {
  const { cell, H } = net, GH = GATES[cell] * H, { a, h, c, m, B } = run, kept = cell === "gru";
  for (let r = 0; r < R; r++) {
    const sequence = t * B + first + (r % S), o = sequence * GH, before = sequence * H;
    const d = r * H, e = r * GH;
    if (cell === "tanh") for (let i = 0; i < H; i++) q[e + i] = dh[d + i] * (1 - a[o + i] * a[o + i]); // f′ = 1 − tanh²
    else if (cell === "relu") for (let i = 0; i < H; i++) q[e + i] = a[o + i] > 0 ? dh[d + i] : 0;
    else if (cell === "gru")
      for (let i = 0; i < H; i++) {
        const reset = a[o + i], update = a[o + H + i], candidate = a[o + 2 * H + i];
        const dn = dh[d + i] * (1 - update) * (1 - candidate * candidate);
        p[e + i] = q[e + i] = dn * run.q[before + i] * reset * (1 - reset);
        p[e + H + i] = q[e + H + i] = dh[d + i] * (h[before + i] - candidate) * update * (1 - update);
        p[e + 2 * H + i] = dn;
        q[e + 2 * H + i] = dn * reset;
        dh[d + i] *= update; // the part of ∂E/∂h_{t−1} that the update gate lets pass
      }
    else
      for (let i = 0; i < H; i++) {
        const I = a[o + i], F = a[o + H + i], G = a[o + 2 * H + i], O = a[o + 3 * H + i];
        const squashed = m[before + i]; // tanh c_t
        const along = dc[d + i] + dh[d + i] * O * (1 - squashed * squashed); // ∂E/∂c_t
        q[e + i] = along * G * I * (1 - I);
        q[e + H + i] = along * c[before + i] * F * (1 - F);
        q[e + 2 * H + i] = along * I * (1 - G * G);
        q[e + 3 * H + i] = dh[d + i] * squashed * O * (1 - O);
        dc[d + i] = along * F; // ∂E/∂c_{t−1} = ∂E/∂c_t ⊙ f_t
      }
  }
  product(dh, 0, H, q, 0, GH, 1, net.parameters.W, 0, H, 1, R, H, GH, kept); // ∂E/∂s_{t−1} = Wᵀ ∂E/∂z_t
}

/** ∂E_t/∂(V s_t + c) = ŷ_t − y_t where a step is scored (rows × K); for squared errors too. */
function outputGradient({ K }: Shape, batch: Batch, run: Run): Float32Array {
  const d = new Float32Array(run.y.length);
  for (let i = 0; i < d.length; i++) d[i] = batch.scored[Math.floor(i / K)] && run.y[i] - batch.y[i];
  return d;
}

// -- the whole gradient -----------------------------------------------------------------------------------------------

/**
 * ∂E/∂U, ∂E/∂W and the others by backpropagation through time. With a truncation, each E_t is followed back through
 * that many steps: the terms with t − k < truncation.
 */
export function gradients(net: Network, batch: Batch, run: Run, truncation = Infinity): Parameters {
  const { cell, D, H, K } = net, GH = GATES[cell] * H, { T, B } = batch, { V } = net.parameters;
  const whole = truncation >= T, ages = whole ? 1 : truncation, found = emptyParameters(net);
  const dy = outputGradient(net, batch, run);
  const dh = new Float32Array(ages * B * H), dc = new Float32Array(cell === "lstm" ? ages * B * H : 0);
  const q = new Float32Array(whole ? 0 : ages * B * GH), p = cell === "gru" ? new Float32Array(q.length) : q;
  const Q = new Float32Array(T * B * GH), P = cell === "gru" ? new Float32Array(T * B * GH) : Q;
  for (let t = T - 1, age = 0; t >= 0; t--) {
    if (!whole) { // E_t joins as the youngest; the oldest has gone far enough
      dh.copyWithin(B * H, 0); dh.fill(0, 0, B * H);
      dc.copyWithin(B * H, 0); dc.fill(0, 0, B * H);
      age = Math.min(age + 1, ages);
    }
    product(dh, 0, H, dy, t * B * K, K, 1, V, 0, H, 1, B, H, K, true); // ∂E_t/∂s_t = Vᵀ (ŷ_t − y_t)
    const at = t * B * GH, ownQ = Q.subarray(at, at + B * GH), ownP = P === Q ? ownQ : P.subarray(at, at + B * GH);
    if (whole) stepBack(net, run, t, 0, B, B, dh, dc, ownP, ownQ);
    else stepBack(net, run, t, 0, B, age * B, dh, dc, p, q);
    for (let i = 0, n = B * GH; i < age * n; i++) {
      ownQ[i % n] += q[i];
      if (P !== Q) ownP[i % n] += p[i];
    }
  }
  product(found.W, 0, H, Q, 0, 1, GH, run.h, 0, H, 1, GH, H, T * B, false); // ∂E/∂W = Σ_t ∂E/∂z_t ⊗ s_{t−1}
  product(found.V, 0, H, dy, 0, 1, K, run.h, B * H, H, 1, K, H, T * B, false); // ∂E/∂V = Σ_t (ŷ_t − y_t) ⊗ s_t
  for (let row = 0; row < T * B; row++) {
    for (let i = 0, o = row * GH; i < GH; i++) found.b[i] += P[o + i];
    for (let i = 0, o = row * GH + 2 * H; i < found.n.length; i++) found.n[i] += Q[o + i];
    for (let i = 0, o = row * K; i < K; i++) found.c[i] += dy[o + i];
    for (let d = 0; d < D; d++) { // ∂E/∂U = Σ_t ∂E/∂z_t ⊗ x_t
      const value = batch.x[row * D + d];
      if (value !== 0) for (let i = 0, o = row * GH; i < GH; i++) found.U[i * D + d] += P[o + i] * value;
    }
  }
  for (const name of NAMES) for (let i = 0; i < found[name].length; i++) found[name][i] /= B;
  return found;
}

// -- every pair of steps ----------------------------------------------------------------------------------------------

/** The gradient of one sequence taken apart. Matrices are (T, T): row t, column k ≤ t. */
export interface Pairs {
  T: number;
  /** ‖∂E_t/∂s_k‖; of an LSTM, s is the pair (h, c). */
  norms: Float32Array;
  /** ‖term k of ∂E_t/∂W‖. */
  terms: Float32Array;
  /** ∂E_t/∂(W s_{k−1}) for k ≤ t (T (T + 1) / 2, GH), row `rowOf`: with s_{k−1}, the whole term. */
  deltas: Float32Array;
  /** Share of each lag t − k in ∂E/∂W: ⟨its part, whole⟩ / ‖whole‖²; they add up to 1. NaN if ∂E/∂W is zero. */
  share: Float32Array;
  /** ‖∂E/∂W‖ of this sequence. */
  total: number;
}

/** Where the deltas of the pair (t, k) are: those of the last k come first, and of each k those of the last t. */
export const rowOf = (T: number, t: number, k: number): number => ((T - k) * (T - 1 - k)) / 2 + T - 1 - t;

/** All pairs of steps of one sequence; the losses travel back next to each other, the latest in row 0. */
export function pairs(net: Network, batch: Batch, run: Run, sequence: number): Pairs {
  const { T, B } = batch, dy = outputGradient(net, batch, run), { K, H } = net;
  const own = new Float32Array(T * H);
  for (let t = 0; t < T; t++)
    product(own, t * H, H, dy, (t * B + sequence) * K, K, 1, net.parameters.V, 0, H, 1, 1, H, K, false);
  return pairsFrom(net, run, sequence, own);
}

/** The same from ∂E_t/∂h_t (T, H), whatever made it. */
export function pairsFrom(net: Network, run: Run, sequence: number, own: Float32Array): Pairs {
  const { cell, H } = net, GH = GATES[cell] * H, { T, B, h } = run;
  const norms = new Float32Array(T * T), terms = new Float32Array(T * T), deltas = new Float32Array(rowOf(T, 0, 0) * GH + GH);
  const dh = new Float32Array(T * H), dc = new Float32Array(cell === "lstm" ? T * H : 0);
  const scratch = new Float32Array(cell === "gru" ? T * GH : 0);
  const W = new Float32Array(GH * H), summed = new Float32Array(T * GH);
  for (let k = T - 1; k >= 0; k--) {
    const rows = T - k; // of the losses t = T − 1 … k
    for (let i = 0; i < H; i++) dh[(rows - 1) * H + i] = own[k * H + i];
    for (let row = 0; row < rows; row++)
      norms[(T - 1 - row) * T + k] = Math.hypot(norm(dh, row * H, (row + 1) * H),
        dc.length ? norm(dc, row * H, (row + 1) * H) : 0);
    const q = deltas.subarray(rowOf(T, T - 1, k) * GH, (rowOf(T, k, k) + 1) * GH);
    stepBack(net, run, k, sequence, 1, rows, dh, dc, cell === "gru" ? scratch : q, q);
    const before = (k * B + sequence) * H, size = norm(h, before, before + H);
    for (let row = 0; row < rows; row++) {
      const t = T - 1 - row;
      for (let i = 0; i < GH; i++) summed[k * GH + i] += q[row * GH + i];
      terms[t * T + k] = norm(q, row * GH, (row + 1) * GH) * size; // ‖δ ⊗ s_{k−1}‖ = ‖δ‖ ‖s_{k−1}‖
    }
  }
  product(W, 0, H, summed, 0, 1, GH, h, sequence * H, B * H, 1, GH, H, T, false); // ∂E/∂W of this sequence
  const total = norm(W), share = new Float32Array(T), along = new Float32Array(GH);
  const sums = new Float64Array(T);
  for (let k = 0; k < T; k++) {
    product(along, 0, 1, W, 0, H, 1, h, (k * B + sequence) * H, 1, 1, GH, 1, H, false); // ⟨δ ⊗ s, W⟩ = δ · (W s)
    for (let t = k; t < T; t++) {
      let dot = 0;
      for (let i = 0, o = rowOf(T, t, k) * GH; i < GH; i++) dot += deltas[o + i] * along[i];
      sums[t - k] += dot;
    }
  }
  for (let lag = 0; lag < T; lag++) share[lag] = sums[lag] / total / total;
  return { T, norms, terms, deltas, share, total };
}

/** The term k of ∂E_t/∂W as a matrix (GH, H). */
export function term(net: Network, run: Run, sequence: number, found: Pairs, t: number, k: number): Float32Array {
  const { H } = net, GH = GATES[net.cell] * H, matrix = new Float32Array(GH * H);
  product(matrix, 0, H, found.deltas, rowOf(found.T, t, k) * GH, 1, 1, run.h, (k * run.B + sequence) * H, H, 1, GH, H, 1, false);
  return matrix;
}

// -- Jacobians --------------------------------------------------------------------------------------------------------

/** Entries of the state as a point of state space: h, and of an LSTM (h, c). */
export const stateSize = ({ cell, H }: Shape): number => (cell === "lstm" ? 2 * H : H);

/** ∂s_t/∂s_{t−1} (n, n), n = `stateSize`: row i is the derivative of entry i of s_t; h first, then c. */
export function jacobian(net: Network, run: Run, sequence: number, t: number): Float32Array {
  const { cell, H } = net, { W } = net.parameters, { a, h, c, m, q, B } = run, n = stateSize(net);
  const J = new Float32Array(n * n), row = t * B + sequence, o = row * GATES[cell] * H, before = row * H;
  for (let i = 0; i < H; i++) {
    const A = a[o + i], F = a[o + H + i], G = a[o + 2 * H + i], O = a[o + 3 * H + i];
    const w0 = i * H, w1 = (H + i) * H, w2 = (2 * H + i) * H, w3 = (3 * H + i) * H; // rows of W
    if (cell === "tanh" || cell === "relu") {
      const slope = cell === "tanh" ? 1 - A * A : Number(A > 0);
      for (let j = 0; j < H; j++) J[i * n + j] = slope * W[w0 + j]; // diag(f′(z_t)) W
    } else if (cell === "gru") { // A, F, G: the gates r, z, n
      const dn = (1 - F) * (1 - G * G), byReset = dn * q[before + i] * A * (1 - A);
      const byUpdate = (h[before + i] - G) * F * (1 - F);
      for (let j = 0; j < H; j++)
        J[i * n + j] = byReset * W[w0 + j] + byUpdate * W[w1 + j] + dn * A * W[w2 + j];
      J[i * n + i] += F;
    } else {
      const squashed = m[before + i], through = O * (1 - squashed * squashed); // ∂h_t/∂c_t
      const byI = G * A * (1 - A), byF = c[before + i] * F * (1 - F), byG = A * (1 - G * G), byO = squashed * O * (1 - O);
      for (let j = 0; j < H; j++) {
        const ofC = byI * W[w0 + j] + byF * W[w1 + j] + byG * W[w2 + j];
        J[(H + i) * n + j] = ofC;
        J[i * n + j] = byO * W[w3 + j] + through * ofC;
      }
      J[(H + i) * n + H + i] = F; // ∂c_t/∂c_{t−1} = f_t: the forget gate alone decides how much passes
      J[i * n + H + i] = through * F;
    }
  }
  return J;
}

/** The Jacobians of a sequence with their running product, back from step t. */
export interface Chain {
  t: number;
  /** ‖∂s_j/∂s_{j−1}‖₂ of every step j of the sequence. */
  steps: Float32Array;
  /** ‖∂s_t/∂s_k‖₂, the norm of the product, for k = 0 … t; 1 at k = t. */
  products: Float32Array;
  /** ∂s_t/∂s_k itself for the k asked for. */
  product: Float32Array;
}

/** Norms are right to about `tolerance`; the pictures take 1e-4. */
export function chain(net: Network, run: Run, sequence: number, t: number, k: number, tolerance = 1e-11): Chain {
  const { H } = net, n = stateSize(net), steps = new Float32Array(run.T), products = new Float32Array(t + 1);
  let running = new Float32Array(n * n), next = new Float32Array(n * n), product_k = running;
  for (let i = 0; i < n; i++) running[i * n + i] = 1;
  const guess = new Float64Array(n).fill(n ** -0.5), ofStep = new Float64Array(n).fill(n ** -0.5);
  for (let j = run.T - 1; j >= 0; j--) {
    if (j <= t) {
      products[j] = j === t ? 1 : spectralNorm(running, n, guess, tolerance);
      if (j === k) product_k = running.slice();
    }
    const J = jacobian(net, run, sequence, j);
    steps[j] = spectralNorm(J, n, ofStep, tolerance);
    if (j > t || j === 0) continue;
    product(next, 0, n, running, 0, n, 1, J, 0, n, 1, n, H, n, false); // ∂s_t/∂s_{j−1} = ∂s_t/∂s_j · ∂s_j/∂s_{j−1}
    for (let row = 0; row < n * n; row += n) // by c_{j−1}, on which h_j and c_j depend entry by entry
      for (let i = 0, o = row; i < n - H; i++, o++) next[o + H] = running[o] * J[i * n + H + i] + running[o + H] * J[(H + i) * (n + 1)];
    [running, next] = [next, running];
  }
  return { t, steps, products, product: product_k };
}

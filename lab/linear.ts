/** Dense linear algebra on Float32Array, and random numbers that a seed repeats. No recurrent network is here. */
import * as vectors from "./vectors";
import type { Part } from "./vectors";

/**
 * C (M × N) = A (M × L) · B (L × N), or C + A · B if `add`. Every matrix is given by the place of its first entry and
 * its strides (row, column), so that a transposed one needs no copy. Sums are taken in float64, four by four entries
 * at a time, which keeps them in registers.
 */
export function product(
  C: Float32Array, c0: number, cr: number,
  A: Float32Array, a0: number, ar: number, ac: number,
  B: Float32Array, b0: number, br: number, bc: number,
  M: number, N: number, L: number, add: boolean,
): void {
  if (vectors.product(C, c0, cr, A, a0, ar, ac, B, b0, br, bc, M, N, L, add)) return;
  for (let m = 0; m < M; m += 4) {
    const m0 = a0 + m * ar;
    if (m + 4 > M) {
      for (let i = m; i < M; i++) rowProduct(C, c0 + i * cr, A, a0 + i * ar, ac, B, b0, br, bc, N, L, add);
      return;
    }
    const m1 = m0 + ar, m2 = m1 + ar, m3 = m2 + ar;
    let n = 0;
    for (; n + 4 <= N; n += 4) {
      const n0 = b0 + n * bc, n1 = n0 + bc, n2 = n1 + bc, n3 = n2 + bc;
      let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
      let s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
      for (let l = 0, i = 0, j = 0; l < L; l++, i += ac, j += br) {
        const x0 = A[m0 + i], x1 = A[m1 + i], x2 = A[m2 + i], x3 = A[m3 + i];
        const y0 = B[n0 + j], y1 = B[n1 + j], y2 = B[n2 + j], y3 = B[n3 + j];
        s00 += x0 * y0; s01 += x0 * y1; s02 += x0 * y2; s03 += x0 * y3;
        s10 += x1 * y0; s11 += x1 * y1; s12 += x1 * y2; s13 += x1 * y3;
        s20 += x2 * y0; s21 += x2 * y1; s22 += x2 * y2; s23 += x2 * y3;
        s30 += x3 * y0; s31 += x3 * y1; s32 += x3 * y2; s33 += x3 * y3;
      }
      let c = c0 + m * cr + n;
      if (add) { s00 += C[c]; s01 += C[c + 1]; s02 += C[c + 2]; s03 += C[c + 3]; }
      C[c] = s00; C[c + 1] = s01; C[c + 2] = s02; C[c + 3] = s03;
      c += cr;
      if (add) { s10 += C[c]; s11 += C[c + 1]; s12 += C[c + 2]; s13 += C[c + 3]; }
      C[c] = s10; C[c + 1] = s11; C[c + 2] = s12; C[c + 3] = s13;
      c += cr;
      if (add) { s20 += C[c]; s21 += C[c + 1]; s22 += C[c + 2]; s23 += C[c + 3]; }
      C[c] = s20; C[c + 1] = s21; C[c + 2] = s22; C[c + 3] = s23;
      c += cr;
      if (add) { s30 += C[c]; s31 += C[c + 1]; s32 += C[c + 2]; s33 += C[c + 3]; }
      C[c] = s30; C[c + 1] = s31; C[c + 2] = s32; C[c + 3] = s33;
    }
    for (let i = m; n < N && i < m + 4; i++)
      rowProduct(C, c0 + i * cr + n, A, a0 + i * ar, ac, B, b0 + n * bc, br, bc, N - n, L, add);
  }
}

function rowProduct(
  C: Float32Array, c0: number, A: Float32Array, a0: number, ac: number,
  B: Float32Array, b0: number, br: number, bc: number, N: number, L: number, add: boolean,
): void {
  for (let n = 0; n < N; n++) {
    let sum = 0;
    for (let l = 0, i = a0, j = b0 + n * bc; l < L; l++, i += ac, j += br) sum += A[i] * B[j];
    C[c0 + n] = add ? sum + C[c0 + n] : sum;
  }
}

/** σ or tanh in place of the entries of some columns; `values` has `rows` rows of `width` entries from `from` on. */
export function squash(values: Float32Array, from: number, rows: number, width: number, parts: Part[]): void {
  if (vectors.squash(values, from, rows, width, parts)) return;
  for (let row = 0, o = from; row < rows; row++, o += width)
    for (const [first, end, tanh] of parts)
      for (let i = o + first; i < o + end; i++) // tanh is right to 1e-16, and faster than Math.tanh
        values[i] = tanh ? 1 - 2 / (1 + Math.exp(2 * values[i])) : 1 / (1 + Math.exp(-values[i]));
}

/** ‖a‖ of a part of an array. */
export function norm(a: Float32Array, from = 0, to = a.length): number {
  let sum = 0;
  for (let i = from; i < to; i++) sum += a[i] * a[i];
  return Math.sqrt(sum);
}

/**
 * ‖A‖₂, the largest singular value of a square matrix, by power iteration on A Aᵀ until it changes by less than
 * `tolerance`. `start` is a guess of the left singular vector and becomes a better one: a matrix like the last one
 * takes a few rounds.
 */
export function spectralNorm(A: Float32Array, n: number, start: Float64Array, tolerance = 1e-11): number {
  let size = 0, found = 0, round = 0;
  for (let i = 0; i < n * n; i++) size = Math.max(size, Math.abs(A[i]));
  if (!(size > 0 && size < Infinity)) return size; // zero, infinite, or not a number
  const next = (v: Float64Array): boolean => { // v = A Aᵀ times a unit vector
    let squares = 0;
    for (let i = 0; i < n; i++) squares += v[i] * v[i];
    const last = found;
    found = Math.sqrt(Math.sqrt(squares)); // ‖A Aᵀ v‖ is σ² for the singular vector v
    const nothing = !(found > 1e-30 * size); // the guess was orthogonal to all that A keeps
    for (let i = 0; i < n; i++) v[i] = nothing ? Math.cos(1 + i * (round + 1)) / Math.sqrt(n) : v[i] / found ** 2;
    if (nothing) found = 0;
    return nothing ? round++ < 4 : ++round < 500 && !(round > 1 && Math.abs(found - last) < tolerance * found);
  };
  if (vectors.bounce(A, n, start, next)) return found;
  const right = new Float64Array(n);
  do {
    right.fill(0);
    for (let i = 0, p = 0; i < n; i++) for (let j = 0; j < n; j++) right[j] += A[p++] * start[i];
    for (let i = 0, p = 0; i < n; i++) {
      let sum = 0;
      for (let j = 0; j < n; j++) sum += A[p++] * right[j];
      start[i] = sum;
    }
  } while (next(start));
  return found;
}

/** ρ(A), the largest absolute eigenvalue of a square matrix: lim ‖A^m‖^(1/m), by squaring A twenty times. */
export function spectralRadius(A: Float32Array, n: number): number {
  let power = A.slice(), log = 0;
  for (let round = 0; round < 20; round++) {
    let size = 0;
    for (const value of power) size += value * value;
    size = Math.sqrt(size);
    if (!(size > 0)) return 0;
    log += Math.log(size) / 2 ** round;
    for (let i = 0; i < n * n; i++) power[i] /= size;
    const next = new Float32Array(n * n);
    product(next, 0, n, power, 0, n, 1, power, 0, n, 1, n, n, n, false);
    power = next;
  }
  let size = 0;
  for (const value of power) size += value * value;
  return size > 0 ? Math.exp(log + Math.log(size) / 2 ** 21) : 0;
}

/** A random orthogonal matrix (n × n): Gram and Schmidt's rows of normal numbers. */
export function orthogonal(n: number, random: Random): Float32Array {
  const Q = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) Q[i * n + j] = random.normal();
    for (let twice = 0; twice < 2; twice++) {
      for (let k = 0; k < i; k++) {
        let dot = 0;
        for (let j = 0; j < n; j++) dot += Q[i * n + j] * Q[k * n + j];
        for (let j = 0; j < n; j++) Q[i * n + j] -= dot * Q[k * n + j];
      }
      let size = 0;
      for (let j = 0; j < n; j++) size += Q[i * n + j] ** 2;
      for (let j = 0; j < n; j++) Q[i * n + j] /= Math.sqrt(size);
    }
  }
  return Float32Array.from(Q);
}

/** Random numbers that depend on nothing but the seed (mulberry32). */
export class Random {
  constructor(public seed: number) {}

  /** Uniform in [0, 1). */
  uniform(): number {
    this.seed = (this.seed + 0x6d2b79f5) | 0;
    let x = Math.imul(this.seed ^ (this.seed >>> 15), 1 | this.seed);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number from 0 to n − 1. */
  below(n: number): number {
    return Math.floor(this.uniform() * n);
  }

  /** Normal with mean 0 and variance 1 (Box and Muller). */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }
}

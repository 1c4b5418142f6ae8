/** The inner loops of linear.ts and the nonlinearities of network.ts as WebAssembly on vectors (vectors.wat), where the page may use it; else they are refused. */
import code from "./vectors.wat";

interface Loops {
  memory: WebAssembly.Memory;
  product(c: number, cr: number, a: number, ar: number, ac: number, b: number, br: number, bc: number, panel: number, M: number, N: number, L: number, add: number): void;
  squash(at: number, stride: number, rows: number, n: number, a: number, c: number, d: number): void;
  bounce(a: number, width: number, n: number, left: number, right: number): void;
}

function start(): Loops | null {
  try {
    return new WebAssembly.Instance(new WebAssembly.Module(code)).exports as unknown as Loops;
  } catch { // an old browser, or a policy of the page around this one
    return null;
  }
}

const loops = start();
export const available = loops !== null;

let floats = new Float32Array(0), doubles = new Float64Array(0);

/** Make room for so many bytes; false where there is no more. */
function reserve({ memory }: Loops, bytes: number): boolean {
  try {
    if (bytes > memory.buffer.byteLength) memory.grow(Math.ceil((bytes - memory.buffer.byteLength) / 65536));
  } catch {
    return false;
  }
  if (floats.buffer !== memory.buffer) [floats, doubles] = [new Float32Array(memory.buffer), new Float64Array(memory.buffer)];
  return true;
}

/** Columns from `first` to before `end`, and whether tanh or σ is taken of them. */
export type Part = [first: number, end: number, tanh: boolean];

const whole = (entries: number): number => (entries + 3) & ~3;

/** As `product` of linear.ts, with the same numbers; false, and nothing done, where that loop is to do it. */
export function product(
  C: Float32Array, c0: number, cr: number,
  A: Float32Array, a0: number, ar: number, ac: number,
  B: Float32Array, b0: number, br: number, bc: number,
  M: number, N: number, L: number, add: boolean,
): boolean {
  if (!loops || M * N * L < 2048) return false; // copying would take longer
  const rows = whole(M), columns = whole(N), last = (L - 1) * ac, end = (L - 1) * br;
  const b = whole((rows - 1) * ar + last + 1), panel = whole(b + (columns - 1) * bc + end + 1), c = panel + 8 * L; // in float32
  if (!reserve(loops, 4 * (c + rows * columns))) return false;
  floats.set(A.subarray(a0, a0 + (M - 1) * ar + last + 1));
  floats.set(B.subarray(b0, b0 + (N - 1) * bc + end + 1), b);
  const solid = cr === N && columns === N;
  if (add && solid) floats.set(C.subarray(c0, c0 + M * N), c);
  else if (add) for (let m = 0; m < M; m++) for (let n = 0; n < N; n++) floats[c + m * columns + n] = C[c0 + m * cr + n];
  loops.product(4 * c, 4 * columns, 0, 4 * ar, 4 * ac, 4 * b, 4 * br, 4 * bc, 4 * panel, M, N, L, Number(add));
  if (solid) C.set(floats.subarray(c, c + M * N), c0);
  else for (let m = 0; m < M; m++) for (let n = 0; n < N; n++) C[c0 + m * cr + n] = floats[c + m * columns + n];
  return true;
}

/** As `squash` of linear.ts. False as above. */
export function squash(values: Float32Array, from: number, rows: number, width: number, parts: Part[]): boolean {
  const size = rows * width;
  if (!loops || size < 16 || !reserve(loops, 4 * size + 8)) return false;
  floats.set(values.subarray(from, from + size));
  for (const [first, end, tanh] of parts) loops.squash(4 * first, 4 * width, rows, end - first, tanh ? 2 : -1, tanh ? 1 : 0, tanh ? -2 : 1);
  values.set(floats.subarray(0, size), from);
  return true;
}

/** v becomes A Aᵀ v, as often as `next` says: it gets v (n) and returns false when it is content. False as above. */
export function bounce(A: Float32Array, n: number, v: Float64Array, next: (v: Float64Array) => boolean): boolean {
  const width = whole(n), left = (n * width) / 2; // of a float64
  if (!loops || n < 8 || !reserve(loops, 8 * (left + 2 * width))) return false;
  if (width > n) floats.fill(0, 0, n * width);
  for (let i = 0; i < n; i++) floats.set(A.subarray(i * n, (i + 1) * n), i * width);
  const own = doubles.subarray(left, left + n);
  own.set(v);
  do loops.bounce(0, 4 * width, n, 8 * left, 8 * (left + width)); while (next(own));
  v.set(own);
  return true;
}

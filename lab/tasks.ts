/** What the network is trained on: each task draws batches and knows what its symbols are called. */
import { Random } from "./linear";
import type { Batch } from "./network";

export const TASKS = ["echo", "adding", "copy", "order", "text"] as const;
export type TaskName = (typeof TASKS)[number];

export interface Task {
  D: number; K: number;
  head: "softmax" | "squares";
  /** How entry d of x_t and entry k of y_t are called; empty where they are numbers. */
  inputs: string[]; outputs: string[];
  /** Loss per scored step of the best constant prediction. */
  chance: number;
  draw(T: number, B: number, every: boolean, random: Random): Batch;
}

export interface TaskOptions { task: TaskName; T: number; lag: number; text: string }

export const MOST_SYMBOLS = 60;

export function makeTask({ task, T, lag, text }: TaskOptions): Task {
  switch (task) {
    case "echo": return echo(Math.min(lag, T - 1));
    case "adding": return adding;
    case "copy": return copy;
    case "order": return order;
    case "text": return nextCharacter(text);
  }
}

const LETTERS = ["A", "B", "C", "D"];

/** One step of one sequence, as the tasks write it; entries that are not set are zero. */
type Write = (t: number, input: number[] | number, target: number[] | number, scored: boolean) => void;

/** Draw B sequences, each written by `sequence`; a number as input or target stands for its one-hot vector. */
function drawn(
  D: number, K: number, T: number, B: number, every: boolean, sequence: (write: Write) => void,
): Batch {
  const batch = { T, B, x: new Float32Array(T * B * D), y: new Float32Array(T * B * K), scored: new Float32Array(T * B) };
  for (let b = 0; b < B; b++)
    sequence((t, input, target, scored) => {
      const row = t * B + b;
      if (typeof input === "number") batch.x[row * D + input] = 1;
      else batch.x.set(input, row * D);
      if (typeof target === "number") batch.y[row * K + target] = 1;
      else batch.y.set(target, row * K);
      batch.scored[row] = Number(scored && (every || t === T - 1));
    });
  return batch;
}

/** Say at each step the letter of `lag` steps before. */
const echo = (lag: number): Task => ({
  D: 4, K: 4, head: "softmax", inputs: LETTERS, outputs: LETTERS, chance: Math.log(4),
  draw: (T, B, every, random) => drawn(4, 4, T, B, every, (write) => {
    const letters = Array.from({ length: T }, () => random.below(4));
    letters.forEach((letter, t) => write(t, letter, letters[Math.max(0, t - lag)], t >= lag));
  }),
});

/** Two of the numbers are marked, one in each half: what is their sum (so far)? Hochreiter and Schmidhuber (1997). */
const adding: Task = {
  D: 2, K: 1, head: "squares", inputs: [], outputs: [], chance: 1 / 12,
  draw: (T, B, every, random) => drawn(2, 1, T, B, every, (write) => {
    const half = Math.floor(T / 2), marks = [random.below(half), half + random.below(T - half)];
    for (let t = 0, sum = 0; t < T; t++) {
      const value = random.uniform(), marked = marks.includes(t);
      if (marked) sum += value;
      write(t, [value, Number(marked)], [sum], true);
    }
  }),
};

/** Letters, a wait, a cue: now say the letters. Hochreiter and Schmidhuber (1997), Arjovsky et al. (2016). */
const copy: Task = {
  D: 6, K: 5, head: "softmax", inputs: [...LETTERS, "·", "?"], outputs: [...LETTERS, "·"], chance: Math.log(4),
  draw: (T, B, every, random) => drawn(6, 5, T, B, every, (write) => {
    const count = Math.max(1, Math.min(5, Math.floor((T - 1) / 4)));
    const letters = Array.from({ length: count }, () => random.below(4));
    for (let t = 0; t < T; t++) {
      const input = t < count ? letters[t] : t === T - count - 1 ? 5 : 4;
      write(t, input, t >= T - count ? letters[t - T + count] : 4, t >= T - count);
    }
  }),
};

/** Two signals, X or Y, among noise: in which order did they come? Hochreiter and Schmidhuber (1997). */
const order: Task = {
  D: 5, K: 4, head: "softmax", inputs: ["a", "b", "c", "X", "Y"], outputs: ["XX", "XY", "YX", "YY"], chance: Math.log(4),
  draw: (T, B, every, random) => drawn(5, 4, T, B, every, (write) => {
    const half = Math.floor(T / 2), at = [random.below(half), half + random.below(Math.max(1, T - half - 1))];
    const kinds = [random.below(2), random.below(2)];
    for (let t = 0; t < T; t++) {
      const place = at.indexOf(t);
      write(t, place < 0 ? random.below(3) : 3 + kinds[place], 2 * kinds[0] + kinds[1], t >= at[1]);
    }
  }),
};

/** The next character of a text; beyond the 60 most frequent, characters share one symbol. */
function nextCharacter(text: string): Task {
  const characters = [...text.replace(/\s+/g, " ")], counts = new Map<string, number>();
  if (characters.length < 2) characters.push(..." ab");
  for (const one of characters) counts.set(one, (counts.get(one) ?? 0) + 1);
  const frequent = [...counts.keys()].sort((a, b) => counts.get(b)! - counts.get(a)!).slice(0, MOST_SYMBOLS);
  const symbols = frequent.length < counts.size ? [...frequent, "�"] : frequent;
  const numbers = new Map(symbols.map((symbol, i) => [symbol, i]));
  const tokens = characters.map((one) => numbers.get(one) ?? symbols.length - 1), size = symbols.length;
  const share = new Float64Array(size);
  for (const token of tokens) share[token] += 1 / tokens.length;
  return {
    D: size, K: size, head: "softmax", inputs: symbols, outputs: symbols,
    chance: -share.reduce((sum, p) => sum + p * Math.log(p), 0),
    draw: (T, B, every, random) => drawn(size, size, T, B, every, (write) => {
      const start = random.below(tokens.length);
      for (let t = 0; t < T; t++)
        write(t, tokens[(start + t) % tokens.length], tokens[(start + t + 1) % tokens.length], true);
    }),
  };
}

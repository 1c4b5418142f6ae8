/** Everything that a reader can set, as one typed value, and the same as the fragment of an address. */
import type { Cell } from "./network";
import type { TaskName } from "./tasks";

/** What decides the network, its data and its training. `clip` 0: no clipping; `truncation` 0: none. */
export interface Settings {
  cell: Cell; H: number; start: "uniform" | "orthogonal" | "identity";
  /** Factors by which W and U are larger than at the start, and the bias of the gate that keeps the state. */
  scale: number; input: number; keep: number;
  task: TaskName; T: number; lag: number; loss: "every" | "last"; text: string;
  B: number; optimizer: "sgd" | "adam"; rate: number; clip: number; truncation: number; seed: number;
}

/** What is looked at: the pair (t, k), counted from 0; the sequence drawn; a step of the story, or a prepared case. */
export interface View {
  t: number; k: number; example: number;
  story: number; case: number;
  lang: "en" | "zh-CN"; theme: "auto" | "light" | "dark";
}

/** A setting that changed during training, after `step` updates. */
export interface Change { step: number; key: keyof Settings; value: string | number }

/** A whole case: how training began, what changed on the way, how many updates it took. */
export interface Case { initial: Settings; changes: Change[]; steps: number; view: View }

export const DEFAULTS: Settings = {
  cell: "tanh", H: 16, start: "uniform", scale: 1, input: 1, keep: 0,
  task: "echo", T: 12, lag: 3, loss: "every", text: "",
  B: 16, optimizer: "adam", rate: 0.01, clip: 0, truncation: 0, seed: 1,
};

export const VIEW: View = { t: 11, k: 5, example: 0, story: 0, case: 0, lang: "en", theme: "auto" };

/** Settings that begin a new network; others apply to the one that there is. */
export const FRESH: ReadonlySet<keyof Settings> = new Set(["cell", "H", "start", "task", "text", "seed"]);

const CHOICES = {
  cell: ["tanh", "relu", "gru", "lstm"], start: ["uniform", "orthogonal", "identity"],
  task: ["echo", "adding", "copy", "order", "text"], loss: ["every", "last"], optimizer: ["sgd", "adam"],
  lang: ["en", "zh-CN"], theme: ["auto", "light", "dark"],
} as const;

/** Lowest and highest value of every number; the third says that it is whole. */
export const RANGES = {
  H: [2, 64, true], scale: [0, 12, false], input: [0, 20, false], keep: [-8, 8, false], T: [3, 100, true],
  lag: [0, 99, true], B: [1, 64, true], rate: [1e-5, 10, false], clip: [0, 100, false], truncation: [0, 100, true],
  seed: [1, 9999, true], t: [0, 299, true], k: [0, 299, true], example: [0, 9999, true], story: [0, 7, true],
  case: [0, 5, true],
} as const satisfies Record<string, readonly [number, number, boolean]>;

const LONGEST_TEXT = 4000, MOST_STEPS = 20_000;

/** A value of a key as it may be, or undefined; what comes from an address may be anything. */
export function allowed(key: string, raw: string | number): string | number | undefined {
  if (key === "text") return String(raw).slice(0, LONGEST_TEXT);
  if (key in CHOICES) return (CHOICES[key as keyof typeof CHOICES] as readonly string[]).find((one) => one === raw);
  if (!(key in RANGES)) return undefined;
  const [low, high, whole] = RANGES[key as keyof typeof RANGES], value = Number(raw);
  if (raw === "" || !Number.isFinite(value)) return undefined;
  return Math.min(high, Math.max(low, whole ? Math.round(value) : value));
}

/** Keep the pair within the sequence, and k at or before t. */
export function within(view: View, T: number): View {
  const t = Math.min(view.t, T - 1);
  return { ...view, t, k: Math.min(view.k, t) };
}

export function toFragment({ initial, changes, steps, view }: Case): string {
  const parts: string[] = [];
  const write = <S extends object>(value: S, usual: S, skip: string[] = []) => {
    for (const key of Object.keys(usual) as (keyof S & string)[])
      if (value[key] !== usual[key] && !skip.includes(key)) parts.push(`${key}=${encodeURIComponent(String(value[key]))}`);
  };
  write(initial, DEFAULTS);
  write(view, VIEW, ["case", "story"]);
  parts.push(`story=${view.story}`);
  if (changes.length)
    parts.push(`changes=${changes.map((c) => [c.step, c.key, encodeURIComponent(c.value)].join(":")).join(";")}`);
  if (steps) parts.push(`steps=${steps}`);
  return parts.join("&");
}

/** Read a fragment; what is misspelled or out of range is left out or moved into its range. */
export function fromFragment(fragment: string): Case {
  const found: Case = { initial: { ...DEFAULTS }, changes: [], steps: 0, view: { ...VIEW } };
  for (const part of fragment.replace(/^#/, "").split("&")) {
    const [key, raw] = [part.slice(0, part.indexOf("=")), decoded(part.slice(part.indexOf("=") + 1))];
    const value = allowed(key, raw);
    if (key === "steps") found.steps = Math.min(MOST_STEPS, Math.max(0, Math.round(Number(raw)) || 0));
    else if (key === "changes") found.changes = part.slice(8).split(";").map(readChange).filter((one) => one !== undefined);
    else if (value === undefined) continue;
    else if (key in DEFAULTS) found.initial = { ...found.initial, [key]: value };
    else if (key in VIEW) found.view = { ...found.view, [key]: value };
  }
  return found;
}

function readChange(text: string): Change | undefined {
  const [step, key, raw] = text.split(":"), value = allowed(key, decoded(raw ?? ""));
  const fits = value !== undefined && key in DEFAULTS && !FRESH.has(key as keyof Settings);
  return fits && Number(step) >= 0 ? { step: Math.round(Number(step)), key: key as keyof Settings, value } : undefined;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

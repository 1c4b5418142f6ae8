/** What each step of the story and each prepared case sets; their words are in text.ts. */
import { DEFAULTS } from "./state";
import type { Settings, View } from "./state";
import type { Picture } from "./views/picture";

/** One thing to try: other settings (of a network that begins again, if `begin`), a pair to look at, updates to make. */
export interface Try { begin?: Partial<Settings>; set?: Partial<Settings>; look?: Partial<View>; train?: number }

export interface StoryStep {
  settings: Partial<Settings>; look: Partial<View>;
  /** The answer that is right, and the pictures that show it. */
  right: 0 | 1 | 2; focus: Picture["name"][]; tries: Try[];
}

const COPY = { task: "copy", T: 20 } as const; // four letters, each to be remembered for 16 steps
/** An echo with a W that stretches. */
const WILD = { start: "orthogonal", scale: 1.9, input: 0.5, T: 30, lag: 3, optimizer: "sgd", rate: 0.1 } as const;

export const STORY: StoryStep[] = [
  {
    settings: { H: 12, T: 10, lag: 2, scale: 2, input: 3 }, look: { t: 9, k: 5 }, right: 2, focus: ["graph", "heatmap"],
    tries: [{ set: { scale: 0 } }, { set: { scale: 2 } }],
  },
  {
    settings: { T: 10, lag: 2, start: "orthogonal", rate: 0.02 }, look: { t: 5, k: 3 }, right: 1, focus: ["graph", "loss"],
    tries: [{ train: 200 }],
  },
  {
    settings: { H: 8, T: 5, lag: 1, start: "orthogonal" }, look: { t: 2, k: 1 }, right: 1, focus: ["graph", "terms"],
    tries: [{ look: { t: 2, k: 2 } }, { look: { t: 2, k: 1 } }, { look: { t: 2, k: 0 } }],
  },
  {
    settings: { T: 16, lag: 4 }, look: { t: 15, k: 12 }, right: 0, focus: ["heatmap", "lags"],
    tries: [{ look: { t: 15, k: 15 } }, { look: { t: 15, k: 0 } }],
  },
  {
    settings: { ...COPY, start: "orthogonal", scale: 0.6 }, look: { t: 19, k: 3 }, right: 1, focus: ["chain", "activation", "heatmap"],
    tries: [
      { begin: { scale: 1 } }, { begin: { start: "uniform", scale: 1 } }, { begin: { scale: 1, input: 20 } }, { train: 400 },
    ],
  },
  {
    settings: { ...WILD },
    look: { t: 29, k: 9 }, right: 1, focus: ["norm", "loss", "chain"],
    tries: [{ begin: {}, train: 200 }, { begin: { clip: 1 }, train: 400 }],
  },
  {
    settings: { ...COPY, T: 30, loss: "last" }, look: { t: 29, k: 19 }, right: 2, focus: ["chain", "activation", "loss"],
    tries: [
      { begin: {} }, { begin: { cell: "relu", start: "identity", scale: 1 } }, { begin: { cell: "gru", keep: 3 } },
      { begin: { cell: "lstm" } }, { begin: { cell: "lstm", keep: 3 } }, { train: 500 },
    ],
  },
];

/** A network that does not learn: what it was trained with, for how many updates, and what cures it. */
export interface PreparedCase { settings: Partial<Settings>; steps: number; look: Partial<View>; cure: Partial<Settings> }

export const CASES: PreparedCase[] = [
  { settings: { T: 20, lag: 10, scale: 0.3 }, steps: 120, look: { t: 19, k: 9 }, cure: { start: "orthogonal", scale: 1 } },
  { settings: { ...COPY, start: "orthogonal", input: 20 }, steps: 200, look: { t: 19, k: 3 }, cure: { input: 1 } },
  {
    settings: { ...WILD, rate: 0.06, seed: 2 }, steps: 8,
    look: { t: 28, k: 18 }, cure: { clip: 1 },
  },
  { settings: { ...COPY, start: "orthogonal", truncation: 4 }, steps: 120, look: { t: 19, k: 3 }, cure: { truncation: 0 } },
  { settings: { ...COPY, cell: "lstm", keep: -5 }, steps: 200, look: { t: 19, k: 3 }, cure: { keep: 3 } },
];

export const begun = (patch: Partial<Settings>): Settings => ({ ...DEFAULTS, ...patch });

/** What every picture is: a function that paints a scene, one that says it in words, and one that reads a click. */
import type { Shown } from "../shown";
import type { Task } from "../tasks";
import type { Words } from "../text";
import type { History } from "../training";
import type { Pen } from "./pen";

export interface Scene {
  shown: Shown; t: number; k: number;
  truncation: number; clip: number; history: History; task?: Task; words: Words;
}

export interface Picture {
  name: "graph" | "heatmap" | "chain" | "activation" | "terms" | "lags" | "loss" | "norm";
  height(width: number, scene: Scene): number;
  /** False where the numbers that it needs are not known. */
  fits(scene: Scene): boolean;
  paint(pen: Pen, scene: Scene): void;
  /** One or two sentences with the numbers of the moment: caption, and text for screen readers. */
  describe(scene: Scene): string;
  /** The pair of steps at a place, or a part of it. */
  pick?(x: number, y: number, pen: Pen, scene: Scene): { t?: number; k?: number } | undefined;
}

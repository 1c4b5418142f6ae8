/** The state of the page and all that may happen to it: changes, training, undo, an address to go back to. */
import { allowed, DEFAULTS, FRESH, fromFragment, toFragment, VIEW, within } from "./state";
import type { Case, Change, Settings, View } from "./state";
import { begun, CASES, STORY } from "./story";
import type { Try } from "./story";
import { TEXTS } from "./text";
import { Training } from "./training";
import type { Saved } from "./training";

interface Remembered { saved: Saved; initial: Settings; changes: Change[]; view: View; target: number; label: string; at: number }

const MOST_UNDONE = 60, ONE_DRAG = 900; // milliseconds between two changes of one control that are one change

export class Laboratory {
  training: Training;
  view: View = VIEW;
  /** Training goes on until this update; Infinity: until paused. */
  target = 0;
  private initial: Settings = DEFAULTS;
  private changes: Change[] = [];
  private due: Change[] = [];
  private undone: Remembered[] = [];

  /** `own`: the steps of a sequence that is only looked at. */
  constructor(fragment: string, preferred: Partial<View> = {}, private changed: () => void = () => {}, private own?: number) {
    this.training = new Training(DEFAULTS);
    this.open(fragment, preferred);
  }

  get settings(): Settings { return this.training.settings; }
  get running(): boolean { return this.target > this.training.step && !this.training.failed; }
  /** The update up to which a case is being trained again, or 0. */
  get replaying(): number { return this.running && this.target === this.replayed ? this.target : 0; }
  private replayed = 0;
  /** The step at which the story was hidden, to go on there. */
  left = 1;
  /** The pair of a case that is trained again; a later change of T may give it room. */
  private wanted: View = VIEW;

  /** Open the case of an address. */
  open(fragment: string, preferred: Partial<View> = {}): void {
    const asked = new URLSearchParams(fragment.replace(/^#/, "")), found = fromFragment(fragment);
    const view = { ...found.view };
    for (const key of ["lang", "theme"] as const) if (!asked.has(key) && preferred[key]) Object.assign(view, { [key]: preferred[key] });
    const number = Math.round(Number(asked.get("case"))), prepared = CASES[number - 1];
    if (prepared) this.begin(begun(prepared.settings), { ...view, ...prepared.look, case: number, story: 0 }, prepared.steps);
    else if ([...asked.keys()].some((key) => key in DEFAULTS || key === "steps") || asked.get("story") === "0")
      this.begin(found.initial, view, found.steps, found.changes);
    else {
      const story = view.story || 1, step = STORY[story - 1];
      this.begin(begun(step.settings), { ...view, ...step.look, story });
    }
    this.undone = [];
  }

  private begin(settings: Settings, view: View, target = 0, due: Change[] = []): void {
    const text = settings.task === "text" && !settings.text ? TEXTS[view.lang] : settings.text;
    this.initial = { ...settings, text };
    this.changes = [];
    this.due = [...due].sort((a, b) => a.step - b.step);
    this.wanted = view;
    this.training = new Training(this.initial);
    this.view = within(view, settings.T);
    this.target = this.replayed = target;
    this.changed();
  }

  /** Change settings; the effect is immediate. Changes with one label that follow closely are undone together. */
  set(patch: Partial<Settings>, label = ""): void {
    const before = this.settings, to = { ...before };
    for (const [key, raw] of Object.entries(patch)) {
      const value = allowed(key, raw);
      if (value !== undefined) Object.assign(to, { [key]: value });
    }
    const keys = (Object.keys(to) as (keyof Settings)[]).filter((key) => to[key] !== before[key]);
    if (!keys.length) return;
    this.remember(label || keys.join());
    const last = this.view.t === before.T - 1, view = last ? { ...this.view, t: to.T - 1 } : this.view;
    if (this.training.step === 0 || keys.some((key) => FRESH.has(key))) {
      const goes = this.target === Infinity;
      this.begin(to, view);
      if (goes) this.target = Infinity;
      return;
    }
    for (const key of keys) {
      const step = this.training.step, at = this.changes.findIndex((one) => one.step === step && one.key === key);
      if (at >= 0) this.changes.splice(at, 1);
      this.changes.push({ step, key, value: to[key] });
    }
    this.training.change(to);
    this.view = within(view, to.T);
    this.changed();
  }

  /** Look at something else. */
  look(patch: Partial<View>): void {
    const view: View = { ...this.view };
    for (const [key, raw] of Object.entries(patch)) {
      const value = allowed(key, raw);
      if (value !== undefined) Object.assign(view, { [key]: value });
    }
    if (patch.k !== undefined && patch.t === undefined) view.t = Math.max(view.t, view.k);
    this.view = within(view, this.own ?? this.settings.T);
    this.changed();
  }

  /** A step of the story, from 1 to 7; 0 closes it. */
  tell(story: number): void {
    if (!story) {
      this.left = this.view.story || this.left;
      return this.look({ story: 0 });
    }
    this.remember("story");
    const step = STORY[story - 1];
    this.begin(begun(step.settings), { ...this.view, ...step.look, story, case: 0 });
  }

  /** Do what a button of the story says. */
  attempt({ begin, set, look, train }: Try): void {
    if (begin) {
      this.remember("try");
      this.begin(begun({ ...STORY[this.view.story - 1].settings, ...begin }), this.view);
    }
    if (set) this.set(set);
    if (look) this.look(look);
    if (train) this.train(train);
  }

  /** Begin a prepared case again with its cure. */
  cure(): void {
    const { settings, cure } = CASES[this.view.case - 1];
    this.remember("cure");
    this.begin(begun({ ...settings, ...cure }), this.view, 600);
  }

  /** Make so many updates from here; all by default, until `pause`. */
  train(updates = Infinity): void {
    if (this.target <= this.training.step) this.remember("train");
    this.target = this.training.step + updates;
    this.replayed = 0;
    this.changed();
  }

  pause(): void {
    this.target = this.training.step;
    this.due = [];
    this.changed();
  }

  restart(): void {
    this.remember("restart");
    this.begin(this.settings, this.view);
  }

  /** One update, with the changes that are due before it. */
  update(): void {
    this.catchUp();
    this.training.update();
    this.made();
  }

  private catchUp(): void {
    while (this.due.length && this.due[0].step <= this.training.step) {
      const change = this.due.shift()!;
      this.changes.push(change);
      this.training.change({ ...this.settings, [change.key]: change.value });
      this.view = within({ ...this.view, t: this.wanted.t, k: this.wanted.k }, this.settings.T);
    }
  }

  private made(): void {
    if (this.training.failed) this.target = this.training.step;
    if (!this.running) this.catchUp(); // what was changed after the last update
  }

  /** The update up to which training may go on elsewhere: the last, or that before the next change. */
  get until(): number { return Math.min(this.target, this.due[0]?.step ?? Infinity); }

  /** Take over updates that were made elsewhere, up to `until` at most. */
  adopt(saved: Saved): void {
    this.training.adopt(saved);
    this.made();
  }

  private remember(label: string): void {
    const now = Date.now(), last = this.undone.at(-1);
    if (last && label !== "train" && last.label === label && now - last.at < ONE_DRAG) {
      last.at = now;
      return;
    }
    const { initial, changes, view } = this;
    this.undone.push({ saved: this.training.save(), initial, changes: [...changes], view, target: 0, label, at: now });
    if (this.undone.length > MOST_UNDONE) this.undone.shift();
  }

  get canUndo(): boolean { return this.undone.length > 0; }

  /** Take back the last change; language and colors stay. */
  undo(): void {
    const last = this.undone.pop();
    if (!last) return;
    const { lang, theme } = this.view;
    this.training = Training.restored(last.saved);
    Object.assign(this, { initial: last.initial, changes: last.changes, due: [], target: last.saved.step });
    this.view = { ...last.view, lang, theme };
    this.changed();
  }

  /** What follows # in the address of this case. */
  fragment(): string {
    const { initial, changes, view, training: { step } } = this, own: Case = { initial, changes, steps: step, view };
    const prepared = CASES[view.case - 1];
    if (prepared && !changes.length && JSON.stringify(begun(prepared.settings)) === JSON.stringify(initial))
      return toFragment({ ...own, initial: DEFAULTS, steps: 0, view: { ...VIEW, lang: view.lang, theme: view.theme } })
        .split("&").filter(Boolean).concat(`case=${view.case}`).join("&");
    return toFragment(own);
  }
}

/** The controls: one per setting, each with its number, its name in both languages, and an effect at once. */
import { h, put } from "./html";
import type { Texts } from "./html";
import type { Laboratory } from "./laboratory";
import { RANGES } from "./state";
import type { Settings } from "./state";
import { english } from "./text";
import type { Words } from "./text";
import { number } from "./views/pen";

type Numeric = { [K in keyof Settings]: Settings[K] extends number ? K : never }[keyof Settings];

interface Slider {
  key: Numeric | "radius"; low: number; high: number; step: number;
  /** Place of the slider for a value and back; the same number if left out. */
  place?(value: number): number; value?(place: number): number;
  say?(value: number, words: Words): string;
}

/** A value on a logarithmic slider with 20 places for each power of ten. */
const decades = (low: number, high: number, off: boolean) => ({
  low: off ? -1 : 0, high: Math.round(20 * Math.log10(high / low)), step: 1,
  place: (value: number) => (value > 0 ? Math.round(20 * Math.log10(value / low)) : -1),
  value: (place: number) => (place < 0 ? 0 : Number((low * 10 ** (place / 20)).toPrecision(2))),
  say: (value: number, words: Words) => (value ? number(value) : words.off),
});

const SLIDERS: Record<"network" | "task" | "training", Slider[]> = {
  network: [
    { key: "H", low: 2, high: 64, step: 1 }, { key: "scale", low: 0, high: 4, step: 0.02 }, { key: "radius", low: 0, high: 3, step: 0.01 },
    { key: "input", low: 0, high: 20, step: 0.1 }, { key: "keep", low: -6, high: 6, step: 0.1 },
  ],
  task: [{ key: "T", low: 3, high: 100, step: 1 }, { key: "lag", low: 1, high: 60, step: 1 }],
  training: [
    { key: "rate", ...decades(1e-4, 1, false) }, { key: "clip", ...decades(0.01, 100, true) },
    { key: "truncation", low: 0, high: 60, step: 1, say: (value, words) => (value ? words.steps(value) : words.off) },
    { key: "B", low: 1, high: 64, step: 1 },
  ],
};

const SELECTS = {
  network: [["cell", "cells"], ["start", "starts"]], task: [["task", "tasks"], ["loss", "losses"]], training: [["optimizer", "optimizers"]],
} as const;

export class Controls {
  readonly element = h("div", { class: "controls" });
  private refreshers: ((words: Words, quick: boolean) => void)[] = [];

  constructor(private lab: Laboratory, private texts: Texts) {
    this.element.append(...(["network", "task", "training"] as const).map((group) => h("fieldset", {},
      texts.of(h("legend"), (words) => words.groups[group]),
      ...SELECTS[group].map(([key, names]) => this.select(key, names)),
      ...SLIDERS[group].map((slider) => this.slider(slider)),
      group === "task" ? this.text() : null)));
  }

  /** Show the settings as they are; `quick` leaves out what must be computed. */
  refresh(words: Words, quick: boolean): void {
    for (const one of this.refreshers) one(words, quick);
  }

  private select(key: keyof Words["labels"] & keyof Settings, names: "cells" | "starts" | "tasks" | "losses" | "optimizers"): HTMLElement {
    const element = h("select", { "data-key": key, onchange: () => this.lab.set({ [key]: element.value }) },
      ...Object.keys(english[names]).map((value) => this.texts.of(h("option", { value }), (words) => (words[names] as Record<string, string>)[value])));
    this.refreshers.push(() => { element.value = String(this.lab.settings[key]); });
    return h("label", { class: "choice" }, this.texts.of(h("span"), ({ labels }) => labels[key]), element);
  }

  private slider(slider: Slider): HTMLElement {
    const { key, low, high, step, place = (value: number) => value, value = (at: number) => at } = slider;
    const name = h("span", {}), shown = h("b", { "aria-hidden": true });
    const element = h("input", { type: "range", min: low, max: high, step, "data-key": key });
    element.addEventListener("input", () => {
      const to = value(Number(element.value));
      this.lab.set(key === "radius" ? { scale: this.scaleFor(to) } : { [key]: to }, key);
    });
    const label = h("label", { class: "slider" }, name, shown, element);
    this.refreshers.push((words, quick) => {
      if (key === "radius" && quick) return;
      const { settings } = this.lab, now = key === "radius" ? this.lab.training.radius() : settings[key];
      put(name, key === "keep" && settings.cell === "gru" ? words.labels.keepGRU : words.labels[key]);
      label.hidden = (key === "keep" && !["gru", "lstm"].includes(settings.cell)) || (key === "lag" && settings.task !== "echo");
      if (key === "lag" || key === "truncation") element.max = String(settings.T - (key === "lag" ? 1 : 0));
      element.value = String(place(now));
      const said = slider.say ? slider.say(now, words) : number(now, 3);
      put(shown, said);
      element.setAttribute("aria-valuetext", said);
    });
    return label;
  }

  /** The factor for W that gives it a spectral radius. */
  private scaleFor(radius: number): number {
    const { training, settings } = this.lab, now = training.radius();
    if (settings.scale > 0 && now > 0) return (settings.scale * radius) / now;
    return Math.min(radius, RANGES.scale[1]); // W is zero: the start decides
  }

  private text(): HTMLElement {
    const element = h("textarea", {
      rows: 4, spellcheck: false, maxlength: 4000, "data-key": "text", onchange: () => this.lab.set({ text: element.value }),
      oninput: (event: Event) => { if (/Paste|Drop/.test((event as InputEvent).inputType)) this.lab.set({ text: element.value }); }, // typing ends with a change
    });
    const label = h("label", { class: "text" }, this.texts.of(h("span"), ({ labels }) => labels.text), element);
    this.refreshers.push(() => {
      label.hidden = this.lab.settings.task !== "text";
      if (document.activeElement !== element) element.value = this.lab.settings.text;
    });
    return label;
  }
}

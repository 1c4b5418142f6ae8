/** The page: header, story, controls and pictures, drawn again whenever something has changed. */
import { Controls } from "./controls";
import { Equation } from "./equation";
import { h, rebuild } from "./html";
import { Laboratory } from "./laboratory";
import { Panel } from "./panel";
import { shownFrom, shownOf, withChain } from "./shown";
import type { Measured, Shown } from "./shown";
import type { View } from "./state";
import { STORY } from "./story";
import { LANGUAGES } from "./text";
import type { Words } from "./text";
import { activation } from "./views/activation";
import { chain } from "./views/chain";
import { loss, norm } from "./views/curves";
import { graph } from "./views/graph";
import { heatmap } from "./views/heatmap";
import { lags } from "./views/lags";
import { number, palette } from "./views/pen";
import type { Palette, Pen } from "./views/pen";
import type { Picture, Scene } from "./views/picture";
import { terms } from "./views/terms";

const PICTURES: Picture[] = [graph, heatmap, chain, activation, terms, lags, loss, norm];
/** The colors of the notebook around, where it says: JupyterLab, VS Code. */
function hostTheme({ body }: Document): View["theme"] | undefined {
  const { jpThemeLight: light } = body.dataset;
  if (light !== undefined) return light === "false" ? "dark" : "light";
  return body.matches(".vscode-dark, .vscode-high-contrast:not(.vscode-high-contrast-light)") ? "dark" : body.matches(".vscode-light") ? "light" : undefined;
}

const SLICE = 5; // milliseconds of training before the browser may do something else
const SPEEDS = { slow: 2, medium: 20, fast: Infinity };

interface Frame { picture: Picture; figure: HTMLElement; canvas: HTMLCanvasElement; title: HTMLElement; caption: HTMLElement; visible: boolean; pen?: Pen }

export class Page {
  readonly lab: Laboratory;
  private words: Words = LANGUAGES.en;
  private built = "";
  private frames: Frame[] = [];
  private controls: Controls;
  private panel: Panel;
  private equation!: Equation;
  private equationFigure = h("figure", { class: "equation", "data-picture": "equation" });
  private bar = h("section", { class: "bar" });
  private header = h("header");
  private themes = h("select");
  private hint = h("p", { class: "hint quiet" });
  private status = h("span", { class: "status" });
  /** What a screen reader is to say: how training ended, and what a picture shows after an arrow key. */
  private heard = h("p", { class: "heard", role: "status" });
  private asked?: Picture;
  private heardStep = 0;
  private shown?: Shown;
  private colors?: Palette;
  private dirty = true;
  private speed: keyof typeof SPEEDS = "fast";
  private lastUpdate = 0;
  /** Milliseconds that a frame takes with the browser's own part of it, and when the last one began. */
  private cost = 15;
  private began = 0;
  /** A reader has changed something and waits for the next frame. */
  private waiting = false;
  private updateCost = 2;
  private slices = new MessageChannel();
  private trained = 0;
  private trainUntil = 0;
  private pairsCost = 0;
  private pairsAt = 0;
  private chainCost = 0;
  private chainAt = 0;
  private wordsAt = 0;
  /** Frames drawn and updates made, for whoever measures the speed. */
  readonly count = { frames: 0, updates: 0 };

  constructor(private root: HTMLElement, private measured: Measured | null, fragment: string, private address: (fragment: string) => void) {
    const lang = navigator.language.toLowerCase().startsWith("zh") ? "zh-CN" : "en";
    this.lab = new Laboratory(measured ? "story=0" : fragment, { lang, theme: hostTheme(root.ownerDocument) }, () => (this.dirty = this.waiting = true), measured?.T);
    if (measured) this.lab.look({ t: measured.T - 1, k: Math.max(0, measured.T - 1 - Math.ceil(measured.T / 3)) });
    this.controls = new Controls(this.lab);
    this.panel = new Panel(this.lab, () => this.reveal());
    this.build();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.colors = undefined; this.dirty = true; });
    this.slices.port1.onmessage = ({ data }) => this.slice(data as number);
    requestAnimationFrame((now) => this.tick(now));
  }

  // -- elements -------------------------------------------------------------------------------------------------------

  private build(): void {
    this.frames = PICTURES.map((picture) => this.frame(picture));
    const place = h("div");
    this.equation = new Equation(place);
    this.equationFigure.append(h("h2"), place);
    const pictures = h("div", { class: "pictures" }, ...this.frames.map(({ figure }) => figure));
    pictures.insertBefore(this.equationFigure, pictures.querySelector('[data-picture="lags"]'));
    const details = h("details", { class: "side" }, h("summary"), this.controls.element);
    const side = h("aside", {}, details);
    this.root.classList.add("lab");
    this.root.replaceChildren(this.header, this.panel.element, this.bar, h("main", {}, ...(this.measured ? [] : [side]), pictures, this.hint), this.heard);
    let wide = false;
    const sizes = new ResizeObserver((entries) => {
      for (const one of this.frames) one.pen = undefined;
      this.dirty = true;
      const own = entries.find(({ target }) => target === this.root);
      if (own && wide !== own.contentRect.width >= 920) details.open = wide = !wide;
    });
    for (const one of [this.root, pictures]) sizes.observe(one);
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const frame = this.frames.find(({ canvas }) => canvas === entry.target)!;
        frame.visible = entry.isIntersecting;
      }
      this.dirty = true;
    }, { rootMargin: "60px" });
    for (const { canvas } of this.frames) seen.observe(canvas);
  }

  private frame(picture: Picture): Frame {
    const canvas = h("canvas", { role: "img", tabindex: picture.pick ? 0 : undefined }), title = h("h2"), caption = h("figcaption");
    const figure = h("figure", { "data-picture": picture.name }, title, canvas, picture.name === "heatmap" ? this.pair() : null, caption);
    const frame: Frame = { picture, figure, canvas, title, caption, visible: true };
    const pick = (event: PointerEvent | MouseEvent) => {
      const box = canvas.getBoundingClientRect(), scene = this.scene();
      const found = scene && frame.pen && picture.pick?.(event.clientX - box.left, event.clientY - box.top, frame.pen, scene);
      if (found) this.lab.look(found);
    };
    canvas.addEventListener("click", pick);
    canvas.addEventListener("pointermove", (event) => { if (event.buttons === 1) pick(event); }); // a finger that goes up or down scrolls the page
    canvas.addEventListener("keydown", (event) => this.key(event, picture));
    return frame;
  }

  /** The pair of steps on two sliders: for keyboards, fingers and screen readers. */
  private pair(): HTMLElement {
    const slider = (key: "t" | "k") => h("label", { class: "slider" }, h("span"), h("b", { "aria-hidden": true }), h("input", {
      type: "range", min: 1, max: 12, step: 1, "data-pair": key,
      oninput: (event: Event) => this.lab.look({ [key]: Number((event.target as HTMLInputElement).value) - 1 }),
    }));
    return h("div", { class: "pair" }, slider("t"), slider("k"));
  }

  private key(event: KeyboardEvent, picture: Picture): void {
    const { t, k } = this.lab.view, moved = { ArrowLeft: { k: k - 1 }, ArrowRight: { k: Math.min(t, k + 1) }, ArrowUp: { t: t - 1 }, ArrowDown: { t: t + 1 } }[event.key];
    if (!moved || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.asked = picture;
    if ("k" in moved ? moved.k! >= 0 : moved.t! >= 0) this.lab.look(moved);
  }

  /** Everything that has words, in the language chosen. */
  private say(): void {
    const { lang } = this.lab.view, words = (this.words = LANGUAGES[lang]);
    this.root.lang = lang;
    const { documentElement: html } = this.root.ownerDocument;
    if (html.dataset.retrograde === "page") [html.lang, document.title] = [lang, `retrograde · ${words.page}`];
    const select = (label: string, value: string, names: Record<string, string>, onchange: (value: string) => void) => {
      const element = h("select", { "aria-label": label, title: label, onchange: () => onchange(element.value) }, ...Object.entries(names).map(([key, name]) => h("option", { value: key, selected: key === value }, name)));
      return element;
    };
    const button = (name: string, text: string, action: () => void, kind = "plain") => h("button", { type: "button", class: kind, "data-action": name, onclick: action }, text);
    const measured = this.measured, copy = button("link", words.link, () => void this.copy(copy));
    rebuild(this.header, () => this.header.replaceChildren(
      h("div", {}, h("p", { class: "brand" }, h("span", { "aria-hidden": true }, "↺ "), "retrograde ", h("span", { class: "quiet" }, words.page)),
        h("h1", {}, measured ? `${words.own.title}: ${measured.title}` : words.title),
        h("p", { class: "quiet" }, measured ? [words.own.measured, measured.layer ? words.own.weights : "", ...measured.notes].join(" ") : words.intro)),
      h("div", { class: "tools" }, ...(measured ? [] : [button("undo", `↶ ${words.undo}`, () => this.lab.undo()), copy, button("story", words.story, () => this.lab.tell(this.lab.view.story ? 0 : 1))]),
        select(words.language, lang, { en: "English", "zh-CN": "简体中文" }, (value) => this.lab.look({ lang: value as "en" })),
        this.themes = select(words.theme, this.lab.view.theme, words.themes, (value) => this.lab.look({ theme: value as "auto" })))));
    this.bar.hidden = measured !== null;
    this.bar.setAttribute("aria-label", words.groups.training);
    this.bar.replaceChildren(
      button("train", words.train, () => (this.lab.running ? this.lab.pause() : this.lab.train()), "strong"),
      button("one", words.one, () => this.lab.train(1)), button("hundred", words.hundred, () => this.lab.train(100)),
      button("restart", words.restart, () => this.lab.restart()), button("another", words.another, () => this.lab.look({ example: this.lab.view.example + 1 })),
      select(words.speed, this.speed, words.speeds, (value) => { this.speed = value as "fast"; }), this.status);
    this.root.querySelector("aside summary")?.replaceChildren(words.controls);
    for (const { picture, figure, title } of this.frames) {
      title.textContent = words.pictures[picture.name].title;
      figure.setAttribute("aria-label", title.textContent);
    }
    this.equationFigure.querySelector("h2")!.textContent = words.equation.title;
    this.equationFigure.setAttribute("aria-label", words.equation.title);
    this.hint.textContent = words.keys;
    this.controls.build(words);
    this.built = lang;
  }

  private async copy(button: HTMLElement): Promise<void> {
    const address = location.href.replace(/#.*/, "") + "#" + this.lab.fragment();
    this.address(this.lab.fragment());
    await navigator.clipboard?.writeText(address).catch(() => undefined); // the address bar has it too
    button.textContent = this.words.copied;
    setTimeout(() => (button.textContent = this.words.link), 1500);
  }

  // -- one frame ------------------------------------------------------------------------------------------------------

  private tick(now: number): void {
    const { lab } = this, rate = lab.replaying ? Infinity : SPEEDS[this.speed];
    if (lab.running && rate < Infinity && now - this.lastUpdate >= 1000 / rate) this.update(now);
    const calm = this.still.matches && now - this.drawnAt < 500, busy = rate === Infinity && this.trained < this.share();
    if (this.waiting || (this.dirty && !(lab.running && (calm || busy)))) this.draw(now);
    if (this.stopped) return;
    this.trainUntil = rate === Infinity ? performance.now() + 50 : 0; // not on and on in a tab that nobody sees
    if (lab.running) this.slices.port2.postMessage(now);
    requestAnimationFrame((next) => this.tick(next));
  }

  /** What the pictures show now, for tests. */
  numbers(): Shown | undefined { return this.shown; }

  /** Who wants less motion sees two pictures a second while it trains. */
  private still = matchMedia("(prefers-reduced-motion: reduce)");
  private drawnAt = 0;
  private stopped = false;
  /** Draw no more: the page is being taken away. */
  stop(): void { this.stopped = true; }

  /** Milliseconds of training between two frames: what is left of a 36th of a second; on a slow machine, half as long as a frame. */
  private share(): number { return Math.max(0.5 * this.cost, 28 - this.cost); }

  /** Training goes on between frames in slices so short that the browser can hand over input, and none while a reader waits. */
  private slice(frame: number): void {
    const start = performance.now();
    if (this.drawnAt === frame) this.cost += 0.2 * (start - this.began - this.cost); // with the browser's own part of it
    if (this.stopped || this.waiting || !this.lab.running || start > this.trainUntil || this.trained > this.share() + 6) return;
    let at = start;
    do {
      const before = at;
      this.update(at);
      at = performance.now();
      this.updateCost += 0.2 * (at - before - this.updateCost);
    } while (this.lab.running && at + this.updateCost - start < SLICE);
    this.trained += at - start;
    this.slices.port2.postMessage(0);
  }

  private update(now: number): void {
    this.lab.update();
    this.count.updates++;
    this.lastUpdate = now;
    this.shown = undefined;
    this.dirty = true;
  }

  /** On a small screen what a try changes may be out of sight: scroll to the first picture of the step. */
  private reveal(): void {
    const figures = [...this.root.querySelectorAll("figure.focus")], top = (one: Element) => one.getBoundingClientRect().top;
    const first = figures.sort((a, b) => top(a) - top(b))[0];
    if (first && top(first) > 0.8 * innerHeight) first.scrollIntoView({ block: "center", behavior: this.still.matches ? "auto" : "smooth" });
  }

  private scene(): Scene | undefined {
    const { lab, measured, words } = this, { training, settings, view: { t, k } } = lab;
    if (!this.shown) return undefined;
    if (measured) return { shown: this.shown, t, k, truncation: 0, clip: 0, history: { loss: [], norm: [] }, words };
    return { shown: this.shown, t, k, truncation: settings.truncation, clip: settings.clip, history: training.history, task: training.task, words };
  }

  private looked = "";
  private known: unknown[] = [];

  /** The numbers of the pictures, computed again only where they have changed. */
  private compute(now: number): void {
    const { lab, measured } = this, { t, k, example } = lab.view, { training } = lab;
    const source = [training, training.step, training.settings, example];
    if (!this.shown || source.some((one, i) => one !== this.known[i])) {
      const sized = [training.settings.cell, training.settings.H, training.settings.T, training.settings.task].join();
      const pairs = this.keptPairs?.of === sized ? this.keptPairs.pairs : undefined;
      const links = this.chainOf === [sized, t].join() ? this.shown?.chain ?? this.keptChain : undefined;
      // While it trains, all pairs take at most a seventh of the time, the chain a tenth, and never both in one frame; nor
      // do they where they take long, so that a control is answered by the other pictures first.
      const keeps = lab.running || this.pairsCost + this.chainCost > 12;
      let keepPairs = keeps && pairs !== undefined && now - this.pairsAt < 7 * this.pairsCost;
      let keepChain = keeps && links !== undefined && now - this.chainAt < 10 * this.chainCost;
      if (keeps && pairs && links && !keepPairs && !keepChain) [keepPairs, keepChain] = [this.pairsAt > this.chainAt, this.pairsAt <= this.chainAt];
      const start = performance.now();
      this.shown = measured ? shownFrom(measured) : shownOf(training.network, training.example(example), keepPairs ? pairs : undefined);
      if (!keepPairs) {
        this.pairsCost = performance.now() - start;
        this.pairsAt = now;
        if (this.shown.inside) this.keptPairs = { of: sized, pairs: this.shown.inside.pairs };
      }
      this.late = this.waiting && !this.late && !keepPairs && !keepChain && this.keptChain !== undefined && this.pairsCost + this.chainCost > 6;
      this.behind ||= keepPairs || keepChain || this.late;
      this.known = source;
      this.looked = "";
      if (keepChain) {
        this.shown = { ...this.shown, chain: links };
        this.looked = [t, k].join();
      }
    }
    if (this.looked !== [t, k].join() && !this.late) {
      const start = performance.now();
      this.shown = withChain(this.shown, t, k);
      this.chainCost = performance.now() - start;
      this.chainAt = now;
      this.chainOf = [training.settings.cell, training.settings.H, training.settings.T, training.settings.task, t].join();
      this.looked = [t, k].join();
    }
    if (!this.late) this.keptChain = this.shown.chain;
  }

  /** The chain and the words follow one frame later than what else answers a reader. */
  private late = false;
  private keptChain: Shown["chain"];
  private chainOf = "";
  private keptPairs?: { of: string; pairs: NonNullable<Shown["inside"]>["pairs"] };
  /** Some pictures are of a moment before; they are drawn again when training has ended. */
  private behind = false;

  private draw(now: number): void {
    const { lab } = this, { lang, theme } = lab.view, share = this.share();
    this.began = performance.now();
    this.dirty = false;
    this.drawnAt = now;
    this.trained = Math.min(share, Math.max(0, this.trained - share));
    const other = this.built !== lang, first = !this.built;
    if (other) this.say();
    if (this.root.dataset.theme !== theme) {
      this.root.dataset.theme = this.themes.value = theme;
      this.colors = undefined;
    }
    this.panel.refresh(this.words);
    if (other && !first) return this.translated();
    if (this.measured && !this.shown) this.known = [];
    this.compute(now);
    this.colors ??= palette(this.root);
    const scene = this.scene()!, spoken = !this.late && (!lab.running || this.still.matches || now - this.wordsAt > 250);
    this.paint(scene);
    if (spoken) this.speak(now, scene);
    else if (this.waiting) this.wordsAt = -Infinity; // one frame later
    this.waiting = false;
    this.count.frames++;
    if (!lab.running && this.behind) {
      this.shown = undefined;
      this.keptPairs = this.keptChain = undefined;
      this.behind = false;
      this.dirty = true;
    }
    this.root.dataset.drawn = "true";
  }

  /** Another language: titles and controls are there first, pictures and their words one frame later. */
  private translated(): void {
    this.wordsAt = -Infinity;
    this.waiting = false;
    this.dirty = true;
    this.count.frames++;
  }

  /** All places are read before anything is written, as the browser would lay the page out again for each. */
  private paint(scene: Scene): void {
    const frames = this.frames.filter(({ picture }) => !(this.late && picture.name === "chain"));
    for (const { picture, figure } of frames) if (figure.hidden === picture.fits(scene)) figure.hidden = !figure.hidden;
    const ratio = devicePixelRatio || 1, seen = frames.filter(({ figure, visible }) => visible && !figure.hidden);
    const widths = seen.map(({ canvas }) => canvas.clientWidth || canvas.parentElement!.clientWidth);
    seen.forEach((frame, i) => {
      const { picture, canvas } = frame, width = widths[i], height = picture.height(width, scene);
      if (!frame.pen || frame.pen.width !== width || frame.pen.height !== height) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
        canvas.style.height = `${height}px`;
        frame.pen = { ctx: canvas.getContext("2d")!, width, height, colors: this.colors! };
      }
      frame.pen.colors = this.colors!;
      frame.pen.ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
      frame.pen.ctx.clearRect(0, 0, width, height);
      picture.paint(frame.pen, scene);
    });
  }

  /** Words and numbers outside the pictures. */
  private speak(now: number, scene: Scene): void {
    const { lab, words } = this, { training } = lab, { t, k, story, case: prepared } = lab.view;
    this.wordsAt = now;
    for (const { picture, figure, canvas, caption } of this.frames) {
      if (figure.hidden) continue;
      const own = picture.describe(scene);
      if (caption.textContent !== own) caption.textContent = own;
      canvas.setAttribute("aria-label", `${words.pictures[picture.name].title}. ${own}`);
    }
    this.equation.paint(scene);
    this.equationFigure.hidden = scene.shown.inside === undefined;
    for (const [key, value, high] of [["t", t, scene.shown.T], ["k", k, t + 1]] as const) {
      const input = this.root.querySelector<HTMLInputElement>(`[data-pair="${key}"]`)!;
      input.max = String(high);
      input.value = String(value + 1);
      input.setAttribute("aria-valuetext", String(value + 1));
      input.parentElement!.querySelector("span")!.textContent = words.labels[key];
      input.parentElement!.querySelector("b")!.textContent = String(value + 1);
    }
    if (this.asked) this.heard.textContent = this.asked.describe(scene);
    this.asked = undefined;
    if (this.measured) return;
    this.controls.refresh();
    this.root.classList.toggle("case", prepared > 0);
    const focus = story ? STORY[story - 1].focus : [];
    for (const { picture, figure } of this.frames) figure.classList.toggle("focus", focus.includes(picture.name));
    const { loss: losses, norm: norms } = training.history;
    this.status.textContent = training.failed ? words.failed : lab.replaying ? words.playing(training.step, lab.replaying)
      : training.step ? words.status(training.step, number(losses.at(-1)!, 3), number(norms.at(-1)!, 3)) : words.untrained;
    this.status.classList.toggle("failed", training.failed);
    if (!lab.running && this.heardStep !== training.step) this.heard.textContent = this.status.textContent;
    if (!lab.running) this.heardStep = training.step;
    const action = (name: string) => this.root.querySelector<HTMLButtonElement>(`[data-action="${name}"]`)!;
    action("train").textContent = lab.running ? `❚❚ ${words.pause}` : `▶ ${words.train}`;
    action("undo").disabled = !lab.canUndo;
    action("story").setAttribute("aria-pressed", String(story > 0));
    if (!lab.running) this.address(lab.fragment());
  }
}

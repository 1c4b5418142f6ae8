/** The page: header, story, controls and pictures, drawn again whenever something has changed. */
import { Controls } from "./controls";
import { Equation } from "./equation";
import { h, put, Texts } from "./html";
import { Laboratory } from "./laboratory";
import { Numbers } from "./numbers";
import { Panel } from "./panel";
import type { Measured, Shown } from "./shown";
import type { View } from "./state";
import { STORY } from "./story";
import { LANGUAGES } from "./text";
import { Trainer } from "./trainer";
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
const NARROW = 80; // pixels: a canvas of less width is in a part of the page, or of a notebook, that is folded away
const SPEEDS = { slow: 2, medium: 20, fast: Infinity };

interface Frame { picture: Picture; figure: HTMLElement; canvas: HTMLCanvasElement; caption: HTMLElement; visible: boolean; pen?: Pen }

export class Page {
  readonly lab: Laboratory;
  private words: Words = LANGUAGES.en;
  private texts = new Texts();
  private said = "";
  private known: Numbers;
  private frames: Frame[] = [];
  private controls: Controls;
  private panel: Panel;
  private equation!: Equation;
  private equationFigure = h("figure", { class: "equation", "data-picture": "equation" });
  private bar = h("section", { class: "bar" });
  private header = h("header");
  private themes!: HTMLSelectElement;
  private languages!: HTMLSelectElement;
  private hint = h("p", { class: "hint quiet" });
  private status = h("span", { class: "status" });
  /** What a screen reader is to say: how training ended, and what a picture shows after an arrow key. */
  private heard = h("p", { class: "heard", role: "status" });
  private asked?: Picture;
  private heardStep = 0;
  private colors?: Palette;
  private dirty = true;
  private speed: keyof typeof SPEEDS = "fast";
  private lastUpdate = 0;
  /** Milliseconds that a frame takes with the browser's own part of it, and when the last one began. */
  private cost = 15;
  private began = 0;
  /** A reader has done something and waits for the next frame. */
  private waiting = false;
  /** It is drawn already, and handed over with the next frame. */
  private early = false;
  private updateCost = 2;
  private trainer: Trainer;
  /** A worker trains, not the page. */
  private helped = false;
  private held = false;
  private slices = new MessageChannel();
  private answers = new MessageChannel();
  private trained = 0;
  private trainUntil = 0;
  private wordsAt = 0;
  /** Frames drawn, updates made, and how many of these in a worker: for tests, and for whoever measures the speed. */
  readonly count = { frames: 0, updates: 0, apart: 0 };

  constructor(private root: HTMLElement, private measured: Measured | null, fragment: string, private address: (fragment: string) => void) {
    const lang = navigator.language.toLowerCase().startsWith("zh") ? "zh-CN" : "en";
    this.lab = new Laboratory(measured ? "story=0" : fragment, { lang, theme: hostTheme(root.ownerDocument) }, () => this.changed(), measured?.T);
    this.known = new Numbers(this.lab, measured);
    if (measured) this.lab.look({ t: measured.T - 1, k: Math.max(0, measured.T - 1 - Math.ceil(measured.T / 3)) });
    this.trainer = new Trainer(this.lab, (updates) => this.came(updates));
    this.controls = new Controls(this.lab, this.texts);
    this.panel = new Panel(this.lab, () => this.reveal());
    this.build();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.colors = undefined; this.dirty = true; });
    this.slices.port1.onmessage = ({ data }) => this.slice(data as number);
    this.answers.port1.onmessage = () => this.answer();
    for (const kind of ["click", "change", "input", "keydown"]) root.addEventListener(kind, () => { if (this.lab.running) this.changed(); }, true);
    requestAnimationFrame((now) => this.tick(now));
  }

  // -- elements -------------------------------------------------------------------------------------------------------

  private build(): void {
    this.frames = PICTURES.map((picture) => this.frame(picture));
    const place = h("div");
    this.equation = new Equation(place);
    this.named(this.equationFigure, ({ equation }) => equation.title).append(place);
    const pictures = h("div", { class: "pictures" }, ...this.frames.map(({ figure }) => figure));
    pictures.insertBefore(this.equationFigure, pictures.querySelector('[data-picture="lags"]'));
    const details = h("details", { class: "side" }, this.texts.of(h("summary"), (words) => words.controls), this.controls.element);
    const side = h("aside", {}, details);
    this.root.classList.add("lab");
    this.tools();
    this.texts.of(this.hint, (words) => words.keys);
    this.root.replaceChildren(this.header, this.panel.element, this.bar, h("main", {}, ...(this.measured ? [] : [side]), pictures, this.hint), this.heard);
    let wide = false;
    const widths = new Map<Element, number>();
    const sizes = new ResizeObserver((entries) => {
      const other = entries.filter(({ target, contentRect: { width } }) => widths.get(target) !== width);
      if (!other.length) return; // another height: there is more or less to read
      for (const { target, contentRect: { width } } of other) widths.set(target, width);
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
    const canvas = h("canvas", { role: "img", tabindex: picture.pick ? 0 : undefined }), caption = h("figcaption");
    const figure = this.named(h("figure", { "data-picture": picture.name }), ({ pictures }) => pictures[picture.name].title);
    figure.append(canvas, ...(picture.name === "heatmap" ? [this.pair()] : []), caption);
    const frame: Frame = { picture, figure, canvas, caption, visible: true };
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
    const slider = (key: "t" | "k") => h("label", { class: "slider" }, this.texts.of(h("span"), ({ labels }) => labels[key]), h("b", { "aria-hidden": true }), h("input", {
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

  /** A figure with a title, which is its name too. */
  private named(figure: HTMLElement, title: (words: Words) => string): HTMLElement {
    figure.append(this.texts.of(h("h2"), title));
    return this.texts.named(figure, title, "aria-label");
  }

  /** What is above the pictures: title, buttons, lists. */
  private tools(): void {
    const { lab, measured, texts } = this;
    const list = (label: (words: Words) => string, names: (words: Words) => Record<string, string>, onchange: (value: string) => void) => {
      const element: HTMLSelectElement = h("select", { onchange: () => onchange(element.value) },
        ...Object.keys(names(this.words)).map((value) => texts.of(h("option", { value }), (words) => names(words)[value])));
      return texts.named(element, label, "aria-label", "title");
    };
    const button = (name: string, text: (words: Words) => string, action: () => void, kind = "plain") =>
      texts.of(h("button", { type: "button", class: kind, "data-action": name, onclick: action }), text);
    const copy = button("link", (words) => words.link, () => void this.copy(copy));
    const speeds = list((words) => words.speed, (words) => words.speeds, (value) => { this.speed = value as "fast"; });
    speeds.value = this.speed;
    this.languages = list((words) => words.language, () => ({ en: "English", "zh-CN": "简体中文" }), (value) => lab.look({ lang: value as "en" }));
    this.themes = list((words) => words.theme, (words) => words.themes, (value) => lab.look({ theme: value as "auto" }));
    this.header.append(
      h("div", {}, h("p", { class: "brand" }, h("span", { "aria-hidden": true }, "↺ "), "retrograde ", texts.of(h("span", { class: "quiet" }), (words) => words.page)),
        texts.of(h("h1"), (words) => (measured ? `${words.own.title}: ${measured.title}` : words.title)),
        texts.of(h("p", { class: "quiet" }), ({ intro, own }) => (measured ? [own.measured, measured.layer ? own.weights : "", ...measured.notes].join(" ") : intro))),
      h("div", { class: "tools" }, ...(measured ? [] : [
        button("undo", (words) => `↶ ${words.undo}`, () => lab.undo()), copy, button("story", (words) => words.story, () => lab.tell(lab.view.story ? 0 : lab.left))]),
        this.languages, this.themes));
    this.bar.hidden = measured !== null;
    texts.named(this.bar, (words) => words.groups.training, "aria-label").append(
      button("train", (words) => this.trains(words), () => (lab.running ? lab.pause() : lab.train()), "strong"),
      button("one", (words) => words.one, () => lab.train(1)), button("hundred", (words) => words.hundred, () => lab.train(100)),
      button("restart", (words) => words.restart, () => lab.restart()),
      button("another", (words) => words.another, () => lab.look({ example: lab.view.example + 1 })), speeds, this.status);
  }

  private trains = (words: Words): string => (this.lab.running ? `❚❚ ${words.pause}` : `▶ ${words.train}`);

  /** Everything that has words, in the language chosen. */
  private say(lang: View["lang"]): void {
    this.words = LANGUAGES[lang];
    this.languages.value = this.said = lang;
    this.texts.say(this.words);
  }

  /** Tell the browser which language that is; it then chooses the fonts of the whole page again. */
  private name(lang: View["lang"]): void {
    const { documentElement: html } = this.root.ownerDocument;
    this.root.lang = lang;
    if (html.dataset.retrograde === "page") [html.lang, document.title] = [lang, `retrograde · ${this.words.page}`];
  }

  private async copy(button: HTMLElement): Promise<void> {
    const fragment = this.lab.fragment();
    this.address(fragment);
    await navigator.clipboard?.writeText(location.href.replace(/#.*/, "") + "#" + fragment).catch(() => undefined); // the address bar has it too
    put(button, this.words.copied);
    setTimeout(() => put(button, this.words.link), 1500);
  }

  // -- one frame ------------------------------------------------------------------------------------------------------

  private changed(): void {
    if (this.helped && !this.waiting) this.trainer.hold();
    this.dirty = this.waiting = true;
    this.answers.port2.postMessage(0);
  }

  /** Draw for a reader while the next frame is not due yet: once, as there may be more changes before that frame. */
  private answer(): void {
    if (this.stopped || this.early || !this.waiting || !this.known.shown) return;
    this.draw(performance.now());
    this.early = true;
  }

  private tick(now: number): void {
    const { lab } = this, rate = lab.replaying ? Infinity : SPEEDS[this.speed];
    if (lab.running && rate < Infinity && now - this.lastUpdate >= 1000 / rate) this.update(now);
    const calm = this.still.matches && now - this.drawnAt < 500, busy = rate === Infinity && !this.helped && this.trained < this.share();
    const answers = this.waiting || this.early;
    this.held = answers && !this.held; // until the answer has been handed over, with the next frame
    const behind = this.helped && this.updateCost < 20 && now - this.lastUpdate > 50; // each change comes before a report
    if (answers && lab.running && behind) this.update(now);
    if (this.waiting || (this.dirty && !this.early && !(lab.running && (calm || busy)))) this.draw(now);
    this.early = false;
    if (this.stopped) return;
    this.trainer.tick(now);
    this.helped = lab.running && rate === Infinity && ((this.held && this.helped) || this.trainer.go());
    this.trainUntil = rate === Infinity && !this.helped ? performance.now() + 50 : 0; // not on and on in a tab that nobody sees
    if (lab.running) this.slices.port2.postMessage(now);
    requestAnimationFrame((next) => this.tick(next));
  }

  /** What the pictures show now, for tests. */
  numbers(): Shown | undefined { return this.known.shown; }

  /** Who wants less motion sees two pictures a second while it trains. */
  private still = matchMedia("(prefers-reduced-motion: reduce)");
  private drawnAt = 0;
  private stopped = false;
  /** Draw no more: the page is being taken away. */
  stop(): void {
    this.stopped = true;
    this.trainer.stop();
  }

  /** Milliseconds of training between two frames: what is left of a 36th of a second; on a slow machine, half as long as a frame. */
  private share(): number { return Math.max(0.5 * this.cost, 28 - this.cost); }

  /** Pairs and chain, or training, in slices so short that the browser can hand over input; none while a reader waits. */
  private slice(frame: number): void {
    const start = performance.now(), answering = this.waiting || this.early;
    if (this.drawnAt === frame) this.cost += 0.2 * (start - this.began - this.cost); // with the browser's own part of it
    if (this.stopped || answering || !this.lab.running) return;
    if (this.between() && this.known.work()) this.dirty = true;
    else if (start > this.trainUntil || this.trained > this.share() + 6) return;
    else this.train(start);
    this.trained += performance.now() - start;
    this.slices.port2.postMessage(0);
  }

  private train(start: number): void {
    let at = start;
    do {
      const before = at;
      this.update(at);
      at = performance.now();
      this.updateCost += 0.2 * (at - before - this.updateCost);
    } while (this.lab.running && at + this.updateCost - start < SLICE);
  }

  /** Pairs and chain are found between the frames. Who wants less motion has so few frames that each finds its own. */
  private between(): boolean { return this.lab.running && !this.still.matches; }

  private update(now: number): void {
    this.lab.update();
    this.count.updates++;
    this.lastUpdate = now;
    this.dirty = true;
  }

  /** A worker has made updates. */
  private came(updates: number): void {
    this.count.updates += updates;
    this.count.apart += updates;
    const now = performance.now();
    this.updateCost += 0.2 * ((now - this.lastUpdate) / updates - this.updateCost);
    this.lastUpdate = now;
    this.dirty = true;
  }

  /** On a small screen what a try changes may be out of sight: scroll to the first picture of the step. */
  private reveal(): void {
    const figures = [...this.root.querySelectorAll("figure.focus")], top = (one: Element) => one.getBoundingClientRect().top;
    const first = figures.sort((a, b) => top(a) - top(b))[0];
    if (first && top(first) > 0.8 * innerHeight) first.scrollIntoView({ block: "center", behavior: this.still.matches ? "auto" : "smooth" });
  }

  private scene(): Scene | undefined {
    const { lab, measured, words } = this, { training, settings, view: { t, k } } = lab, { shown } = this.known;
    if (!shown) return undefined;
    if (measured) return { shown, t, k, truncation: 0, clip: 0, history: { loss: [], norm: [] }, words };
    return { shown, t, k, truncation: settings.truncation, clip: settings.clip, history: training.history, task: training.task, words };
  }

  /** What answers a reader is drawn first; the chain, the captions and the equation follow in the next frame. */
  private draw(now: number): void {
    const { lab, known } = this, { lang, theme } = lab.view, share = this.share(), quick = this.waiting && known.shown !== undefined;
    this.began = performance.now();
    this.dirty = quick;
    this.drawnAt = now;
    this.trained = Math.min(share, Math.max(0, this.trained - share));
    if (this.said !== lang) this.say(lang);
    if (this.root.dataset.theme !== theme) {
      this.root.dataset.theme = this.themes.value = theme;
      this.colors = undefined;
    }
    this.panel.refresh(this.words);
    known.refresh(quick, this.between());
    const scene = this.scene()!, speaks = !quick && !known.late && (!this.between() || now - this.wordsAt > 250);
    for (const { picture, figure } of this.frames)
      if (!(known.late && picture.name === "chain") && figure.hidden === picture.fits(scene)) figure.hidden = !figure.hidden;
    if (quick || speaks) this.reply(quick);
    if (speaks) this.speak(now, scene);
    else if (quick) this.wordsAt = -Infinity;
    this.colors ??= palette(this.root);
    this.paint(scene);
    this.waiting = false;
    this.count.frames++;
    this.root.dataset.drawn = "true";
  }

  /** All places are read before anything is written, as the browser would lay the page out again for each. */
  private paint(scene: Scene): void {
    const drawn = ({ picture, figure, visible }: Frame) => visible && !figure.hidden && !(this.known.late && picture.name === "chain");
    const ratio = devicePixelRatio || 1, seen = this.frames.filter(drawn);
    const widths = seen.map(({ canvas, pen }) => pen?.width ?? (canvas.clientWidth || canvas.parentElement!.clientWidth));
    seen.forEach((frame, i) => {
      const { picture, canvas } = frame, width = widths[i];
      if (width < NARROW) return;
      const height = picture.height(width, scene);
      if (!frame.pen || frame.pen.width !== width || frame.pen.height !== height) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
        canvas.style.height = `${height}px`;
        frame.pen = { ctx: canvas.getContext("2d")!, width, height, colors: this.colors!, font: "" };
      }
      Object.assign(frame.pen, { colors: this.colors!, font: "" });
      frame.pen.ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
      frame.pen.ctx.clearRect(0, 0, width, height);
      picture.paint(frame.pen, scene);
    });
  }

  /** What the controls show, and which of them may be used. */
  private reply(quick: boolean): void {
    const { lab, words } = this, { training } = lab;
    for (const [key, value, high] of [["t", lab.view.t, this.known.shown!.T], ["k", lab.view.k, lab.view.t + 1]] as const) {
      const input = this.root.querySelector<HTMLInputElement>(`[data-pair="${key}"]`)!;
      input.max = String(high);
      input.value = String(value + 1);
      input.setAttribute("aria-valuetext", input.value);
      put(input.previousElementSibling!, input.value);
    }
    if (this.measured) return;
    this.controls.refresh(words, quick);
    const { loss: losses, norm: norms } = training.history;
    put(this.status, training.failed ? words.failed : lab.replaying ? words.playing(training.step, lab.replaying)
      : training.step ? words.status(training.step, number(losses.at(-1)!, 3), number(norms.at(-1)!, 3)) : words.untrained);
    this.status.classList.toggle("failed", training.failed);
    const action = (name: string) => this.root.querySelector<HTMLButtonElement>(`[data-action="${name}"]`)!;
    put(action("train"), this.trains(words));
    action("undo").disabled = !lab.canUndo;
    action("story").setAttribute("aria-pressed", String(lab.view.story > 0));
  }

  /** What the pictures show, in words. */
  private speak(now: number, scene: Scene): void {
    const { lab, words } = this, { lang, story, case: prepared } = lab.view;
    this.wordsAt = now;
    if (this.root.lang !== lang) this.name(lang);
    for (const { picture, figure, canvas, caption } of this.frames) {
      if (figure.hidden) continue;
      const own = picture.describe(scene);
      put(caption, own);
      canvas.setAttribute("aria-label", `${words.pictures[picture.name].title}. ${own}`);
    }
    this.equation.paint(scene);
    this.equationFigure.hidden = scene.shown.inside === undefined;
    if (this.asked) this.heard.textContent = this.asked.describe(scene);
    this.asked = undefined;
    if (this.measured) return;
    this.root.classList.toggle("case", prepared > 0);
    const focus = story ? STORY[story - 1].focus : [];
    for (const { picture, figure } of this.frames) figure.classList.toggle("focus", focus.includes(picture.name));
    if (lab.running) return;
    if (this.heardStep !== lab.training.step) this.heard.textContent = this.status.textContent;
    this.heardStep = lab.training.step;
    this.address(lab.fragment());
  }
}

/** The story in seven steps, and the prepared cases: a question first, then the means to find out. */
import { h, rebuild } from "./html";
import type { Laboratory } from "./laboratory";
import { CASES, STORY } from "./story";
import type { Words } from "./text";

export class Panel {
  readonly element = h("section", { class: "panel" });
  private shown = "";
  private predicted: number | null = null;

  /** `reveal` brings the pictures into sight that a step of the story is about. */
  constructor(private lab: Laboratory, private reveal: () => void) {}

  refresh(words: Words): void {
    const { story, case: number } = this.lab.view, key = [story, number, words.page].join();
    this.element.hidden = !story && !number;
    if (key === this.shown) return;
    this.shown = key;
    this.predicted = null;
    this.element.setAttribute("aria-label", story ? words.story : words.cases);
    if (story) rebuild(this.element, () => this.tell(story, words), "h2");
    else if (number) rebuild(this.element, () => this.ask(number, words), "h2");
  }

  private tell(n: number, words: Words): void {
    const step = STORY[n - 1], told = words.stories[n - 1];
    const pills = words.stories.map((one, i) => h("button", {
      type: "button", class: "pill", title: one.title, "aria-current": i + 1 === n ? "step" : undefined, "aria-label": `${words.stepOf(i + 1)}: ${one.title}`,
      onclick: () => this.lab.tell(i + 1),
    }, String(i + 1)));
    const verdict = h("p", { class: "verdict", role: "status" });
    const after = h("div", { class: "after", hidden: true },
      h("p", {}, h("b", {}, words.findOut), told.look),
      h("div", { class: "buttons" }, ...step.tries.map((one, i) => h("button", { type: "button", class: "try", onclick: () => { this.lab.attempt(one); this.reveal(); } }, told.tries[i]))),
      h("details", {}, h("summary", {}, words.explain), verdict, ...told.found.map((text) => h("p", {}, text))));
    const answers = told.answers.map((answer, i) => h("label", { class: "answer" },
      h("input", { type: "radio", name: "answer", value: i, onchange: () => this.predict(i, step.right, verdict, after, words) }), h("span", {}, answer)));
    this.element.replaceChildren(
      h("div", { class: "steps" }, h("span", { class: "quiet" }, words.stepOf(n)), h("nav", { "aria-label": words.story }, ...pills),
        h("button", { type: "button", class: "plain close", onclick: () => this.lab.tell(0) }, words.hide)),
      h("div", { class: "columns" },
        h("div", {}, h("h2", { tabindex: -1 }, told.title), ...told.words.map((text) => h("p", {}, text))),
        h("div", {}, h("fieldset", { class: "question" }, h("legend", {}, words.question + told.question), ...answers), after,
          h("div", { class: "buttons turn" },
            n > 1 && h("button", { type: "button", class: "plain", onclick: () => this.lab.tell(n - 1) }, `← ${words.previous}`),
            n < 7 && h("button", { type: "button", class: "plain", onclick: () => this.lab.tell(n + 1) }, `${words.next} →`)))));
  }

  private predict(answer: number, right: number, verdict: HTMLElement, after: HTMLElement, words: Words): void {
    this.predicted = answer;
    verdict.textContent = this.predicted === right ? words.right : words.wrong;
    verdict.classList.toggle("good", answer === right);
    after.hidden = false;
  }

  private ask(n: number, words: Words): void {
    const told = words.diagnoses[n - 1];
    const pills = CASES.map((_, i) => h("button", {
      type: "button", class: "pill", "aria-current": i + 1 === n ? "step" : undefined, "aria-label": words.caseTitle(i + 1),
      onclick: () => this.lab.open(`case=${i + 1}`, this.lab.view),
    }, String(i + 1)));
    this.element.replaceChildren(
      h("div", { class: "steps" }, h("span", { class: "quiet" }, words.cases), h("nav", { "aria-label": words.cases }, ...pills),
        h("button", { type: "button", class: "plain close", onclick: () => this.lab.look({ case: 0 }) }, words.showControls)),
      h("div", { class: "columns" },
        h("div", {}, h("h2", { tabindex: -1 }, words.caseTitle(n)), h("p", {}, told.told), h("p", {}, h("b", {}, words.caseQuestion))),
        h("details", {}, h("summary", {}, words.caseReveal), h("p", {}, h("b", {}, words.cause), told.cause), h("p", {}, h("b", {}, words.cure), told.cure),
          h("div", { class: "buttons" }, h("button", { type: "button", class: "try", onclick: () => this.lab.cure() }, words.tryCure)))));
  }
}

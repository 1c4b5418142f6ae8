/** Elements in one line: h("button", { type: "button", onclick }, "Train"). */
import type { Words } from "./text";

type Properties = Record<string, unknown>;

export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K, properties: Properties = {}, ...children: (Node | string | null | undefined | false)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value as EventListener);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child): child is Node | string => child !== null && child !== undefined && child !== false));
  return element;
}

/** The text of an element, written only where it is another one: what is written must be laid out again. */
export function put(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** The texts that are there for good, in the language chosen. */
export class Texts {
  private all: ((words: Words) => void)[] = [];

  /** An element that says something in any language. */
  of<E extends Element>(element: E, text: (words: Words) => string): E {
    this.all.push((words) => put(element, text(words)));
    return element;
  }

  /** An element with a name that is not written on it. */
  named<E extends Element>(element: E, name: (words: Words) => string, ...attributes: string[]): E {
    this.all.push((words) => { for (const one of attributes) element.setAttribute(one, name(words)); });
    return element;
  }

  say(words: Words): void {
    for (const one of this.all) one(words);
  }
}

/** Build a part of the page again; the keyboard stays where it was, or goes to `otherwise`. */
export function rebuild(element: HTMLElement, build: () => void, otherwise?: string): void {
  const all = () => [...element.querySelectorAll<HTMLElement>("button, select")];
  const active = (element.getRootNode() as Document | ShadowRoot).activeElement, within = element.contains(active);
  const at = otherwise ? -1 : all().indexOf(active as HTMLElement);
  build();
  if (within) (otherwise ? element.querySelector<HTMLElement>(otherwise) : all()[at])?.focus();
}

/** Elements in one line: h("button", { type: "button", onclick }, "Train"). */
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

/** Build a part of the page again; the keyboard stays where it was, or goes to `otherwise`. */
export function rebuild(element: HTMLElement, build: () => void, otherwise?: string): void {
  const all = () => [...element.querySelectorAll<HTMLElement>("button, select")];
  const active = (element.getRootNode() as Document | ShadowRoot).activeElement, within = element.contains(active);
  const at = otherwise ? -1 : all().indexOf(active as HTMLElement);
  build();
  if (within) (otherwise ? element.querySelector<HTMLElement>(otherwise) : all()[at])?.focus();
}

/** Where it starts: as a page of its own, or inside a notebook with a network that Python measured. */
import { compute, numbers } from "./api";
import { Page } from "./page";
import type { Measured } from "./shown";
import { available } from "./vectors";

/** Draw the laboratory into an element. */
function mount(root: HTMLElement, measured: Measured | null = null): Page {
  const own = root.ownerDocument.documentElement.dataset.retrograde === "page" && location.protocol !== "about:"; // in a frame
  let last = own ? location.hash.slice(1) : "";
  const page = new Page(root, measured, last, (fragment) => {
    if (!own || fragment === last) return;
    last = fragment;
    history.replaceState(null, "", `#${fragment}`);
  });
  if (root.id === "laboratory") requestAnimationFrame(() => requestAnimationFrame(() => (document.documentElement.dataset.drawn = "true")));
  if (own) addEventListener("hashchange", () => {
    if (location.hash.slice(1) !== last) page.lab.open((last = location.hash.slice(1)), page.lab.view);
  });
  return page;
}

/** The numbers of the network that a page shows now, with the parameters and the sequence that they are of. */
function now(page: Page) {
  const { training, view, settings } = page.lab, batch = training.example(view.example);
  const { D, H, K, cell, head, parameters } = training.network;
  return {
    cell, head, D, H, K, T: batch.T, x: [...batch.x], y: [...batch.y], scored: [...batch.scored],
    parameters: Object.fromEntries(Object.entries(parameters).map(([name, values]) => [name, [...values]])),
    numbers: numbers(training.network, batch, 0, view.t, view.k, settings.truncation || undefined),
  };
}

Object.assign(globalThis, { retrograde: { mount, compute, now, vectors: available } });
const place = document.getElementById("laboratory"), given = document.getElementById("measured");
if (place && document.documentElement.dataset.retrograde === "page")
  Object.assign((globalThis as unknown as { retrograde: object }).retrograde, { page: mount(place, given && JSON.parse(given.textContent!)) });

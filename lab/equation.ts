/** The chain rule for the pair of steps that is chosen, with a number under each factor. */
import { GATES, rowOf } from "./network";
import { outputFactors } from "./shown";
import { norm, product } from "./linear";
import type { Scene } from "./views/picture";
import { put } from "./html";
import { number } from "./views/pen";

const derivative = (of: string, by: string): string => `<mfrac><mrow><mi>∂</mi>${of}</mrow><mrow><mi>∂</mi>${by}</mrow></mfrac>`;
const at = (letter: string, step: string | number): string => `<msub><mi>${letter}</mi><mrow>${typeof step === "number" ? `<mn>${step}</mn>` : step}</mrow></msub>`;
const under = (formula: string, name: string): string => `<munder><munder><mrow>${formula}</mrow><mo stretchy="true">⏟</mo></munder><mtext data-number="${name}">0</mtext></munder>`;

export interface Factors { output: number; state: number; chain: number; before: number; term: number; own: number; reached: number; sum: number }

/** The numbers of the moment: norms of each factor, of the term, and of the whole sum ∂E_t/∂W. */
export function factors({ shown, t, k }: Scene): Factors | undefined {
  const { inside, batch, chain, T, norms } = shown;
  if (!inside) return undefined;
  const { network, run, sequence, pairs } = inside, { H, cell } = network, GH = GATES[cell] * H;
  const [output, state] = batch ? outputFactors(network, batch, run, sequence, t) : [NaN, NaN];
  const whole = new Float32Array(GH * H), deltas = new Float32Array((t + 1) * GH);
  for (let j = 0; j <= t; j++) {
    const row = rowOf(T, t, j);
    deltas.set(pairs.deltas.subarray(row * GH, (row + 1) * GH), j * GH);
  }
  product(whole, 0, H, deltas, 0, 1, GH, run.h, sequence * H, run.B * H, 1, GH, H, t + 1, false); // Σ_j ∂E_t/∂(W s_{j−1}) ⊗ s_{j−1}
  const before = (k * run.B + sequence) * H;
  return {
    output, state, chain: chain?.products[k] ?? NaN, before: norm(run.h, before, before + H), term: pairs.terms[t * T + k],
    own: norms[t * T + t], reached: norms[t * T + k], sum: norm(whole),
  };
}

export class Equation {
  private drawn = "";
  constructor(private place: HTMLElement) {}

  paint(scene: Scene): void {
    const { t, k, words, shown: { batch } } = scene, found = factors(scene);
    this.place.hidden = !found;
    if (!found) return;
    const key = [t, k, words.equation.title, Boolean(batch)].join();
    if (key !== this.drawn) this.place.innerHTML = formula(t + 1, k + 1, scene);
    this.drawn = key;
    for (const place of this.place.querySelectorAll<HTMLElement>("[data-number]"))
      put(place, number(found[place.dataset.number as keyof Factors], 3));
  }
}

function formula(t: number, k: number, { words: { equation: say }, shown: { batch } }: Scene): string {
  const E = at("E", t), y = `<msub><mover><mi>y</mi><mo>^</mo></mover><mn>${t}</mn></msub>`, s = (step: string | number) => at("s", step), W = "<mi>W</mi>";
  const j = "<mi>j</mi>", jb = "<mi>j</mi><mo>−</mo><mn>1</mn>";
  const product = t === k ? "<mn>1</mn>" : t - k === 1 ? derivative(s(t), s(k))
    : `<munderover><mo>∏</mo><mrow><mi>j</mi><mo>=</mo><mn>${k + 1}</mn></mrow><mn>${t}</mn></munderover>${derivative(s(j), s(jb))}`;
  const first = batch ? `${under(derivative(E, y), "output")}<mo>·</mo>${under(derivative(y, s(t)), "state")}` : under(derivative(E, s(t)), "own");
  const sum = `<munderover><mo>∑</mo><mrow><mi>k</mi><mo>=</mo><mn>1</mn></mrow><mn>${t}</mn></munderover>`;
  const general = `${derivative(E, at("s", t))}<mo>·</mo>${derivative(s(t), at("s", "<mi>k</mi>"))}<mo>·</mo>${derivative(at("s", "<mi>k</mi>"), W)}`;
  const row = (name: keyof Factors, math: string, words: string) => `<div><dt><math>${math}</math><span>${words}</span></dt><dd data-number="${name}"></dd></div>`;
  const size = (inner: string) => `<mrow><mo>‖</mo>${inner}<mo>‖</mo></mrow>`;
  return `<math display="block"><mrow>${derivative(E, W)}<mo>=</mo>${sum}${general}</mrow></math>
    <p class="quiet"><math><mi>k</mi><mo>=</mo><mn>${k}</mn></math></p>
    <math display="block"><mrow>${first}<mo>·</mo>${under(product, "chain")}<mo>·</mo>${under(derivative(s(k), W), "before")}</mrow></math>
    <dl>${row("own", size(derivative(E, s(t))), say.vector)}${row("chain", size(derivative(s(t), s(k))), say.chain + say.own(t - k))}
    ${row("reached", size(derivative(E, s(k))), say.reached)}${row("before", size(s(k - 1)), say.immediate)}
    ${row("term", size(`<msub><mtext>${say.term}</mtext><mn>${k}</mn></msub>`), say.total)}${row("sum", size(derivative(E, W)), "Σ")}</dl>`;
}

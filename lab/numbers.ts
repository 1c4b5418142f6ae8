/** When the numbers behind the pictures are computed: all of them for every frame would hold up reader and training. */
import type { Laboratory } from "./laboratory";
import { forward, pairs } from "./network";
import type { Chain, Pairs } from "./network";
import { chainOf, shownFrom, shownOf } from "./shown";
import type { Measured, Shown } from "./shown";

/** What a number is of: all that the reader has chosen, and the updates made since. Old numbers of the same shape can be drawn. */
interface Moment { shape: string; chosen: unknown[]; step: number }

/** A number of a moment, when it was found, and in how many milliseconds. */
interface Known<T> extends Moment { value: T; at: number; cost: number }

const same = (now: Moment, known?: Moment): boolean =>
  known !== undefined && known.shape === now.shape && known.chosen.every((one, i) => one === now.chosen[i]);

function found<T>(now: Moment, find: () => T): Known<T> {
  const start = performance.now(), value = find(), at = performance.now();
  return { ...now, value, at, cost: at - start };
}

/** Milliseconds that the pairs may take before a reader is answered without them. */
const HEAVY = 8;

export class Numbers {
  shown?: Shown;
  /** The chain is not yet that of what the reader has chosen. */
  late = false;
  private of?: Moment;
  private pairs?: Known<Pairs>;
  private chain?: Known<Chain>;

  constructor(private lab: Laboratory, private measured: Measured | null) {}

  /** What the pairs are to be of, and what the chain is to be of. */
  private moments(): [Moment, Moment] {
    const { training, view: { t, k, example } } = this.lab, { step, settings: { cell, H, T, task, lag, loss, scale, input, keep } } = training;
    const now = { shape: [cell, H, T, task].join(), chosen: [training, example, lag, loss, scale, input, keep], step };
    return [now, { ...now, chosen: [...now.chosen, t, k] }];
  }

  /**
   * The numbers for a frame. `quick`: a reader waits, so that only what was changed is computed, and its chain follows.
   * `between`: pairs and chain are brought up to date by `work`, between the frames.
   */
  refresh(quick: boolean, between: boolean): void {
    const { lab, measured } = this, { training: { network }, view: { t, k, example } } = lab, [now, ofChain] = this.moments();
    if (quick && this.shown && same(ofChain, this.of)) return;
    this.of = ofChain;
    if (!measured) {
      const batch = lab.training.example(example), run = forward(network, batch), known = this.pairs;
      const kept = same(now, known) ? quick || between || known!.step === now.step : known?.shape === now.shape && quick && known.cost > HEAVY;
      const apart = kept ? known! : (this.pairs = found(now, () => pairs(network, batch, run, 0)));
      this.shown = shownOf(network, batch, run, apart.value);
    } else this.shown ??= shownFrom(measured);
    const { inside } = this.shown;
    if (!inside) return;
    if (!quick && !between && !(same(ofChain, this.chain) && this.chain!.step === now.step)) this.chain = found(ofChain, () => chainOf(inside, t, k));
    this.late = !same(ofChain, this.chain);
    this.shown = { ...this.shown, chain: this.chain?.shape === now.shape ? this.chain.value : undefined };
  }

  /** While it trains: find the pairs again in a seventh of the time, the chain in a tenth, one of them at a time; false if neither is due. */
  work(): boolean {
    const { training, view: { t, k, example } } = this.lab, { network } = training, [now, ofChain] = this.moments();
    const rests = <T>(moment: Moment, known: Known<T> | undefined, share: number) =>
      same(moment, known) && (known!.step === now.step || performance.now() - known!.at < share * known!.cost);
    const pairsRest = rests(now, this.pairs, 7);
    if (pairsRest && rests(ofChain, this.chain, 10)) return false;
    const batch = training.example(example), run = forward(network, batch);
    if (!pairsRest) this.pairs = found(now, () => pairs(network, batch, run, 0));
    else this.chain = found(ofChain, () => chainOf({ network, run, sequence: 0 }, t, k));
    return true;
  }
}

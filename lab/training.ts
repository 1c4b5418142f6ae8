/** A network in training: its start, its updates, and what a change of settings does to it. */
import { norm, orthogonal, Random, spectralRadius } from "./linear";
import { emptyParameters, forward, GATES, gradients, NAMES } from "./network";
import type { Batch, Network, Parameters } from "./network";
import type { Settings } from "./state";
import { makeTask } from "./tasks";
import type { Task } from "./tasks";

/** The curves: one entry per update. */
export interface History { loss: number[]; norm: number[] }

/** Everything that an undo brings back. */
export interface Saved {
  settings: Settings; parameters: Parameters; moments: Parameters[]; step: number; seed: number;
  history: History; failed: boolean;
}

/** The rows of W and b of one gate. */
const block = (settings: Settings, gate: number): [number, number] => [gate * settings.H, (gate + 1) * settings.H];

/** The gate that keeps the state: the update gate of a GRU, the forget gate of an LSTM. Both are number 1. */
const KEEPING = 1;

export class Training {
  task: Task;
  network: Network;
  step = 0;
  history: History = { loss: [], norm: [] };
  /** The loss was not a number: the parameters are those before that update. */
  failed = false;
  private moments: Parameters[];
  private random: Random;

  constructor(public settings: Settings) {
    this.task = makeTask(settings);
    this.network = started(settings, this.task);
    this.moments = [emptyParameters(this.network), emptyParameters(this.network)];
    this.random = new Random(settings.seed * 7919);
  }

  /** One update on a fresh batch. */
  update(): void {
    if (this.failed) return;
    const { settings, network } = this;
    const batch = this.task.draw(settings.T, settings.B, settings.loss === "every", this.random);
    const run = forward(network, batch), found = gradients(network, batch, run, settings.truncation || Infinity);
    let squares = 0;
    for (const name of NAMES) squares += norm(found[name]) ** 2;
    const size = Math.sqrt(squares), factor = settings.clip && size > settings.clip ? settings.clip / size : 1;
    this.history.loss.push((run.loss * settings.B) / Math.max(1, batch.scored.reduce((sum, one) => sum + one, 0)));
    this.history.norm.push(size);
    this.step++;
    this.failed = !Number.isFinite(size);
    if (!this.failed) this.apply(found, factor);
  }

  private apply(found: Parameters, factor: number): void {
    const { rate, optimizer } = this.settings, [mean, square] = this.moments, n = this.step;
    const correct = Math.sqrt(1 - 0.999 ** n) / (1 - 0.9 ** n);
    for (const name of NAMES) {
      const p = this.network.parameters[name], g = found[name], m = mean[name], v = square[name];
      if (optimizer === "sgd") for (let i = 0; i < p.length; i++) p[i] -= rate * factor * g[i];
      else
        for (let i = 0; i < p.length; i++) {
          const own = factor * g[i];
          m[i] += 0.1 * (own - m[i]);
          v[i] += 0.001 * (own * own - v[i]);
          p[i] -= (rate * correct * m[i]) / (Math.sqrt(v[i]) + 1e-8 * Math.sqrt(1 - 0.999 ** n));
        }
    }
  }

  /** Take other settings, none of which begins a new network. */
  change(to: Settings): void {
    const from = this.settings, { W, U, b } = this.network.parameters;
    if (to.scale !== from.scale && from.scale > 0) scaleBy(W, to.scale / from.scale);
    else if (to.scale !== from.scale) W.set(started({ ...to, keep: 0 }, this.task).parameters.W);
    if (to.input !== from.input && from.input > 0) scaleBy(U, to.input / from.input);
    else if (to.input !== from.input) U.set(started({ ...to, keep: 0 }, this.task).parameters.U);
    if (GATES[to.cell] > 1) {
      const [start, end] = block(to, KEEPING);
      for (let i = start; i < end; i++) b[i] += to.keep - from.keep;
    }
    this.settings = to;
    this.task = makeTask(to);
  }

  /** ρ of the part of W that makes the next state: W itself, or that of the candidate. */
  radius(): number {
    const { H, cell } = this.network, [start, end] = cell === "gru" || cell === "lstm" ? block(this.settings, 2) : [0, H];
    return spectralRadius(this.network.parameters.W.slice(start * H, end * H), H);
  }

  /** A sequence to look at, the same for a number. */
  example(number: number): Batch {
    const { T, loss, seed } = this.settings;
    return this.task.draw(T, 1, loss === "every", new Random(seed * 104729 + number));
  }

  save(): Saved {
    const { settings, step, history, failed } = this;
    return {
      settings, step, failed, parameters: copied(this.network.parameters), moments: this.moments.map(copied),
      seed: this.random.seed, history: { loss: [...history.loss], norm: [...history.norm] },
    };
  }

  /** Take over updates that were made elsewhere from this state; `history` has theirs alone. */
  adopt({ parameters, moments, step, seed, history, failed }: Saved): void {
    this.network.parameters = parameters;
    this.random.seed = seed;
    this.history.loss.push(...history.loss);
    this.history.norm.push(...history.norm);
    Object.assign(this, { moments, step, failed });
  }

  static restored(saved: Saved): Training {
    const training = new Training(saved.settings);
    training.network.parameters = copied(saved.parameters);
    training.moments = saved.moments.map(copied);
    training.random = new Random(saved.seed);
    training.history = { loss: [...saved.history.loss], norm: [...saved.history.norm] };
    return Object.assign(training, { step: saved.step, failed: saved.failed });
  }
}

const copied = (parameters: Parameters): Parameters =>
  Object.fromEntries(NAMES.map((name) => [name, parameters[name].slice()])) as Parameters;

function scaleBy(values: Float32Array, factor: number): void {
  for (let i = 0; i < values.length; i++) values[i] *= factor;
}

/** Parameters as torch draws them, uniform in ±1/√H; then W orthogonal or the identity, the factors and the bias. */
function started(settings: Settings, task: Task): Network {
  const { cell, H, start, scale, input, keep, seed } = settings, { D, K, head } = task;
  const shape = { cell, D, H, K, head }, parameters = emptyParameters(shape), random = new Random(seed);
  for (const name of NAMES)
    for (let i = 0; i < parameters[name].length; i++) parameters[name][i] = (2 * random.uniform() - 1) / Math.sqrt(H);
  for (let gate = 0; gate < GATES[cell] && start !== "uniform"; gate++) {
    const own = start === "orthogonal" ? orthogonal(H, random) : identity(H);
    parameters.W.set(own, gate * H * H);
  }
  scaleBy(parameters.W, scale);
  scaleBy(parameters.U, input);
  if (GATES[cell] > 1) {
    const [from, to] = block(settings, KEEPING);
    for (let i = from; i < to; i++) parameters.b[i] += keep;
  }
  return { ...shape, parameters };
}

function identity(n: number): Float32Array {
  const one = new Float32Array(n * n);
  for (let i = 0; i < n; i++) one[i * (n + 1)] = 1;
  return one;
}

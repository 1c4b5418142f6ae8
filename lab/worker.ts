/** The script of the worker that trains: from a state that the page hands over, for as long as the page asks. See trainer.ts. */
import { Training } from "./training";
import type { Saved } from "./training";

/** Train until update `until`, for `lease` milliseconds at most, from `saved` or from where the worker is. */
export interface Order { round: number; until: number; lease: number; saved?: Saved }

/** The state after some updates from update `from` on, with their history alone. `round` is that of the order. */
export interface Report { round: number; from: number; saved: Saved }

const SLICE = 5, PAUSE = 8; // milliseconds until the next order is looked for, and between two reports

let training: Training | undefined, { round, until, lease }: Order = { round: 0, until: 0, lease: 0 };
let from = 0, asked = 0, reported = 0, going = false;
const slices = new MessageChannel();

self.onmessage = ({ data: { saved, ...order } }: MessageEvent<Order>) => {
  ({ round, until, lease } = order);
  asked = performance.now();
  if (saved) {
    training = Training.restored(saved);
    from = training.step;
    reported = -Infinity; // a reader waits for the first update
  }
  if (!going) slices.port2.postMessage(0);
  going = true;
};

slices.port1.onmessage = () => {
  const own = training!, start = performance.now();
  going = own.step < until && !own.failed && start - asked < lease;
  if (going) do own.update(); while (own.step < until && !own.failed && performance.now() - start < SLICE);
  report(own, performance.now());
  if (going) slices.port2.postMessage(0);
};

function report(own: Training, now: number): void {
  if (own.step === from || (going && own.step < until && !own.failed && now - reported < PAUSE)) return;
  const saved = own.save();
  postMessage({ round, from, saved } satisfies Report);
  [from, reported, own.history] = [own.step, now, { loss: [], norm: [] }];
}

postMessage(null); // ready

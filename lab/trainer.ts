/**
 * Training in a worker, next to the page. The page's own state counts: the worker gets a copy of it, makes updates and
 * reports them, and the page takes a report over if nothing has changed since; else the worker gets the new state. So
 * an update that the page has not seen never happened, and a case is the same with or without a worker.
 */
import type { Laboratory } from "./laboratory";
import type { Training } from "./training";
import type { Order, Report } from "./worker";
import script from "./worker?script";

const LEASE = 50; // milliseconds of training for an order: no more come from a tab that nobody sees
const LATE = 26; // milliseconds between two frames that are too many

export class Trainer {
  private worker?: Worker | null;
  private ready = false;
  private round = 0;
  /** What the worker started from, or what it has reported since. */
  private known?: Pick<Training, "step" | "settings"> & { training: Training };

  /** `came`: so many updates have been taken over. */
  constructor(private lab: Laboratory, private came: (updates: number) => void) {}

  private lease = LEASE;
  /** Milliseconds between two frames, on average, and when the last one was. */
  private pace = 17;
  private last = 0;

  /** A frame begins: where frames come late, cores are scarce, and the worker trains for a part of the time, half of it at least. */
  tick(now: number): void {
    this.pace += 0.1 * (Math.min(100, now - this.last) - this.pace);
    this.last = now;
    this.lease = this.pace > LATE ? Math.max(this.pace / 2, 0.9 * this.lease) : Math.min(LEASE, 1.05 * this.lease);
  }

  /** Ask for updates in the next moments. False where the page has to make them: the worker starts, or is not allowed, or a change is due. */
  go(): boolean {
    const { lab, lab: { training, until } } = this;
    if (this.worker === undefined) this.start();
    if (!this.ready || !lab.running || until <= training.step) return false;
    const order: Order = { round: this.round, until, lease: this.lease };
    if (!this.current()) {
      order.round = ++this.round;
      order.saved = { ...training.save(), history: { loss: [], norm: [] } };
      this.remember(training.step);
    }
    this.worker!.postMessage(order);
    return true;
  }

  /** A reader waits: leave the cores to the answer. */
  hold(): void {
    if (this.ready && this.round) this.worker!.postMessage({ round: this.round, until: 0, lease: 0 } satisfies Order);
  }

  stop(): void {
    this.worker?.terminate();
    this.worker = null;
    this.ready = false;
  }

  private start(): void {
    const address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    try {
      const worker = (this.worker = new Worker(address));
      worker.onmessage = ({ data }: MessageEvent<Report | null>) => {
        if (data) return this.take(data);
        URL.revokeObjectURL(address);
        this.ready = true;
      };
      worker.onerror = (event) => { // not allowed, by a policy of the page around; or out of memory
        event.preventDefault();
        this.stop();
      };
    } catch {
      this.stop();
    }
  }

  private current(): boolean {
    const { known, lab: { training } } = this;
    return known?.training === training && known.settings === training.settings && known.step === training.step;
  }

  private remember(step: number): void {
    const { training } = this.lab;
    this.known = { training, settings: training.settings, step };
  }

  private take({ round, from, saved }: Report): void {
    const { lab, lab: { training } } = this;
    if (round !== this.round) return;
    if (!this.current() || saved.step > lab.until) {
      this.known = undefined; // the worker is ahead
      return;
    }
    this.remember(saved.step);
    lab.adopt(saved);
    if (lab.running && saved.step === lab.until) { // a change is due, which the page makes
      lab.update();
      this.go();
    }
    this.came(training.step - from);
  }
}

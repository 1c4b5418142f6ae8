"""``trial``: matched runs that prove whether a remedy helps.

`arms` says what is compared, `matched` is one run, `evidence` the statistics, `retrograde.pools` where runs are
computed, `ledger` what is kept of them; here is the order in which runs are made, and when that ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OptionError
from ..option import seconds
from ..pools import Pool, available_cores, open_pool
from ..runs.lock import Lock
from .arms import Arm, drawn, named, pairs, random_remedies, treated
from .evidence import Evidence, bar, fewest_seeds, judge
from .ledger import RESULT, Ledger
from .matched import EVALUATIONS, Job, NativeTraining, Outcome, ShouldStop
from .prescriptions import Prescription
from .subject import Subject, subject_of
from .trial_result import ArmResult, Trial, equal_seconds, median_curve

SPARE_SEEDS = 3  # more than the fewest that can prove anything, where neither seeds nor a budget are given
MOST_SEEDS = 100  # with a budget alone
MOST_REMEDIES = 4  # of a diagnosis: the first ones
PLACEBO = 1_000_000  # added to a seed
PILOT = 20  # a pilot run makes one update of this many
LEAST = 20  # updates of a run
GRACE = 0.03  # share of the time for which runs are waited for after its end
RESERVE = 0.05  # share of the time in which no run is planned


@dataclass(frozen=True)
class TrialProgress:
    """How far a trial is: runs made, the most that may follow, seconds left at most, and what runs now."""

    done: int
    left: int
    seconds_left: float | None
    running: str


def trial(
    subject: Any,
    remedies: Any,
    *,
    out: str | Path | None = None,
    seeds: int | None = None,
    budget: float | str | None = None,
    updates: int | None = None,
    first_seed: int | None = None,
    random: Sequence[Any] = (),
    pair: bool = True,
    workers: int | None = None,
    ray: bool = False,
    overwrite: bool = False,
    progress: Callable[[TrialProgress], None] | None = None,
    **options: Any,
) -> Trial:
    """Prove whether remedies help, by matched runs: with and without each, over many seeds.

    The runs of a seed have the same data order, number of updates and, where the remedy leaves them alone, initial
    weights. Every remedy has to beat three controls: no treatment, a placebo (only another seed), and a random remedy.
    Seeds are added until a sequential test decides (`retrograde.doctor.evidence`), or seeds or budget are used up.

    Parameters
    ----------
    subject : str, Path, frame or callable
        A run folder; or data to train on, with ``options``; or ``train(seed, remedy)``, which returns the loss, or
        ``{"loss": …}`` or ``{"score": …}`` and maybe ``"curve"``; ``remedy`` is None without treatment. If it takes
        ``should_stop``, that is a function that says when the time is up.
    remedies : Diagnosis, or sequence or dict of remedies
        Prescriptions, or changes of options such as ``{"lr": 0.001}``; for a callable, anything it understands.
    out : str or Path, optional
        Folder to keep the runs and the result in (``doctor-trial.jsonl``, ``doctor-trial.json``). The same call again
        goes on from there.
    seeds, updates : int, optional
        The most seeds, without a budget by default three more than the fewest that can prove something; and updates of
        each run, by default as many as the run made, or as the options say.
    budget : float or str, optional
        Seconds, or ``"10m"``. Runs make fewer updates if there is no time for all; the result says so.
    first_seed : int, optional
        By default the one after the run's own, which is known to have failed: any other seed would look like a cure.
    random : sequence, optional
        Remedies to draw from for the random arm of a callable.
    pair, overwrite : bool
        Whether to try pairs of remedies, and whether to replace another trial in ``out``.
    workers : int, optional
        Runs at a time, in processes of their own with one thread each; by default one per core.
    ray : bool
        Run on the Ray cluster at RAY_ADDRESS (or a local one). Data must have the same path on every machine.
    progress : callable, optional
        Called with a `TrialProgress` after every run.
    **options
        Options of training, where ``subject`` is data.

    Raises
    ------
    OptionError
        An argument is impossible, or ``out`` contains another trial.

    Examples
    --------
    >>> train = lambda seed, remedy: 1.0 if remedy is None else 0.5
    >>> trial(train, ["sleep"], random=["tea"], workers=1)["sleep"].verdict
    'does not help'
    """
    began, limit = time.time(), _seconds(budget)
    _check_counts(seeds=seeds, updates=updates, workers=workers)
    chosen = subject_of(subject, options)
    controls, treatments, notes = _arms(chosen, remedies, random, pair)
    start = chosen.seed + 1 if first_seed is None else first_seed
    arms = {arm.name: str(arm.remedy) for arm in [*controls, *treatments]}
    identity = {"subject": chosen.name, "arms": arms, "first_seed": start, "updates": updates}
    with ExitStack() as stack:
        ledger = _ledger(stack, out, identity, overwrite, notes)
        pool = open_pool(workers or available_cores(), ray)
        stack.callback(pool.close)
        session = _Session(chosen, controls, treatments, start, began, limit, seeds, ledger, pool, progress, notes)
        result = session.run(updates)
        ledger.write(RESULT, result.to_json() + "\n")
    return result


def _ledger(
    stack: ExitStack, out: str | Path | None, identity: dict[str, Any], overwrite: bool, notes: list[str]
) -> Ledger:
    """The runs in the folder, which is locked for the time of the trial."""
    folder = None if out is None else Path(out)
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise OptionError(f"out {folder} is a file: name a folder.")
        stack.callback(Lock(folder, notes.append).release)
    return Ledger(folder, identity, overwrite)


def _check_counts(**counts: Any) -> None:
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise OptionError(f"{name} is {value}; it must be a whole number of at least 1.")


def _seconds(budget: float | str | None) -> float | None:
    if budget is None:
        return None
    try:
        found = seconds(budget) if isinstance(budget, str) else float(budget)
    except (OptionError, TypeError, ValueError):
        found = math.nan
    if not 0 < found < math.inf:
        raise OptionError(f"budget {budget!r} is not a duration; give seconds, or 90s, 5m or 1h30m.")
    return found


def _arms(subject: Subject, remedies: Any, random: Sequence[Any], pair: bool) -> tuple[list[Arm], list[Arm], list[str]]:
    """Controls, remedies with pairs of them, and what a user should know about them."""
    treatments, notes = list[Arm](), [*subject.notes]
    for name, remedy in named(remedies):
        if subject.options is None:
            treatments.append(Arm(name, "remedy", remedy))
            continue
        prescribed = isinstance(remedy, Prescription)
        if prescribed and (len(treatments) == MOST_REMEDIES or not remedy.options):
            why = "it is no option of training" if not remedy.options else f"the first {MOST_REMEDIES} are enough"
            notes.append(f"{name} was not tried: {why}.")
            continue
        try:
            treatments.append(treated(subject.options, name, remedy))
        except OptionError as error:
            if not prescribed:
                raise
            notes.append(f"{name} was not tried: {error}")
    if not treatments:
        raise OptionError(f"there is no remedy to try: {' '.join(notes) or 'none was given.'}")
    controls = [Arm("untreated", "untreated"), Arm("placebo", "placebo")]
    pool: Sequence[Any] = random if subject.options is None else random_remedies(subject.options, treatments)
    if pool:
        controls.append(Arm("random", "random", tuple(pool)))
    else:
        notes.append("There is no random remedy to compare with: any change may do as well.")
    return controls, [*treatments, *(pairs(subject.options, treatments) if pair else [])], notes


@dataclass
class _Session:
    """One call of `trial`: makes runs until it is decided, or the time is up."""

    subject: Subject
    controls: list[Arm]
    treatments: list[Arm]
    first_seed: int
    began: float
    limit: float | None
    seeds: int | None
    ledger: Ledger
    pool: Pool
    progress: Callable[[TrialProgress], None] | None
    notes: list[str]
    updates: int | None = None

    def __post_init__(self) -> None:
        self.dropped: dict[str, str] = dict(self.ledger.facts.get("dropped", {}))
        self.running: dict[Future[Outcome], Job] = {}
        self.interrupted = self.late = False
        self.run_one = self.subject.run
        self.end = None if self.limit is None else self.began + self.limit
        self.stop = ShouldStop(self.end)

    def run(self, updates: int | None) -> Trial:
        """Pilot runs, then seed after seed."""
        try:
            if isinstance(self.run_one, NativeTraining):
                self._pilot(updates or self.subject.updates or 1, fixed=updates is not None)
            self.rounds = self.seeds or (
                fewest_seeds(len(self.tried)) + SPARE_SEEDS if self.limit is None else MOST_SEEDS
            )
            self._make(self._next)
        except KeyboardInterrupt:
            self.interrupted = True
        return self._result()

    @property
    def tried(self) -> list[Arm]:
        """The treatments that were not dropped after the pilot runs; as many decide the bar."""
        return [arm for arm in self.treatments if arm.name not in self.dropped]

    # --- Making runs --------------------------------------------------------------------------------------------------

    def _make(self, following: Callable[[], Iterator[Job]]) -> None:
        """Make the runs that follow, as many at a time as there are workers, until none does."""
        while True:
            for job in following():
                if len(self.running) >= self.pool.workers:
                    break
                started = (job.stage, job.arm, job.round) in {(o.stage, o.arm, o.round) for o in self.running.values()}
                if not started and self._in_time(job):
                    self.running[self.pool.submit(self.run_one, job)] = job
            if not self.running:
                return
            done, _ = wait(self.running, self._patience(), FIRST_COMPLETED)
            if not done:  # neither the trainer nor the user's function has noticed that the time is up
                self.late = True
                self.running.clear()
            for future in done:
                job = self.running.pop(future)
                outcome = future.result()
                if outcome.error and job.stage == "run":
                    if job.arm != "random" or job.remedy is None:
                        raise OptionError(f"{job.arm}: {outcome.error}")
                    job = replace(job, remedy=None)  # an impossible remedy is none
                    self.running[self.pool.submit(self.run_one, job)] = job
                elif outcome.finished:
                    self.ledger.add(job, outcome)
                else:
                    self.late = True
            self._tell()

    def _patience(self) -> float | None:
        """Seconds to wait for runs that were asked to stop."""
        return None if self.end is None else max(0.0, self.end + GRACE * (self.limit or 0.0) - time.time())

    def _in_time(self, job: Job) -> bool:
        """Whether a run will be finished before the time is up."""
        if self.end is None:
            return True
        enough = not self.late and time.time() + self._estimate(job) <= self.end
        self.late |= not enough
        return enough

    def _estimate(self, job: Job) -> float:
        """Seconds of a run, by those before it."""
        outcomes = [(key, one) for key, one in self.ledger.outcomes.items() if key[0] == job.stage == "run"]
        own = [one.seconds for (_, arm, _), one in outcomes if arm == job.arm]
        if own or (outcomes and self.updates is None):
            return float(np.median(own or [one.seconds for _, one in outcomes]))
        return 0.0 if job.stage == "pilot" else self._cost(job.arm, job.updates or 0)

    def _job(self, stage: Any, arm: Arm, round: int, updates: int | None) -> Job:
        seed, remedy = self.first_seed + round, arm.remedy
        if arm.role == "random":
            if self.subject.options is not None:
                remedy = drawn(arm.remedy, self.subject.options, seed)
            else:
                remedy = arm.remedy[int(np.random.default_rng(seed).integers(len(arm.remedy)))]
        return Job(stage, arm.name, round, seed + PLACEBO * (arm.role == "placebo"), remedy, updates, self.stop)

    def _next(self) -> Iterator[Job]:
        """The runs that may follow, in order. All decisions depend on whole rounds only, whatever is done first."""
        complete, active = self._standing()
        if not active:
            return
        for round in range(complete, self.rounds):
            for arm in [*self.controls, *active]:
                if ("run", arm.name, round) not in self.ledger.outcomes:
                    yield self._job("run", arm, round, self.updates)

    def _standing(self) -> tuple[int, list[Arm]]:
        """How many rounds are complete, and the treatments that are not decided."""
        active = self.tried
        for round in range(self.rounds):
            if any(("run", arm.name, round) not in self.ledger.outcomes for arm in [*self.controls, *active]):
                return round, active
            halved = self.ledger.facts.get(f"halved after {round + 1}", [])
            active = [arm for arm in active if self._judged(arm, round + 1, ahead=False).verdict == "cannot tell"]
            active = [arm for arm in active if arm.name not in halved]
            if self.end is not None and f"halved after {round + 1}" not in self.ledger.facts:
                active = self._halved(active, round + 1)
            if not active:
                return round + 1, []
        return self.rounds, []

    def _halved(self, active: list[Arm], complete: int) -> list[Arm]:
        """The better half of the treatments, if there is no time to decide about all of them."""
        if complete < 2 or len(active) < 2 or self.end is None:
            return active
        runs = [one.seconds for key, one in self.ledger.outcomes.items() if key[0] == "run"]
        more = min(self._judged(arm, complete).fewest_more for arm in active)
        needed = more * (len(self.controls) + len(active)) * float(np.mean(runs)) / self.pool.workers
        out: list[str] = []
        if needed > self.end - time.time():
            ranked = sorted(active, key=lambda arm: float(np.median(self._values(arm, complete))))
            out = [arm.name for arm in ranked[math.ceil(len(active) / 2) :]]
        out = self.ledger.note(f"halved after {complete}", out)
        return [arm for arm in active if arm.name not in out]

    def _values(self, arm: Arm, rounds: int) -> list[float]:
        """Losses of the first rounds; of a score, its negative."""
        outcomes = [self.ledger.outcomes["run", arm.name, round] for round in range(rounds)]
        return [one.value if one.measure == "loss" else -one.value for one in outcomes]

    def _judged(self, arm: Arm, rounds: int, *, ahead: bool = True) -> Evidence:
        controls = {control.name: self._values(control, rounds) for control in self.controls}
        return judge(self._values(arm, rounds), controls, bar(len(self.tried)), ahead=ahead)

    def _tell(self) -> None:
        if self.progress is None:
            return
        left = 0
        if hasattr(self, "rounds"):
            complete, active = self._standing()
            left = (self.rounds - complete) * (len(self.controls) + len(active)) if active else 0
        took = [one.seconds for key, one in self.ledger.outcomes.items() if key[0] == "run"]
        time_left = left * float(np.mean(took)) / self.pool.workers if took else None
        if self.end is not None:
            most = max(0.0, self.end - time.time())
            time_left = most if time_left is None else min(most, time_left)
        now = ", ".join(f"{job.arm} (seed {job.seed})" for job in self.running.values())
        self.progress(TrialProgress(len(self.ledger.outcomes), left, time_left, now))

    # --- Pilot runs: what a run costs, and whether remedies do what they claim ----------------------------------------

    def _pilot(self, full: int, *, fixed: bool) -> None:
        untreated, arms = self.controls[0], [self.controls[0], *self.treatments]

        def missing(wanted: Sequence[Arm], round: int, updates: int) -> Callable[[], Iterator[Job]]:
            def following() -> Iterator[Job]:
                for arm in wanted:
                    if ("pilot", arm.name, round) not in self.ledger.outcomes:
                        yield replace(self._job("pilot", arm, round, updates), seed=self.first_seed + PLACEBO - 1)

            return following

        short = max(2, full // PILOT)
        if self.end is not None:  # first of all a few updates, to know what they cost
            self._make(missing([untreated], 0, min(5, full)))
            self._check_untreated(0)
            room = 0.1 * (self.limit or 0.0) * self.pool.workers / len(arms)
            short = max(2, min(short, int(room / max(1e-6, self._per_update(untreated.name)))))
        self._make(missing(arms, 1, int(self.ledger.note("pilot updates", min(short, full)))))
        self._check_untreated(1)
        for arm in self.treatments:
            if why := self._failed(arm):
                self.dropped[arm.name] = why
        self.dropped = self.ledger.note("dropped", self.dropped)
        self.updates = int(self.ledger.note("updates", full if fixed or self.end is None else self._affordable(full)))
        if self.updates < full:
            self.notes.append(
                f"Runs make {self.updates:,} updates instead of {full:,}, to fit into the budget: what happens later "
                "is not known."
            )

    def _check_untreated(self, round: int) -> None:
        found = self.ledger.outcomes.get(("pilot", "untreated", round))
        if found is not None and found.error:
            raise OptionError(found.error)

    def _failed(self, arm: Arm) -> str:
        """Why a treatment is not worth its runs: it is impossible, or does not do to the gradient what it claims."""
        own, base = (self.ledger.outcomes.get(("pilot", name, 1)) for name in (arm.name, "untreated"))
        if own is None or base is None:
            return ""
        if own.error:
            return f"It cannot be applied: {own.error}"
        if arm.claim is None:
            return ""
        with_it, without = (getattr(one, arm.claim) for one in (own, base))
        if not with_it or not without:
            return ""
        if arm.claim == "reach":
            if any(a > b or math.isinf(a) for a, b in zip(with_it, without, strict=True)):
                return ""
            return (
                f"It was dropped after the pilot runs: the gradient reaches {with_it[0]:.0f} steps at the start, "
                f"{without[0]:.0f} without it."
            )
        if any(a < b for a, b in zip(with_it, without, strict=True)):
            return ""
        return (
            f"It was dropped after the pilot runs: the gradient has ×{with_it[0]:.3g} per step at the start, "
            f"×{without[0]:.3g} without it."
        )

    def _per_update(self, name: str) -> float:
        found = self._piloted(name)
        return max(1e-6, found.training) / max(1, found.updates or 1)

    def _piloted(self, name: str) -> Outcome:
        outcomes = self.ledger.outcomes
        keys = [("pilot", own, round) for own in (name, "untreated") for round in (1, 0)]
        return next((outcomes[key] for key in keys if key in outcomes and not outcomes[key].error), Outcome(math.nan))

    def _cost(self, name: str, updates: int) -> float:
        """Seconds of a run with so many updates, by the pilot run of its arm."""
        pilots = [one for key, one in self.ledger.outcomes.items() if key[0] == "pilot" and not one.error]
        setup = min((one.setup for one in pilots), default=0.0)  # the first run of a process takes longer
        evaluation = min((one.evaluation for one in pilots if one.evaluation), default=0.0)
        return setup + updates * self._per_update(name) + EVALUATIONS * evaluation

    def _affordable(self, full: int) -> int:
        """Updates of each run, so that one seed more than the fewest that can prove something fits into the time."""
        assert self.end is not None and self.limit is not None
        arms = [arm.name for arm in [*self.controls, *self.tried]]
        rounds = min(self.seeds or MOST_SEEDS, fewest_seeds(len(self.tried)) + 1)
        left = (self.end - time.time() - RESERVE * self.limit) * self.pool.workers / rounds
        fixed = sum(self._cost(name, 0) for name in arms)
        return min(full, max(LEAST, full // PILOT, int((left - fixed) / sum(self._per_update(name) for name in arms))))

    # --- The result ---------------------------------------------------------------------------------------------------

    def _result(self) -> Trial:
        self.rounds = getattr(self, "rounds", 1)
        if self.late:
            self.notes.append("The time was up before everything was decided: the same call goes on from here.")
        complete, _ = self._standing()
        measures = {one.measure for one in self.ledger.outcomes.values()} or {"loss"}
        return Trial(
            [self._row(arm, complete) for arm in [*self.controls, *self.treatments]],
            measures.pop(),
            self.updates,
            bar(len(self.tried)),
            time.time() - self.began,
            self.interrupted,
            self.notes,
        )

    def _row(self, arm: Arm, complete: int) -> ArmResult:
        outcomes: Mapping[Any, Outcome] = self.ledger.outcomes
        rounds = 0
        while rounds < complete and ("run", arm.name, rounds) in outcomes:
            rounds += 1
        control, tried = arm in self.controls, arm.name not in self.dropped
        evidence = self._judged(arm, rounds) if rounds and not control and tried else None
        rounds = rounds if evidence is None else evidence.seeds
        own = [outcomes["run", arm.name, round] for round in range(rounds)]
        base = [outcomes["run", "untreated", round] for round in range(rounds)]
        why = self.dropped.get(arm.name, "")
        for fact, names in self.ledger.facts.items():
            if fact.startswith("halved after") and arm.name in names:
                why = f"It was stopped {fact.removeprefix('halved ')} seeds, among the worse half, for want of time."
        pilot = outcomes.get(("pilot", arm.name, 1))
        remedies = list(dict.fromkeys(one.remedy for one in own)) or [str("" if control else arm.remedy)]
        equal = [equal_seconds(a, b) for a, b in zip(own, base, strict=True)]
        return ArmResult(
            arm.name,
            arm.role,
            remedies,
            [self._job("run", arm, round, None).seed for round in range(rounds)],
            [one.value for one in own],
            [a.value - b.value for a, b in zip(own, base, strict=True)],
            [one.seconds for one in own],
            [value for value in equal if value is not None],
            None if pilot is None else pilot.reach,
            None if pilot is None else pilot.growth,
            evidence,
            why,
            median_curve(own),
        )

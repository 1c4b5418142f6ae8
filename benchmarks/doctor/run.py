"""Run a case: train it, verify what is said of it, examine it by the doctor and by its peers."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

import retrograde as rg
from retrograde.doctor import Diagnosis, Examination, TrainingRecord
from retrograde.doctor.examination import untrained_twin
from retrograde.errors import FlowError
from retrograde.flow.recording.samples import samples_of

from . import peers
from .case import Case
from .proof import UPDATES, Treatment, controls, share_of, treated
from .training import Trained, batches, train

EXAMINED = 128  # batches given to the doctor


@dataclass
class Outcome:
    """What became of a case's training from one seed, and what is said about it."""

    name: str
    seed: int
    key: str  # of what was trained
    half: str  # "open" or "held out"
    solved: bool = False
    share: float | None = None  # loss over the loss at chance, on unseen sequences; None: not finite
    cured_by: str | None = None  # the first listed remedy that reached the goal
    cured_share: float | None = None
    untreated_share: float | None = None  # without the remedy, after as many updates as it had
    training_seconds: float = 0.0
    gradient_norm: float | None = None  # median of the last twenty, as the optimizer got them, before clipping
    spectral_radius: float = 0.0  # largest of the recurrent matrices' (of a gate's block, for GRU and LSTM)
    peers: dict[str, list[str]] = field(default_factory=dict)
    peers_first: dict[str, list[str]] = field(default_factory=dict)  # at the first update
    rules: str = ""  # hash of the doctor's source
    verdict: str = ""
    found: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    need: float | None = None
    seconds: float = 0.0
    found_first: list[str] = field(default_factory=list)  # before the first update
    risk: float = 0.0
    error: str = ""
    prescription: dict[str, Any] | None = None  # the first: name, options, lines; empty without one, None if not known
    proved: str = ""  # hash of the prescription that was tried
    shares: dict[str, float] = field(default_factory=dict)  # by arm: share of the loss at chance that is left

    def as_line(self) -> str:
        return json.dumps(asdict(self))


def rules_hash() -> str:
    """Hash of the doctor's source: a diagnosis is made again when it changes."""
    folder = Path(rg.doctor.__file__).parent
    content = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.py")))
    return hashlib.sha256(content).hexdigest()[:12]


def run(case: Case, seed: int, known: Outcome | None, cache: Path, rules: str, prove: bool = False) -> Outcome:
    """The outcome of a case; what is known and still true is not done again."""
    torch.set_num_threads(1)
    trained: Trained | None = None
    if known is None or known.key != case_key(case):
        trained = _trained(case, seed, cache)
        known = _after_training(case, seed, trained)
    if known.cured_by is not None and known.untreated_share is None:
        known.untreated_share = _untreated(case, seed, known)
    if known.rules != rules:
        _examine(known, case, trained or _trained(case, seed, cache))
        known.rules = rules
    if prove and not case.healthy:
        _prove(known, case, trained or _trained(case, seed, cache))
    return known


def case_key(case: Case) -> str:
    """Of the training and of what is verified about it."""
    return hashlib.sha256(repr((case.key, case.remedies, case.goal)).encode()).hexdigest()[:12]


def _trained(case: Case, seed: int, cache: Path) -> Trained:
    path = cache / f"{case.key}-{seed}.pt"
    if path.exists():
        found: Trained = torch.load(path, weights_only=False)  # written here
        return found
    trained = train(case, seed)
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(trained, path.with_suffix(".draft"))
    path.with_suffix(".draft").replace(path)
    return trained


def _after_training(case: Case, seed: int, trained: Trained) -> Outcome:
    share = trained.loss / trained.chance
    outcome = Outcome(
        case.name,
        seed,
        case_key(case),
        "held out" if case.held_out else "open",
        share <= case.goal,
        _finite(share),
        training_seconds=trained.seconds,
        gradient_norm=_finite(median(trained.record.gradient_norms[-20:] or [0.0])),
        spectral_radius=spectral_radius(trained.network),
    )
    for remedy in case.remedies if seed == 0 else ():
        cured = case.cured(remedy)
        after = train(cured, seed)
        if after.loss <= case.goal * after.chance:
            outcome.cured_by, outcome.cured_share = remedy.name, after.loss / after.chance
            break
    for tool in peers.RULES:
        outcome.peers[tool] = sorted(peers.alarms(tool, trained.snapshots))
        outcome.peers_first[tool] = sorted(peers.alarms(tool, trained.snapshots[:1]))
    return outcome


def _untreated(case: Case, seed: int, known: Outcome) -> float:
    """The share that is left without the remedy that cured, after as many updates: a sick training fails then, too."""
    (remedy,) = (one for one in case.remedies if one.name == known.cured_by)
    updates = case.cured(remedy).training.updates
    if updates <= case.training.updates:
        return 1e9 if known.share is None else known.share
    trained = train(replace(case, training=replace(case.training, updates=updates)), seed)
    return share_of(trained)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def spectral_radius(network: nn.Module) -> float:
    """The largest of the recurrent matrices, of each gate on its own; 0 where weights are not finite."""
    found = [0.0]
    for name, weight in network.named_parameters():
        if "weight_hh" in name and bool(weight.isfinite().all()):
            found += [float(torch.linalg.eigvals(w).abs().max()) for w in weight.detach().split(weight.shape[1])]
    return max(found)


def examination_batches(case: Case) -> Iterator[tuple[Any, ...]]:
    """Batches as a DataLoader gives them: inputs, lengths where they differ, targets."""
    for batch in batches(case, 5000, EXAMINED):
        yield (batch.inputs, batch.targets) if batch.lengths is None else (batch.inputs, batch.lengths, batch.targets)


def diagnosed(network: nn.Module, case: Case, record: TrainingRecord, start: nn.Module) -> Diagnosis:
    """The doctor's diagnosis of a case, as a user asks for it; ``start`` is the network before training."""
    untrained = start if case.start_given else None
    return rg.diagnose(network, list(examination_batches(case)), case.task.loss, untrained=untrained, record=record)


def _examine(outcome: Outcome, case: Case, trained: Trained) -> None:
    began = time.perf_counter()
    try:
        diagnosis = diagnosed(trained.network, case, trained.record, trained.initial)
        outcome.seconds = time.perf_counter() - began
        how = case.training
        plan = TrainingRecord(how.optimizer, how.lr, how.clip, how.bptt, 0, chance=trained.chance, planned=how.updates)
        first = diagnosed(trained.initial, case, plan, trained.initial)
        outcome.error = ""
    except Exception as error:  # a crash counts as a finding missed, and is shown
        outcome.error, outcome.verdict, outcome.found = f"{type(error).__name__}: {error}", "error", []
        return
    outcome.verdict, outcome.prescription = diagnosis.verdict, _first(diagnosis)
    outcome.found = sorted({finding.kind.value for finding in diagnosis.findings})
    outcome.found_first = sorted({finding.kind.value for finding in first.findings})
    outcome.notes = diagnosis.notes
    try:
        outcome.need = _need(diagnosis, case, trained) if case.measurable else None
    except FlowError:
        outcome.need = None
    outcome.risk = risk_of(first)


def _first(diagnosis: Diagnosis) -> dict[str, Any]:
    """The first prescription as it is kept."""
    if not diagnosis.prescriptions:
        return {}
    first = diagnosis.prescriptions[0]
    return {"remedy": first.remedy, "options": dict(first.options), "python": first.python}


def _prove(outcome: Outcome, case: Case, trained: Trained) -> None:
    """Try the first prescription, unless the same one was tried before."""
    if outcome.error:
        return
    if outcome.prescription is None:
        outcome.prescription = _first(diagnosed(trained.network, case, trained.record, trained.initial))
    found = outcome.prescription
    treatment = Treatment(found["options"], found["python"]) if found else None
    if treatment is None or treatment.by_hand:
        outcome.proved = ""
        outcome.shares.pop("prescription", None)
        return
    if not outcome.shares:
        outcome.shares = controls(case, outcome.seed)
    key = hashlib.sha256(repr((found, UPDATES)).encode()).hexdigest()[:12]
    if outcome.proved != key:
        outcome.shares |= treated(case, treatment, outcome.seed)
        outcome.proved = key


def _need(diagnosis: Diagnosis, case: Case, trained: Trained) -> float | None:
    """The longest lag with a signal: as a finding says it, or, where none does, as it was measured."""
    found = [f.numbers["need"] for f in diagnosis.findings if "need" in f.numbers]
    if found:
        return max(found)
    samples = samples_of(examination_batches(case), case.task.loss, EXAMINED)
    need = Examination(trained.network, samples, untrained_twin(trained.network), trained.record).need
    return None if need is None else float(need.lag)


def risk_of(diagnosis: Diagnosis) -> float:
    """The doctor's own figure; where it has none, even odds unless nothing was found."""
    own = diagnosis.risk
    return own if math.isfinite(own) else {"healthy": 0.0}.get(diagnosis.verdict, 0.5)

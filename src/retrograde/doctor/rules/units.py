"""Do units and gates still react? Saturated tanh units, dead ReLU units, stuck gates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...cells import FUSED
from ...errors import FlowError
from ...flow.recording.runs import base
from ...flow.recurrence.cells import Trajectory
from ..examination import Examination
from ..findings import Chart, Curve, Finding, Kind
from ..forward import answers, layers_of, line_of_caller
from ..thresholds import THRESHOLDS

_RELU = {torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, nn.functional.relu, nn.functional.relu_}


def _runs(exam: Examination) -> dict[str, Trajectory]:
    """By label, one run of every layer."""
    found: dict[str, Trajectory] = {}
    for label, run in ({} if exam.flow.linearization is None else exam.flow.linearization.runs).items():
        if base(label) not in map(base, found):
            found[label] = run
    return found


def _live(run: Trajectory, values: Tensor) -> Tensor:
    """Values by step and sequence without padding, `(N, H)`."""
    return values[torch.ones_like(values[..., 0], dtype=torch.bool) if run.mask is None else run.mask]


def saturation(exam: Examination) -> Iterable[Finding]:
    """Share of tanh units at the flat ends, in a network that has not learned its task."""
    flat, most = THRESHOLDS.flat_slope.value, THRESHOLDS.saturated_share.value
    for label, run in _runs(exam).items():
        if run.cell.nonlinearity != "tanh":
            continue
        own = exam.flow.saturation(label, flat)
        if own.saturated <= most:
            continue
        parts = _parts(run)
        numbers = {"saturated": own.saturated, "derivative": own.derivative, "remaining": exam.progress.remaining}
        numbers |= {f"size_of_{name}": size for name, size in parts.items()}
        before, start = "", 0.0
        with contextlib.suppress(FlowError):
            start = exam.untrained_flow.saturation(label, flat).saturated
            numbers["untrained_saturated"] = start
            before = f" Before training it was {start:.0%}."
        hard = exam.flow.saturation(label, THRESHOLDS.hard_slope.value).saturated
        numbers["hard"] = hard
        # Training saturates units that work well, though not so far; a network that begins so has a handicap. Gates
        # carry the state past the candidate: LSTM that predict characters as well as others have 60 % so far.
        handicap = max(start, hard if run.cell.vanilla else 0.0) > most
        least = THRESHOLDS.unsolved_share if handicap else THRESHOLDS.unlearned_share
        unlearned = exam.progress.above(least.value)
        if not unlearned:
            continue
        largest = max(parts, key=lambda name: parts[name])
        steps = [float(step) for step in range(len(own.derivative_by_step))]
        yield Finding(
            Kind.SATURATION,
            f"{own.saturated:.0%} of the tanh units of {label} are at their flat ends (f′ < {flat:g}); the mean f′ is "
            f"{own.derivative:.2g}, by which they multiply every gradient.{before} What drives them there is mostly "
            f"the {largest} (size {parts[largest]:.2g}, where about 1 is usual): look at its scale.",
            numbers,
            f"saturated {own.saturated:.0%} > {most:.0%} and {unlearned}",
            label,
            ruled_out=(
                f"a solved task with saturated units: {unlearned}",
                *(f"the {name}: size {size:.2g}" for name, size in parts.items() if name != largest),
            ),
            chart=Chart(
                "Slope of the nonlinearity",
                "step",
                "mean f′ over units and sequences",
                [Curve("f′", steps, [float(v) for v in own.derivative_by_step])],
            ),
        )


def _parts(run: Trajectory) -> dict[str, float]:
    """Root mean square of what is added up before the nonlinearity: by inputs, by states, and the bias."""
    rows, w = run.cell.rows(run.cell.candidate, run.hidden_size), run.weights
    biases = [bias[rows] for bias in (w.bias_ih, w.bias_hh) if bias is not None]
    found = {
        "inputs": _live(run, run.x @ w.ih[rows].t()),
        "recurrent weights": _live(run, run.h_before @ w.hh[rows].t()),
        "bias": torch.stack(biases).sum(0) if biases else torch.zeros(1, device="cpu"),
    }
    return {name: float(value.double().square().mean().sqrt()) for name, value in found.items()}


@dataclass
class _Activity:
    """Which ReLU units were above 0 so far, and how many activations were looked at."""

    alive: Tensor  # (units,) bool
    seen: int = 0


class _Watch(TorchFunctionMode):
    """Notes which units of every ReLU outside recurrent layers are ever above 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: dict[tuple[str, str, int], _Activity] = {}
        self.running = [""]
        self._names = {module: name for name, module in model.named_modules()}
        self._convolves = any(isinstance(module, nn.Conv1d | nn.Conv2d) for module in model.modules())

    def enter(self, module: nn.Module, _: Any) -> None:
        self.running.append(self._names.get(module, self.running[-1]))

    def leave(self, *_: Any) -> None:
        self.running.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        if func in _RELU and isinstance(value, Tensor) and value.ndim:
            axis = 1 if self._convolves and value.ndim > 2 else value.ndim - 1
            on = (value.detach() > 0).movedim(axis, -1).flatten(0, -2)
            key = (self.running[-1], line_of_caller(), int(on.shape[-1]))
            activity = self.found.setdefault(key, _Activity(torch.zeros(on.shape[-1], dtype=torch.bool, device="cpu")))
            activity.alive |= on.any(0).cpu()
            activity.seen += len(on)
        return value


def dead_relu(exam: Examination) -> Iterable[Finding]:
    """Share of ReLU units that are 0 for every sequence, at every step or from some step on."""
    if not exam.progress.above(THRESHOLDS.solved_share.value):
        return
    yield from _dead_elsewhere(exam)
    for label, run in _runs(exam).items():
        if run.cell.nonlinearity == "relu":
            on = (run.h > 0) if run.mask is None else (run.h > 0) & run.mask.unsqueeze(-1)
            yield from _dead(
                exam, label, (on.flip(0) if run.reverse else on).any(1).cpu(), int(on.shape[0] * on.shape[1])
            )


def _dead(exam: Examination, label: str, on: Tensor, seen: int) -> Iterable[Finding]:
    """The finding for a layer: ``on`` says at which step a unit is above 0 for any sequence, `(T, H)`."""
    most = THRESHOLDS.dead_share.value
    if seen < THRESHOLDS.fewest_activations.value:
        return
    never = float((~on.any(0)).double().mean())
    by_step = (~on.flip(0).cummax(0).values.flip(0)).double().mean(1)  # 0 from this step on
    half = int(len(on) // 2)
    late = float(by_step[half])
    solely_late = never <= most
    if solely_late and (
        late <= THRESHOLDS.dead_late_share.value or not exam.progress.above(THRESHOLDS.unlearned_share.value)
    ):
        return
    if solely_late:
        most = THRESHOLDS.dead_late_share.value
    since = int((by_step > most).nonzero()[0])
    what = "at every step" if not solely_late else f"from step {since} on"
    share = late if solely_late else never
    yield Finding(
        Kind.DEAD_RELU,
        f"{share:.0%} of the ReLU units of {label} are 0 {what} for every sequence; no gradient reaches them. "
        "Look at their biases, and at a learning rate that threw them there.",
        {"dead": never, "dead_late": late, "since": since, "remaining": exam.progress.remaining},
        f"dead {share:.0%} > {most:.0%} and {exam.progress.above(THRESHOLDS.solved_share.value)}",
        label,
        ruled_out=(f"too few activations to tell: {seen} were looked at",),
        chart=Chart(
            "Dead ReLU units",
            "step",
            "share that is 0 from this step on, for every sequence",
            [Curve("dead", [float(t) for t in range(len(by_step))], [float(v) for v in by_step])],
        ),
    )


def _dead_elsewhere(exam: Examination) -> Iterable[Finding]:
    """ReLU units outside recurrent layers, as in the head."""
    with torch.no_grad(), answers(exam.model, [sample.inputs for sample in exam.samples]) as ask:
        watch = _Watch(exam.model)
        handles = [nn.modules.module.register_module_forward_pre_hook(watch.enter)]
        handles += [nn.modules.module.register_module_forward_hook(watch.leave, always_call=True)]
        try:
            with watch:
                for sample in exam.samples:
                    ask(sample.inputs, sample.loss)
        finally:
            for handle in handles:
                handle.remove()
    most = (THRESHOLDS.dead_share if exam.record.updates else THRESHOLDS.dead_start_share).value
    several = len({name for name, _, _ in watch.found}) < len(watch.found)
    for (name, line, _), activity in watch.found.items():
        dead = float((~activity.alive).double().mean())
        if name in layers_of(exam.model) or dead <= most or activity.seen < THRESHOLDS.fewest_activations.value:
            continue
        where = (name or type(exam.model).__name__) + (f" ({line.rpartition('/')[2]})" if several else "")
        yield Finding(
            Kind.DEAD_RELU,
            f"{dead:.0%} of the {len(activity.alive)} ReLU units of {where} are 0 for every sequence and step; no "
            "gradient reaches them. Look at their biases, and at a learning rate that threw them there.",
            {"dead": dead, "units": len(activity.alive), "remaining": exam.progress.remaining},
            f"dead {dead:.0%} > {most:.0%} and {exam.progress.above(THRESHOLDS.solved_share.value)}",
            where,
            ruled_out=(f"too few activations to tell: {activity.seen} were looked at",),
        )


_EFFECT = {  # of gates that do harm there; the rest only decide nothing
    ("i", "closed"): "nothing enters the memory",
    ("o", "closed"): "nothing leaves the memory",
    ("f", "closed"): "nothing is remembered",
    ("f", "open"): "nothing is ever forgotten",
    ("z", "open"): "the state is never updated",
    ("z", "closed"): "the old state is thrown away at every step",
    ("r", "closed"): "the old state has no part in the new one",
}
_FROM_THE_START = (("i", "closed"), ("o", "closed"), ("f", "closed"), ("z", "open"))  # the others can be trained with


def stuck_gates(exam: Examination) -> Iterable[Finding]:
    """Gates that are open, or closed, at all steps of all sequences, so far out that their weights get no gradient."""
    if not exam.progress.above(THRESHOLDS.unsolved_share.value):
        return
    for label, run in _runs(exam).items():
        for gate, direction in _EFFECT if exam.record.updates else _FROM_THE_START:
            if run.cell in FUSED and gate in run.cell.gates:  # what gates of other cells do is not known
                yield from _stuck(exam, label, run, gate, direction)


def _stuck(exam: Examination, label: str, run: Trajectory, gate: str, direction: str) -> Iterable[Finding]:
    opened, always, most = (t.value for t in (THRESHOLDS.gate_open, THRESHOLDS.always, THRESHOLDS.stuck_share))
    # A gate that training can still move is a design, unless training has come to nothing.
    unlearned, least = exam.progress.above(THRESHOLDS.unlearned_share.value), THRESHOLDS.gate_slope_trained.value
    if not unlearned or not exam.record.updates:
        unlearned, least = exam.progress.above(THRESHOLDS.unsolved_share.value), THRESHOLDS.gate_slope.value
    values = _live(run, run.gates[..., run.cell.rows(gate, run.hidden_size)].double())
    off = 1 - values if direction == "open" else values  # distance from the end
    slope = (values * (1 - values)).mean(0)
    stuck = ((off < 1 - opened).double().mean(0) >= always) & (slope < least)
    if gate == run.cell.keeper and direction == "open":
        stuck &= off.mean(0) * THRESHOLDS.keeper_steps.value * run.steps < 1
    share = float(stuck.double().mean())
    if share <= most or (gate == run.cell.keeper and direction == "closed" and not _needs_memory(exam, label)):
        return
    passed = float(slope[stuck].mean())
    effect = _EFFECT[gate, direction]
    by_step = np.asarray(exam.flow.gates(label)[gate].mean_by_step)
    yield Finding(
        Kind.STUCK_GATES,
        f"gate {gate} of {label} is always {direction} in {share:.0%} of its units (mean value "
        f"{float(values.mean()):.2g}): {effect}, and its weights get {passed / 0.25:.1g} of the gradient of an "
        "undecided gate. Look at its bias.",
        {"stuck": share, "mean": float(values.mean()), "slope": passed, "remaining": exam.progress.remaining},
        f"{direction} in {share:.0%} > {most:.0%} of the units with slope {passed:.1g} < {least:g}, and {unlearned}",
        label,
        ruled_out=(
            f"a bias by design that training can still move: slope {passed:.1g} < {least:g}",
            f"a solved task: {unlearned}",
        ),
        chart=Chart(
            f"Gate {gate}",
            "step",
            "mean over units and sequences",
            [Curve(gate, [float(t) for t in range(len(by_step))], [float(v) for v in by_step])],
        ),
    )


def _needs_memory(exam: Examination, label: str) -> bool:
    """Whether the data asks for more than the present step, as far as that is known."""
    try:
        need = exam.untrained_flow.signal_by_lag(label, alpha=THRESHOLDS.alpha.value).need
    except FlowError:
        return True
    return need is None or need > 0


RULES = (saturation, dead_relu, stuck_gates)

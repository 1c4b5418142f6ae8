"""What each sequence contributes to the gradient of a layer's weights at every lag, with its own error or another's.

Tests: `tests/flow/test_signal.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import FlowError
from ..recording.calls import Call
from ..recording.graph import MIXED, MIXED_ERRORS, Graph
from ..recurrence import adjoint
from ..recurrence.cells import Trajectory, Weights
from ..wiring.head import final_errors, local_adjoints
from .both_ways import Tower, by_distance, errors_both_ways, layered
from .encoder_decoder import Relay, by_path, relayed

if TYPE_CHECKING:
    from ..result import GradientFlow

__all__ = ["SIZE", "Part", "Sides", "Stack", "Sweep", "lags_from_end", "stacks_of"]

NEVER = np.iinfo(np.int64).min  # the lag of a pair without one
NOT_LOCAL = (
    "The signal by lag is not defined for this network: each of its layers must be RNN, GRU, LSTM or of "
    "another cell of retrograde.nn (without normalization or dropout of its state), and fed by the data as it is or, "
    "through modules that work step by step, by the layer below, and its head must look at one step at a time. With a "
    "loss per sequence, "
    "retrograde.flow.need_of compares inputs and errors of such a network."
)
ABOVE = (
    "The states that {} reads know other steps than their own, so its gradient has no lag: ask for the signal of {}, "
    "which read the data."
)
SIZE = 16  # of a random projection, to each side of a weight matrix
DIRECTION = 1e-5  # of the largest, below which a direction of the errors is rounding
MANY = 2**20  # numbers in all g_b together, above which they are projected


class Part(NamedTuple):
    """What the sequences contribute at one lag: ``factor`` times ``gradients`` `(B, numbers)`."""

    lag: int
    factor: float
    gradients: Tensor


class Sides:
    """The maps that bring the two sides of a layer's ∂E/∂U and ∂E/∂W down to few numbers; None leaves them whole."""

    def __init__(
        self, run: Trajectory, generator: torch.Generator, exact: bool | None, rows: int, size: int = SIZE
    ) -> None:
        """``rows`` is the larger of the number of sequences and of lags: so many gradients are kept."""
        width, inputs, states = run.weights.hh.shape[0], run.x.shape[-1], run.h_before.shape[-1]
        self.projected = rows * width * (inputs + states) > MANY if exact is None else not exact
        self.left: Tensor | None = None
        self.right: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.projected:
            self.left = _projection(width, size, generator)
            self.right = (_projection(inputs, size, generator), _projection(states, size, generator))


def _projection(size: int, to: int, generator: torch.Generator) -> Tensor | None:
    """An orthonormal map to fewer dimensions, which keeps angles on average; None where there are few."""
    if size <= to:
        return None
    basis: Tensor = torch.linalg.qr(torch.randn(size, to, dtype=torch.float64, generator=generator, device="cpu"))[0]
    return basis


def _mapped(a: Tensor, by: Tensor | None) -> Tensor:
    return a if by is None else a @ by.to(a.dtype)


def _centered(a: Tensor, live: Tensor) -> Tensor:
    """Subtract the mean over the sequences that are live at each step; zero where one is not. `(T, B, …)`."""
    weight = live.unsqueeze(-1).to(a.dtype)
    return (a - (a * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)) * weight


def _without_rounding(centered: Tensor, e: Tensor, share: float) -> Tensor:
    """Zero at steps where all sequences have the same error, of which centering leaves rounding."""
    sizes = [torch.linalg.vector_norm(a, dim=(1, 2), keepdim=True) for a in (centered, e)]
    return torch.where(sizes[0] > share * sizes[1], centered, 0.0)


@dataclass
class Stack:
    """Layers that feed one another, from the bottom, and the gradient of each loss by their outputs."""

    runs: dict[str, Trajectory]  # by label
    # By layer ∂E_t/∂(output_t) `(T, B, P)`; with one loss per sequence ∂E_b/∂(output) of every step.
    errors: list[Tensor]
    targets: Tensor  # the steps t whose losses are followed; of no use with one loss per sequence
    lags: dict[str, Tensor] | None = None  # with one loss per sequence, by label the lag of every step `(T, 1 or B)`
    # Where there is a loss for each step and layers run in both directions, or feed one another through other modules:
    # their levels, of which the lowest is asked about.
    tower: Tower | None = None
    relay: Relay | None = None  # of an encoder-decoder; ``errors`` are then those of the decoder's layers, its first

    @property
    def asked(self) -> list[str]:
        """Labels of the layers whose gradients tell the lag."""
        if self.relay is not None:
            return self.relay.asked
        return list(self.runs) if self.tower is None else self.tower.levels[0]

    @property
    def by_pairs(self) -> bool:
        """Whether the adjoints of all pairs of steps are kept at a time, in float64."""
        return self.tower is not None or self.relay is not None

    @property
    def steps(self) -> int:
        """Steps of all layers that follow one another in time."""
        relay, first = self.relay, next(iter(self.runs.values()))
        return first.steps + (0 if relay is None else self.runs[relay.encoder[0][0]].steps)

    def of(self, some: slice) -> Stack:
        """The same of some of the sequences."""
        runs = {label: run._changed(lambda _, a: a[:, some]) for label, run in self.runs.items()}
        lags = None if self.lags is None else {label: lag[:, some] for label, lag in self.lags.items()}
        tower = None if self.tower is None else self.tower.changed(lambda link: link[:, some])
        relay = None if self.relay is None else self.relay.changed(lambda link: link[some])
        return Stack(runs, [e[:, some] for e in self.errors], self.targets, lags, tower, relay)


def stacks_of(graph: Graph, *, final: bool) -> list[Stack]:
    """The stacks of a recorded run, with the gradients at their own steps; all targets, and no lags yet.

    Raises
    ------
    FlowError
        The head mixes steps, or sequences; a layer runs backwards.
    """
    both = not final and any(own[0].reverse for own in graph.runs.values())
    errors = final_errors(graph) if final else None if both else local_adjoints(graph)
    towers: list[Tower] | None = []
    if errors is None and not final:
        errors = errors_both_ways(graph)
        towers = None if errors is None else layered(graph, errors)
    if (errors is None or towers is None) and not final and (chain := relayed(graph)) is not None:
        return [_of_relay(graph, *chain)]
    if errors is None or towers is None:
        raise FlowError(NOT_LOCAL)
    if MIXED in graph.notes:
        raise FlowError(MIXED_ERRORS)
    found: list[Stack] = []
    targets = torch.arange(len(graph.losses), device="cpu")
    for tower in towers:
        runs = {label: graph.trajectory(label) for label in tower.labels}
        found.append(Stack(runs, [errors[label] for label in tower.labels], targets, tower=tower))
    if found:
        return found
    for label, calls in graph.runs.items():
        first = calls[0]
        if not found or not isinstance(first, Call) or first.own_input:
            found.append(Stack({}, [], targets))
        found[-1].runs[label] = graph.trajectory(label)
        found[-1].errors.append(errors[label])
    return found


def _of_relay(graph: Graph, relay: Relay, errors: Mapping[str, Tensor]) -> Stack:
    """An encoder-decoder as a stack."""
    runs = {label: graph.trajectory(label) for label in relay.labels}
    targets = torch.arange(len(graph.losses), device="cpu")
    return Stack(runs, [errors[label] for label in relay.decoder], targets, relay=relay)


def lags_from_end(stack: Stack) -> dict[str, Tensor]:
    """With one loss per sequence: how many steps before the last step with an error each step is `(T, B)`."""
    found, last = {}, torch.zeros(0, device="cpu")
    for (label, run), e in reversed(list(zip(stack.runs.items(), stack.errors, strict=True))):
        steps = torch.arange(run.steps, device="cpu").unsqueeze(1)
        own = torch.where(e.cpu().ne(0).any(-1), steps, -1).max(0).values
        last = own if not len(last) else torch.maximum(last, own)
        found[label] = torch.where(last < 0, NEVER, last - steps)
    return found


class Sweep:
    """The errors, centered, of each sequence's own or another's, and how they travel back through a stack of layers."""

    def __init__(self, stack: Stack, labels: list[str], dtype: torch.dtype) -> None:
        """``labels`` are the layers that are asked about."""
        self._stack = [_converted(run, dtype) for run in stack.runs.values()]
        self.targets, self.final = stack.targets, stack.lags is not None
        self._tower = None if stack.tower is None else stack.tower.changed(lambda link: link.to("cpu", dtype))
        self._relay = None if stack.relay is None else stack.relay.changed(lambda link: link.to("cpu", dtype))
        self._place = {label: i for i, label in enumerate(stack.runs) if label in labels}
        first = self._stack[0]
        self._live = torch.ones(first.x.shape[:2], dtype=torch.bool, device="cpu") if first.mask is None else first.mask
        self._lag_of = {
            label: lag.expand(-1, first.batch_size) for label, lag in (stack.lags or {}).items() if label in labels
        }
        errors = [e.to("cpu", dtype) for e in stack.errors]
        errors = [self._from_end(e) if self.final else e for e in errors]
        rounding = 4 * torch.finfo(stack.errors[0].dtype).eps
        self.errors = [_without_rounding(_centered(e, e.ne(0).any(-1)), e, rounding) for e in errors]
        self._right = {label: self._right_sides(label, self._stack[i]) for label, i in self._place.items()}

    def _right_sides(self, label: str, run: Trajectory) -> list[Tensor]:
        """What a layer's weights are multiplied by, centered over the sequences: inputs, and states if asked about."""
        if self._relay is None:
            return [_centered(a, self._live) for a in (run.x, run.h_before)]
        at, there = self._relay.places(label, run)
        return [_centered(run.x.gather(0, at.unsqueeze(-1).expand(-1, -1, run.x.shape[2])), there)]

    @classmethod
    def of_flow(cls, flow: GradientFlow, label: str) -> Sweep:
        """The sweep through the stack of one layer of a measured flow."""
        if MIXED in flow.notes:
            raise FlowError(MIXED_ERRORS)
        known = flow._linearization
        own = known.run(label)
        if known.local is not None:
            runs, errors = next(s for s in known.stacks() if any(run is own for run in s[0]))
            names = {id(run): name for name, run in known.runs.items()}
            stack = Stack({names[id(run)]: run for run in runs}, errors, known.targets)
        elif known.graph is None:
            raise FlowError(NOT_LOCAL)
        else:
            stack = next(s for s in stacks_of(known.graph, final=flow.final) if label in s.runs)
            if flow.final:
                stack.lags = {label: torch.from_numpy(flow._lag_of_sequences(label)[0])}
            elif label not in stack.asked:
                raise FlowError(ABOVE.format(label, ", ".join(stack.asked)))
            else:
                stack.targets = known.targets
        wide = own.x.dtype != torch.float32 or stack.by_pairs or not _in_range(flow)
        return cls(stack, [label], torch.float64 if wide else torch.float32)

    @property
    def runs(self) -> dict[str, Trajectory]:
        """The runs of the layers that are asked about."""
        return {label: self._stack[i] for label, i in self._place.items()}

    @property
    def batch_size(self) -> int:
        """How many sequences there are."""
        return self._stack[0].batch_size

    @property
    def effort(self) -> float:
        """Multiplications of one sweep of one sequence."""
        steps = self._stack[0].steps
        pairs = self._tower is not None or self._relay is not None
        rows = steps if self.final else len(self.targets) * steps if pairs else float((self.targets + 1).sum())
        return rows * sum(run.weights.hh.numel() + run.weights.ih.numel() for run in self._stack)

    @property
    def is_wide(self) -> bool:
        """Whether gradients of some sequences leave the range of float32 (with one loss per sequence)."""
        above: Tensor | None = None
        sizes = []
        for run, e in reversed(list(zip(self._stack, self.errors, strict=True))):
            own = self._from_end(e)[None]
            whole = own if above is None else own + above
            found, above, _, _ = adjoint.backward(run, whole, None, None, need_x=True, keep=False)
            sizes.append(found.h[found.h > 0])
        every = torch.cat(sizes)
        return bool(((every < 1e-60) | (every > 1e30)).any())  # squares

    def lags(self, label: str) -> NDArray[np.int64]:
        """All lags of a layer, in rising order."""
        if self._relay is not None:
            encoder = label != self._relay.decoder[0]
            return np.arange(int(encoder), int(self.targets[-1]) + 1 + encoder * self._stack[self._place[label]].steps)
        if self._tower is not None:
            return np.arange(max(int(self.targets[-1]) + 1, self._stack[0].steps - int(self.targets[0])))
        if not self.final:
            return np.arange(int(self.targets[-1]) + 1)
        table = self._lag_of[label]
        return np.unique(table[table >= 0].numpy())

    def of(self, some: slice) -> Sweep:
        """The same of some of the sequences; they stay centered over all."""
        part = object.__new__(Sweep)
        part.__dict__.update(self.__dict__)
        part._stack = [run._changed(lambda _, a: a[:, some]) for run in self._stack]
        part._live = self._live[:, some]
        part._lag_of = {label: lag[:, some] for label, lag in self._lag_of.items()}
        part.errors = [e[:, some] for e in self.errors]
        part._tower = None if self._tower is None else self._tower.changed(lambda link: link[:, some])
        part._relay = None if self._relay is None else self._relay.changed(lambda link: link[some])
        part._right = {label: [a[:, some] for a in both] for label, both in self._right.items()}
        return part

    def windows(
        self, targets: Tensor | None, most: int, ahead: int = 0
    ) -> tuple[list[Tensor], list[Tensor], Tensor | None]:
        """For some targets (the last ``most``): the inputs, latest first `(lags, B, I)`, and the errors `(B, P)`.

        With one loss per sequence also the step of lag 0 of each `(B,)`. ``ahead``: so many inputs after the step of
        the loss come first, of layers that run forward with a loss at every step.
        """
        x = self._stack[0].x
        if self._relay is not None:
            chosen = (self.targets if targets is None else targets)[-most:].tolist()
            together = torch.cat(self.errors, -1)
            return [self._along_path(t) for t in chosen], [together[t] for t in chosen], None
        if self._tower is not None:
            every = (self.targets if targets is None else targets).tolist()
            stride = -(-len(every) // most)
            chosen = every[stride // 2 :: stride]
            together = torch.cat(self.errors, -1)
            return [_both_sides(x, t) for t in chosen], [together[t] for t in chosen], None
        if not self.final:
            chosen = (self.targets if targets is None else targets)[-most:].tolist()
            together = torch.cat(self.errors, -1)
            return [x[: t + 1 + ahead].flip(0) for t in chosen], [together[t] for t in chosen], None
        last = next(iter(self._lag_of.values()))[0].clamp(min=0)  # the step of lag 0
        k = last.unsqueeze(0) - torch.arange(len(x), device="cpu").unsqueeze(1)
        latest = x.gather(0, k.clamp(min=0).unsqueeze(-1).expand_as(x)) * (k >= 0).unsqueeze(-1)
        return [latest], [torch.cat(self.errors, -1).sum(0)], last

    def _along_path(self, t: int) -> Tensor:
        """The inputs of an encoder-decoder by their lag from a step t of the decoder, latest first `(lags, B, I)`."""
        assert self._relay is not None
        blocks, end = [], t + 1
        for label in self._relay.asked:
            (x,) = self._right[label]
            own = (
                x[: t + 1].flip(0)
                if label == self._relay.decoder[0]
                else torch.cat([x.new_zeros(end, *x.shape[1:]), x])
            )
            blocks.append(own)
        longest = max(map(len, blocks))
        return torch.cat([torch.cat([b, b.new_zeros(longest - len(b), *b.shape[1:])]) for b in blocks], -1)

    def _from_end(self, e: Tensor) -> Tensor:
        """Steps counted back from each sequence's last, or forth again: `(T, B, P)`."""
        if self._live.all():
            return e.flip(0)
        k = self._live.sum(0).unsqueeze(0) - 1 - torch.arange(len(e), device="cpu").unsqueeze(1)
        return e.gather(0, k.clamp(min=0).unsqueeze(-1).expand_as(e)) * (k >= 0).unsqueeze(-1)

    def parts(self, sides: Mapping[str, Sides], order: Tensor | None) -> Iterator[tuple[str, Part]]:
        """Yield what is contributed at each lag of each layer in ``sides``, lags rising.

        ``order`` gives each sequence another's error; None: its own.
        """
        errors = self.errors if order is None else [e[:, order] for e in self.errors]
        right = {
            label: [_mapped(a, by) for a, by in zip(self._right[label], own.right, strict=self._relay is None)]
            for label, own in sides.items()
        }
        if self.final:
            yield from self._of_last([self._from_end(e) for e in errors], sides, right)
            return
        errors = [e * self._live.unsqueeze(-1) for e in errors]
        if self._relay is not None:
            yield from self._of_relay(errors, sides, right)
            return
        if self._tower is not None:
            yield from self._of_both_ways(errors, sides, right)
            return
        for lag, found in adjoint.by_lag(self._stack, errors, self.targets, scaled=True):
            for label, own in sides.items():
                a = found[self._place[label]]
                factor, hidden, inputs = 1.0, a.hidden, self.runs[label].input_side(a.at, a.h, a.c, a.hidden)
                if a.scale is not None:
                    factor = float(a.scale.max())
                    relative = (a.scale / factor).nan_to_num(0.0).to(hidden.dtype).unsqueeze(-1)
                    same = inputs is hidden
                    hidden = hidden * relative
                    inputs = hidden if same else inputs * relative
                yield label, Part(lag, factor, _outer(_sides(own, inputs, hidden), [r[a.at] for r in right[label]]))

    def _of_both_ways(
        self, errors: list[Tensor], sides: Mapping[str, Sides], right: Mapping[str, list[Tensor]]
    ) -> Iterator[tuple[str, Part]]:
        assert self._tower is not None
        for label, lag, g in by_distance(
            self._tower,
            dict(zip(self._tower.labels, self._stack, strict=True)),
            dict(zip(self._tower.labels, errors, strict=True)),
            {label: inputs for label, (inputs, _) in right.items()},
            self.targets,
            {label: own.left for label, own in sides.items()},
        ):
            yield label, Part(lag, 1.0, g)

    def _of_relay(
        self, errors: list[Tensor], sides: Mapping[str, Sides], right: Mapping[str, list[Tensor]]
    ) -> Iterator[tuple[str, Part]]:
        assert self._relay is not None
        for label, lag, g in by_path(
            self._relay,
            dict(zip(self._relay.labels, self._stack, strict=True)),
            dict(zip(self._relay.decoder, errors, strict=True)),
            {label: inputs for label, (inputs,) in right.items()},
            self.targets,
            {label: own.left for label, own in sides.items()},
        ):
            yield label, Part(lag, 1.0, g)

    def _of_last(
        self, errors: list[Tensor], sides: Mapping[str, Sides], right: Mapping[str, list[Tensor]]
    ) -> Iterator[tuple[str, Part]]:
        above: Tensor | None = None
        lowest = min(self._place[label] for label in sides)
        labels = {self._place[label]: label for label in sides}
        for i in range(len(self._stack) - 1, lowest - 1, -1):
            whole = errors[i][None] if above is None else errors[i][None] + above
            keep = i in labels
            found, above, _, _ = adjoint.backward(self._stack[i], whole, None, None, need_x=i > lowest, keep=keep)
            if i not in labels:
                continue
            assert found.inputs is not None and found.hidden is not None
            label = labels[i]
            inputs, hidden = _sides(sides[label], found.inputs[0], found.hidden[0])
            table = self._lag_of[label]
            alike = bool(self._live.all()) and bool((table == table[:, :1]).all())
            for lag in self.lags(label):
                at, live = self._at(table, int(lag), alike)
                pair = [a[at].reshape(1, self.batch_size, -1) for a in (inputs, hidden)]
                pair = pair if live is None else [a * live.to(a.dtype) for a in pair]
                behind = [r[at].reshape(1, self.batch_size, -1) for r in right[label]]
                yield label, Part(int(lag), 1.0, _outer((pair[0], pair[1]), behind))

    def error_directions(self, most: int) -> Tensor:
        """With one loss per sequence: an orthonormal basis of the errors, of at most so many directions `(B, r)`."""
        whole = torch.cat([e.sum(0) for e in self.errors], -1).double()
        basis, sizes, _ = torch.linalg.svd(whole, full_matrices=False)
        chosen: Tensor = basis[:, sizes > DIRECTION * sizes[0]][:, :most]
        return chosen

    def averaged_parts(self, sides: Mapping[str, Sides], basis: Tensor) -> Iterator[tuple[str, Part]]:
        """With one loss per sequence, the same as `parts` with the mean adjoint in place of each sequence's own.

        What is left of an adjoint is what is linear in the error of its sequence, ``basis`` times a matrix that is the
        same for all: it does not know what its sequence did after that step. Adjoints have an arbitrary scale at each
        lag. Nothing where layers of the stack have different lags.
        """
        tables = list(self._lag_of.values())
        same = len(tables) == len(self._stack) and all(torch.equal(tables[0], table) for table in tables)
        if not same or not basis.shape[1]:
            return
        alike = bool(self._live.all()) and bool((tables[0] == tables[0][:, :1]).all())
        above: dict[int, Tensor] = {}
        for label, i in sorted(self._place.items(), key=lambda item: -item[1]):
            run, both = self._stack[i], zip(self._right[label], sides[label].right, strict=True)
            right = [_mapped(a, by) for a, by in both]
            errors = self._from_end(self.errors[i]).double()
            w_ih, w_hh = run.weights.ih.double(), run.weights.hh.double()
            h_carried = torch.zeros(basis.shape[1], w_hh.shape[1], dtype=torch.float64, device="cpu")
            c_carried = h_carried.new_zeros(len(h_carried), run.hidden_size)
            for lag in self.lags(label).tolist():
                at, live = self._at(tables[0], lag, alike)
                own = basis if live is None else basis * live  # (B, r)
                fit = own.T if live is None else torch.linalg.pinv(own)
                h = fit @ errors[at] + h_carried
                h = h + above[lag] if lag in above else h
                scale = max(float(h.abs().max()), float(c_carried.abs().max()))
                if not scale > 0:
                    continue
                alone = [(a / scale).to(run.x.dtype).unsqueeze(1).expand(-1, len(own), -1) for a in (h, c_carried)]
                pulled = run.pull(at, alone[0], alone[1])  # of every direction by itself (r, B, numbers)
                inputs = run.input_side(at, alone[0], alone[1], pulled.hidden)
                left = _sides(sides[label], inputs, pulled.hidden)
                found = [_weighed(own, a, r[at]) for a, r in zip(left, right, strict=True)]
                yield label, Part(lag, scale, torch.cat(found, 1))
                back = [None if a is None else _fitted(fit, own, a) * scale for a in (*pulled, inputs)]
                assert back[0] is not None
                h_carried = back[0] @ w_hh if back[1] is None else back[0] @ w_hh + back[1]
                c_carried = c_carried if back[2] is None else back[2]
                if i and back[3] is not None:
                    above[lag] = back[3] @ w_ih

    def _at(self, table: Tensor, lag: int, alike: bool) -> tuple[int | tuple[Tensor, Tensor], Tensor | None]:
        """The step of a lag: one for all sequences, or one of each `(B,)` and whether it has one `(B, 1)`."""
        if alike:
            return int((table[:, 0] == lag).int().argmax()), None
        there = (table == lag) & self._live
        return (there.int().argmax(0), torch.arange(self.batch_size, device="cpu")), there.any(0).unsqueeze(-1)


def _sides(own: Sides, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The left sides of both matrices' gradients, brought down to few numbers."""
    second = _mapped(hidden, own.left)
    return second if inputs is hidden or inputs.data_ptr() == hidden.data_ptr() else _mapped(inputs, own.left), second


def _outer(left: tuple[Tensor, Tensor], right: list[Tensor]) -> Tensor:
    """g_b of both matrices side by side `(B, numbers)`, from both sides of each, `(rows, B, …)`."""
    return torch.cat([torch.einsum("kbi,kbj->bij", a, r).flatten(1) for a, r in zip(left, right, strict=True)], 1)


def _weighed(basis: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Outer products of `(r, B, I)` and `(B, J)`, centered over sequences, summed with weights `(B, r)`: `(B, I·J)`."""
    whole = torch.einsum("rbi,bj->rbij", left, right)
    live = basis.ne(0).any(1).to(left.dtype)
    mean = torch.einsum("rbij,b->rij", whole, live / live.sum().clamp(min=1))
    return torch.einsum("rbij,br->bij", whole - mean.unsqueeze(1), basis.to(left.dtype)).flatten(1)


def _fitted(fit: Tensor, basis: Tensor, a: Tensor) -> Tensor:
    """What of Σ_r basis_br a_rb is linear in the errors, by direction: `(r, numbers)` of `(r, B, numbers)`."""
    return fit @ torch.einsum("rbi,br->bi", a.double(), basis)


def _both_sides(x: Tensor, t: int) -> Tensor:
    """The inputs of the steps t − ℓ and t + ℓ next to each other, by ℓ `(T, B, 2·I)`; 0 where there is none."""
    before, after = torch.zeros_like(x), torch.zeros_like(x)
    before[: t + 1], after[: len(x) - t] = x[: t + 1].flip(0), x[t:]
    return torch.cat([before, after], -1)


def _in_range(flow: GradientFlow) -> bool:
    """Whether float32 has all digits of the gradients, and of their products with states."""
    sizes = flow.norms[flow.norms != 0]
    if flow.linearization is not None and flow.linearization.local is not None:  # the sweep rescales small ones
        return bool((sizes < 1e30).all())
    return flow.below is None and bool(((sizes > 1e-30) & (sizes < 1e30)).all())


def _converted(run: Trajectory, dtype: torch.dtype) -> Trajectory:
    """The same in another type, on the CPU."""

    def converted(a: Tensor | None) -> Any:
        return None if a is None else a.to("cpu", dtype)

    own = {name: converted(getattr(run, name)) for name in ("x", "h_before", "h", "gates", "c_before", "c", "inner")}
    w = run.weights
    weights = Weights(*map(converted, (w.ih, w.hh, w.bias_ih, w.bias_hh, w.hr)))
    return replace(run, weights=weights, mask=None if run.mask is None else run.mask.cpu(), **own)

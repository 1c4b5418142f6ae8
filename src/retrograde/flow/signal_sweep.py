"""What each sequence contributes to the gradient of a layer's weights at every lag, with its own error or another's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import FlowError
from . import adjoint
from .cells import Trajectory, Weights
from .graph import MIXED
from .head import final_errors

if TYPE_CHECKING:
    from .result import GradientFlow

__all__ = ["SIZE", "Part", "Sides", "Sweep"]

NEVER = np.iinfo(np.int64).min  # the lag of a pair without one
NOT_LOCAL = (
    "The signal by lag gives each sequence the error of another: that takes layers which run forward in time, each fed "
    "by the one below, under a head that looks at one step at a time (or a loss per sequence), and the flow that "
    "gradient_flow returns."
)
SIZE = 32  # of a random projection, to each side of a weight matrix
MANY = 2**24  # numbers in all g_b together, above which they are projected
KEPT = 2**25  # adjoints of a loss per sequence that are kept at a time


class Part(NamedTuple):
    """What the sequences contribute at one lag: ``factor`` times ``gradients`` `(B, numbers)`."""

    lag: int
    factor: float
    gradients: Tensor


class Sides:
    """The maps that bring the two sides of a layer's ∂E/∂U and ∂E/∂W down to few numbers; None leaves them whole."""

    def __init__(self, run: Trajectory, generator: torch.Generator, exact: bool | None, rows: int) -> None:
        """``rows`` is the larger of the number of sequences and of lags: so many gradients are kept."""
        width, inputs, states = run.weights.hh.shape[0], run.x.shape[-1], run.h_before.shape[-1]
        self.projected = rows * width * (inputs + states) > MANY if exact is None else not exact
        self.left: Tensor | None = None
        self.right: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.projected:
            self.left = _projection(width, generator)
            self.right = (_projection(inputs, generator), _projection(states, generator))


def _projection(size: int, generator: torch.Generator) -> Tensor | None:
    """An orthonormal map to fewer dimensions, which keeps angles on average; None where there are few."""
    if size <= SIZE:
        return None
    basis: Tensor = torch.linalg.qr(torch.randn(size, SIZE, dtype=torch.float64, generator=generator))[0]
    return basis


def _mapped(a: Tensor, by: Tensor | None) -> Tensor:
    return a if by is None else a @ by.to(a.dtype)


def _centered(a: Tensor, live: Tensor) -> Tensor:
    """Subtract the mean over the sequences that are live at each step; zero where one is not. `(T, B, …)`."""
    weight = live.unsqueeze(-1).to(a.dtype)
    return (a - (a * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)) * weight


class Sweep:
    """The errors, centered, of each sequence's own or another's, and how they travel back through a stack of layers.

    Attributes
    ----------
    labels : list of str
        The layers of the stack that are asked about.
    runs : dict of Trajectory
        Theirs, by label.
    targets : Tensor
        The steps t whose losses are followed; with one loss per sequence, of one row.
    """

    def __init__(self, flow: GradientFlow, labels: list[str]) -> None:
        if MIXED in flow.notes:
            raise FlowError(
                "Sequences are mixed (batch normalization in training mode?), so none can be given another's error."
            )
        known = flow._linearization
        runs = {label: known.run(label) for label in labels}
        self.final = known.local is None
        if known.local is not None:
            stack, errors = next(s for s in known.stacks() if any(run is runs[labels[0]] for run in s[0]))
        else:
            found = None if known.graph is None or not flow.final else final_errors(known.graph)
            if found is None:
                raise FlowError(NOT_LOCAL)
            stack, errors = [known.runs[name] for name in found], list(found.values())
        self.labels = [label for label in labels if any(run is runs[label] for run in stack)]
        at = [next(i for i, run in enumerate(stack) if run is runs[label]) for label in self.labels]
        lags = [torch.from_numpy(flow._lag_of_sequences(label)[0]) for label in self.labels if self.final]
        dtype = torch.float32 if stack[0].x.dtype == torch.float32 and _in_range(flow) else torch.float64
        self._stack = [_converted(run, dtype) for run in stack]
        self.targets = known.targets
        self._place = dict(zip(self.labels, at, strict=True))
        first = self._stack[0]
        self._live = torch.ones(first.x.shape[:2], dtype=torch.bool) if first.mask is None else first.mask
        self._lag_of = {
            label: lag.expand(-1, first.batch_size) for label, lag in zip(self.labels, lags, strict=self.final)
        }
        errors = [e.to("cpu", dtype) for e in errors]
        errors = [self._from_end(e) if self.final else e for e in errors]
        self.errors = [_centered(e, e.ne(0).any(-1)) for e in errors]
        self._right = {
            label: [_centered(a, self._live) for a in (self._stack[i].x, self._stack[i].h_before)]
            for label, i in self._place.items()
        }

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
        rows = self._stack[0].steps if self.final else float((self.targets + 1).sum())
        return rows * sum(run.weights.hh.numel() + run.weights.ih.numel() for run in self._stack)

    def lags(self, label: str) -> NDArray[np.int64]:
        """All lags of a layer, in rising order."""
        if not self.final:
            return np.arange(int(self.targets[-1]) + 1)
        table = self._lag_of[label]
        found = np.unique(table[table >= 0].numpy())
        if not len(found):
            raise FlowError(f"No loss has a gradient in {label}, so there is no lag with a signal.")
        return found

    def of(self, some: slice) -> Sweep:
        """The same of some of the sequences; they stay centered over all."""
        part = object.__new__(Sweep)
        part.__dict__.update(self.__dict__)
        part._stack = [run._changed(lambda _, a: a[:, some]) for run in self._stack]
        part._live = self._live[:, some]
        part._lag_of = {label: lag[:, some] for label, lag in self._lag_of.items()}
        part.errors = [e[:, some] for e in self.errors]
        part._right = {label: [a[:, some] for a in both] for label, both in self._right.items()}
        return part

    def _from_end(self, e: Tensor) -> Tensor:
        """Steps counted back from each sequence's last, or forth again: `(T, B, P)`."""
        k = self._live.sum(0).unsqueeze(0) - 1 - torch.arange(len(e)).unsqueeze(1)
        return e.gather(0, k.clamp(min=0).unsqueeze(-1).expand_as(e)) * (k >= 0).unsqueeze(-1)

    def parts(self, sides: Mapping[str, Sides], order: Tensor | None) -> Iterator[tuple[str, Part]]:
        """Yield what is contributed at each lag of each layer in ``sides``, lags rising.

        ``order`` gives each sequence another's error; None: its own.
        """
        errors = self.errors if order is None else [e[:, order] for e in self.errors]
        right = {
            label: [_mapped(a, by) for a, by in zip(self._right[label], own.right, strict=True)]
            for label, own in sides.items()
        }
        if self.final:
            yield from self._of_last([self._from_end(e) for e in errors], sides, right)
            return
        errors = [e * self._live.unsqueeze(-1) for e in errors]
        for lag, found in adjoint.by_lag(self._stack, errors, self.targets, scaled=True):
            for label, own in sides.items():
                a = found[self._place[label]]
                factor, hidden, inputs = 1.0, a.hidden, self.runs[label].input_side(a.at, a.h, a.hidden)
                if a.scale is not None:
                    factor = float(a.scale.max())
                    relative = (a.scale / factor).nan_to_num(0.0).to(hidden.dtype).unsqueeze(-1)
                    same = inputs is hidden
                    hidden = hidden * relative
                    inputs = hidden if same else inputs * relative
                yield label, Part(lag, factor, _outer(own, inputs, hidden, [r[a.at] for r in right[label]]))

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
            label, batch = labels[i], torch.arange(self.batch_size)
            for lag in self.lags(label):
                there = (self._lag_of[label] == int(lag)) & self._live
                at = (there.int().argmax(0), batch)  # the step of each sequence, where it has one
                live = there.any(0).unsqueeze(-1).to(found.inputs.dtype)
                inputs, hidden = ((a[0][at] * live)[None] for a in (found.inputs, found.hidden))
                yield (
                    label,
                    Part(int(lag), 1.0, _outer(sides[label], inputs, hidden, [r[at][None] for r in right[label]])),
                )


def _outer(own: Sides, inputs: Tensor, hidden: Tensor, right: list[Tensor]) -> Tensor:
    """g_b of both matrices side by side `(B, numbers)`, from adjoints `(rows, B, G·H)` and what they multiply."""
    second = _mapped(hidden, own.left)
    first = second if inputs is hidden else _mapped(inputs, own.left)
    found = [torch.einsum("kbi,kbj->bij", a, r).flatten(1) for a, r in zip((first, second), right, strict=True)]
    return torch.cat(found, 1)


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

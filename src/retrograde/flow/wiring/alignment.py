"""At which step of a layer each loss is, so that a lag is a known number of steps.

A lag counts from the step of the layer to which a loss belongs: lag = at − k. Where the loss has as many steps as the
layer, loss t is at step t. Where it has fewer or more (an output cut off, a forecast, a pyramid of layers), the
measurement tells: no gradient of a causal layer comes from steps after the one that the loss depends on, so the last k
with a gradient, for each t, gives offset and stride. An encoder has the same last k for every t; it precedes the
losses, so its last step is one step before the first of them. Anything else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import FlowError, OptionError

Ints = NDArray[np.int64]
Kind = Literal["step", "encoder", "sequence", "stated", "refused"]
NEVER = -1  # the step of a loss without a gradient


@dataclass(frozen=True)
class Alignment:
    """Where the losses are on a layer's steps."""

    # ``"step"``: each loss is at a step of the layer; ``"encoder"``: all are after its last step; ``"sequence"``: one
    # loss per sequence, at the last step it depends on; ``"stated"``: as ``loss_at`` says; ``"refused"``: not known,
    # for the ``reason``.
    kind: Kind
    # The step of loss t, `(targets, 1)`, or `(targets, B)` where the sequences differ; −1 where a sequence has no loss.
    # Beyond the last step in an encoder.
    at: Ints
    ahead: bool = False  # whether lags count the other way, k − at, as in a reverse layer
    delay: Ints | None = None  # the lag of the nearest state that loss t depends on, `(targets,)`; None for 0
    reason: str = ""  # why lags are refused, or what a reader must know; else empty

    @classmethod
    def refused(cls, label: str, why: str, targets: int, *, ahead: bool) -> Alignment:
        """Lags of a layer that are not known."""
        reason = (
            f"Lags of {label} are not known: {why}. norms[t, k] is exact; give the layer's step of each loss with "
            "loss_at=."
        )
        return cls("refused", np.full((targets, 1), NEVER), ahead, None, reason)

    def lags(self, steps: int) -> Ints:
        """The lag of every pair, `(targets, T, 1)` or `(targets, T, B)`.

        Raises FlowError if they are not known.
        """
        if self.kind == "refused":
            raise FlowError(self.reason)
        k = np.arange(steps)[None, :, None]
        at = self.at[:, None, :]
        return np.asarray(k - at if self.ahead else at - k)

    @property
    def by_sequence(self) -> bool:
        """Whether the losses of the sequences are at different steps."""
        return bool(self.at.shape[1] > 1)


@dataclass
class Reach:
    """The states of a layer that have a gradient: the first and the last of each loss and sequence, `(rows, B)`.

    ``rows`` are the steps t of the losses; a loss without a gradient has −1.
    """

    rows: Ints
    first: Ints
    last: Ints

    @classmethod
    def of(cls, rows: Ints, exists: NDArray[np.bool_]) -> Reach:
        """From which states have a gradient, `(rows, T, B)`."""
        some, steps = exists.any(1), exists.shape[1]
        first = np.where(some, exists.argmax(1), NEVER).astype(np.int64)
        last = np.where(some, steps - 1 - exists[:, ::-1].argmax(1), NEVER).astype(np.int64)
        return cls(rows, first, last)

    def nearest(self, reverse: bool) -> Ints:
        """The state that a loss depends on without a step of the layer between, `(rows, B)`."""
        return self.first if reverse else self.last

    @property
    def live(self) -> Ints:
        """The losses that have a gradient."""
        found: Ints = self.rows[(self.last != NEVER).any(1)]
        return found


def moves(near: Ints) -> bool:
    """Whether the nearest states `(rows, B)` differ between the losses of any sequence."""
    return any(len(set(column[column != NEVER].tolist())) > 1 for column in near.T)


def aligned(
    reach: Reach,
    targets: Ints,
    steps: int,
    loss_steps: int,
    *,
    reverse: bool,
    final: bool,
    encodes: bool,
    follows: bool,
    label: str,
    along: Ints | None = None,
) -> Alignment:
    """Where the losses are, from what was measured.

    reach: the states that each loss and sequence has a gradient of.
    targets: the losses t whose steps are wanted.
    steps, loss_steps: T of the layer and of the losses.
    reverse: whether the layer runs from its last step to the first.
    final: whether there is one loss per sequence.
    encodes: whether a layer on whose every state each loss depends is known to be an encoder, with steps of its own.
    follows: whether it is known not to be one: it feeds a layer that follows the losses step by step.
    label: the layer's label, for the reason.
    along: of an encoder: the steps of the targets on its decoder, counted from the decoder's first step; by default the
        targets are the decoder's own steps.
    """
    near = reach.nearest(reverse)
    known = near != NEVER
    if final:
        return Alignment("sequence", one_column(np.where(known[:1], near[:1], NEVER)), reverse)
    if not known.any():
        return Alignment("step", targets[:, None], reverse)
    line = _line(reach.rows, near, known)
    constant, single = not moves(near), len(reach.live) == 1
    if steps == loss_steps:
        constant = constant and not single
        line = None if single else line
        delayed = (
            line is not None
            and line.stride == 1
            and bool(((line.offset >= 0) if reverse else (line.offset <= 0)).all())
        )
        if delayed or not (line is not None or (constant and encodes)):
            delay = _delays(reach.rows, near, known, targets, reverse)
            note = ""
            if not delayed and not reverse and (near > reach.rows[:, None])[known].any():
                note = f"losses also depend on states of {label} after their own step; by_lag counts those up to it"
            return Alignment("step", targets[:, None], reverse, delay, note)
    if constant and (encodes if single else not follows):
        end = reach.last.max(0)  # of each sequence
        after = 1 + (targets if along is None else along)
        return Alignment("encoder", one_column(np.where(end == NEVER, NEVER, after[:, None] + end)), False, after)
    if line is not None and not (constant and follows):
        return Alignment("step", one_column(line.at(targets)), reverse)
    why = (
        f"the loss has {loss_steps} steps, the layer {steps}, and the states that the losses depend on follow no line "
        f"({_examples(reach.rows, near, known)})"
    )
    return Alignment.refused(label, why, len(targets), ahead=reverse)


def stated(loss_at: Any, targets: Ints, loss_steps: int, batch: int, *, reverse: bool, final: bool) -> Alignment:
    """Where the losses are, as the user says.

    Raises OptionError if ``loss_at`` has the wrong form.
    """
    size, per = (batch, "sequence") if final else (loss_steps, "step of the loss")
    form = f"loss_at is {loss_at!r:.60}; give the layer's step of each loss, {size} whole numbers (one per {per})"
    try:
        given = np.asarray(loss_at)
    except Exception:
        raise OptionError(f"{form}.") from None
    alone = given.shape == ()
    if given.dtype.kind not in "iu" or given.shape not in ((), (size,)) or (alone and given < 0):
        raise OptionError(f"{form}, or one number, the step of the first.")
    if alone:
        given = np.full(size, given) if final else given + np.arange(size)
    given = given.astype(np.int64)
    return Alignment("stated", given[None, :] if final else given[targets][:, None], reverse)


def for_layer(loss_at: Sequence[int] | Mapping[str, Any] | Any | None, label: str) -> Any | None:
    """What ``loss_at`` says about one layer."""
    if isinstance(loss_at, Mapping):
        return loss_at.get(label, loss_at.get(label.rpartition("#")[0]) if "#" in label else None)
    return loss_at


@dataclass(frozen=True)
class _Line:
    """near = offset + ⌊(t + phase) · stride⌋, each sequence with an offset of its own `(B,)`; −1 without a loss."""

    offset: Ints
    some: NDArray[np.bool_]
    stride: float
    per: int = 1  # losses per step, where the stride is below 1
    phase: int = 0

    def at(self, t: Ints) -> Ints:
        along = (t + self.phase) // self.per if self.per > 1 else t * int(self.stride)
        return np.where(self.some[None, :], along[:, None] + self.offset[None, :], NEVER)


def _line(rows: Ints, near: Ints, known: NDArray[np.bool_]) -> _Line | None:
    """The line on which the nearest states are, each sequence with an offset of its own."""
    some: NDArray[np.bool_] = np.asarray(known.any(0))
    candidates: list[tuple[float, int, int]] = []
    for b in np.flatnonzero(known.sum(0) > 1):
        t, k = rows[known[:, b]], near[known[:, b], b]
        if k[-1] == k[0]:
            break
        slope = (k[-1] - k[0]) / (t[-1] - t[0])
        if abs(slope) >= 1:
            candidates = [(round(slope), 1, 0)]
        elif slope > 0:
            per = round(1 / slope)
            candidates = [(1 / n, n, c) for n in (per, per + 1, per - 1) if n > 1 for c in range(n)]
        break
    else:
        candidates = [(1, 1, 0)]  # a single loss: it is at the state it depends on
    for stride, per, phase in candidates:
        along = (rows + phase) // per if per > 1 else rows * int(stride)
        offsets = np.where(known, near - along[:, None], np.iinfo(np.int64).min)
        offset = offsets.max(0)
        if (offsets == offset)[known].all():
            return _Line(np.where(some, offset, 0), some, stride, per, phase)
    return None


def extrapolated(rows: Ints, near: Ints, at: Ints) -> Ints | None:
    """The nearest states of the steps ``at`` `(at, B)`, on the line through those of ``rows``; None without a line."""
    found = _line(rows, near, near != NEVER)
    return None if found is None else found.at(at)


def one_column(at: Ints) -> Ints:
    """The steps of the losses, as one column where all sequences that have a loss have it at the same step."""
    top = at.max(1, keepdims=True)
    return top if ((at == top) | (at == NEVER)).all() else at


def _delays(rows: Ints, near: Ints, known: NDArray[np.bool_], targets: Ints, reverse: bool) -> Ints:
    """The distance of each loss from the nearest state that it depends on."""
    away = np.where(known, (near - rows[:, None]) if reverse else (rows[:, None] - near), np.iinfo(np.int64).max)
    found = dict(zip(rows.tolist(), away.min(1).tolist(), strict=True))
    return np.asarray([max(0, found.get(int(t), 0)) % np.iinfo(np.int64).max for t in targets], dtype=np.int64)


def _examples(rows: Ints, near: Ints, known: NDArray[np.bool_]) -> str:
    there = np.flatnonzero(known.any(1))
    parts = []
    for i in sorted({*there[:2].tolist(), *there[-1:].tolist()}):
        steps = sorted(set(near[i][known[i]].tolist()))
        several = f" to {steps[-1]} by sequence" if len(steps) > 1 else ""
        parts.append(f"loss {rows[i]} up to step {steps[0]}{several}")
    return ", ".join(parts)

"""Where each loss stands on a layer's axis of steps, so that a lag is a number of steps and not a guess.

A lag is counted from the step of the layer at which a loss stands: lag = at − k. Where the loss has as many steps as
the layer, loss t stands at step t. Where it has fewer or more (an output cut off, a forecast, a pyramid of layers), the
measurement itself tells: no gradient of a causal layer comes from steps after the one that the loss looks at, so the
last k with a gradient, for each t, gives offset and stride. An encoder has the same last k for every t; it lies before
the losses, so its last step is one step before the first of them. Anything else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import FlowError, OptionError

__all__ = ["Alignment", "Reach", "aligned", "stated", "through"]

Ints = NDArray[np.int64]
Kind = Literal["step", "encoder", "sequence", "stated", "refused"]
_NEVER = -1  # a loss without a gradient


@dataclass(frozen=True)
class Alignment:
    """Where the losses stand on a layer's steps.

    Attributes
    ----------
    kind : str
        ``"step"``: each loss stands at a step of the layer; ``"encoder"``: all stand behind its last step;
        ``"sequence"``: one loss per sequence, at the last step it looks at; ``"stated"``: as ``loss_at`` says;
        ``"refused"``: not known, for the ``reason``.
    at : ndarray of int
        The step at which loss t stands, `(targets, 1)`, or `(targets, B)` where the sequences differ; −1 where a
        sequence has no loss. Beyond the last step in an encoder.
    ahead : bool
        Whether lags count the other way, k − at, as in a reverse layer.
    delay : ndarray of int
        The lag of the nearest state that loss t looks at, `(targets,)`.
    reason : str
        Why lags are refused, or what a reader must know; else empty.
    """

    kind: Kind
    at: Ints
    ahead: bool = False
    delay: Ints | None = None
    reason: str = ""

    def lags(self, steps: int) -> Ints:
        """The lag of every pair, `(targets, T, 1)` or `(targets, T, B)`.

        Raises
        ------
        FlowError
            They are not known.
        """
        if self.kind == "refused":
            raise FlowError(self.reason)
        k = np.arange(steps)[None, :, None]
        at = self.at[:, None, :]
        return np.asarray(k - at if self.ahead else at - k)

    @property
    def by_sequence(self) -> bool:
        """Whether the sequences stand at different steps."""
        return bool(self.at.shape[1] > 1)


@dataclass
class Reach:
    """The states of a layer that have a gradient: the first and the last of each loss and sequence, `(rows, B)`.

    ``rows`` are the steps t of the losses; a loss without a gradient has −1.
    """

    rows: Ints
    first: Ints
    last: Ints


def touched(exists: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """The first and the last step with a gradient, from `(rows, T, B)` to `(rows, B)` each; −1 where there is none."""
    some = exists.any(1)
    steps = exists.shape[1]
    first = np.where(some, exists.argmax(1), _NEVER)
    last = np.where(some, steps - 1 - exists[:, ::-1].argmax(1), _NEVER)
    return first.astype(np.int64), last.astype(np.int64)


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
    """Where the losses stand, by what was measured.

    Parameters
    ----------
    reach
        Which states each loss and sequence has a gradient of.
    targets
        The losses t whose place is wanted.
    steps, loss_steps
        T of the layer and of the losses.
    reverse
        Whether the layer runs from its last step to the first.
    final
        Whether there is one loss per sequence.
    encodes
        Whether a layer whose every state each loss looks at is known to be an encoder, with steps of its own.
    follows
        Whether it is known to be none: it feeds a layer that follows the losses step by step.
    label
        Of the layer, for the reason.
    along
        Of an encoder: where the targets stand on its decoder, counted from the decoder's first step; by default the
        targets are the decoder's own steps.
    """
    near = reach.first if reverse else reach.last  # the state that a causal loss looks at directly
    known = near != _NEVER
    if final:
        at = np.where(known[:1], near[:1], _NEVER)
        return Alignment("sequence", alike(at), reverse, np.zeros(1, dtype=np.int64))
    zero = np.zeros(len(targets), dtype=np.int64)
    if not known.any():
        return Alignment("step", targets[:, None], reverse, zero)
    line = _line(reach.rows, near, known)
    constant = all(len(set(near[known[:, b], b].tolist())) == 1 for b in range(near.shape[1]) if known[:, b].any())
    single = int(known.any(1).sum()) == 1
    if steps == loss_steps:
        constant = constant and not single
        line = None if single else line
        delayed = (
            line is not None and line.stride == 1 and (line.offset <= 0 if not reverse else line.offset >= 0).all()
        )
        if delayed or not (line is not None or (constant and encodes)):
            delay = _delays(reach.rows, near, known, targets, reverse)
            note = ""
            if not delayed and not reverse and (near > reach.rows[:, None])[known].any():
                note = f"losses look at states of {label} after their own step too; by_lag is of those up to it"
            return Alignment("step", targets[:, None], reverse, delay, note)
    if constant and (encodes if single else not follows):
        end = np.where(reach.last != _NEVER, reach.last, _NEVER).max(0)  # of each sequence
        after = 1 + (targets if along is None else along)
        at = np.where(end == _NEVER, _NEVER, after[:, None] + end)
        return Alignment("encoder", alike(at), False, after)
    if line is not None and not (constant and follows):
        return Alignment("step", alike(line.at(targets)), reverse, zero)
    return Alignment(
        "refused",
        np.full((len(targets), 1), _NEVER),
        reverse,
        zero,
        f"Lags of {label} are not known: the loss has {loss_steps} steps, the layer {steps}, and which states the "
        f"losses look at follows no line ({_examples(reach.rows, near, known)}). norms[t, k] is exact; say at which "
        "step of the layer each loss stands with loss_at=.",
    )


def stated(loss_at: Any, targets: Ints, loss_steps: int, batch: int, *, reverse: bool, final: bool) -> Alignment:
    """Where the losses stand, as the user says.

    Raises
    ------
    OptionError
        What was said has the wrong form.
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
    at = given[None, :] if final else given[targets][:, None]
    return Alignment("stated", at, reverse, np.zeros(len(targets), dtype=np.int64))


@dataclass(frozen=True)
class _Line:
    """near = offset + ⌊(t + phase) · stride⌋, each sequence with an offset of its own `(B,)`; −1 without a loss."""

    offset: Ints
    some: NDArray[np.bool_]
    stride: float
    per: int = 1  # losses to a step, where the stride is below 1
    phase: int = 0

    def at(self, t: Ints) -> Ints:
        along = (t + self.phase) // self.per if self.per > 1 else t * int(self.stride)
        return np.where(self.some[None, :], along[:, None] + self.offset[None, :], _NEVER)


def _line(rows: Ints, near: Ints, known: NDArray[np.bool_]) -> _Line | None:
    """The line on which what the losses look at lies, each sequence with an offset of its own."""
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
        candidates = [(1, 1, 0)]  # a single loss: it stands where it looks
    for stride, per, phase in candidates:
        along = (rows + phase) // per if per > 1 else rows * int(stride)
        offsets = np.where(known, near - along[:, None], np.iinfo(np.int64).min)
        offset = offsets.max(0)
        if (offsets == offset)[known].all():
            return _Line(np.where(some, offset, 0), some, stride, per, phase)
    return None


def alike(at: Ints) -> Ints:
    """Where the losses stand, as one column where all sequences that have a loss stand at the same step."""
    top = at.max(1, keepdims=True)
    return top if ((at == top) | (at == _NEVER)).all() else at


def through(rows: Ints, near: Ints, at: Ints) -> Ints | None:
    """What steps look at `(at, B)`, by the line through what some look at `(rows, B)`; None where that is no line."""
    found = _line(rows, near, near != _NEVER)
    return None if found is None else found.at(at)


def _delays(rows: Ints, near: Ints, known: NDArray[np.bool_], targets: Ints, reverse: bool) -> Ints:
    """How far each loss lies from the nearest state that it looks at."""
    away = np.where(known, (near - rows[:, None]) if reverse else (rows[:, None] - near), np.iinfo(np.int64).max)
    found = dict(zip(rows.tolist(), away.min(1).tolist(), strict=True))
    return np.asarray([max(0, found.get(int(t), 0)) % np.iinfo(np.int64).max for t in targets], dtype=np.int64)


def _examples(rows: Ints, near: Ints, known: NDArray[np.bool_]) -> str:
    there = np.flatnonzero(known.any(1))
    chosen = sorted({*there[:2].tolist(), *there[-1:].tolist()})
    parts = []
    for i in chosen:
        steps = sorted(set(near[i][known[i]].tolist()))
        parts.append(
            f"loss {rows[i]} up to step {steps[0]}" + (f" to {steps[-1]} by sequence" if len(steps) > 1 else "")
        )
    return ", ".join(parts)


def for_layer(loss_at: Sequence[int] | Mapping[str, Any] | Any | None, label: str) -> Any | None:
    """What the user said of one layer."""
    if isinstance(loss_at, Mapping):
        return loss_at.get(label, loss_at.get(label.rpartition("#")[0]) if "#" in label else None)
    return loss_at

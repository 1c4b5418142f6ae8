"""``sequence_gradients``: the gradient norm of every parameter for each sequence of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import FlowError, first_line
from .recording.graph import MIXED, quiet_vmap
from .recording.recorded import MeasuredModel

Array = NDArray[np.float64]
_BLOCK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class SequenceGradients:
    """‖∂E_b/∂θ‖ for every sequence b and parameter θ; E_b is the sum of the sequence's losses.

    Attributes
    ----------
    norms : dict of ndarray
        By the parameter's name in ``state_dict``, `(B,)`.
    losses : ndarray
        E_b, `(B,)`.
    names : list of str
        Names of the sequences.
    notes : list of str
        What a reader must know about the measurement.
    """

    norms: dict[str, Array]
    losses: Array
    names: list[str]
    notes: list[str]

    @property
    def total(self) -> Array:
        """Norm of each sequence's whole gradient, `(B,)`."""
        return np.sqrt(sum((n * n for n in self.norms.values()), np.zeros(len(self.names))))

    def exploding(self, factor: float = 10.0) -> list[tuple[str, float]]:
        """Sequences whose whole gradient is above ``factor`` times the batch's median, or not finite.

        Returns
        -------
        list of (str, float)
            Name and norm, the largest first.
        """
        total = self.total
        finite = total[np.isfinite(total)]
        limit = factor * float(np.median(finite)) if len(finite) else 0.0
        bad = [i for i in range(len(total)) if not np.isfinite(total[i]) or total[i] > limit]
        bad.sort(key=lambda i: -total[i] if np.isfinite(total[i]) else -np.inf)
        return [(self.names[i], float(total[i])) for i in bad]


def sequence_gradients(
    model: Callable[..., Any],
    *inputs: Any,
    loss: Callable[[Any], Tensor],
    kwargs: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
    training: bool = False,
    module: nn.Module | Sequence[nn.Module] | None = None,
) -> SequenceGradients:
    """Gradient norms of every parameter for every sequence, in one (vectorised) backward pass.

    ``torch.func.vmap`` over ``grad`` does not support ``nn.RNN``, ``nn.GRU`` and ``nn.LSTM``; this does.

    Parameters
    ----------
    model, inputs, loss, kwargs, training, module
        As in ``gradient_flow``; the parameters are those of the modules behind the model. Sequences are assumed
        to be independent of each other.
    names : sequence of str, optional
        Names of the sequences; their numbers by default.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> rnn, x = torch.nn.RNN(2, 4), torch.randn(10, 3, 2)
    >>> found = rg.sequence_gradients(rnn, x, loss=lambda output: output[0].square().sum(-1))
    >>> found.norms["weight_hh_l0"].shape
    (3,)
    """
    with MeasuredModel(model, inputs, loss, kwargs, module, training).recorded(freeze=False, finite=False) as run:
        graph, notes = run.graph(list(run.runs)), run.notes
        if graph.mixes_sequences():
            notes.append(MIXED)
        table, batch = run.losses, run.losses.shape[1]
        labels = _labels(names, batch)
        if not isinstance(run.module, nn.Module):
            raise FlowError("No module was found behind the model, so its parameters are not known: give module=.")
        parameters = {name: p for name, p in run.module.named_parameters() if p.requires_grad}
        norms = {name: np.zeros(batch) for name in parameters}
        numbers = sum(p.numel() for p in parameters.values())
        numbers += 4 * sum(c.h.shape[0] * c.h.shape[1] * c.width for c in run.recorder.calls)
        block = max(1, min(batch, _BLOCK_BYTES // (numbers * table.element_size())))
        for sequences in torch.split(torch.arange(batch, device="cpu"), block):
            directions = table.new_zeros(len(sequences), *table.shape)
            directions[torch.arange(len(sequences), device="cpu"), :, sequences] = 1
            found = _gradients(table, list(parameters.values()), directions, notes)
            for name, g in zip(parameters, found, strict=True):
                norms[name][sequences.numpy()] = g.flatten(1).double().norm(dim=1).cpu().numpy()
    return SequenceGradients(norms, table.detach().sum(0).double().cpu().numpy(), labels, notes)


def _labels(names: Any, batch: int) -> list[str]:
    if names is None:
        return [str(b) for b in range(batch)]
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise FlowError(f"names is {names!r:.60}; give a list with the names of the {batch} sequences.")
    labels = [str(name) for name in names]
    if len(labels) != batch:
        raise FlowError(f"names has {len(labels)} entries for {batch} sequences.")
    return labels


def _gradients(losses: Tensor, parameters: list[Tensor], directions: Tensor, notes: list[str]) -> list[Tensor]:
    """∂⟨direction, losses⟩/∂parameter for every direction, `(N, …)` each."""

    def once(direction: Tensor) -> tuple[Tensor, ...]:
        found = torch.autograd.grad(losses, parameters, direction, retain_graph=True, allow_unused=True)
        return tuple(direction.new_zeros(1) if g is None else g for g in found)

    try:
        with quiet_vmap():
            return list(torch.func.vmap(once)(directions))
    except RuntimeError as refusal:
        if not any(note.startswith("one sequence") for note in notes):
            notes.append(f"one sequence at a time: vmap refused this model ({first_line(refusal)})")
        return [torch.stack(parts) for parts in zip(*(once(d) for d in directions), strict=True)]

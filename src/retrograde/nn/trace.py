"""Traces: everything that a recurrent layer computed in a forward pass, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, repr=False)
class Trace(Mapping[str, dict[str, Any]]):
    """Everything that a forward pass computed: ``trace["l0"]["f"]`` is the forget gate of the first layer.

    Attributes
    ----------
    output, state
        What the forward pass returns.
    steps : dict of dict
        By layer and direction, as the parameters are named (``"l0"``, ``"l0_reverse"``, ``"l1"``, ...), then by name.
        Each is laid out as the layer's output: a tensor ``(T, B, hidden_size)`` (``(B, T, ·)`` if ``batch_first``,
        ``(T, ·)`` without a batch), or packed as the input.

        ===== ======================================================================================
        RNN   ``h``; ``a``, the sum before the activation
        GRU   ``h``; the gates ``r``, ``z``, ``n``; the sums before their activations ``a_r``, ``a_z``,
              ``a_n``; ``hn`` = W_hn h_{t-1} + b_hn, which r multiplies
        LSTM  ``h``, ``c``; the gates ``i``, ``f``, ``g``, ``o``; the sums before their activations
              ``a_i``, ``a_f``, ``a_g``, ``a_o``; ``h`` is after the projection where there is one
        ===== ======================================================================================
    """

    output: Any
    state: Any
    steps: dict[str, dict[str, Any]]

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self.steps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        first = next(iter(self.steps.values()), {})
        return f"Trace of {', '.join(self.steps)}: {', '.join(first)}"

"""How values and places are written in messages.

Tests: tests/gradcheck/test_result.py and tests/gradcheck/test_subject.py
"""

from __future__ import annotations

import torch
from torch import Tensor


def place(index: int, tensor: Tensor) -> tuple[int, ...]:
    """The indices of a flat index, one per axis."""
    return (
        tuple(int(i) for i in torch.unravel_index(torch.tensor(index, device="cpu"), tensor.shape))
        if tensor.ndim
        else ()
    )


def largest(tensor: Tensor) -> float:
    """The largest absolute value; 0 for an empty tensor."""
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


def kind_of(value: object) -> str:
    """The type of a value, for tensors with their dtype."""
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"{type(value).__name__}"


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")

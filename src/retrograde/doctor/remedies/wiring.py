"""Remedies for networks that are wired wrongly: lines of Python, because no option of training is at fault."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ..prescriptions import Prescription
from .case import Case

__all__ = ["padding", "time_axis"]


def time_axis(case: Case) -> Iterator[Prescription]:
    """The other order of time and batch."""
    parts = [part for part in case.parts if isinstance(getattr(part.module, "batch_first", None), bool)]
    if not parts:
        return
    paths = {part.path: not part.module.batch_first for part in parts}

    def apply(model: nn.Module) -> None:
        for path, value in paths.items():
            model.get_submodule(path).batch_first = value  # type: ignore[assignment]

    python = "\n".join(f"{part.python}.batch_first = {paths[part.path]}" for part in parts)
    shapes = ", ".join(str(tuple(getattr(x, "data", x).shape)) for x in case.examination.samples[0].inputs[:1])
    arithmetic = f"the input is {shapes}, and batch_first is {parts[0].module.batch_first}"
    yield case.prescription("the other axis as time", arithmetic, python, apply=apply)


def padding(case: Case) -> Iterator[Prescription]:
    """Packed sequences, so that no step beyond the end of a sequence is read."""
    if not case.parts:
        return
    batch_first = bool(getattr(case.parts[0].module, "batch_first", False))
    numbers = ", ".join(f"{name} = {value:.3g}" for name, value in case.findings[0].numbers.items())
    python = (
        "# where the layer is called; lengths: (B,), the steps of each sequence\n"
        "x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False"
        + (", batch_first=True)" if batch_first else ")")
    )
    yield case.prescription("packed sequences", f"measured: {numbers}", python)

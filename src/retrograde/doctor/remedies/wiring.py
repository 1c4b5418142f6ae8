"""Remedies for networks that are wired wrongly: lines of Python, because no option of training is at fault."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ..prescriptions import Prescription
from .case import Case


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


def shape(case: Case) -> Iterator[Prescription]:
    """Targets in the shape of the outputs."""
    python = "# where the loss is taken\ntarget = target.view_as(output)"
    yield case.prescription("targets in the shape of the outputs", case.findings[0].rule, python)


def bounds(case: Case) -> Iterator[Prescription]:
    """Outputs without their last function."""
    python = "# where the output is computed: leave out its last function, which this loss does not expect"
    yield case.prescription("outputs without bounds", case.findings[0].rule, python)


def optimizer(case: Case) -> Iterator[Prescription]:
    """An optimizer of all parameters."""
    record = case.examination.record
    name = "SGD" if record.optimizer == "sgd" else "Adam"
    given = "" if record.lr is None else f", lr={record.lr:g}"
    python = (
        "# where model and optimizer are made: first all modules, several of them in nn.ModuleList, not in a list\n"
        f"optimizer = torch.optim.{name}(model.parameters(){given})"
    )
    yield case.prescription("an optimizer of all parameters", case.findings[0].rule, python)


def loop(case: Case) -> Iterator[Prescription]:
    """A plain update."""
    python = "# where a batch is trained on\noptimizer.zero_grad()\nloss.backward()\noptimizer.step()"
    yield case.prescription("a plain update", case.findings[0].rule, python)


def padding(case: Case) -> Iterator[Prescription]:
    """Losses of real steps only, or packed sequences, so that no step beyond the end of a sequence is read."""
    found = case.findings[0].numbers
    numbers = ", ".join(f"{name} = {value:.3g}" for name, value in found.items())
    if "padding_share" in found:
        python = (
            "# where the loss is taken; losses: (T, B) of every step, lengths: (B,), the steps of each sequence\n"
            "real = torch.arange(len(losses), device=losses.device)[:, None] < lengths\n"
            "loss = losses[real].mean()"
        )
        yield case.prescription("the losses of real steps only", f"measured: {numbers}", python)
        return
    part = next((part for part in case.parts if isinstance(part.module, nn.RNNBase)), None)
    if part is None:
        return
    first = ", batch_first=True" if part.module.batch_first else ""
    python = (
        "# where the layer is called; x: its input, lengths: (B,), the steps of each sequence\n"
        f"x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(){first}, enforce_sorted=False)\n"
        f"output, state = {part.python}(x)  # state: that after the last step of each sequence\n"
        f"output, _ = torch.nn.utils.rnn.pad_packed_sequence(output{first})"
    )
    yield case.prescription("packed sequences", f"measured: {numbers}", python)

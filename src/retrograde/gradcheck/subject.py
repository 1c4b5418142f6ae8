"""A copy of the module under check, and what one run of it gives: outputs, loss and gradients."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import FlowError, OptionError, first_line
from ..measuring import differentiable_losses
from ..nested import attribute_tensors, map_attributes, map_tensors, named_tensors
from .wording import kind_of, place


class Leaf(NamedTuple):
    """What a gradient or an output belongs to. The kind distinguishes an input from a parameter of the same name."""

    kind: str  # "parameter", "input" or "output"
    name: str


class Evaluation(NamedTuple):
    """One run of a module: its loss, the sum of the absolute values of the loss's summands, and its outputs."""

    loss: Tensor
    magnitude: float
    outputs: dict[str, Tensor]


class Measured(NamedTuple):
    """A run and its gradients, in float64 on the CPU; ``missing`` are the leaves that autograd does not reach."""

    run: Evaluation
    gradients: dict[Leaf, Tensor]
    missing: frozenset[Leaf]


class Subject:
    """A copy of the module with copies of its inputs, and the leaves by which the loss is differentiated."""

    def __init__(
        self,
        module: nn.Module,
        inputs: Mapping[str, Any],
        loss: Callable[[Any], Tensor] | None,
        seed: int,
        by_keyword: frozenset[str],
        is_twin: bool = False,
    ) -> None:
        self.module, self.inputs, self.loss, self.seed, self.is_twin = module, inputs, loss, seed, is_twin
        self.by_keyword = by_keyword  # names of the inputs passed by keyword; the others go by position
        self.leaves: dict[Leaf, Tensor] = {
            Leaf("parameter", name): p for name, p in module.named_parameters() if p.requires_grad
        }
        for path, tensor in named_tensors(inputs, ""):
            self.leaves[Leaf("input", path)] = tensor.requires_grad_()

    @classmethod
    def copied(
        cls,
        module: nn.Module,
        inputs: Sequence[Any],
        kwargs: Mapping[str, Any],
        loss: Callable[[Any], Tensor] | None,
        seed: int,
    ) -> Subject:
        """Copy the module and its inputs.

        Raises FlowError if the module cannot be copied.
        Raises OptionError if an input is given by position and by keyword.
        """
        # A state kept from an earlier call belongs to the graph of that call, which deepcopy refuses: detach it.
        memo = {id(t): t.detach().clone() for t in attribute_tensors(module) if not t.is_leaf}
        try:
            twin = copy.deepcopy(module, memo)
            _ = twin.forward  # torch loses it when it copies a scripted RNN, GRU or LSTM
        except Exception as error:
            raise FlowError(
                f"{type(module).__name__} cannot be copied by copy.deepcopy ({first_line(error)}), and "
                "check_gradients measures copies only"
            ) from error
        given = dict(zip(_input_names(module, inputs), inputs, strict=True))
        if twice := given.keys() & kwargs.keys():
            raise OptionError(f"{', '.join(sorted(twice))} is given by position and by keyword; leave one out")
        everything = given | dict(kwargs)
        values = {name: map_tensors(value, lambda t: t.detach().clone()) for name, value in everything.items()}
        return cls(twin, values, loss, seed, frozenset(kwargs))

    def in_float64(self) -> Subject:
        """The twin: a copy in float64 on the CPU, attributes that ``.to()`` does not convert included."""
        module = copy.deepcopy(self.module).to("cpu", torch.float64)
        map_attributes(module, lambda tensor: not _is_float64(tensor), to_float64)
        inputs = {name: map_tensors(value, to_float64) for name, value in self.inputs.items()}
        return Subject(module, inputs, self.loss, self.seed, self.by_keyword, is_twin=True)

    def run(self, seed: int | None = None) -> Evaluation:
        """Run the module and its loss once, with the random state of ``seed``.

        Raises FlowError if the twin fails; the output or the loss has nothing to differentiate.
        """
        torch.manual_seed(self.seed if seed is None else seed)
        # Clones, so that a module may write into its inputs without changing the leaves.
        values = {name: map_tensors(value, lambda t: t.clone()) for name, value in self.inputs.items()}
        keywords = {name: values.pop(name) for name in self.by_keyword}
        try:
            output = self.module(*values.values(), **keywords)
            losses = None if self.loss is None else self.loss(output)
        except Exception as error:
            if not self.is_twin:
                raise  # the user's own error, as it comes without check_gradients
            raise FlowError(
                f"{type(self.module).__name__} cannot be run in float64 on the CPU ({first_line(error)}); let it (and "
                "the loss) take dtype and device from its input, e.g. x.new_zeros(...) for a first state"
            ) from error
        outputs = {
            f"view_as_real({path})" if t.is_complex() else path: torch.view_as_real(t) if t.is_complex() else t
            for path, t in named_tensors(output, "output", and_complex=True)
        }
        if not outputs:
            raise FlowError(
                f"{type(self.module).__name__} returned no floating-point tensor (but {kind_of(output)}): "
                "nothing to differentiate"
            )
        if self.loss is None:
            return self._projected(outputs)
        losses = differentiable_losses(losses, "a tensor of losses")
        return Evaluation(losses.sum(), float(losses.detach().abs().sum()), outputs)

    def _projected(self, outputs: dict[str, Tensor]) -> Evaluation:
        """The default loss: the sum of all outputs, each entry with a random weight."""
        generator = torch.Generator().manual_seed(self.seed)
        total, magnitude = torch.zeros((), device="cpu"), 0.0
        for tensor in outputs.values():
            # Eighths up to 1 are exact in every format, so rounding the weights causes no difference between formats.
            weights = torch.randint(1, 9, tensor.shape, generator=generator, device="cpu") / 8.0
            weights *= torch.randint(0, 2, tensor.shape, generator=generator, device="cpu") * 2 - 1
            wide = torch.float32 if tensor.device.type == "mps" else torch.float64
            summands = tensor.to(wide) * weights.to(tensor.device, wide)
            total, magnitude = total + summands.sum().cpu(), magnitude + float(summands.detach().abs().sum())
        return Evaluation(total, magnitude, outputs)

    def measure(self) -> Measured:
        """Run the module once and differentiate its loss by all leaves.

        Raises FlowError if a value is not finite; the loss has no gradient; the backward pass fails.
        """
        for leaf, tensor in self.leaves.items():
            check_finite(f"{leaf.kind} {leaf.name!r}", tensor, "the check needs finite numbers to start from")
        run = self.run()
        self._check_run(run)
        try:
            found = torch.autograd.grad(run.loss, list(self.leaves.values()), allow_unused=True)
        except RuntimeError as error:
            reason = first_line(error)
            if "torch.utils.checkpoint is incompatible" in reason:
                reason = "a reentrant checkpoint refuses torch.autograd.grad; give it use_reentrant=False"
            raise FlowError(f"the backward pass of {type(self.module).__name__} fails: {reason}") from error
        gradients = {
            leaf: to_float64(torch.zeros_like(tensor) if gradient is None else gradient.to_dense())
            for (leaf, tensor), gradient in zip(self.leaves.items(), found, strict=True)
        }
        missing = frozenset(leaf for leaf, gradient in zip(self.leaves, found, strict=True) if gradient is None)
        return Measured(run, gradients, missing)

    def _check_run(self, run: Evaluation) -> None:
        """Refuse outputs and a loss that are not finite, or that have no gradient."""
        for name, tensor in run.outputs.items():
            if not torch.isfinite(tensor).all():
                first = self._first_not_finite()
                remark = f"first seen in the output of {first}" if first else "its submodules' outputs are finite"
                check_finite(name, tensor, remark)
        check_finite("the loss", run.loss, "although the outputs are finite")
        if run.loss.requires_grad:
            return
        name = type(self.module).__name__
        if any(tensor.requires_grad for tensor in run.outputs.values()):
            raise FlowError(f"the loss does not depend on the outputs of {name} (is it detached?)")
        raise FlowError(f"no output of {name} carries a gradient: it runs under no_grad, or detaches what it returns")

    def _first_not_finite(self) -> str:
        """The first submodule, in the order in which they run, whose output is not finite; empty if none."""
        culprits: list[str] = []

        def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
                if not all(torch.isfinite(t).all() for _, t in named_tensors(output, "")):
                    culprits.append(name)

            return look

        handles = [part.register_forward_hook(hook(name)) for name, part in self.module.named_modules() if name]
        try:
            self.run()
        finally:
            for handle in handles:
                handle.remove()
        return culprits[0] if culprits else ""


def disturbed_runs(twin: Subject, epsilon: float) -> Iterator[Evaluation]:
    """Eight runs of the twin, with every entry of every leaf changed by a relative ±epsilon, as rounding might."""
    generator = torch.Generator().manual_seed(twin.seed)
    base = {leaf: tensor.detach().clone() for leaf, tensor in twin.leaves.items()}
    try:
        for _ in range(8):
            with torch.no_grad():
                for leaf, tensor in twin.leaves.items():
                    signs = torch.randint(0, 2, tensor.shape, generator=generator, device="cpu") * 2.0 - 1.0
                    tensor.copy_(base[leaf] * (1.0 + epsilon * signs))
            yield twin.run()
    finally:
        with torch.no_grad():
            for leaf, tensor in twin.leaves.items():
                tensor.copy_(base[leaf])


def check_finite(name: str, tensor: Tensor, remark: str) -> None:
    """Raise a `FlowError` that names the first entry that is not finite."""
    bad = (~torch.isfinite(tensor.detach())).flatten().nonzero()
    if len(bad):
        at = int(bad[0])
        value = float(tensor.detach().flatten()[at])
        where = f" at {place(at, tensor)}" if tensor.ndim else ""
        raise FlowError(f"{name} is {value}{where} ({len(bad)} of {tensor.numel()} entries are not finite); {remark}")


def to_float64(tensor: Tensor) -> Tensor:
    """A detached copy on the CPU, in float64 if it is of floating point."""
    if isinstance(tensor, nn.Parameter):  # the module converts it under its first name
        return tensor
    tensor = tensor.detach().cpu()
    return tensor.to(torch.float64, copy=True).contiguous() if tensor.is_floating_point() else tensor


def _is_float64(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float64 and tensor.device.type == "cpu"


def _input_names(module: nn.Module, inputs: Sequence[Any]) -> list[str]:
    """The names in the signature of ``forward``; ``inputs[0]`` and so on if it has none for them."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())[: len(inputs)]
    except (AttributeError, TypeError, ValueError):  # a scripted module, or one made of builtins
        parameters = []
    if len(parameters) < len(inputs) or any(p.kind == p.VAR_POSITIONAL for p in parameters):
        return [f"inputs[{i}]" for i in range(len(inputs))]
    return [parameter.name for parameter in parameters]

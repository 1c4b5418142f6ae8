"""Is this module's gradient right? Checked against float64 and against finite differences.

A gradient can be wrong in two ways, so there are two judges. Arithmetic: a kernel on some device, or in
some precision, computes something else than it should; then the same module in float64 on the CPU
disagrees. Mathematics: a hand-written backward is not the derivative of its forward, or a ``detach``
cuts a path through time; then float64 is just as wrong, and only finite differences of the forward
disagree. `check_gradients` asks both.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import html
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..errors import FlowError, OptionError
from .isolation import check_values, dropout_notes, random_states_kept
from .keeping import tensors_in

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["GradientCheck", "GradientError", "check_gradients"]

FLOAT64 = "float64"
DIFFERENCES = "finite differences"

# What may be lost to rounding, relative to the largest entry of a gradient: about a thousand times the
# unit of rounding where the format has that many digits.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
DIFFERENCES_TOLERANCE = 1e-6  # central differences in float64, relative likewise
STEPS = tuple(10.0**-n for n in range(4, 12))  # of the differences, first to last resort
DIRECTIONS = 3  # random directions through each whole tensor, beside the entries probed one by one

COLUMNS = ("gradient of", "against", "max error", "relative", "tolerance", "at", "found", "expected", "")


# ------------------------------------------------------------------------------------------------
# The result
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GradientError:
    """How far one gradient (or output) is from what one judge says.

    Attributes
    ----------
    name : str
        As in ``named_parameters``; an input is named as in the signature of ``forward``.
    kind : {"parameter", "input", "output"}
    oracle : {"float64", "finite differences"}
        Who judges: the module itself in float64 on the CPU, or differences of its forward in float64.
    shape : tuple of int
    max_abs_error : float
        The largest |found − expected| over the entries compared.
    relative_error : float
        That, divided by the largest |expected| of the whole tensor.
    where : tuple of int or None
        The entry with the largest error; None if there is none, or it shows in random directions only.
    found, expected : float
        The two values there.
    tolerance : float
        What ``relative_error`` may be.
    ok : bool
        Within tolerance, or within what rounding alone explains.
    probes : int
        Entries and directions compared.
    kinks : int
        How many of them stand at a kink (of a ReLU, say), where no derivative exists; not judged.
    unsettled : int
        How many are beyond differences: they never settle (an exploding gradient), or drown in rounding; not judged.
    remark : str
        What is worth knowing besides; often empty.
    """

    name: str
    kind: str
    oracle: str
    shape: tuple[int, ...]
    max_abs_error: float
    relative_error: float
    where: tuple[int, ...] | None
    found: float
    expected: float
    tolerance: float
    ok: bool
    probes: int
    kinks: int = 0
    unsettled: int = 0
    remark: str = ""

    @property
    def judged(self) -> bool:
        """Whether anything could be said: a probe that was judged, or values that rounding does not throw about."""
        return self.kinks + self.unsettled < self.probes and not self.remark.startswith("ill-conditioned")

    @property
    def label(self) -> str:
        """The name, with the kind where it is no parameter."""
        return self.name if self.kind == "parameter" else f"{self.name} ({self.kind})"


@dataclass(frozen=True, repr=False)
class GradientCheck:
    """What `check_gradients` found; true in a boolean context if every gradient is right.

    Attributes
    ----------
    errors : tuple of GradientError
        One per gradient and judge, the worst first.
    module : str
        The module's type.
    dtype : torch.dtype
        The lowest precision met in parameters, inputs and outputs; it sets the tolerance.
    device : torch.device
        Where the module was run.
    mode : {"eval", "training"}
        The mode it was run in.
    notes : tuple of str
        Circumstances: the mode measured in, what was left out.
    """

    errors: tuple[GradientError, ...]
    module: str
    dtype: torch.dtype
    device: torch.device
    mode: str = "eval"
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every gradient is within its tolerance."""
        return all(error.ok for error in self.errors)

    def __bool__(self) -> bool:
        return self.ok

    @property
    def wrong(self) -> tuple[str, ...]:
        """Names of the parameters, inputs and outputs that are wrong, the worst first."""
        return tuple(dict.fromkeys(error.name for error in self.errors if not error.ok))

    @property
    def verdict(self) -> str:
        """What was found, in a sentence or two."""
        wrong = [error for error in self.errors if not error.ok]
        if not wrong:
            right = dict.fromkeys(error.label for error in self.errors if error.kind != "output")
            unjudged = dict.fromkeys(e.label for e in self.errors if e.kind != "output" and not e.judged)
            agree = len(right) - len(unjudged)
            agreement = "1 gradient agrees" if agree == 1 else f"{agree} gradients agree"
            finding = f"{agreement} with float64 and with finite differences"
            if not unjudged:
                return f"right: {finding}"
            return f"no fault found, but not all could be judged: {finding}; not judged by both: {', '.join(unjudged)}"
        mathematics = list(dict.fromkeys(error.label for error in wrong if error.oracle == DIFFERENCES))
        outputs = [error.label for error in wrong if error.kind == "output"]
        arithmetic = [error.label for error in wrong if error.oracle == FLOAT64 and error.label not in mathematics]
        findings = []
        if mathematics:
            findings.append(
                f"wrong for {', '.join(mathematics)}: the backward is not the derivative of the forward "
                "(a wrong backward, or a path cut by detach, .data or no_grad)"
            )
        if outputs:
            findings.append(
                f"wrong in the forward already ({', '.join(outputs)}): {_dtype_name(self.dtype)} on {self.device} "
                "computes something else than float64"
            )
        elif arithmetic:
            findings.append(
                f"wrong for {', '.join(arithmetic)} in {_dtype_name(self.dtype)} on {self.device}, "
                f"where float64 on the CPU {'is right' if not mathematics else 'says otherwise'}"
            )
        return "; ".join(findings)

    def _rows(self, limit: int) -> tuple[list[tuple[str, ...]], int]:
        shown = [error for error in self.errors if not error.ok]
        shown = [*shown, *(error for error in self.errors if error.ok)][: max(limit, len(shown))]
        rows: list[tuple[str, ...]] = []
        for e in shown:
            where = "–" if e.where is None else str(e.where)
            verdict = "ok" if e.ok else "WRONG"
            figures = (f"{e.max_abs_error:.1e}", f"{e.relative_error:.1e}", f"{e.tolerance:.0e}")
            values = (f"{e.found:.6g}", f"{e.expected:.6g}")
            rows.append((e.label, e.oracle, *figures, where, *values, verdict + (f": {e.remark}" if e.remark else "")))
        return rows, len(self.errors) - len(shown)

    def _context(self) -> str:
        return f"{self.module}, {_dtype_name(self.dtype)} on {self.device}, in {self.mode} mode"

    def __repr__(self) -> str:
        rows, left_out = self._rows(limit=10)
        table = [COLUMNS, *rows]
        widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
        lines = [f"GradientCheck of {self._context()}", f"  {self.verdict}"]
        for row in table:
            cells = (
                cell.rjust(width) if 2 <= column <= 7 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  " + "  ".join(cells).rstrip())
        if left_out:
            lines.append(f"  and {left_out} more, all of them ok (.errors holds them)")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        rows, left_out = self._rows(limit=10)
        table = Table(title=f"Gradients of {self._context()}", title_justify="left")
        for column, head in enumerate(COLUMNS):
            table.add_column(head, justify="right" if 2 <= column <= 7 else "left")
        for row in rows:
            table.add_row(*map(Text, row), style="bold red" if row[-1].startswith("WRONG") else "")
        below = [f"and {left_out} more, all of them ok (.errors holds them)"] if left_out else []
        below += [f"note: {note}" for note in self.notes]
        return Group(table, Text(self.verdict, style="green" if self.ok else "bold red"), *map(Text, below))

    def _repr_html_(self) -> str:
        rows, left_out = self._rows(limit=10)
        head = "".join(f"<th>{html.escape(column)}</th>" for column in COLUMNS)
        red = " style='color:#b00020;font-weight:bold'"
        body = "".join(
            f"<tr{red if row[-1].startswith('WRONG') else ''}>"
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
            + "</tr>"
            for row in rows
        )
        below = ([f"and {left_out} more, all of them ok"] if left_out else []) + list(self.notes)
        return (
            f"<p><b>Gradients of {html.escape(self._context())}</b><br>{html.escape(self.verdict)}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            + "".join(f"<p>{html.escape(note)}</p>" for note in below)
        )


# ------------------------------------------------------------------------------------------------
# The check
# ------------------------------------------------------------------------------------------------


def check_gradients(
    module: nn.Module,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    loss: Callable[[Any], Tensor] | None = None,
    training: bool = False,
    entries: int = 12,
    rtol: float | None = None,
    seed: int = 0,
) -> GradientCheck:
    """Check the gradients of anyone's recurrent module against float64 and finite differences.

    Every parameter that requires a gradient and every floating-point input is checked, twice: what the
    module gives in its own precision on its own device against autograd through a float64 copy on the
    CPU; and that copy's gradient against central differences of its forward. Copies are measured: the
    module, its mode, buffers and gradients, the inputs and the random state stay as they are.

    Parameters
    ----------
    module : torch.nn.Module
        A layer of torch or of ours, a custom cell, a whole model; on any device, of any precision.
    *inputs
        What the module is called with: tensors, tuples, lists and dicts of them, ``PackedSequence``, None. Tensors of
        integers are handed on and not differentiated by.
    kwargs : dict, optional
        What it is called with by keyword, likewise.
    loss : callable, optional
        Takes the module's output; the sum of what it returns is differentiated. Left out, a fixed random
        projection of all floating-point outputs, which misses none of them; of a
        complex one, of its real and imaginary parts.
    training : bool
        Measure in the modes the modules are in (dropout active, one mask for all runs) instead of in eval mode.
    entries : int
        Entries of each tensor to probe by finite differences, one by one; all if it has no more. Larger
        tensors are sampled (their largest gradient always among it) and probed in 3 random directions
        through all their entries as well; what shows there is traced to its entry. Each probe takes two
        runs of the float64 copy, or more where they disagree at first.
    rtol : float, optional
        Tolerance of the comparison with float64, relative to the largest entry of each gradient. Left out,
        by dtype: 1e-9 for float64, 1e-4 for float32, 2e-2 for float16, 1e-1 for bfloat16, and what rounding
        the inputs does is forgiven. For finite differences it is 1e-6.
    seed : int
        Of the projection, the sample and the directions.

    Returns
    -------
    GradientCheck
        Prints as a table, the worst first; ``.ok`` (and its truth value) says whether all are right.

    Raises
    ------
    FlowError
        Nothing to check (no parameter requires a gradient, the output has none); two runs differ; a value
        is not finite; the module cannot be copied or run in float64.
    OptionError
        An impossible option.

    Notes
    -----
    Differences take steps of 1e-4 for values up to 1, in proportion above. Where they disagree they are
    refined until they agree or settle; an entry at a kink, recognised by one-sided differences that stay
    apart as the step shrinks, is counted and not judged. Where lower precision disagrees with float64,
    float64 is run again with its parameters and inputs disturbed by as much as that precision rounds: what
    so small a change does to the gradient is no error of the module.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> check = rg.check_gradients(torch.nn.GRU(3, 4), torch.randn(5, 2, 3))
    >>> check.ok
    True
    """
    if not isinstance(module, nn.Module):
        raise FlowError(f"check_gradients takes a torch.nn.Module; this is of type {type(module).__name__}")
    if isinstance(entries, bool) or not isinstance(entries, int) or entries < 1:
        raise OptionError(f"entries = {entries!r}; expected a whole number of at least 1")
    if rtol is not None and not 0 < rtol < 1:
        raise OptionError(f"rtol = {rtol!r}; expected a number between 0 and 1")
    check_values([*module.parameters(), *module.buffers(), *tensors_in([*inputs, kwargs or {}])], [module])
    notes: list[str] = []
    device = _device(module, [*inputs, *(kwargs or {}).values()])
    with random_states_kept([device]), torch.inference_mode(False), torch.enable_grad():
        own = _Subject.copied(module, inputs, dict(kwargs or {}), loss, seed)
        _check_leaves(own)
        mode = _set_mode(own.module, training, device, notes)
        with _float64(device):
            twin = own.in_float64()  # before any run leaves a state behind
        found = own.measure()
        _check_repeats(own, found.run, training)
        dtype = _lowest_precision([*own.leaves.values(), *found.run.outputs.values()], device)
        tolerance = TOLERANCE.get(dtype, 1e-1) if rtol is None else rtol
        with _float64(device):
            expected = twin.measure()
            for leaf, gradient in expected.gradients.items():
                _check_finite(f"the gradient of {leaf.name}", gradient, "in float64 already, with finite outputs")
            errors = _against_float64(found, twin, expected, dtype, tolerance, strict=rtol is not None)
            if training and not all(e.ok for e in errors if e.kind == "output") and _is_stochastic(twin, expected):
                errors = []
                notes.append(f"{_dtype_name(dtype)} draws other random numbers than float64: not compared with it")
            errors += _against_differences(twin, expected, entries)
    errors.sort(key=lambda error: (error.ok, -error.relative_error / error.tolerance))
    differences = [error for error in errors if error.oracle == DIFFERENCES]
    probes = sum(error.probes for error in differences)
    if kinks := sum(error.kinks for error in differences):
        notes.append(f"{kinks} of {probes} differences stand at a kink, where no derivative exists; not judged")
    if unsettled := sum(error.unsettled for error in differences):
        notes.append(
            f"{unsettled} of {probes} differences do not settle, as the gradient explodes or drowns in rounding; "
            "not judged"
        )
    return GradientCheck(tuple(errors), type(module).__name__, dtype, device, mode, tuple(notes))


class Leaf(NamedTuple):
    """What a gradient or output belongs to: an input may bear the name of a parameter, the kind tells them apart."""

    kind: str
    name: str


class _Run(NamedTuple):
    """One run of a module: its loss, the size of what was summed up to it, and its outputs."""

    loss: Tensor
    magnitude: float
    outputs: dict[str, Tensor]


class _Measured(NamedTuple):
    """A run and its gradients, in float64 on the CPU; ``missing`` are the leaves that autograd does not reach."""

    run: _Run
    gradients: dict[Leaf, Tensor]
    missing: frozenset[Leaf]


class _Subject:
    """A copy of the module with copies of its inputs, and the leaves to differentiate by."""

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
        self.by_keyword = by_keyword  # the rest by position
        self.leaves: dict[Leaf, Tensor] = {
            Leaf("parameter", name): p for name, p in module.named_parameters() if p.requires_grad
        }
        for path, tensor in _tensors(inputs, ""):
            self.leaves[Leaf("input", path)] = tensor.requires_grad_()

    @classmethod
    def copied(
        cls,
        module: nn.Module,
        inputs: Sequence[Any],
        kwargs: Mapping[str, Any],
        loss: Callable[[Any], Tensor] | None,
        seed: int,
    ) -> _Subject:
        # A state kept from an earlier call hangs on that call's graph, and deepcopy refuses it: cut it off.
        memo = {id(t): t.detach().clone() for t in _plain_tensors(module) if not t.is_leaf}
        try:
            twin = copy.deepcopy(module, memo)
            _ = twin.forward  # which torch loses when it copies a scripted RNN, GRU or LSTM
        except Exception as error:
            raise FlowError(
                f"{type(module).__name__} cannot be copied by copy.deepcopy ({_line(error)}), and check_gradients "
                "measures copies only"
            ) from error
        given = dict(zip(_input_names(module, inputs), inputs, strict=True))
        if twice := given.keys() & kwargs.keys():
            raise OptionError(f"{', '.join(sorted(twice))} is given by position and by keyword; leave one out")
        values = {name: _map(value, lambda t: t.detach().clone()) for name, value in (given | dict(kwargs)).items()}
        return cls(twin, values, loss, seed, frozenset(kwargs))

    def in_float64(self) -> _Subject:
        module = copy.deepcopy(self.module).to("cpu", torch.float64)
        for part in module.modules():  # tensors that are neither parameters nor buffers, which .to() passes by
            for name, value in list(vars(part).items()):
                if name not in REGISTRIES and any(not _is_float64(t) for _, t in _tensors(value, name)):
                    vars(part)[name] = _map(value, _to_float64)
        inputs = {name: _map(value, _to_float64) for name, value in self.inputs.items()}
        return _Subject(module, inputs, self.loss, self.seed, self.by_keyword, is_twin=True)

    def run(self, seed: int | None = None) -> _Run:
        torch.manual_seed(self.seed if seed is None else seed)
        # Clones, so that a module may write into its inputs without touching the leaves.
        values = {name: _map(value, lambda t: t.clone()) for name, value in self.inputs.items()}
        keywords = {name: values.pop(name) for name in self.by_keyword}
        try:
            output = self.module(*values.values(), **keywords)
            value = None if self.loss is None else self.loss(output)
        except Exception as error:
            if not self.is_twin:
                raise  # the user's own error, as it would come without us
            raise FlowError(
                f"{type(self.module).__name__} cannot be run in float64 on the CPU ({_line(error)}); let it (and the "
                "loss) take dtype and device from its input, e.g. x.new_zeros(...) for a first state"
            ) from error
        outputs = {
            f"view_as_real({path})" if t.is_complex() else path: torch.view_as_real(t) if t.is_complex() else t
            for path, t in _tensors(output, "output", and_complex=True)
        }
        if not outputs:
            raise FlowError(
                f"{type(self.module).__name__} returned no floating-point tensor (but {_kind(output)}): "
                "nothing to differentiate"
            )
        if self.loss is not None:
            if not isinstance(value, Tensor) or not value.is_floating_point():
                mend = ": take a real quantity of it, such as .abs() or .real" if _is_complex(value) else ""
                raise FlowError(f"loss returned {_kind(value)}; expected a floating-point tensor{mend}")
            return _Run(value.sum(), float(value.detach().abs().sum()), outputs)
        generator = torch.Generator().manual_seed(self.seed)
        total, magnitude = torch.zeros(()), 0.0
        for tensor in outputs.values():
            # Eighths up to 1: exact in every format, so that no precision is blamed for rounding the weights.
            weights = torch.randint(1, 9, tensor.shape, generator=generator) / 8.0
            weights *= torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1
            wide = torch.float32 if tensor.device.type == "mps" else torch.float64
            summands = tensor.to(wide) * weights.to(tensor.device, wide)
            total, magnitude = total + summands.sum().cpu(), magnitude + float(summands.detach().abs().sum())
        return _Run(total, magnitude, outputs)

    def measure(self) -> _Measured:
        for leaf, tensor in self.leaves.items():
            _check_finite(f"{leaf.kind} {leaf.name!r}", tensor, "the check needs finite numbers to start from")
        run = self.run()
        for name, tensor in run.outputs.items():
            if not torch.isfinite(tensor).all():
                first = self._first_not_finite()
                remark = f"first seen in the output of {first}" if first else "its submodules' outputs are finite"
                _check_finite(name, tensor, remark)
        _check_finite("the loss", run.loss, "although the outputs are finite")
        if not run.loss.requires_grad:
            raise FlowError(
                f"no output of {type(self.module).__name__} carries a gradient: it runs under no_grad, or detaches "
                "what it returns"
            )
        try:
            found = torch.autograd.grad(run.loss, list(self.leaves.values()), allow_unused=True)
        except RuntimeError as error:
            reason = _line(error)
            if "torch.utils.checkpoint is incompatible" in reason:
                reason = "a reentrant checkpoint refuses torch.autograd.grad; give it use_reentrant=False"
            raise FlowError(f"the backward pass of {type(self.module).__name__} fails: {reason}") from error
        gradients = {
            leaf: _to_float64(torch.zeros_like(tensor) if gradient is None else gradient.to_dense())
            for (leaf, tensor), gradient in zip(self.leaves.items(), found, strict=True)
        }
        missing = frozenset(leaf for leaf, gradient in zip(self.leaves, found, strict=True) if gradient is None)
        return _Measured(run, gradients, missing)

    def _first_not_finite(self) -> str:
        """The first submodule, in order of running, whose output is not finite."""
        culprits: list[str] = []

        def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
                if not all(torch.isfinite(t).all() for _, t in _tensors(output, "")):
                    culprits.append(name)

            return look

        handles = [part.register_forward_hook(hook(name)) for name, part in self.module.named_modules() if name]
        try:
            self.run()
        finally:
            for handle in handles:
                handle.remove()
        return culprits[0] if culprits else ""


# -- the first judge: float64 ----------------------------------------------------------------------


def _against_float64(
    found: _Measured, twin: _Subject, expected: _Measured, dtype: torch.dtype, tolerance: float, strict: bool
) -> list[GradientError]:
    """Outputs and gradients of the module as it is, beside those of its float64 twin."""
    pairs: dict[Leaf, tuple[Tensor, Tensor]] = {}
    for name, output in found.run.outputs.items():
        other = expected.run.outputs.get(name)
        if other is None or other.shape != output.shape:
            raise FlowError(
                f"{name} has another shape in float64 than in {_dtype_name(dtype)}; nothing can be compared"
            )
        pairs[Leaf("output", name)] = (_to_float64(output), other.detach())
    pairs |= {leaf: (gradient, expected.gradients[leaf]) for leaf, gradient in found.gradients.items()}

    disturbed: dict[Leaf, float] | None = None
    epsilon = torch.finfo(dtype).eps
    largest = {
        "gradient": max((_largest(g) for g in expected.gradients.values()), default=0.0),
        "output": max(_largest(o) for o in expected.run.outputs.values()),
    }
    errors: list[GradientError] = []
    for leaf, (ours, theirs) in pairs.items():
        if not ours.numel():
            continue
        # Rounding in the largest of the quantities reaches the small ones: no relative error below that.
        floor = 4 * epsilon * largest["output" if leaf.kind == "output" else "gradient"] / tolerance
        floor = 0.0 if strict else floor
        scale = max(_largest(theirs), floor)
        difference = torch.nan_to_num((ours - theirs).abs(), nan=math.inf)
        at = int(difference.argmax())
        error = float(difference.flatten()[at])
        ok, remark = error <= tolerance * scale, ""
        if not torch.isfinite(ours).all():
            remark = "not finite"
        elif not ok and not strict:
            if disturbed is None:
                disturbed = _disturbed(twin, expected, epsilon)
            # Once the outputs themselves are thrown about, gradients are taken at different points altogether.
            thrown = any(e.kind == "output" and e.remark for e in errors)
            ok = thrown or error <= tolerance * scale + 4 * disturbed[leaf]
            remark = f"ill-conditioned: rounding the inputs moves it by {disturbed[leaf]:.1e}" if ok else ""
        errors.append(
            GradientError(
                leaf.name,
                leaf.kind,
                FLOAT64,
                tuple(theirs.shape),
                error,
                error / scale if scale else math.inf if error else 0.0,
                _place(at, theirs),
                float(ours.flatten()[at]),
                float(theirs.flatten()[at]),
                tolerance,
                ok,
                ours.numel(),
                remark=remark,
            )
        )
    return errors


def _disturbed_runs(twin: _Subject, epsilon: float) -> Iterator[_Run]:
    """Runs of the twin with each leaf moved by a relative ±epsilon, as rounding might."""
    generator = torch.Generator().manual_seed(twin.seed)
    base = {leaf: tensor.detach().clone() for leaf, tensor in twin.leaves.items()}
    try:
        for _ in range(8):
            with torch.no_grad():
                for leaf, tensor in twin.leaves.items():
                    signs = torch.randint(0, 2, tensor.shape, generator=generator) * 2.0 - 1.0
                    tensor.copy_(base[leaf] * (1.0 + epsilon * signs))
            yield twin.run()
    finally:
        with torch.no_grad():
            for leaf, tensor in twin.leaves.items():
                tensor.copy_(base[leaf])


def _disturbed(twin: _Subject, expected: _Measured, epsilon: float) -> dict[Leaf, float]:
    """How far each output and gradient of the twin moves when its leaves move by as much as rounding moves them."""
    moved = dict.fromkeys(twin.leaves, 0.0) | {Leaf("output", name): 0.0 for name in expected.run.outputs}
    for run in _disturbed_runs(twin, epsilon):
        gradients = torch.autograd.grad(run.loss, list(twin.leaves.values()), allow_unused=True)
        pairs = [(Leaf("output", name), output, expected.run.outputs[name]) for name, output in run.outputs.items()]
        for leaf, gradient in zip(twin.leaves, gradients, strict=True):
            if gradient is not None:
                pairs.append((leaf, gradient.to_dense(), expected.gradients[leaf]))
        for leaf, now, before in pairs:
            moved[leaf] = max(moved[leaf], _largest(now.detach() - before.detach()))
    return moved


# -- the second judge: finite differences ----------------------------------------------------------


class _Probe(NamedTuple):
    """One directional derivative: autograd's, the differences', and what they say of each other."""

    found: float
    expected: float
    verdict: Literal["right", "wrong", "kink", "unsettled"]

    @property
    def error(self) -> float:
        difference = abs(self.found - self.expected)
        return math.inf if math.isnan(difference) else difference


class _Differences:
    """Directional derivatives of the twin's loss with respect to one leaf, by central differences."""

    def __init__(
        self, twin: _Subject, leaf: Leaf, measured: _Measured, scale: float, noise: float, with_graph: bool
    ) -> None:
        self.twin, self.tensor, self.scale = twin, twin.leaves[leaf], scale
        self.base, self.gradient = self.tensor.detach().clone(), measured.gradients[leaf]
        self.at_base = float(measured.run.loss.detach())
        self.noise, self.with_graph = noise, with_graph

    def _loss(self, direction: Tensor, step: float) -> float:
        with torch.no_grad():
            self.tensor.copy_(self.base + step * direction)
        try:
            with torch.set_grad_enabled(self.with_graph):
                return float(self.twin.run().loss.detach())
        finally:
            with torch.no_grad():
                self.tensor.copy_(self.base)

    def along(self, direction: Tensor) -> _Probe:
        """The derivative along a unit vector, with smaller steps where the first does not agree."""
        found = float((self.gradient * direction).sum())
        size = max(1.0, float((self.base * direction).norm()))
        slopes: list[float] = []
        gaps: list[float] = []
        for h in (step * size for step in STEPS):
            if self.noise / h > 0.01 * max([self.scale, *map(abs, slopes[-1:])]) and (slopes or self.noise == math.inf):
                break  # from here on, differences of the loss are mostly rounding
            ahead, behind = self._loss(direction, h), self._loss(direction, -h)
            slopes.append((ahead - behind) / (2 * h))
            gaps.append(abs((ahead - self.at_base) / h - (self.at_base - behind) / h))
            off = abs(slopes[-1] - found)
            allowed = DIFFERENCES_TOLERANCE * self.scale + self.noise / h
            if off <= allowed:
                return _Probe(found, slopes[-1], "right")
            # Three alike, and further from what was found than from each other: settled on another value.
            moves = [abs(a - b) for a, b in itertools.pairwise(slopes[-3:])]
            if len(moves) == 2 and max(moves) <= min(0.01 * abs(slopes[-1]) + self.noise / h, 0.5 * off):
                # Curvature lets the one-sided slopes meet as h shrinks, tenfold with each step; a kink does not.
                kink = gaps[-1] > 0.5 * gaps[-2] and gaps[-1] > 4 * allowed
                return _Probe(found, slopes[-1], "kink" if kink else "wrong")
        return _Probe(found, slopes[-1] if slopes else math.nan, "unsettled")

    def entry(self, index: int) -> _Probe:
        direction = torch.zeros_like(self.base)
        direction.view(-1)[index] = 1.0
        return self.along(direction)

    def trace(self, direction: Tensor) -> int:
        """The entry to blame for a wrong derivative along ``direction``: halve, and keep the worse half."""
        candidates = direction.flatten().nonzero().flatten()
        while len(candidates) > 1:
            halves = []
            for half in candidates.tensor_split(2):
                part = torch.zeros_like(direction)
                part.view(-1)[half] = direction.flatten()[half]
                probe = self.along(part / part.norm())
                halves.append((probe.error * float(part.norm()) if probe.verdict == "wrong" else 0.0, half))
            candidates = max(halves, key=lambda half: half[0])[1]
        return int(candidates[0])


def _against_differences(twin: _Subject, measured: _Measured, entries: int) -> list[GradientError]:
    """The twin's gradients beside differences of its forward: entry by entry, and in random directions."""
    generator = torch.Generator().manual_seed(twin.seed)
    largest = max(_largest(gradient) for gradient in measured.gradients.values())
    # What rounding does to the loss, measured: it is what limits how small a difference can be told.
    epsilon = torch.finfo(torch.float64).eps
    losses = [float(run.loss.detach()) for run in _disturbed_runs(twin, 2 * epsilon)]
    noise = 8 * epsilon * measured.run.magnitude + 4 * max(
        abs(loss - float(measured.run.loss.detach())) for loss in losses
    )
    if not noise <= 1e-6 * measured.run.magnitude:
        noise = math.inf  # chaos: rounding alone decides the loss, and no difference means anything
    # Without a graph it goes faster, if the module then still computes the very same.
    with torch.no_grad():
        with_graph = not torch.equal(twin.run().loss, measured.run.loss.detach())
    errors = []
    for leaf, gradient in measured.gradients.items():
        n = gradient.numel()
        if not n:
            continue
        scale = max(_largest(gradient), 1e-4 * largest)
        differences = _Differences(twin, leaf, measured, scale, noise, with_graph)
        if n <= entries:
            chosen = list(range(n))
        else:
            chosen = [int(gradient.abs().argmax()), *torch.randperm(n, generator=generator)[: entries - 1].tolist()]
        probes = {index: differences.entry(index) for index in chosen}
        verdicts = [probe.verdict for probe in probes.values()]
        for _ in range(DIRECTIONS if n > entries else 0):
            signs = torch.randint(0, 2, gradient.shape, generator=generator) * 2.0 - 1.0
            direction = signs / signs.norm()
            verdict = differences.along(direction).verdict
            if verdict == "wrong" and "wrong" not in verdicts:
                culprit = differences.trace(direction)
                probes[culprit] = differences.entry(culprit)
            verdicts.append(verdict)
        agree = "wrong" not in verdicts
        judged = {index: probe for index, probe in probes.items() if probe.verdict in ("right", "wrong")}
        at = max(judged, key=lambda index: (judged[index].verdict == "wrong", judged[index].error), default=None)
        error = judged[at].error if at is not None else 0.0
        unreached = leaf in measured.missing
        errors.append(
            GradientError(
                leaf.name,
                leaf.kind,
                DIFFERENCES,
                tuple(gradient.shape),
                error,
                error / scale if scale else math.inf if error else 0.0,
                None if at is None else _place(at, gradient),
                judged[at].found if at is not None else math.nan,
                judged[at].expected if at is not None else math.nan,
                DIFFERENCES_TOLERANCE,
                agree,
                len(verdicts),
                verdicts.count("kink"),
                verdicts.count("unsettled"),
                "" if not unreached else "unused" if agree else "autograd does not reach it at all",
            )
        )
    return errors


# -- circumstances ---------------------------------------------------------------------------------

# Where a module keeps what .to() looks after, or what holds no tensors of its own.
REGISTRIES = {"_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs"}


def _check_leaves(own: _Subject) -> None:
    name = type(own.module).__name__
    parameters = list(own.module.parameters())
    if any(t.is_complex() for t in (*parameters, *own.module.buffers())):
        raise FlowError(f"{name} has complex parameters or buffers; check_gradients covers real ones only")
    for path, tensor in _tensors(own.inputs, "", and_complex=True):
        if tensor.is_complex():
            raise FlowError(
                f"input {path!r} is {_kind(tensor)}; check_gradients covers real ones only: let the module take "
                "torch.view_as_real of it"
            )
    if parameters and not any(p.requires_grad for p in parameters):
        raise FlowError(
            f"no parameter of {name} requires a gradient; call requires_grad_(True) on what is to be checked"
        )
    if not own.leaves:
        raise FlowError(
            f"{name} has no parameters, and none of its inputs is a floating-point tensor: nothing to check"
        )


def _check_repeats(own: _Subject, first: _Run, training: bool) -> None:
    """Gradients of a module that gives another output each time cannot be compared."""
    second = own.run(seed=None if training else own.seed + 1)
    for name, tensor in first.outputs.items():
        again = second.outputs.get(name)
        moved = (
            _largest(tensor.detach() - again.detach()) if again is not None and again.shape == tensor.shape else None
        )
        if moved is None or moved > 16 * torch.finfo(tensor.dtype).eps * max(_largest(tensor.detach()), 1e-30):
            by = "has another shape" if moved is None else f"differs by up to {moved:.2g}"
            raise FlowError(
                f"two runs of {type(own.module).__name__} on the same inputs disagree ({name} {by}): it draws random "
                f"numbers{'' if training else ' in eval mode'} or keeps a state between calls. Turn that off for the "
                f"check{'' if training else ', or pass training=True if it is dropout: one seed then serves all runs'}"
            )


def _is_stochastic(twin: _Subject, expected: _Measured) -> bool:
    other = twin.run(seed=twin.seed + 1)
    return any(not torch.equal(output, other.outputs[name]) for name, output in expected.run.outputs.items())


def _set_mode(module: nn.Module, training: bool, device: torch.device, notes: list[str]) -> str:
    notes += dropout_notes((m for m in module.modules() if m.training), training)
    if training:
        return "training" if module.training else "eval"
    module.eval()
    if device.type == "cuda":  # cuDNN has no backward in eval mode: there, training mode without dropout
        for part in module.modules():
            if isinstance(part, nn.RNNBase):
                part.train()
                part.dropout = 0.0
    return "eval"


@contextlib.contextmanager
def _float64(device: torch.device) -> Iterator[None]:
    """Where a module makes tensors of its own (a zero state, say), they are float64 too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast(device.type, enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)


def _device(module: nn.Module, inputs: Sequence[Any]) -> torch.device:
    for parameter in module.parameters():
        return parameter.device
    for _, tensor in _tensors(inputs, ""):
        return tensor.device
    return torch.device("cpu")


def _lowest_precision(tensors: Sequence[Tensor], device: torch.device) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in tensors}
    if torch.is_autocast_enabled(device.type):
        dtypes.add(torch.get_autocast_dtype(device.type))
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def _input_names(module: nn.Module, inputs: Sequence[Any]) -> list[str]:
    """As the signature of forward has them, else by position."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())[: len(inputs)]
    except (AttributeError, TypeError, ValueError):  # a scripted module, one made of builtins
        parameters = []
    if len(parameters) < len(inputs) or any(p.kind == p.VAR_POSITIONAL for p in parameters):
        return [f"inputs[{i}]" for i in range(len(inputs))]
    return [parameter.name for parameter in parameters]


def _tensors(value: Any, path: str, *, and_complex: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Floating-point tensors in nested tuples, lists, dicts, dataclasses and packed sequences, and where."""
    if isinstance(value, Tensor):
        if value.is_floating_point() or (and_complex and value.is_complex()):
            yield path, value
    elif isinstance(value, PackedSequence):
        yield f"{path}.data", value.data
    elif isinstance(value, MutableMapping):
        for key, item in value.items():
            yield from _tensors(item, f"{path}[{key!r}]" if path else str(key), and_complex=and_complex)
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value):
            yield from _tensors(item, f"{path}[{i}]", and_complex=and_complex)
    elif _is_record(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name), f"{path}.{field.name}", and_complex=and_complex)


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with ``function`` of each tensor in it."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, MutableMapping):
        mapped = copy.copy(value)
        for key, item in value.items():
            mapped[key] = _map(item, function)
        return mapped
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # named tuples, PackedSequence among them
        return type(value)(*(_map(item, function) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(_map(item, function) for item in value)
    if _is_record(value):
        mapped = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(mapped, field.name, _map(getattr(value, field.name), function))
        return mapped
    return value


def _is_complex(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_complex()


def _is_record(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _plain_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Floating-point tensors that modules hold as ordinary attributes, neither parameters nor buffers."""
    for part in module.modules():
        for name, value in vars(part).items():
            if name not in REGISTRIES:
                yield from (tensor for _, tensor in _tensors(value, name))


def _is_float64(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float64 and tensor.device.type == "cpu"


def _to_float64(tensor: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):  # held by a second name; its first has been seen to
        return tensor
    tensor = tensor.detach().cpu()
    return tensor.to(torch.float64, copy=True).contiguous() if tensor.is_floating_point() else tensor


def _check_finite(name: str, tensor: Tensor, remark: str) -> None:
    bad = (~torch.isfinite(tensor.detach())).flatten().nonzero()
    if len(bad):
        at = int(bad[0])
        value = float(tensor.detach().flatten()[at])
        place = f" at {_place(at, tensor)}" if tensor.ndim else ""
        raise FlowError(f"{name} is {value}{place} ({len(bad)} of {tensor.numel()} entries are not finite); {remark}")


def _place(index: int, tensor: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(index), tensor.shape)) if tensor.ndim else ()


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


def _kind(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"{type(value).__name__}"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__

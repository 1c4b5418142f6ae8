"""Export to ONNX: program and model are run on the same input, and the file is written only if they agree.

A sequence model becomes a program that reads a whole sequence, or (``streaming=True``) one step, with the state of
every recurrent layer as input and output. The step is written in elementary operators, by the equations of
`retrograde.cells`, because exporters of whole layers have been wrong before (pytorch issue 189225).
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cells import BY_MODE
from .errors import ExportError, OptionError
from .extras import import_or_explain
from .files import write_file
from .nn import restore_

STEPS = 10_000  # by default
ROUNDING = 1e-5  # of the largest number, for one step in float32
SUMMED = 1e-4  # of the largest number, over a whole sequence: a mean of 10,000 float32 numbers may be off by so much
AMPLIFIED = 20.0  # a recurrence amplifies rounding: allowed is this much of what float32 itself loses against float64
ROUNDINGS = 8  # runs with other roundings, where chaos makes one of them say little
LARGEST = 2**26  # numbers of an output that are compared at a time
PREFIXES = (1, 2, 3, 10, 100, 1_000)


@dataclass(frozen=True)
class Export:
    """What was exported, and how it was tried.

    Attributes
    ----------
    path : Path
    inputs, outputs : tuple of str
        Names in the file; in a stream those of the states end in ``h_0`` or ``c_0``, and ``h_n`` or ``c_n``.
    states : dict
        Of a stream, by name of the input: the shape, with ``"batch"`` where sequences are. A sequence begins at zeros.
    steps : int
        How many were run on both sides, for each of `sequences` sequences.
    sequences : int
    difference : float
        The largest between both sides after one step from the same state (of a whole sequence: after all steps), as a
        share of the largest output.
    drift : float
        The same after all steps. It is large for a network that amplifies rounding errors (chaos), of which float32
        and float64 differ as much.
    """

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    states: dict[str, tuple[int | str, ...]]
    steps: int
    sequences: int
    difference: float
    drift: float

    def __str__(self) -> str:
        ran = f"{self.steps:,} steps of {self.sequences} sequences"
        drift = f", by {self.drift:.1g} after all of them" if self.states else ""
        return (
            f"{self.path}: {', '.join(self.inputs)} to {', '.join(self.outputs)}; beside the model over {ran} it "
            f"differs by at most {self.difference:.1g} of the output{' at a step' * bool(self.states)}{drift}"
        )


def export(
    model: Any,
    path: str | Path,
    example: Tensor | None = None,
    *,
    streaming: bool = False,
    steps: int = STEPS,
    seed: int = 0,
) -> Export:
    """Write a model as ONNX, after comparing the program with the model on random and extreme input.

    Parameters
    ----------
    model : Module, TrainedRun or estimator
        With layers of ``torch.nn`` or ``retrograde.nn``, float32 on the CPU. It is exported as in ``model.eval()``; it
        takes one tensor, and its first tensor is the output. Of a run of ``--task regress`` on numbers (what
        `retrograde.load` returns, or an estimator), its whole prediction: from numbers ``(T, B, F)`` in the units of
        the data to ``(B,)`` in those of the target, with scaling and the share of ridge regression.
    path : str or Path
        The file to write.
    example : Tensor, optional
        An input of the model, with time and batch. Needed where the first module does not say what it takes.
    streaming : bool, default False
        One step a call, with the state as input and output, instead of a whole sequence.
    steps : int, default 10,000
        How many steps to compare, at least.
    seed : int, default 0
        Of the random input.

    Returns
    -------
    Export

    Raises
    ------
    ExportError
        The exported program computes something else (a head that looks at several steps in a stream, an error of the
        exporter). Nothing is written.
    OptionError
        The model cannot be exported so: a bidirectional layer in a stream, no recurrent layer, another type, or the
        network of a run that is only a part of its prediction.

    Examples
    --------
    >>> import tempfile, retrograde as rg
    >>> layer = rg.nn.GRU(3, 4)
    >>> found = rg.export(layer, tempfile.mkdtemp() + "/gru.onnx", streaming=True, steps=100)
    >>> found.inputs, found.outputs
    (('x', 'h_0'), ('output', 'h_n'))
    """
    if steps < 1:
        raise OptionError(f"steps={steps}: at least one step must be compared")
    model = _module(model, streaming)
    example = getattr(model, "example", None) if example is None else example
    plain = restore_(copy.deepcopy(model), native=True).eval()
    layers = _recurrent_layers(plain, streaming)
    time = 1 if next(iter(layers.values())).batch_first else 0
    given = _example(plain, example, time)
    program = _program(plain, layers, given, time) if streaming else _Program(plain, given, ("x",), ("output",))
    content = _written(program, time)
    session = import_or_explain("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    tried = _Comparison(copy.deepcopy(model).eval(), program, session, time)
    count = tried.run(steps, seed)
    write_file(Path(path), content)
    states = dict(zip(program.inputs[1:], program.shapes, strict=True))
    difference = tried.of_step if streaming else tried.of_all
    return Export(Path(path), program.inputs, program.outputs, states, steps, count, difference, tried.of_all)


# --- What is exported -------------------------------------------------------------------------------------------------


def _module(given: Any, streaming: bool) -> nn.Module:
    """The module itself; of a trained run its whole prediction."""
    given = getattr(given, "run_", given)  # of an estimator
    if (predictor := getattr(given, "predictor", None)) is not None:
        whole: nn.Module = predictor.whole()
        if streaming and whole.ranges.steps is not None:  # type: ignore[union-attr]
            raise OptionError(
                "ridge regression on whole sequences has a share in the predictions, which cannot be a stream"
            )
        return whole
    if not isinstance(given, nn.Module):
        raise OptionError(f"model is a {type(given).__name__}; give a module, or a run from retrograde.load")
    if part := getattr(given, "part_of", ""):
        raise OptionError(f"{part}: export the run, rg.export(rg.load(folder), path)")
    return given


def _recurrent_layers(model: nn.Module, streaming: bool) -> dict[str, nn.RNNBase]:
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.RNNBase)}
    if not found:
        raise OptionError(f"{type(model).__name__} has no recurrent layer (RNN, GRU, LSTM); use torch.onnx.export")
    for name, layer in found.items():
        if streaming and layer.bidirectional:
            raise OptionError(f"{name or 'the layer'} is bidirectional, and a stream has no end to begin at")
        if len({one.batch_first for one in found.values()}) > 1:
            raise OptionError("the layers do not agree on batch_first; give all of them the same")
    weight = next(model.parameters())
    if any(p.dtype != torch.float32 or not p.is_cpu for p in model.parameters()):
        raise OptionError(f"the model is of {weight.dtype} on {weight.device}; export model.float().cpu()")
    return found


def _example(model: nn.Module, example: Tensor | None, time: int) -> Tensor:
    """An input of a few steps of two sequences."""
    if example is not None:
        if example.dim() < 2 or 0 in example.shape[:2]:
            raise OptionError(f"example is {tuple(example.shape)}; it must have time and batch, at least one of each")
        return example.detach().cpu()
    shape = (2, 3) if time == 1 else (3, 2)
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            return torch.zeros(*shape, module.input_size)
        if isinstance(module, nn.Linear):
            return torch.zeros(*shape, module.in_features)
        if isinstance(module, nn.Embedding):
            return torch.zeros(shape, dtype=torch.int64)
        if next(module.children(), None) is None:
            break
    raise OptionError(f"{type(model).__name__} does not say what it takes: give example=, an input with time and batch")


@dataclass(frozen=True)
class _Program:
    """What is written: a module, an example of its first input, and the names and shapes of the states."""

    module: nn.Module
    example: Tensor
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Sequence[tuple[int | str, ...]] = field(default=())

    def zeros(self, batch: int) -> tuple[Tensor, ...]:
        """The states before the first step."""
        return tuple(torch.zeros([batch if n == "batch" else int(n) for n in shape]) for shape in self.shapes)


def _program(model: nn.Module, layers: dict[str, nn.RNNBase], example: Tensor, time: int) -> _Program:
    """One step of a model."""
    stepping = _Stepping(model, list(layers))
    names, shapes = list[str](), list[tuple[int | str, ...]]()
    for name, layer in layers.items():
        sizes = {"h": layer.proj_size or layer.hidden_size, "c": layer.hidden_size}
        for state in BY_MODE[layer.mode].states:
            names.append(f"{name}.{state}" if name else state)
            shapes.append((layer.num_layers, "batch", sizes[state]))
    inputs, outputs = ("x", *(f"{name}_0" for name in names)), ("output", *(f"{name}_n" for name in names))
    return _Program(stepping, example.narrow(time, 0, 1), inputs, outputs, shapes)


class _OneStep(nn.Module):
    """A layer that takes sequences of one step, from the state it was handed, in elementary operators."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer, self.cell = layer, BY_MODE[layer.mode]
        self.state: tuple[Tensor, ...] | None = None

    def forward(self, input: Tensor, hx: object = None) -> tuple[Tensor, Any]:
        if self.state is None:
            raise OptionError("a recurrent layer is called more than once at a step: its stream has one state")
        layer, given, new = self.layer, self.state, list[tuple[Tensor, ...]]()
        self.state = None
        x = input.select(1 if layer.batch_first else 0, 0)
        weights = [getattr(layer, name) for name in layer._flat_weights_names]
        per_layer = len(weights) // layer.num_layers
        for i in range(layer.num_layers):
            w_ih, w_hh, *rest = weights[i * per_layer : (i + 1) * per_layer]
            b_ih, b_hh = rest[:2] if layer.bias else (None, None)
            before = tuple(s[i] for s in given)
            sums = F.linear(x, w_ih, b_ih), F.linear(before[0], w_hh, b_hh)
            after, _ = self.cell.step(*sums, before, rest[-1] if layer.proj_size else None)
            new.append(after)
            x = after[0]
        self.new = tuple(torch.stack(column) for column in zip(*new, strict=True))
        return x.unsqueeze(1 if layer.batch_first else 0), self.new if len(self.new) > 1 else self.new[0]


class _Stepping(nn.Module):
    """A model whose recurrent layers take one step, with their states as arguments and results."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.steps = [_OneStep(self.model.get_submodule(name)) for name in names]  # type: ignore[arg-type]
        for name, step in zip(names, self.steps, strict=True):
            if not name:
                self.model = step
                continue
            parent, _, own = name.rpartition(".")
            setattr(self.model.get_submodule(parent), own, step)

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        rest = list(states)
        for step in self.steps:
            step.state = tuple(rest.pop(0) for _ in step.cell.states)
        output = _first_tensor(self.model(x))
        for step in self.steps:
            if step.state is not None:
                raise OptionError("a recurrent layer is not called at every step: it cannot be in a stream")
        return (output, *(s for step in self.steps for s in step.new))


def _first_tensor(output: Any) -> Tensor:
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise OptionError(f"the model returns {type(output).__name__}; it must return a tensor, or a tuple of them")
    return output


class _OutputOnly(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return _first_tensor(self.model(x))


def _written(program: _Program, time: int) -> bytes:
    """The ONNX file of a program, for any number of sequences (and of steps, where it takes whole ones)."""
    import_or_explain("onnx")
    batch = program.example.shape[1 - time]
    module = program.module if program.shapes else _OutputOnly(program.module)
    axes = {"x": {1 - time: "batch"} | ({} if program.shapes else {time: "steps"}), "output": {1 - time: "batch"}}
    after_layers = 1  # the axis of the sequences in a state
    axes |= {name: {after_layers: "batch"} for name in (*program.inputs[1:], *program.outputs[1:])}
    with torch.no_grad():
        shape = module(program.example, *program.zeros(batch))
    output = shape if isinstance(shape, Tensor) else shape[0]
    if not _has_time(output, program.example):
        axes["output"] = {0: "batch"}
    elif not program.shapes:
        axes["output"] |= {time: "steps"}
    if (ranges := _ranges(program.module)) is not None and ranges.steps is not None:
        del axes["x"][time]
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that this exporter is the older one, and that a traced loop has fixed lengths
        torch.onnx.export(
            module,
            (program.example, *program.zeros(batch)),
            buffer,  # type: ignore[arg-type]
            input_names=list(program.inputs),
            output_names=list(program.outputs),
            dynamic_axes=axes,
            dynamo=False,
        )
    return buffer.getvalue()


def _ranges(module: nn.Module) -> Any:
    """In which range a module reads and writes numbers (`retrograde.tasks.whole.Ranges`), if it says so."""
    return getattr(getattr(module, "model", module), "ranges", None)


def _has_time(output: Tensor, x: Tensor) -> bool:
    """Whether an output has a value at each step of its input; else it is about the steps so far."""
    return output.dim() > 2 and output.shape[:2] == x.shape[:2]


# --- The proof --------------------------------------------------------------------------------------------------------


class _Comparison:
    """The model and the exported program side by side; raises ExportError where they differ by more than rounding."""

    def __init__(self, model: nn.Module, program: _Program, session: Any, time: int) -> None:
        self.model, self.program, self.session, self.time = model, program, session, time
        self.exact, self.exact_program = copy.deepcopy(model).double(), copy.deepcopy(program.module).double()
        self.of_step = self.of_all = 0.0
        self.ranges = _ranges(model)
        self.unit = 1.0 if self.ranges is None else self.ranges.unit

    def run(self, steps: int, seed: int) -> int:
        """Compare over so many steps; returns how many sequences there were."""
        done = rows = 0
        while done < steps:
            generator = torch.Generator().manual_seed(seed + done)
            length = min(steps - done, self._longest())
            if self.ranges is not None:
                length = self.ranges.steps or length
            x = _inputs(self.model, self.program.example, self.time, length, generator)
            if self.ranges is not None:
                x = (self.ranges.mean + self.ranges.scale * x.double()).float()
            rows, done = x.shape[1 - self.time], done + x.shape[self.time]
            if self.program.shapes:
                found = self._streamed(x)
            else:
                found = torch.from_numpy(self.session.run(None, {"x": x.numpy()})[0])
            self._compare(x, found)
        return rows

    def _longest(self) -> int:
        """Steps at a time, so that the outputs that are compared fit into memory."""
        example = self.program.example
        with torch.no_grad():
            output = _first_tensor(self.model(example))
        per_step = output.numel() / (example.shape[0] * example.shape[1])
        return max(16, int(LARGEST / (8 * per_step)))

    def _streamed(self, x: Tensor) -> Tensor:
        """The exported program, step by step; single steps are compared with float64 from the same state."""
        program, time = self.program, self.time
        states = [s.numpy() for s in program.zeros(x.shape[1 - time])]
        outputs = []
        for t in range(x.shape[time]):
            x_t = x.narrow(time, t, 1)
            given = dict(zip(program.inputs, [x_t.contiguous().numpy(), *states], strict=True))
            before = [torch.from_numpy(s) for s in states]
            output, *states = self.session.run(None, given)
            outputs.append(torch.from_numpy(output))
            if t < 200 or t % 10 == 0:
                with torch.no_grad():
                    expected = self.exact_program(_double(x_t), *(s.double() for s in before))
                    rounded = program.module(x_t, *before)
                found = (torch.from_numpy(a).double() for a in (output, *states))
                for name, ours, own, theirs in zip(program.outputs, expected, rounded, found, strict=True):
                    size = max(1.0, _largest(ours))
                    error, rounding = _largest(theirs - ours) / size, _largest(own - ours) / size
                    self.of_step = max(self.of_step, error)
                    if not error <= ROUNDING + AMPLIFIED * rounding:  # large inputs are rounded as in torch
                        raise ExportError(
                            f"the exported {name} differs by {error:.1g} of its size after one step ({t}); nothing was "
                            "written"
                        )
        return torch.cat(outputs, time) if _has_time(outputs[0], x.narrow(time, 0, 1)) else torch.stack(outputs)

    def _compare(self, x: Tensor, found: Tensor) -> None:
        """What the exported program returned for whole sequences, beside the model."""
        time, T = self.time, x.shape[self.time]
        at_once = not self.program.shapes or _has_time(found, x)  # else each step's output is about the steps so far
        for end in [T] if at_once else [n for n in (*PREFIXES, T) if n <= T]:
            part, theirs = x.narrow(time, 0, end), found if at_once else found[end - 1]
            with torch.no_grad():
                ours, precise = _first_tensor(self.model(part)), _first_tensor(self.exact(_double(part)))
            if self.ranges is not None:  # as the network itself puts them out
                ours, precise, theirs = ours / self.unit, precise / self.unit, theirs / self.unit
            if theirs.shape != ours.shape:
                raise ExportError(
                    f"over {end} steps the model returns {tuple(ours.shape)}, the exported program "
                    f"{tuple(theirs.shape)}; nothing was written"
                )
            scale = self._size(precise)
            allowed = self._allowed(ours, precise, part)
            error = self._by_step((theirs - ours).abs().double(), part)
            if not bool((error <= allowed).all()):  # two roundings of chaos differ by chance: look at more of them
                with torch.no_grad():
                    others = [_first_tensor(model(part)) / self.unit for model in self._rounded_otherwise()]
                allowed = torch.stack([allowed, *(self._allowed(other, precise, part) for other in others)]).amax(0)
            if not bool((error <= allowed).all()):
                hint = " Does something else than recurrent layers see several steps?" if self.program.shapes else ""
                raise ExportError(
                    f"the exported program differs from the model by {_largest(error / scale):.1g} of the output over "
                    f"{end} steps; nothing was written.{hint}"
                )
            self.of_all = max(self.of_all, _largest(error / scale))

    def _allowed(self, ours: Tensor, precise: Tensor, x: Tensor) -> Tensor:
        """The largest difference that is rounding; at each step of each sequence, if the output has steps."""
        rounding = self._by_step((ours - precise).abs(), x)
        if _has_time(ours, x):  # it grows on the way: a step is allowed the most up to there
            rounding = rounding.cummax(self.time).values
        return SUMMED * self._size(precise) + AMPLIFIED * rounding

    def _size(self, precise: Tensor) -> Tensor:
        """What errors are compared with: ridge regression is as large as its input, so each sequence has its own."""
        return (precise.abs() if self.ranges is not None else precise.abs().amax()).clamp(min=1.0)

    def _by_step(self, error: Tensor, x: Tensor) -> Tensor:
        return error.amax(tuple(range(2, error.dim()))) if _has_time(error, x) else error

    @torch.no_grad()
    def _rounded_otherwise(self) -> Iterator[nn.Module]:
        """The model with other roundings: its weights are moved by half of a float32's last digit."""
        generator = torch.Generator().manual_seed(0)
        for _ in range(ROUNDINGS):
            model = copy.deepcopy(self.model)
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.mul_(1 + torch.finfo(torch.float32).eps / 2 * noise)
            yield model


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def _inputs(model: nn.Module, example: Tensor, time: int, steps: int, generator: torch.Generator) -> Tensor:
    """Random and extreme sequences: a row of the batch each."""
    shape = (steps, *example.shape[2:])
    if not example.is_floating_point():
        most = next((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), int(example.max()) + 1)
        draw = torch.randint(0, most, shape, generator=generator)
        swap = torch.where((torch.arange(steps) % 2 == 0).view(-1, *[1] * (len(shape) - 1)), 0, most - 1).expand(shape)
        rows = [draw, torch.zeros_like(draw), torch.full_like(draw, most - 1), swap]
        return torch.stack([row.to(example.dtype) for row in rows], 1 - time)
    draw = torch.randn(shape, generator=generator)
    late, along = torch.arange(steps), (-1, *[1] * (len(shape) - 1))
    silent = ((late // 100) % 2 == 0).view(along)
    signs = (1.0 - 2.0 * (late % 2)).view(along)
    rare = torch.rand(shape, generator=generator) < 0.01
    rows = [
        draw,
        10 * draw,
        1e-30 * draw,
        torch.where(silent, draw, 0.0),
        torch.where(rare, 1e6 * draw, 0.0),
        (1e3 * signs).expand(shape),
        torch.ones(shape),
        draw.cumsum(0) / 10,
    ]
    return torch.stack(rows, 1 - time)

"""``GradientFlowRecorder``: measures the gradient flow now and then while a model trains."""

from __future__ import annotations

import functools
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import OptionError, RunError
from ..files import read_file, write_file
from ..measuring import random_states_kept
from ..nested import mapped
from .clip import ClipSuggestion, suggested
from .measure import gradient_flow
from .norms import State
from .recording.batches import SequenceSubset
from .recording.isolation import isolated, modules_behind
from .recording.torch_patches import without_checkpoints
from .result import GradientFlow
from .summary import summarize

Line = dict[str, Any]
_DIGITS = 6  # of the numbers in a record
FILE = Path("flow", "recorded.jsonl")
_RECORDS_BYTES = 1 << 26  # largest file of records that is continued


class ScalarWriter(Protocol):
    """What the recorder needs of TensorBoard's ``SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Write one number of one step."""


class GradientFlowRecorder:
    """Measure the gradient flow of a model every N steps of any training loop.

    Call ``step`` once per training step with the batch. Every ``every`` steps a few sequences of it are measured by
    ``gradient_flow``; a record is appended to ``records`` and to ``RUN/flow/recorded.jsonl`` and, if wanted, written to
    TensorBoard. A measurement that would raise the share of time spent here above ``budget`` is skipped.

    Training continues as if the recorder were not there, for any callable, as after ``gradient_flow``. Forward hooks of
    the model do run. In distributed training the first process measures; the others only count.

    Parameters
    ----------
    model : callable
        The model that is trained; one wrapped by ``DistributedDataParallel`` or ``torch.compile`` is unwrapped.
    loss : callable, optional
        ``loss(output)``, or ``loss(output, target)`` where ``step`` is given a target: losses by step `(T, B)` or one
        per sequence `(B,)` (``reduction="none"``), as in ``gradient_flow``. May be given to ``step`` instead.
    inputs, target : optional
        A batch (a tensor, or a tuple of what the model is called with) to measure every time, instead of the one being
        trained on: records then differ by the weights alone.
    every : int
        Steps between measurements.
    budget : float or None
        Largest share of wall time, since the first step, spent here; None measures every time. (The first recorder in a
        process takes about a second more: torch loads what measuring needs.)
    sequences : int or None
        How many sequences of the batch are measured, evenly spread; None for all. The batch axis is found by trying:
        the losses of the chosen sequences must be the same without the others. Where they are not (a ``loss`` that
        has a target of the whole batch), the whole batch is measured.
    targets : int or None
        How many of the steps t that have a loss are followed, evenly spread up to the last; None for all.
    run : path, optional
        The run folder; without it records stay in memory.
    resume : bool
        Continue the records that ``run`` already has, after the last step (or from the ``step`` given: later records,
        of steps that are now trained again, are dropped).
    writer : object with ``add_scalar(tag, value, step)``, optional
        ``torch.utils.tensorboard.SummaryWriter``, or an object that behaves like it.
    state, layers, module
        As in ``gradient_flow``.
    fraction : float
        Fraction of the first norm that defines the horizon.

    Attributes
    ----------
    records : list of dict
        ``step``; ``layers``: by label ``norm_at_lag_0`` and what `Summary.numbers` has, None where it is not finite:
        ``growth_per_step``, ``half_life`` and ``horizon`` in steps, ``kind``, ``verdict`` and ``by_lag``
        (‖∂E_t/∂s_{t−lag}‖, mean over t and sequences); ``loss``, the mean over what was followed; ``sequences``,
        ``targets`` and ``steps`` (T) measured; ``skipped``, how many measurements were skipped since the last record to
        keep the budget; ``cost`` in seconds; ``overhead``; ``notes``. A measurement that failed has ``step`` and
        ``error``.
    overhead : float
        Share of wall time spent here since the first step.
    skipped : int
        Measurements skipped so far.
    gradient_norms : list of float
        Those given to `step`; records of a run folder contain them as ``gradient_norms``.

    Raises
    ------
    FlowError
        At the first ``step``, which tries everything once: no recurrent layer, a loss of the wrong shape, … Later
        failures do not stop the training: they are warned about and recorded.
    RunError
        The run folder has records already and ``resume`` is false.

    Examples
    --------
    >>> import torch, retrograde as rg
    >>> layer = torch.nn.LSTM(3, 8)
    >>> optimiser = torch.optim.Adam(layer.parameters())
    >>> recorder = rg.GradientFlowRecorder(
    ...     layer, loss=lambda output, y: (output[0] - y).square().sum(-1), every=5, budget=None
    ... )
    >>> for _ in range(10):
    ...     x, y = torch.randn(20, 4, 3), torch.randn(20, 4, 8)
    ...     (layer(x)[0] - y).square().mean().backward()
    ...     optimiser.step()
    ...     optimiser.zero_grad()
    ...     record = recorder.step(x, target=y)
    >>> [record["step"] for record in recorder.records]
    [5, 10]
    """

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[..., Tensor] | None = None,
        *,
        inputs: Any = None,
        target: Any = None,
        every: int = 100,
        budget: float | None = 0.03,
        sequences: int | None = 4,
        targets: int | None = 32,
        run: str | os.PathLike[str] | None = None,
        resume: bool = False,
        writer: ScalarWriter | None = None,
        state: State = "hc",
        layers: list[str] | None = None,
        fraction: float = 0.01,
        module: nn.Module | Sequence[nn.Module] | None = None,
    ) -> None:
        if not callable(model):
            raise OptionError(f"model is {type(model).__name__}; give the model that is trained.")
        for name, count in {"every": every, "sequences": sequences, "targets": targets}.items():
            if (count is None and name != "every") or (isinstance(count, int) and count >= 1):
                continue
            raise OptionError(f"{name} is {count!r}; it is a whole number of at least 1.")
        if budget is not None and not 0 < budget <= 1:
            raise OptionError(f"budget is {budget}; it is a share of the time between 0 and 1, or None for no limit.")
        if not 0 < fraction < 1:
            raise OptionError(f"fraction is {fraction}; it is a number between 0 and 1.")
        if writer is not None and not hasattr(writer, "add_scalar"):
            raise OptionError(f"writer is {type(writer).__name__}, which has no add_scalar: give a SummaryWriter.")
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module  # theirs would talk to other processes, which do not measure
        self.model: Callable[..., Any] = getattr(model, "_orig_mod", model)  # of torch.compile
        self.loss, self.target, self.module = loss, target, module
        self.inputs = inputs if inputs is None or isinstance(inputs, tuple) else (inputs,)
        self.every, self.budget, self.sequences, self.targets = every, budget, sequences, targets
        self.writer, self.state, self.layers, self.fraction = writer, state, layers, fraction
        self.path = None if run is None else Path(run) / FILE
        self.records: list[Line] = [] if self.path is None else _opened(self.path, resume)
        self.skipped = 0
        self.gradient_norms = [norm for record in self.records for norm in record.get("gradient_norms", []) if norm]
        self._norms_before = len(self.gradient_norms)  # at the last record
        self.steps: int = self.records[-1]["step"] if self.records else 0  # the step last seen
        self._began: float | None = None
        self._spent = 0.0
        self._costs: list[float] = []  # seconds of the last measurements
        self._due = 0
        self._skipped_before = 0  # at the last record
        self._subset = SequenceSubset(sequences, batch_first=_batch_first(modules_behind(self.model, module)))
        self._warned: set[str] = set()
        _load()

    def __repr__(self) -> str:
        return (
            f"GradientFlowRecorder({type(self.model).__name__}, every={self.every}: {len(self.records)} records in "
            f"{self.steps} steps, {self.skipped} skipped, overhead {self.overhead:.2%})"
        )

    @property
    def overhead(self) -> float:
        """Share of wall time spent in this recorder since the first ``step`` began."""
        if self._began is None:
            return 0.0
        return self._spent / max(time.perf_counter() - self._began, 1e-9)

    def step(
        self,
        *inputs: Any,
        target: Any = None,
        loss: Callable[..., Tensor] | None = None,
        lengths: Any = None,
        step: int | None = None,
        gradient_norm: float | Tensor | None = None,
    ) -> Line | None:
        """Count one training step; measure if it is time.

        Parameters
        ----------
        *inputs
            What the model was called with.
        target
            Passed to the loss after the output, cut to the sequences that are measured.
        loss
            Instead of the recorder's own.
        lengths
            Of padded sequences `(B,)`, as in ``gradient_flow``.
        step
            The number of this step, where the loop counts its own; otherwise one more than the last.
        gradient_norm
            What ``torch.nn.utils.clip_grad_norm_`` returned, the norm before clipping, for `suggest_clip`.

        Returns
        -------
        dict or None
            The new record, if there is one.
        """
        start = time.perf_counter()
        first = self._began is None
        began = self._began = start if self._began is None else self._began
        if gradient_norm is not None:
            self.gradient_norms.append(float(gradient_norm))
        self.steps = self.steps + 1 if step is None else int(step)
        if not _is_first_process():
            return None
        try:
            if not first and self.steps < self._due:
                return None
            if self.inputs is not None:
                inputs, target = self.inputs, self.target
            loss = loss or self.loss
            if loss is None:
                raise OptionError("The recorder has no loss: give GradientFlowRecorder or step loss=.")
            if not inputs:
                raise OptionError("The recorder has no input: give step what the model is called with.")
            if first:
                self._forget_from(self.steps)
                self._due = self._next(self.steps)
                self._measure(inputs, target, loss, lengths, only_last=True)
                self._costs.append(time.perf_counter() - start)
            if self.steps < self._due:
                return None
            self._due = self._next(self.steps + 1)
            now = time.perf_counter()
            # The longest of the last measurements, not their mean: the budget is a promise.
            spent = self._spent + (now - start) + max(self._costs)
            if self.budget is not None and spent > self.budget * (now - began):
                self.skipped += 1
                return None
            return self._record(inputs, target, loss, lengths, start)
        finally:
            self._spent += time.perf_counter() - start

    def suggest_clip(self) -> ClipSuggestion:
        """The threshold for ``clip_grad_norm_`` that the gradient norms given to `step` call for, with its arithmetic.

        Raises
        ------
        FlowError
            If fewer than two were given, or they look as if they had been clipped already.

        Examples
        --------
        >>> recorder = GradientFlowRecorder(nn.LSTM(1, 1), lambda output: output[0].sum(-1), every=1000)
        >>> for norm in [1.0] * 99 + [1000.0]:
        ...     recorder.gradient_norms.append(norm)  # as step(…, gradient_norm=norm) does
        >>> recorder.suggest_clip().value
        1.0
        """
        return suggested(self.gradient_norms)

    def _next(self, step: int) -> int:
        """The multiple of ``every`` at or after a step; with a budget not step 0, when no time has passed."""
        found = -(-step // self.every) * self.every
        return found if found or self.budget is None else self.every

    def _record(self, inputs: Any, target: Any, loss: Callable[..., Tensor], lengths: Any, start: float) -> Line:
        record: Line = {"step": self.steps}
        try:
            flow = self._measure(inputs, target, loss, lengths)
            record |= self._described(flow)
        except Exception as failure:  # a failed measurement does not end the training
            record["error"] = f"{type(failure).__name__}: {failure}"
            self._warn(f"Step {self.steps}: the gradient flow could not be measured: {failure}", key=str(failure))
        record["skipped"] = self.skipped - self._skipped_before
        record["cost"] = time.perf_counter() - start
        self._costs = [*self._costs[-2:], record["cost"]]
        began = self._began if self._began is not None else start
        now = time.perf_counter()
        record["overhead"] = (self._spent + now - start) / max(now - began, 1e-9)
        self._skipped_before = self.skipped
        if norms := self.gradient_norms[self._norms_before :]:
            record["gradient_norms"] = [_number(norm) for norm in norms]
        self._norms_before = len(self.gradient_norms)
        self.records.append(record)
        try:
            self._append(record)
            if self.writer is not None:
                for tag, value in scalars(record).items():
                    self.writer.add_scalar(tag, value, self.steps)
        except OSError as failure:
            self._warn(f"{self.path} cannot be written: {failure}; the records are kept in memory.", key="write")
        return record

    def _warn(self, message: str, key: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, stacklevel=4)

    def _described(self, flow: GradientFlow) -> Line:
        summary = summarize(flow, self.fraction)
        layers = {label: summary.numbers(i, _DIGITS) for i, label in enumerate(flow.layers)}
        for numbers in layers.values():
            numbers["norm_at_lag_0"] = numbers["by_lag"][0]
        return {
            "layers": layers,
            "loss": _number(flow.losses.mean()),
            "sequences": flow.losses.shape[1],
            "targets": len(flow.targets),
            "steps": max(flow.steps),
            "notes": flow.notes,
        }

    # --- Measuring ----------------------------------------------------------------------------------------------------

    def _measure(
        self, inputs: Any, target: Any, loss: Callable[..., Tensor], lengths: Any, *, only_last: bool = False
    ) -> GradientFlow:
        notes: list[str] = []
        with isolated(
            self.model, module=self.module, training=None, freeze=False, notes=notes, inputs=(inputs, target)
        ) as isolation:
            for device in isolation.devices:
                if device.type not in ("cpu", "meta"):
                    torch.accelerator.synchronize(device)  # what is still running there is not our time
            given = (isolation.given(inputs), target, None if lengths is None else torch.as_tensor(lengths))
            batch = mapped(given, lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf)
            batch, losses = self._subset.choose(batch, functools.partial(self._losses, loss))
            (inputs, target, lengths), followed = batch, None
            if losses.ndim == 2:
                followed = losses.ne(0).any(1).nonzero().flatten().tolist()  # a masked step has loss 0
                count = 1 if only_last else self.targets
                if count is not None and len(followed) > count:
                    followed = [followed[-(-(i + 1) * len(followed) // count) - 1] for i in range(count)]
            flow = gradient_flow(
                self.model,
                *inputs,
                loss=lambda output: _apply(loss, output, target),
                state=self.state,
                layers=self.layers,
                targets=followed or None,
                lengths=lengths,
                module=self.module,
            )
        flow.notes += [note for note in notes if note not in flow.notes]
        return flow

    def _losses(self, loss: Callable[..., Tensor], batch: Any) -> Tensor:
        """Losses from a forward pass alone, which is cheap compared with the measurement."""
        inputs, target, _ = batch
        with isolated(self.model, module=self.module, notes=[]), torch.no_grad(), without_checkpoints():
            losses = _apply(loss, self.model(*inputs), target)
        # Anything else is left to gradient_flow, whose message says what it should be.
        return losses.detach() if isinstance(losses, Tensor) else torch.zeros((), device="cpu")

    # --- The file of records ------------------------------------------------------------------------------------------

    def _forget_from(self, step: int) -> None:
        """Drop records of steps that are trained again, after going back to an older checkpoint."""
        kept = [record for record in self.records if record["step"] < step]
        if len(kept) < len(self.records) and self.path is not None:
            write_file(self.path, b"".join(_line(record) for record in kept))
        self.records = kept

    def _append(self, record: Line) -> None:
        """Add one line, in one write; a line cut off by a crash is dropped by ``resume``."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            file.write(_line(record))
            os.fsync(file.fileno())


def _opened(path: Path, resume: bool) -> list[Line]:
    """The records of an earlier run, if they are to be continued."""
    for folder, what in ((path.parent, "the recorder needs a folder there"), (path.parent.parent, "give a folder")):
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is a file; {what}.")
    if not path.exists():
        return []
    if not resume:
        raise RunError(
            f"{path} has the records of an earlier run: resume=True continues them; "
            "otherwise give another folder, or remove the file."
        )
    try:
        lines = read_file(path, _RECORDS_BYTES).splitlines()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}.") from None
    records: list[Line] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            records.append({"step": int(record["step"])} | record)
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise RunError(f"{path} is damaged: line {number} is not a record.") from None
            lines = lines[:-1]  # the process ended while it wrote the last line
    whole = b"".join(line + b"\n" for line in lines)
    if path.stat().st_size != len(whole):
        write_file(path, whole)
    return records


def scalars(record: Line) -> dict[str, float]:
    """The numbers of a record by tag (``flow/l0/horizon``), for TensorBoard and other loggers.

    Norms at lags 0, 1, 10, 100, …; a horizon beyond the last lag has no number.
    """
    found: dict[str, float] = {}
    for label, layer in record.get("layers", {}).items():
        found |= {f"flow/{label}/{name}": value for name, value in layer.items() if isinstance(value, float)}
        for lag in (0, *(10**power for power in range(6))):
            if lag < len(layer["by_lag"]) and layer["by_lag"][lag] is not None:
                found[f"flow/{label}/norm_at_lag_{lag}"] = layer["by_lag"][lag]
    if found:
        found["flow/overhead"] = record["overhead"]
    return found


@functools.cache
def _load() -> None:
    """Measure something tiny, so that torch does not import what it needs in the middle of a training."""
    with random_states_kept():
        layer = nn.LSTM(1, 1, device="cpu", dtype=torch.float32)
        x = torch.ones(3, 1, 1, device="cpu", dtype=torch.float32)
        summarize(gradient_flow(layer, x, loss=lambda output: output[0].sum(-1)))


def _is_first_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0)


def _apply(loss: Callable[..., Tensor], output: Any, target: Any) -> Any:
    return loss(output) if target is None else loss(output, target)


def _batch_first(model: object) -> bool:
    layers = model.modules() if isinstance(model, nn.Module) else ()
    return any(isinstance(layer, nn.RNNBase) and layer.batch_first for layer in layers)


def _number(value: float) -> float | None:
    """A number of a record; None for infinity and NaN, which JSON does not have."""
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _line(record: Line) -> bytes:
    return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()

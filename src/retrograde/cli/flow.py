"""``retrograde flow``: how far the gradient of a trained network, or of a file of weights, goes back in time."""

from __future__ import annotations

import dataclasses
import io
import math
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..cells import find
from ..errors import OptionError, RetrogradeError
from ..files import check_source, write_file
from ..words import counted
from .advice import advice
from .flow_signal import show_signal
from .terminal import console, note, printable, say, say_json

if TYPE_CHECKING:
    from rich.console import Console

    from ..flow import GradientFlow
    from ..flow.summary import Summary

CHECKPOINT = "Layers of a checkpoint"
WRITE = "What to write"
STEPS, SEQUENCES = 100, 8

_Layer = Annotated[list[str] | None, typer.Option(help="Only this layer (l0, l1, l0_reverse …); may be repeated.")]
_Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="Instead of a run: a state_dict (safetensors or torch.save) with RNN, GRU, LSTM or other cells' weights.",
        rich_help_panel=CHECKPOINT,
        show_default=False,
    ),
]
_Input = Annotated[
    Path | None,
    typer.Option(
        help="A .npy file (T, B, I) to drive them with. [dim]\\[normal noise][/dim]", rich_help_panel=CHECKPOINT
    ),
]
_Nonlinearity = Annotated[
    str | None, typer.Option(help="Of an RNN, tanh or relu. [dim]\\[tanh][/dim]", rich_help_panel=CHECKPOINT)
]
_Cell = Annotated[
    str | None,
    typer.Option(
        help="The cell, where its number of gates is not enough.", rich_help_panel=CHECKPOINT, show_default=False
    ),
]
_Seed = Annotated[int | None, typer.Option(help="Of the noise. [dim]\\[0][/dim]", min=0, rich_help_panel=CHECKPOINT)]
_Csv = Annotated[
    Path | None, typer.Option(help="Every pair (t, k) as a line.", rich_help_panel=WRITE, show_default=False)
]
_Plot = Annotated[
    Path | None,
    typer.Option(
        help="A picture (png, svg, pdf): by lag, and the heat map of each layer.",
        rich_help_panel=WRITE,
        show_default=False,
    ),
]
_Out = Annotated[
    Path | None,
    typer.Option(
        help="OUT.safetensors and OUT.json, for rg.GradientFlow.load.", rich_help_panel=WRITE, show_default=False
    ),
]
_Signal = Annotated[
    bool,
    typer.Option(
        "--signal",
        help="Measure instead up to which lag the data asks for memory, and what is left to learn at each lag.",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.", rich_help_panel=WRITE)]


def flow(
    run: Annotated[Path | None, typer.Argument(help="A run folder.", show_default=False)] = None,
    data: Annotated[
        str | None,
        typer.Argument(help="Measure on this instead of the run's held-out part.", show_default=False),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help=f"The longest sequences. [dim]\\[{STEPS}; text: --bptt if less][/dim]", min=2)
    ] = None,
    sequences: Annotated[int | None, typer.Option(help=f"How many. [dim]\\[{SEQUENCES}][/dim]", min=1)] = None,
    layer: _Layer = None,
    fraction: Annotated[float, typer.Option(help="Of the first norm, under which the horizon lies.")] = 0.01,
    checkpoint: _Checkpoint = None,
    input: _Input = None,
    nonlinearity: _Nonlinearity = None,
    cell: _Cell = None,
    seed: _Seed = None,
    csv: _Csv = None,
    plot: _Plot = None,
    out: _Out = None,
    signal: _Signal = False,
    json: _Json = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1, max=1024)] = None,
) -> None:
    """See how far the gradient of a trained network goes back in time.

    Measures the norm of ∂E_t/∂s_k, how much the loss at step t hangs on the state at step k, exactly and for every
    pair, and says what becomes of it with the lag t − k: growth per step, half-life, horizon, a verdict.

    Of a bare checkpoint, which has neither data nor head, the layers are driven by noise (or --input), and the loss of
    each step is a fixed random projection of the output.

    [bold]Examples[/bold]

    retrograde flow runs/first

    retrograde flow runs/first other.txt --steps 300 --plot flow.png

    retrograde flow runs/first --signal

    retrograde flow --checkpoint model.safetensors --layer encoder.l0
    """
    _check(run, checkpoint, fraction, plot, {"input": input, "nonlinearity": nonlinearity, "cell": cell, "seed": seed})
    asked = _Asked(steps, sequences, layer or None)
    if signal:
        _check_signal({"checkpoint": checkpoint, "csv": csv, "plot": plot, "out": out, **dataclasses.asdict(asked)})
    import torch

    from ..flow.summary import summarize

    if threads is not None:
        torch.set_num_threads(threads)
    if signal:
        assert run is not None
        show_signal(run, data, fraction, json=json)
        return
    if checkpoint is not None:
        found, about = _of_checkpoint(checkpoint, asked, input, nonlinearity, cell, seed)
    else:
        assert run is not None
        found, about = _of_run(run, data, asked)
    summary = dataclasses.replace(summarize(found, fraction), notes=[*found.notes, *_entered(found, fraction)])
    written = []
    if csv is not None:
        found.to_csv(csv)
        written.append(str(csv))
    if plot is not None:
        _draw(found, fraction, plot)
        written.append(str(plot))
    if out is not None:
        found.save(out)
        written.append(f"{out} (.safetensors and .json)")
    if json:
        say_json(about.facts | _numbers(found, summary))
        return
    _print(console(soft_wrap=False), summary, about)
    if written:
        say()
        say(f"Written: {', '.join(written)}")


def _check(
    run: Path | None, checkpoint: Path | None, fraction: float, plot: Path | None, of_checkpoint: dict[str, Any]
) -> None:
    """Refuse arguments that contradict one another before anything is measured."""
    if not 0 < fraction < 1:
        raise OptionError(f"--fraction {fraction} is impossible: it is a number between 0 and 1.")
    if (run is None) == (checkpoint is None):
        raise OptionError("give either a run folder or --checkpoint FILE.")
    if checkpoint is None:
        for name, value in of_checkpoint.items():
            if value is not None:
                raise OptionError(f"--{name} is for --checkpoint; a run is measured on DATA: leave it out.")
    if plot is not None and plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise OptionError(f"--plot {plot}: the name must end in .png, .svg or .pdf.")


def _check_signal(others: dict[str, Any]) -> None:
    for name, value in others.items():
        if value is not None:
            raise OptionError(f"--{name.removesuffix('s') if name == 'layers' else name} has no effect with --signal.")


@dataclass(frozen=True)
class _Asked:
    steps: int | None
    sequences: int | None
    layers: list[str] | None


@dataclass(frozen=True)
class _About:
    """What was measured: in words, and as JSON has it."""

    lines: list[str]
    facts: dict[str, Any]
    advice: str = ""  # of a run that learned nothing


# --- A run ------------------------------------------------------------------------------------------------------------


def _of_run(path: Path, data: str | None, asked: _Asked) -> tuple[GradientFlow, _About]:
    from ..flow import gradient_flow
    from ..training import load
    from ..training.held_out import held_out

    run = load(path)
    task, source = run.config.task, run.config.data.source if data is None else data
    chosen = held_out(run, data, steps=asked.steps, sequences=asked.sequences)
    for remark in chosen.notes:
        note(remark)
    measured = gradient_flow(run.model, *chosen.inputs, loss=chosen.loss, layers=asked.layers)
    steps, batch = chosen.inputs[0].shape[:2]
    what = f"{counted(batch, 'sequence')} of {'up to ' if measured.lengths is not None else ''}{steps} steps"
    options = run.config.options
    where = f"of {source}" if data is not None else f"held out of {source}"
    cell = find(options.cell, options.nonlinearity).words
    losses = "the loss of the whole sequence" if measured.final else "the loss of step t"
    lines = [
        f"{path}: {cell}, {options.num_layers} x {options.hidden_size} units, task {task}",
        f"Measured: the norm of ∂E_t/∂s_k on {what} {where}. E_t is {losses}.",
    ]
    facts = {"run": str(path), "task": task, "data": source, "held_out": data is None}
    return measured, _About(lines, facts | {"sequences": batch, "steps": steps}, advice(path))


# --- A checkpoint -----------------------------------------------------------------------------------------------------


def _of_checkpoint(
    path: Path, asked: _Asked, given: Path | None, nonlinearity: str | None, cell: str | None, seed: int | None
) -> tuple[GradientFlow, _About]:
    from ..flow.drive import choose, drive, read_input
    from ..flow.state_dict import find_recurrent, read_state_dict

    for file in (path, given):
        if file is not None:
            check_source(file)
    parameters = read_state_dict(path)
    try:
        found = find_recurrent(parameters, nonlinearity, cell)
    except OptionError:
        raise
    except RetrogradeError as error:
        raise type(error)(f"{path}: {error}") from None
    chosen, layers = (found, None) if asked.layers is None else choose(found, asked.layers)
    values = None if given is None else read_input(given)
    if values is not None and seed is not None:
        raise OptionError("--seed is for the noise, which --input replaces: leave one out.")
    steps = asked.steps or (STEPS if values is None else len(values))
    sequences = asked.sequences or (SEQUENCES if values is None else values.shape[1])
    seed = seed or 0
    measured = drive(chosen, steps=steps, sequences=sequences, seed=seed, given=values, layers=layers)
    steps, sequences = measured.steps[0], measured.losses.shape[1]
    what = f"{counted(sequences, 'sequence')} of {steps} steps"
    driven = f"standard-normal noise (seed {seed})" if given is None else str(given)
    measured_of = "" if len(chosen) == len(found) else f", {len(chosen)} of them measured"
    lines = [f"{path}: {counted(len(found), 'recurrent module')}{measured_of}"]
    lines += [f"  {one.name or '(root)'}: {one}" for one in chosen]
    if nonlinearity is None and any(str(one).startswith("RNN") for one in chosen):
        lines.append("  (tanh is taken for an RNN, whose weights do not tell: --nonlinearity relu is the other)")
    stored = [name for one in chosen for name in one.as_stored]
    if stored:
        lines.append(
            f"  ({', '.join(stored)}: taken as stored under a parametrization, which is right if that is dropout of "
            "weights; of any other, remove_parametrizations and save again)"
        )
    lines.append(
        f"Measured: the norm of ∂E_t/∂s_k of the layers alone, rebuilt and driven by {driven}, {what}. A checkpoint "
        "has no head and no data, so E_t is a fixed random projection of the output at step t, of length 1."
    )
    facts = {
        "checkpoint": str(path),
        "modules": {one.name: str(one) for one in chosen},
        "as_stored": stored,
        "input": "noise" if given is None else str(given),
        "seed": seed if given is None else None,
        "loss": "fixed random projection of the output, of length 1",
        "sequences": sequences,
        "steps": steps,
    }
    return measured, _About(lines, facts)


# --- What is shown ----------------------------------------------------------------------------------------------------


def _entered(found: GradientFlow, fraction: float) -> list[str]:
    """A note on how far the gradient comes from where it enters a layer, where lags from the end do not say it."""
    from ..flow.curves import horizon_of

    ends = {label: horizon_of(curve, fraction) for label, curve in found.by_entry().items()}
    if not ends:
        return []
    steps = [f"{label} after {lag:.0f} steps" if lag == lag else f"{label} never" for label, lag in ends.items()]
    return [
        "the loss reads the states of many steps, or of two directions, and lags count from the last step; of the "
        f"gradient that enters a layer at a step, {fraction:.0%} is left in {', in '.join(steps)} of its own"
    ]


def _print(screen: Console, summary: Summary, about: _About) -> None:
    screen.print("\n".join(_one_line(line) for line in about.lines) + "\n")
    screen.print(dataclasses.replace(summary, notes=[_one_line(note) for note in summary.notes]))
    if about.advice:
        screen.print("\n" + _one_line(about.advice))


def _one_line(text: str) -> str:
    indent = text[: len(text) - len(text.lstrip(" "))]
    return indent + printable(" ".join(text.split()))


def _numbers(found: GradientFlow, summary: Summary) -> dict[str, Any]:
    layers = [{"layer": label, "cell": found.cells[i], **summary.numbers(i)} for i, label in enumerate(summary.layers)]
    return {"fraction": summary.fraction, "state": found.state, "layers": layers, "notes": summary.notes}


def _draw(found: GradientFlow, fraction: float, path: Path) -> None:
    from matplotlib.figure import Figure

    panels = 1 + len(found.layers)
    columns = min(panels, 2 if panels <= 4 else 3)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(6.6 * columns, 4.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    found.plot_by_lag(axes[0], fraction)
    for i in range(len(found.layers)):
        found.plot_heatmap(axes[i + 1], i)
    for drawn in axes[:panels]:  # a finding about many layers is longer than its panel
        drawn.set_title("\n".join(wrap(drawn.get_title("left"), 72)), loc="left", fontsize=10)
    for blank in axes[panels:]:
        blank.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn_to = io.BytesIO()
    figure.savefig(drawn_to, dpi=130, format=path.suffix[1:].lower())
    write_file(path, drawn_to.getvalue())

"""``retrograde bench``: time the layers against ``torch.nn`` and JAX.

Tests: `tests/bench/test_bench.py`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..bench import Measurement

from ..cells import BY_NAME
from .terminal import say

_QUICK_SECONDS = 95.0  # after which --quick begins no further point: it ends within 2 minutes


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="A few typical points; ends within 2 minutes.")] = False,
    cell: Annotated[list[str] | None, typer.Option(help="rnn, gru, lstm; repeat for several.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="forward (inference mode), train (with gradients).")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(min=1, help="Instead of the grid's; repeatable.")] = None,
    steps: Annotated[list[int] | None, typer.Option(min=1, help="Instead of the grid's; repeatable.")] = None,
    hidden_size: Annotated[list[int] | None, typer.Option(min=1, help="Instead of the grid's; repeatable.")] = None,
    num_layers: Annotated[list[int] | None, typer.Option(min=1, help="Instead of the grid's; repeatable.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of every peer.  [default: all]")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="To spend on each point, at least 3 rounds.")] = 2.0,
    jax: Annotated[bool, typer.Option("--jax/--no-jax", help="Take JAX along where it is installed.")] = True,
    json: Annotated[Path | None, typer.Option(help="Write every figure to this file.", dir_okay=False)] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the ratios to this file.", dir_okay=False)] = None,
) -> None:
    """Time the layers beside torch.nn and JAX: one process, taking turns, medians with spread.

    A line per point: our time, how many times as long the others take (quartiles in brackets), the share of the peak.

    The peak is what the multiply-add units of this machine reach, measured between the same rounds.

    At the end: geometric mean and worst point of each cell. The whole grid takes over an hour; --quick 2 minutes.

    Let the machine do nothing else meanwhile.

    [bold]Example[/bold]

    retrograde bench --quick --json bench.json --picture bench.png
    """
    from ..bench import GRID, QUICK, Benchmark, grid, measure
    from ..bench.machine import limit_threads

    for path in (json, picture):
        if path is not None and not path.absolute().parent.is_dir():
            from ..errors import OptionError

            raise OptionError(f"{path}: there is no folder {path.absolute().parent}; make it first.")
    began = time.monotonic()
    given = {
        "cell": cell, "task": task, "batch_size": batch_size, "steps": steps,
        "hidden_size": hidden_size, "num_layers": num_layers,
    }  # fmt: skip
    axes = {**(QUICK if quick else GRID), **{name: tuple(values) for name, values in given.items() if values}}
    _check("--cell", axes["cell"], tuple(BY_NAME))
    _check("--task", axes["task"], GRID["task"])
    points = grid(axes)
    threads, with_jax = limit_threads(threads)
    with_jax = with_jax and jax
    result = Benchmark.here(threads, jax=with_jax)
    where = result.environment
    say(f"{where['processor']}, {threads} threads, {where['instruction_set']}, torch {where['torch']}")
    if jax and not with_jax:
        say("JAX is not installed and takes no part: pip install 'retrograde[bench]'")
    for measurement in measure(
        points,
        threads=threads,
        jax=with_jax,
        seconds=min(seconds, 0.8) if quick else seconds,
        until=began + _QUICK_SECONDS if quick else float("inf"),
    ):
        result.measurements.append(measurement)
        say(_line(measurement))
        if json is not None:
            result.save(json)  # as far as it came, should somebody stop it
    result.not_reached = len(points) - len(result.measurements)
    say()
    for line in result.summary():
        say(line)
    if json is not None:
        result.save(json)
    if picture is not None:
        from ..bench.picture import draw

        draw(result, picture)


def _check(option: str, values: tuple[object, ...], known: tuple[object, ...]) -> None:
    from ..errors import OptionError

    for value in values:
        if value not in known:
            raise OptionError(f"{option} {value}: choose from {', '.join(map(str, known))}.")


def _line(measurement: Measurement) -> str:
    name = f"{measurement.point!s:<36}"
    if measurement.left_out is not None:
        return f"{name} left out: torch.nn would take about {measurement.left_out:.1f} s a step"
    ours = measurement.seconds["retrograde"].median
    ratios = "   ".join(f"{peer} {r.median:5.2f}x [{r.low:.2f} {r.high:.2f}]" for peer, r in measurement.ratios.items())
    share = f"   {measurement.share_of_peak:4.0%} of peak" if measurement.share_of_peak is not None else ""
    return f"{name}{1e3 * ours:9.2f} ms   {ratios}{share}"

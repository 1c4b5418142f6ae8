"""What the scripts next to this one share: train every arm of a paper, ask the doctor, write a page with the results.

A paper is a claim about training: this arm fails, that one learns. Each arm is trained with the same data and number of
updates, from several seeds. The doctor gives a verdict and a prescription for each, which is compared with the paper's
own cure. Runs that are complete are not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import retrograde as rg

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Arm:
    """One way to train the network."""

    name: str
    options: Mapping[str, Any]
    learns: bool  # whether it does in the paper


@dataclass(frozen=True)
class Paper:
    """A claim of a paper, and how it is tried here."""

    key: str
    citation: str
    claim: str
    data: str
    options: Mapping[str, Any]  # common to all arms
    arms: list[Arm]
    cure: frozenset[str]  # options that the paper's own remedy changes
    scaled: str = ""  # what is smaller than in the paper
    full_data: str = ""  # with --full
    full_options: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 2
    reported: str = ""  # the paper's own figure


@dataclass(frozen=True)
class Outcome:
    """One finished run."""

    arm: Arm
    seed: int
    folder: Path
    loss: float
    correct: float
    seconds: float
    steps: int


def main(paper: Paper) -> None:
    """Train, ask the doctor, write the page."""
    asked, _ = parser(paper.claim, paper.seeds).parse_known_args()  # a script may have more options
    if asked.full:
        paper = replace(
            paper, data=paper.full_data or paper.data, options={**paper.options, **paper.full_options}, scaled=""
        )
    root = asked.out / (paper.key + ("-full" if asked.full else ""))
    outcomes = [trained(paper, arm, seed, root) for seed in range(asked.seeds) for arm in paper.arms]
    verdicts = [doctor(paper, arm, root) for arm in paper.arms]
    treated = next((verdict for verdict in verdicts if not verdict.arm.learns and verdict.changes), None)
    if treated is not None:  # is the first prescription for an arm that fails a cure?
        arm = Arm(f"{treated.arm.name}, as prescribed", {**treated.arm.options, **treated.changes}, learns=True)
        outcomes += [trained(paper, arm, seed, root) for seed in range(asked.seeds)]
    name = paper.key + ("-full" if asked.full else "")
    last = made(sum(one.seconds for one in outcomes), shared=asked.shared)
    write_page(f"{name}.md", page(paper, outcomes, verdicts, name, last))
    draw(outcomes, paper.citation, RESULTS / f"{name}.png")


def parser(description: str, seeds: int) -> argparse.ArgumentParser:
    """The options of every script."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--full", action="store_true", help="the size of the paper; takes hours")
    found.add_argument("--seeds", type=int, default=seeds)
    found.add_argument("--out", type=Path, default=Path("runs/papers"), help="where the runs are kept")
    found.add_argument("--shared", action="store_true", help="say on the page that other programs ran meanwhile")
    return found


def made(seconds: float, *, shared: bool) -> str:
    """The last line of a page: how it was made, and how long the trainings took together."""
    busy = " on a machine that other programs shared" if shared else ""
    return f"Made by `python examples/papers/{Path(sys.argv[0]).name}`: {seconds / 60:.1f} minutes of training{busy}."


def write_page(name: str, text: str) -> None:
    """Write a page into the folder of results, and print it."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(text, encoding="utf-8")
    print(text)


def kept(model: nn.Module, path: Path, train: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Train a model that is no run, or load it from its file if it is there.

    Returns what ``train`` recorded, and the ``seconds`` that it took.
    """
    if path.exists():
        state = load_file(path)
        record = {name: state.pop(name) for name in set(state) - set(model.state_dict())}
        model.load_state_dict(state)
        return record
    began = time.perf_counter()
    record = {**train(), "seconds": torch.tensor(time.perf_counter() - began)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({**model.state_dict(), **record}, path)
    return record


def words(diagnosis: rg.Diagnosis) -> tuple[str, str]:
    """What the doctor found, or its verdict, and its first prescription, for a table."""
    found = ", ".join(sorted({f.about.title for f in diagnosis.findings if f.severity == "sick"}))
    if not diagnosis.prescriptions:
        return found or diagnosis.verdict, "none"
    first = diagnosis.prescriptions[0]
    how = options_words(first.options) if first.options else first.arithmetic
    return found or diagnosis.verdict, f"{first.remedy}: {how}" if how else first.remedy


def place_of(cure: frozenset[str], diagnosis: rg.Diagnosis) -> str:
    """Which of the prescriptions is the first that changes an option that the paper's own remedy changes."""
    ladder = enumerate(diagnosis.prescriptions, 1)
    return next((f"number {place}" for place, one in ladder if cure & set(one.options)), "not there")


def folder_of(arm: Arm, seed: int, root: Path) -> Path:
    """The run folder of a seed."""
    return root / f"{arm.name.replace(' ', '-')}-{seed}"


def is_kept(folder: Path, options: Mapping[str, Any]) -> bool:
    """Whether a complete run with these options is there."""
    if not (folder / "evaluation.json").exists():
        return False
    run = rg.load(folder)
    same = all(getattr(run.config.options, name) == value for name, value in options.items())
    return same and run.summary is not None and run.summary.status in ("finished", "diverged")


def trained(paper: Paper, arm: Arm, seed: int, root: Path) -> Outcome:
    """Train one arm from one seed, unless that is done."""
    folder, options = folder_of(arm, seed, root), {**paper.options, **arm.options, "seed": seed}
    if not is_kept(folder, options):
        try:
            rg.train(paper.data, folder, report=False, overwrite=folder.exists(), **options)
        except rg.errors.DivergedError as error:
            print(f"{folder}: {error}")
    run = rg.load(folder)
    correct = run.summary.best.get("correct", float("nan"))  # which a text has not
    return Outcome(
        arm, seed, folder, run.summary.best["loss"], correct, run.summary.seconds or 0, run.summary.step or 0
    )


@dataclass(frozen=True)
class Verdict:
    """What the doctor says of an arm (first seed)."""

    arm: Arm
    found: str
    prescription: str
    changes: Mapping[str, Any]
    cure: str  # the place of the paper's own among the prescriptions


def doctor(paper: Paper, arm: Arm, root: Path) -> Verdict:
    """Diagnose the first seed of an arm."""
    diagnosis = rg.diagnose(folder_of(arm, 0, root))
    found, prescription = words(diagnosis)
    changes = diagnosis.prescriptions[0].options if diagnosis.prescriptions else {}
    return Verdict(arm, found, prescription, changes, place_of(paper.cure, diagnosis))


def draw(outcomes: list[Outcome], title: str, path: Path) -> None:
    """Validation loss against updates: a line per run, a color per arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    arms = list(dict.fromkeys(one.arm.name for one in outcomes))
    for outcome in outcomes:
        lines = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
        steps, losses = [m["step"] for m in lines], [m["validation_loss"] for m in lines]
        label = outcome.arm.name if outcome.seed == 0 else None
        axes.plot(steps, losses, color=f"C{arms.index(outcome.arm.name)}", label=label)
    axes.set(xlabel="updates", ylabel="validation loss", yscale="log")
    axes.set_title(title, fontsize=9)
    axes.legend()
    figure.savefig(path, dpi=110)


def page(paper: Paper, outcomes: list[Outcome], verdicts: list[Verdict], name: str, last: str) -> str:
    """The results as Markdown."""
    lines = [
        f"# {paper.citation}",
        "",
        f"**Claim.** {paper.claim}",
        "",
        *([f"**In the paper**: {paper.reported}", ""] if paper.reported else []),
        f"Data: `{paper.data}`. Common options: {options_words(paper.options)}.",
    ]
    if paper.scaled:
        more = " `--full` runs more." if paper.full_data or paper.full_options else ""
        lines += ["", f"**Not as in the paper**: {paper.scaled}{more}"]
    lines += ["", f"![Validation loss of every arm]({name}.png)", ""]
    lines += ["| arm | options | in the paper | loss (median; all seeds) | sequences right | updates | minutes |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for arm in {one.arm.name: one.arm for one in outcomes}.values():
        own = [one for one in outcomes if one.arm.name == arm.name]
        losses = [one.loss for one in own]
        told = "" if arm not in paper.arms else "learns" if arm.learns else "fails"
        lines.append(
            f"| {arm.name} | {options_words(arm.options)} | {told} | "
            f"{statistics.median(losses):.4g} ({' '.join(f'{loss:.4g}' for loss in losses)}) | "
            f"{' '.join(f'{c:.1%}' for one in own if (c := one.correct) == c)} | {own[0].steps:,} | "
            f"{sum(one.seconds for one in own) / 60:.1f} |"
        )
    lines += [
        "",
        "| arm | the doctor's verdict (seed 0) | first prescription | the paper's cure among the prescriptions |",
        "|---|---|---|---|",
    ]
    for one in verdicts:
        answer = "" if one.arm.learns else one.cure
        lines.append(f"| {one.arm.name} | {one.found} | {one.prescription} | {answer} |")
    return "\n".join([*lines, "", last, ""])


def options_words(options: Mapping[str, Any]) -> str:
    """Options as they are given on the command line."""
    given = [f"`--{key.replace('_', '-')} {value}`" for key, value in options.items() if value is not None]
    return ", ".join(given) or "the defaults"

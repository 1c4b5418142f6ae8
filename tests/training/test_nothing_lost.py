"""Kills, full disks, damage, links and odd configurations: training goes on to the same numbers, or says one line."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from retrograde.errors import DataError, OptionError, RetrogradeError, RunError
from retrograde.experiment import load, train
from retrograde.training import Callback

CLOCKS = {"seconds", "tokens_per_second", "waiting_share"}
SMALL = {"hidden_size": 6, "max_steps": 11, "eval_every": 4, "report": False}
AT_EVERY_STEP = 1e-9  # minutes


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package catches it."""


class Notes(Callback):
    def __init__(self) -> None:
        self.said: list[str] = []

    def on_note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, draw = tmp_path_factory.mktemp("data"), random.Random(0)
    content = {
        "language": ("a.txt", "".join(f"line {i}: cat {i % 7} sat on mat {i % 5}.\n" for i in range(40))),
        "classify": (
            "a.csv",
            "text,label\n"
            + "".join(f"{' '.join(draw.choices('abcde', k=draw.randint(1, 6)))},{'xy'[i % 2]}\n" for i in range(40)),
        ),
        "signals": (
            "b.csv",
            "signal,t,x,y,kind\n"
            + "".join(f"{s},{t},{draw.random()},{draw.random()},{'ud'[s % 2]}\n" for s in range(24) for t in range(4)),
        ),
        "tag": ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["B-X", "O"]}\n{"tokens": ["a"], "tags": ["O"]}\n' * 12),
        "forecast": ("c.csv", "value\n" + "".join(f"{math.sin(n / 2) + draw.gauss(0, 0.1)}\n" for n in range(70))),
    }
    for name, text in content.values():
        (folder / name).write_text(text)
    return {task: folder / name for task, (name, _) in content.items()}


def curve(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def weights(run: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(run / "model.safetensors"), load_file(max((run / "checkpoints").glob("step-*")))]


def same(one: Path, other: Path) -> bool:
    """Python's own random state apart: nothing is drawn from it, but libraries that read tables may."""
    pairs = zip(weights(one), weights(other), strict=True)
    return curve(one) == curve(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a.keys() - {"random.python"})
        for a, b in pairs
    )


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Ends a process at the n-th system call from now that writes, renames or removes a file."""
    left = [0]

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return real(*arguments, **named)

        return call

    for module, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
        monkeypatch.setattr(module, name, deadly(getattr(module, name)))

    def arm(calls: int) -> None:
        left[0] = calls

    yield arm
    left[0] = 0


CASES = {
    "language": {"bptt": 9, "batch_size": 3, "update_every": 4, "dropout": 0.3, "clip_quantile": 0.3, "cell": "gru"},
    "omega": {"bptt": 9, "batch_size": 3, "cell": "rnn", "omega": 0.5, "schedule": "cosine", "optimizer": "sgd"},
    "classify": {"dropout": 0.2, "weight_drop": 0.3, "class_weights": "balanced", "batch_size": 7},
    "signals": {"group": "signal", "layer_norm": True, "recurrent_dropout": 0.3, "batch_size": 5},
    "tag": {"bidirectional": True, "dropout": 0.2, "batch_size": 5, "schedule": "linear"},
    "forecast": {"strategy": "direct", "dropout": 0.2, "batch_size": 5, "horizon": 2, "context": 4},
    "autoregressive": {"strategy": "autoregressive", "batch_size": 5, "horizon": 2, "context": 4},
    "synthetic": {"dropout": 0.2, "batch_size": 4, "eval_every": 6, "max_steps": 7},
}


@pytest.mark.parametrize("case", CASES)
def test_killed_wherever_it_writes_it_goes_on_to_the_same_numbers(
    case: str, data: dict[str, Path], tmp_path: Path, killer: Callable[[int], None]
) -> None:
    """A checkpoint at every step; killed before the first one is whole, then amid the writing of later ones."""
    task = {"omega": "language", "signals": "classify", "autoregressive": "forecast"}.get(case, case)
    source: Any = "builtin:latch?length=5" if case == "synthetic" else data.get(case, data.get(task))
    options = SMALL | {"task": task} | CASES[case]
    train(source, tmp_path / "whole", **options)
    run, draw, quick = tmp_path / "run", random.Random(case), task in ("language", "synthetic")
    kills = [draw.randint(1, 12), *(draw.randint(14, 30) for _ in range(6 if quick else 2))]
    for calls in [*kills, 0]:
        killer(calls)
        try:
            if (run / "config.json").exists():
                train(None, run, resume=True, report=False)
            else:
                train(source, run, **options, checkpoint_minutes=AT_EVERY_STEP)
            assert calls == 0 or quick
        except Killed:
            assert calls
    assert same(tmp_path / "whole", run)
    assert not list(run.glob("**/.*.partial"))


def test_a_full_disk_stops_training_and_costs_nothing(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SMALL | {"bptt": 9, "batch_size": 3}
    train(data["language"], tmp_path / "whole", **options)
    written, real = [0], os.fsync

    def full(descriptor: int) -> None:
        written[0] += 1
        if written[0] > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot be written: No space left on device; what was saved before is kept"):
        train(data["language"], tmp_path / "run", **options, checkpoint_minutes=AT_EVERY_STEP)
    assert not list((tmp_path / "run").glob("**/.*.partial"))
    monkeypatch.setattr(os, "fsync", real)
    train(None, tmp_path / "run", resume=True, report=False)
    assert same(tmp_path / "whole", tmp_path / "run")


@pytest.fixture(scope="module")
def made(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("made") / "run"
    train(data["language"], run, **SMALL, bptt=9, batch_size=3, tokens="word")
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def flip(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def test_a_single_flipped_bit_is_noticed(made: Path, run: Path) -> None:
    draw, newest = random.Random(0), max((made / "checkpoints").glob("step-*")).name
    for _ in range(12):
        for name in (f"checkpoints/{newest}", "model.safetensors"):
            shutil.copy(made / name, run / name)
            flip(run / name, draw)
        with pytest.raises(RunError, match=r"damaged|does not fit"):
            load(run)
        listener = Notes()
        train(None, run, resume=True, report=False, callbacks=[listener])
        assert any(newest in said and "cannot be read; going on from step" in said for said in listener.said)
        assert same(made, run)


def test_damaged_best_weights_give_way_with_their_checkpoint(made: Path, run: Path) -> None:
    best = max((run / "checkpoints").glob("best-*"))
    best.write_bytes(best.read_bytes()[:-1])
    steps = sorted((run / "checkpoints").glob("best-*"))
    if len(steps) > 1:
        train(None, run, resume=True, report=False)
        assert same(made, run)
    else:
        with pytest.raises(RunError, match=best.name):
            train(None, run, resume=True, report=False)


def test_a_changed_vocabulary_is_refused_and_put_back(made: Path, run: Path) -> None:
    content = (run / "vocabulary.json").read_text()
    (run / "vocabulary.json").write_text(content.replace(" cat", " cut"))
    with pytest.raises(RunError, match=r"not what the weights were trained with.*--resume puts it back"):
        load(run)
    train(None, run, resume=True, report=False)
    assert (run / "vocabulary.json").read_text() == content
    assert load(run).vocabulary.id_of(" cat") is not None


def test_a_changed_option_is_named(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["options"]["lr"] = 0.5
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"its lr is 0.5, that of the checkpoint 0.002"):
        train(None, run, resume=True)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "vocabulary.json", "checkpoints", "config.json", "metrics.jsonl"]
)
def test_links_out_of_the_run_are_not_followed(run: Path, tmp_path: Path, data: dict[str, Path], name: str) -> None:
    shutil.move(run / name, tmp_path / "outside")
    (run / name).symlink_to(tmp_path / "outside")
    for command in (
        lambda: load(run),
        lambda: train(None, run, resume=True),
        lambda: train(data["language"], run, overwrite=True, **SMALL),
    ):
        with pytest.raises(RunError, match="a link that leads out of the run folder"):
            command()
    assert (tmp_path / "outside").exists()


HOSTILE: list[tuple[str, Any]] = [
    ("options.hidden_size", 10**9),
    ("options.hidden_size", 20_000),
    ("options.num_layers", 10**9),
    ("options.threads", 10**6),
    ("options.text", ["x"]),
    ("options.cell", {}),
    ("options.nonsense", 1),
    ("options.task", "tag"),
    ("options", []),
    ("task", "dance"),
    ("task", None),
    ("data", {}),
    ("data.source", 5),
    ("parameters", "many"),
    ("format", "1"),
]


@pytest.mark.parametrize(("where", "value"), HOSTILE)
def test_odd_configurations_get_one_line(run: Path, where: str, value: Any) -> None:
    config = json.loads((run / "config.json").read_text())
    *outer, name = where.split(".")
    (config[outer[0]] if outer else config)[name] = value
    (run / "config.json").write_text(json.dumps(config))
    for command in (lambda: load(run), lambda: train(None, run, resume=True)):
        with pytest.raises(RetrogradeError) as caught:
            command()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_checkpoint_cannot_name_files_elsewhere(run: Path) -> None:
    from retrograde.runs import RunFolder

    folder = RunFolder(run)
    newest = f"checkpoints/{max((run / 'checkpoints').glob('step-*')).name}"
    tensors, about = folder.read_tensors(newest)
    for step in ("../../elsewhere", 1.5, None):
        folder.write_tensors(newest, tensors, about | {"progress": about["progress"] | {"best": {"step": step}}})
        train(None, run, resume=True, report=False)  # from the one before
    folder.write_tensors(newest, tensors, about | {"files": {"../elsewhere": "x"}})
    train(None, run, resume=True, report=False)
    assert not (run.parent / "elsewhere").exists()


def test_a_model_beyond_memory_is_refused_at_once(data: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"--hidden-size 1,000,000,000 .* GB of memory"):
        train(data["language"], tmp_path / "run", hidden_size=10**9)
    with pytest.raises(OptionError, match=r"--batch-size 1,000,000,000 .* GB of memory"):
        train("builtin:adding?length=100000", tmp_path / "run", batch_size=10**9, hidden_size=4)


def test_data_is_known_by_its_content(data: dict[str, Path], tmp_path: Path) -> None:
    table, check, run = tmp_path / "a.csv", tmp_path / "check.csv", tmp_path / "run"
    shutil.copy(data["classify"], table)
    shutil.copy(data["classify"], check)
    train(table, run, task="classify", validation=str(check), **SMALL)
    os.utime(table, (1, 1))
    copy = table.rename(tmp_path / "moved.csv")
    train(copy, run, resume=True, report=False, max_steps=12)
    check.write_text(check.read_text().replace("a", "b"))
    with pytest.raises(DataError, match="another content"):
        train(copy, run, resume=True)


def test_a_schedule_whose_end_moves_is_said(data: dict[str, Path], tmp_path: Path) -> None:
    train(data["language"], tmp_path / "run", **SMALL, bptt=9, schedule="cosine")
    listener = Notes()
    train(None, tmp_path / "run", resume=True, report=False, max_steps=13, callbacks=[listener])
    assert any("cosine schedule" in said and "ends at step 13 (it was 11)" in said for said in listener.said)


def test_so_many_checkpoints_stay_as_asked(data: dict[str, Path], tmp_path: Path) -> None:
    options = SMALL | {"bptt": 9, "checkpoint_minutes": AT_EVERY_STEP, "keep_checkpoints": 5}
    train(data["language"], tmp_path / "run", **options)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert [int(name[5:14]) for name in names] == [7, 8, 9, 10, 11]

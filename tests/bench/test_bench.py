"""The benchmark as an instrument: what it counts, whom it compares, what it refuses; no figure is judged here."""

import json
import math
import os

import numpy as np
import pytest
import torch

from retrograde.bench import GRID, Benchmark, Measurement, Point, Timing, grid, measure
from retrograde.bench import timing as measuring
from retrograde.bench.machine import limit_threads
from retrograde.bench.peers import Peer, peers
from retrograde.bench.picture import draw
from retrograde.cli import main
from retrograde.errors import DataError, RetrogradeError


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """What the command sets for its own process is put back for the tests after."""
    for name in ("NPROC", "PJRT_NPROC"):
        monkeypatch.setenv(name, "1")
    threads = torch.get_num_threads()
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    if processors is not None:
        os.sched_setaffinity(0, processors)


def point(**changes):
    return Point(
        **{"cell": "rnn", "task": "train", "batch_size": 2, "steps": 3, "hidden_size": 4, "num_layers": 1} | changes
    )


def made_up(ratio, seconds=1.0, **changes):
    return Measurement(
        point(**changes),
        {"retrograde": Timing(seconds, seconds, seconds), "torch": Timing(ratio * seconds, 0, 9)},
        {"torch": Timing(ratio, ratio, ratio)},
        Timing(1e3, 1e3, 1e3),
        3,
        "engine",
    )


def test_the_grid_is_the_whole_product_and_cheap_shapes_come_first():
    points = grid(GRID)
    assert len(points) == len(set(points)) == 2 * 3 * 4 * 6 * 3 * 2
    assert {p.num_layers for p in points} == {1, 2}
    work = [p.operations for p in points if (p.cell, p.task) == ("gru", "train")]
    assert work == sorted(work)


def test_operations_are_those_of_the_products():
    # 3 steps of 2 sequences: W_ih x and W_hh h, 4 x 4 each, a multiplication and an addition; three times to train
    assert point().operations == 3 * (3 * 2 * (2 * 16 * 2))
    assert point(task="forward", cell="lstm", num_layers=2).operations == 2 * 4 * (3 * 2 * (2 * 16 * 2))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("task", ["forward", "train"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_peers_compute_the_same(cell, task, num_layers):
    pytest.importorskip("jax", reason="the extra 'bench' is not installed")
    everybody, _, path = peers(point(cell=cell, task=task, num_layers=num_layers), jax=True)
    assert [peer.name for peer in everybody] == ["retrograde", "torch", "jax"]
    assert path in ("engine", "torch")
    answers = [peer.answer() for peer in everybody]
    assert len(answers[0]) == (1 if task == "forward" else 1 + 4 * num_layers)
    for other in answers[1:]:
        for mine, theirs in zip(answers[0], other, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_point_is_measured():
    (found,) = measure([point()], threads=1, jax=False, seconds=0.0)
    assert found.rounds == 3
    assert set(found.seconds) == {"retrograde", "torch"}
    assert set(found.ratios) == {"torch"}
    for timing in (*found.seconds.values(), *found.ratios.values()):
        assert 0 < timing.low <= timing.median <= timing.high
    assert found.share_of_peak is None or 0 < found.share_of_peak < 1


def test_a_point_too_slow_for_torch_is_left_out_untimed(monkeypatch):
    monkeypatch.setattr(measuring, "LIMIT", 0.0)
    big = point(batch_size=64, steps=400, hidden_size=256)
    (found,) = measure([big], threads=1, jax=False)
    assert found.left_out > 0
    assert not found.seconds
    assert not found.ratios
    result = Benchmark.here(1, jax=False)
    result.measurements.append(found)
    assert result.left_out == [found]
    assert not result.rows()
    assert any("1 points left out" in line for line in result.summary())


def test_nothing_is_begun_after_the_deadline():
    assert list(measure([point()], threads=1, jax=False, until=-math.inf)) == []


@pytest.mark.parametrize("wrong", [1.0, math.nan])
def test_peers_that_compute_something_else_are_not_timed(wrong):
    ones = [np.ones((2, 2), dtype=np.float32)]
    good = Peer("retrograde", lambda: None, lambda: ones)
    bad = Peer("jax", lambda: None, lambda: [ones[0] + wrong])
    measuring._agree(point(), [good, good])
    with pytest.raises(RetrogradeError, match="differ from those of jax"):
        measuring._agree(point(), [good, bad])


def test_what_it_comes_to():
    result = Benchmark.here(2, jax=False)
    result.measurements += [made_up(2.0), made_up(8.0, steps=5), made_up(3.0, task="forward")]
    train, forward = result.rows()
    assert (train.cell, train.task, train.peer, train.points) == ("rnn", "train", "torch", 2)
    assert train.mean == pytest.approx(4.0)
    assert train.worst.ratios["torch"].median == 2.0
    assert forward.mean == pytest.approx(3.0)
    assert made_up(2.0, seconds=2.0).share_of_peak == pytest.approx(point().operations / 2.0 / 1e3)
    big = made_up(1.5, batch_size=64, hidden_size=512)
    result.measurements.append(big)
    assert result.large() == {"rnn": [big.share_of_peak]}


def test_saved_and_read_again_it_is_the_same(tmp_path):
    result = Benchmark.here(2, jax=False)
    result.measurements += [made_up(2.0), Measurement(point(), {}, {}, None, 0, "engine", left_out=4.5)]
    path = tmp_path / "bench.json"
    result.save(path)
    assert Benchmark.load(path) == result
    document = json.loads(path.read_text())
    assert document["summary"][0]["geometric_mean"] == 2.0
    assert document["environment"]["threads"] == 2
    path.write_text("{}")
    with pytest.raises(DataError, match="no benchmark"):
        Benchmark.load(path)


def test_the_picture_is_drawn(tmp_path):
    result = Benchmark.here(2, jax=False)
    result.measurements += [made_up(2.0 + h, hidden_size=h, steps=t) for h in (32, 64) for t in (50, 200)]
    draw(result, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


SMALL = ["--hidden-size", "4", "--batch-size", "2", "--steps", "3", "--num-layers", "1", "--seconds", "0", "--no-jax"]


def test_the_command_prints_and_keeps_what_it_found(tmp_path, capsys):
    path, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    with pytest.raises(SystemExit) as ended:
        main(["bench", *SMALL, "--threads", "1", "--json", str(path), "--picture", str(picture)])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for cell in ("rnn", "gru", "lstm"):
        for task in ("train", "forward"):
            assert f"{cell} {task} B=2 T=3 H=4" in printed
    assert "geometric mean" in printed
    assert len(Benchmark.load(path).timed) == 6
    assert picture.exists()


def test_all_peers_compute_with_as_many_threads(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    torch.set_num_threads(2)
    assert limit_threads(1)[0] == torch.get_num_threads() == 1
    assert os.environ["NPROC"] == os.environ["PJRT_NPROC"] == "1"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--cell", "transformer"], "choose from rnn, gru, lstm"),
        (["--task", "dream"], "choose from forward, train"),
        (["--threads", "4096"], "processors"),
        (["--steps", "0"], "--steps"),
        (["--json", "/no/such/folder/bench.json"], "no folder"),
    ],
)
def test_impossible_options_are_one_line_and_exit_code_2(options, word, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", *SMALL, *options])
    assert ended.value.code == 2
    complaint = capsys.readouterr().err
    assert word in complaint
    assert complaint.count("\n") == 1

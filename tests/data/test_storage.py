"""What is held in memory or on disk reads the same; tables of steps come out grouped however they lie."""

import numpy as np
import pytest

from retrograde.data import storage
from retrograde.data.formats import open_table
from retrograde.data.roles import Columns
from retrograde.data.sequences import sequences
from retrograde.data.series import read_series
from retrograde.data.shuffle import Shuffle
from retrograde.data.storage import Ragged, Rows, scattered
from retrograde.errors import DataError


@pytest.fixture(params=["in memory", "on disk"])
def place(request, monkeypatch):
    """Both ways of keeping things: whatever is larger than a hundred bytes goes to a file."""
    if request.param == "on disk":
        monkeypatch.setattr(storage, "SPILL", 100)
    return request.param


def test_rows_and_ragged_read_what_was_written(place):
    random = np.random.default_rng(0)
    arrays = [random.normal(size=(n, 2)).astype(np.float32) for n in (3, 0, 50, 1, 7, 20)]
    ragged = Ragged.of(arrays, np.float32)
    assert (ragged.rows.in_memory is None) == (place == "on disk")
    for number, array in enumerate(arrays):
        np.testing.assert_array_equal(ragged[number], array)
    np.testing.assert_array_equal(np.concatenate([*ragged.rows.pieces(1, 60)]), np.concatenate(arrays)[1:60])
    padded = ragged.padded(np.array([2, 0, 1]), -1)
    assert padded.shape == (50, 3, 2)
    np.testing.assert_array_equal(padded[:3, 1], arrays[0])
    assert (padded[3:, 1] == -1).all()
    assert (padded[:, 2] == -1).all()
    assert (ragged.padded(np.array([2, 0]))[3:, 1] == 0).all()
    labels = Ragged.of([np.array([0, 2, 2]), np.arange(3).repeat(30)], np.int64)
    assert labels.counts(4).tolist() == [31, 30, 32, 0]


def test_rows_may_be_read_while_they_grow(place):
    rows = Rows(np.int64)
    for start in range(0, 90, 9):
        rows.append(np.arange(start, start + 9))
        assert rows[start : start + 9].tolist() == list(range(start, start + 9))
    assert len(rows) == 90


def test_scattered_is_written_in_any_order(place):
    table = scattered(60, 3, np.float32)
    order = np.random.default_rng(0).permutation(60)
    for row in order:
        table[row] = row
    np.testing.assert_array_equal(table, np.arange(60.0)[:, None].repeat(3, 1))


@pytest.mark.parametrize("layout", ["sorted", "interleaved", "shuffled"])
def test_groups_come_whole_and_in_their_first_order(place, tmp_path, monkeypatch, layout):
    monkeypatch.setattr("retrograde.data.table.BLOCK", 16)
    steps = [(f"g{group}", t, group + t / 100) for group in range(9) for t in range(3 + 2 * group)]
    if layout == "interleaved":
        steps.sort(key=lambda step: step[1])
    if layout == "shuffled":
        steps = [steps[place] for place in np.random.default_rng(1).permutation(len(steps))]
    path = tmp_path / "steps.csv"
    path.write_text("id,t,x,label\n" + "".join(f"{g},{t},{x},{'ab'[int(g[1]) % 2]}\n" for g, t, x in steps))
    columns = Columns(group=("id",), time="t", features=("x",), label="label")
    table = open_table(path)
    for _ in range(2):  # the sorted table is read again
        found = list(sequences(table, columns, False))
        assert [one.group[0] for one in found] == list(dict.fromkeys(g for g, _, _ in steps))
        for one in found:
            number = int(one.group[0][1])
            np.testing.assert_allclose(one.values[:, 0], number + np.arange(3 + 2 * number) / 100, rtol=1e-6)
            assert [steps[row][:2] for row in one.rows] == [(one.group[0], t) for t in range(3 + 2 * number)]
            assert one.label == "ab"[number % 2]


def test_a_single_series_in_any_order_of_time(place, tmp_path, monkeypatch):
    monkeypatch.setattr("retrograde.data.table.BLOCK", 16)
    columns = Columns(time="t", target=("y",))
    for name, order in (("a", np.arange(40)), ("b", np.random.default_rng(0).permutation(40))):
        path = tmp_path / f"{name}.csv"
        path.write_text("t,y\n" + "".join(f"{t},{t * 2}\n" for t in order))
        found = read_series(open_table(path), columns)
        assert found.numbers[0][:, 0].tolist() == list(range(0, 80, 2))
        assert found.times[0][-2:] == ["38", "39"]
    path.write_text("t,y\n1,1\n2,1\n2,3\n")
    with pytest.raises(DataError, match="row 3, column 't': time '2' comes twice; if rows of several series are mixed"):
        read_series(open_table(path), columns)


def test_a_full_disk_is_named(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "SPILL", 10)
    monkeypatch.setattr(storage, "_append", full)
    with pytest.raises(DataError, match=r"No space left on device.*TMPDIR"):
        Rows(np.float64).append(np.zeros(9))


@pytest.mark.parametrize(("count", "batch_size"), [(7, 3), (1000, 4), (1003, 4), (50, 64)])
def test_every_sequence_comes_once_an_epoch(monkeypatch, count, batch_size):
    monkeypatch.setattr(Shuffle, "CHUNK", 200)  # so that there are several runs
    monkeypatch.setattr(Shuffle, "POOL", 5)
    lengths = np.random.default_rng(0).integers(1, 30, count)
    shuffle = Shuffle(lengths, batch_size, seed=1)
    steps = shuffle.steps_per_epoch
    epochs = [[shuffle(epoch * steps + step) for step in range(steps)] for epoch in range(2)]
    for batches in epochs:
        assert sorted(np.concatenate(batches)) == list(range(count))
        assert all((np.diff(lengths[batch]) <= 0).all() for batch in batches)
    assert count < 100 or [list(batch) for batch in epochs[0]] != [list(batch) for batch in epochs[1]]
    again = Shuffle(lengths, batch_size, seed=1)
    assert (again(steps + steps // 2) == epochs[1][steps // 2]).all()  # by the step alone

"""Arrays of NumPy that make no table are refused in one line; those that do keep their types."""

import zipfile

import numpy as np
import pytest

from retrograde.data.formats import open_table
from retrograde.errors import DataError


def test_members_that_are_no_arrays_are_left_out(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(6.0).reshape(3, 2), y=np.array([0, 1, 0]))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("readme.txt", "hello")
    table = open_table(tmp_path / "a.npz")
    assert table.names == ["x", "y"] and len(table) == 3
    assert table.notes == ["a.npz: members that are not arrays are left out: readme.txt."]
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match=r"b\.npz has no rows"):
        open_table(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("x.npy", b"junk")
    with pytest.raises(DataError, match=r"c\.npz (cannot be read|has no rows)"):
        open_table(tmp_path / "c.npz")


@pytest.mark.parametrize("shape", [(60, 0), (60, 0, 3), (60, 3, 0)])
def test_arrays_without_numbers(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(DataError, match=r"array 'values' has the shape \(60, .*\): it holds no numbers"):
        open_table(tmp_path / "a.npy")


def test_an_array_that_claims_more_than_its_file_holds(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(4))
    data = (tmp_path / "a.npy").read_bytes().replace(b"(4,)", b"(4000000000000,)").replace(b" " * 12 + b"\n", b"\n")
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.npy cannot be read"):
        open_table(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(DataError, match=r"b\.npz cannot be read"):
        open_table(tmp_path / "b.npz")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u2", "i8", "bool", ">f4", ">i2"])
def test_types(tmp_path, dtype):
    values = np.array([[1, 0], [0, 1], [1, 1]]).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    table = open_table(tmp_path / "a.npy")
    (batch,) = table.batches(table.numbers(table.names))
    np.testing.assert_array_equal(table.matrix(batch, table.names), values.astype(float))


def test_text_times_and_padded_rows(tmp_path):
    when = np.datetime64("2020-01-01") + np.arange(2)
    texts = {"s": np.array([b"a", b"b"]), "u": np.array(["é", "ü"])}
    np.savez(tmp_path / "a.npz", x=np.arange(10).reshape(2, 5), when=when, lengths=[2, 5], **texts)
    sample = open_table(tmp_path / "a.npz").sample()
    assert sample["x"] == [[0, 1], [5, 6, 7, 8, 9]]
    assert (sample["s"], sample["u"]) == (["a", "b"], ["é", "ü"])
    assert str(sample["when"][1]).startswith("2020-01-02")

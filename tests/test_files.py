"""What is opened and what is refused: devices, pipes, sockets, endless streams, folders as large as a disk."""

from __future__ import annotations

import gzip
import io
import os
import socket
import stat
import sys
import threading
from pathlib import Path

import pytest

from retrograde import files
from retrograde.data import limits
from retrograde.data.formats import fingerprint, open_table
from retrograde.data.text import read_text
from retrograde.errors import DataError
from retrograde.files import check_source, limited, open_source, standard_input, walk


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A link with the name of a text that leads to a device without an end."""
    link = tmp_path / "letters.txt"
    link.symlink_to("/dev/zero")
    return link


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/urandom", "/dev/full"])
def test_a_device_is_refused(name: str) -> None:
    for read in (read_text, check_source, open_source, fingerprint):
        with pytest.raises(DataError, match=f"{name} is a device, not a file"):
            read(name)


@pytest.mark.parametrize(
    "suffix", [".txt", ".csv", ".csv.gz", ".jsonl", ".parquet", ".arrow", ".npy", ".npz", ".conll"]
)
def test_a_link_to_a_device_is_refused_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    link = tmp_path / f"data{suffix}"
    link.symlink_to("/dev/urandom")
    for read in (read_text, open_table, fingerprint):
        with pytest.raises(DataError, match="is a device"):
            read(link if read is not fingerprint else str(link))


def test_the_null_device_is_an_empty_file() -> None:
    with pytest.raises(DataError, match="is empty"):
        read_text("/dev/null")


def test_a_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "s.txt"))
        for read in (read_text, open_table):
            with pytest.raises(DataError, match="is a socket"):
                read(tmp_path / "s.txt")


def test_files_of_the_kernel_are_refused() -> None:
    for name in ("/proc/kmsg", "/proc/self/environ"):
        if Path(name).exists() and Path("/proc").stat().st_dev != Path("/").stat().st_dev:
            with pytest.raises(DataError, match="interface of the kernel"):
                read_text(name)


def test_devices_in_a_folder_of_texts_are_passed_over(tmp_path: Path, device: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match="holds no text"):
        read_text(tmp_path)
    with pytest.raises(DataError, match="holds no text files"):
        open_table(tmp_path)
    (tmp_path / "a.txt").write_text("words")
    assert read_text(tmp_path).content == "words\n"
    assert walk(tmp_path) == ([tmp_path / "a.txt"], ["letters.txt"])


def test_a_pipe_is_read_once_as_text(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    content = "one line\n" * 50_000  # more than a pipe holds
    writer = threading.Thread(target=lambda: pipe.write_text(content))
    writer.start()
    assert read_text(pipe).content == content
    writer.join()


def test_a_pipe_without_a_writer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WRITER_SECONDS", 0.1)
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match=r"nobody has written for 0.1 seconds"):
        read_text(tmp_path / "pipe.txt")


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    for name in ("pipe.csv", "pipe.npy", "pipe.parquet"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match="is a pipe, which can be read only once"):
            open_table(tmp_path / name)
        with pytest.raises(DataError, match="is a pipe"):
            fingerprint(str(tmp_path / name))


def test_streams_have_a_limit(tmp_path: Path) -> None:
    blocks = iter([b"x" * 600_000, b"x" * 600_000, b"never read"])
    with pytest.raises(DataError, match="more than 1 MiB, the limit for a stream"):
        list(limited(blocks, "standard input", 1 << 20))
    assert next(blocks) == b"never read"


def test_an_endless_pipe_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "__defaults__", (1 << 20,))
    reading, writing = os.pipe()

    def fill() -> None:
        with os.fdopen(writing, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"y\n" * 4096)
            except BrokenPipeError:
                return

    writer = threading.Thread(target=fill)
    writer.start()
    with os.fdopen(reading) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(DataError, match="standard input brings more than 1 MiB"):
            read_text("-")
    writer.join()


@pytest.mark.parametrize(
    ("source", "why"), [("/dev/zero", "is a device"), ("/", "is a folder"), ("/dev/null", "is empty")]
)
def test_standard_input_that_is_no_stream(source: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = os.open(source, os.O_RDONLY)
    stream = os.fdopen(os.dup(0 if source is None else descriptor), "r") if source != "/" else None
    if stream is None:

        class Folder:
            closed = False

            class buffer:
                fileno = staticmethod(lambda: descriptor)

        monkeypatch.setattr(sys, "stdin", Folder())
    else:
        monkeypatch.setattr(sys, "stdin", stream)
    try:
        with pytest.raises(DataError, match=f"standard input {why}"):
            read_text("-")
    finally:
        os.close(descriptor)
        if stream is not None:
            stream.close()


def test_closed_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="standard input is closed"):
        standard_input()


def test_standard_input_in_memory_is_read_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("grüße".encode()), "utf-8"))
    assert standard_input().read() == "grüße".encode()


def test_a_file_without_an_end_in_sight_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    """A sparse file of a terabyte takes no room on the disk, and would take a day to read."""
    with (tmp_path / "sparse.txt").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match="a NUL at byte offset 0"):
        read_text(tmp_path / "sparse.txt")


def test_an_archive_that_unpacks_to_far_more_than_a_text_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNPACKED_BYTES", 1 << 20)
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"a" * (1 << 23)))
    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        read_text(tmp_path / "bomb.txt.gz")


def test_the_whole_file_system_is_not_walked() -> None:
    for read in (read_text, open_table):
        with pytest.raises(DataError, match="is the whole file system"):
            read("/")
    if Path("/proc").stat().st_dev != Path("/").stat().st_dev:
        with pytest.raises(DataError, match="interfaces of the kernel"):
            read_text("/proc")


def test_large_folders_are_refused_without_reading_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        (tmp_path / f"{number}.txt").write_text("words")
    assert len(walk(tmp_path)[0]) == 12
    monkeypatch.setattr(files, "FOLDER_BYTES", 50)
    with pytest.raises(DataError, match="too large for a folder of texts"):
        read_text(tmp_path)
    monkeypatch.setattr(files, "FOLDER_BYTES", 1 << 35)
    monkeypatch.setattr(files, "FOLDER_ENTRIES", 11)
    for read in (read_text, open_table):
        with pytest.raises(DataError, match="more than 11 files and folders"):
            read(tmp_path)


def test_an_empty_name_is_no_folder() -> None:
    for read in (read_text, open_table, fingerprint):
        with pytest.raises(DataError, match="the name of the data is empty"):
            read("")


@pytest.mark.skipif(os.name == "nt", reason="a folder cannot be opened there")
@pytest.mark.parametrize("unnamed", [True, False], ids=["files without a name", "files with a name only"])
def test_a_file_and_then_its_new_name_are_on_the_disk_before_writing_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unnamed: bool
) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor)))
    if not unnamed:
        monkeypatch.setattr(files, "_unnamed_work", lambda folder: False)
    files.write_file(tmp_path / "a.txt", b"content")
    assert [stat.S_ISDIR(one.st_mode) for one in synced] == [False, True]
    assert synced[-1].st_ino == tmp_path.stat().st_ino


@pytest.mark.parametrize("unnamed", [True, False], ids=["a draft without a name", "a draft with a name"])
def test_a_file_that_is_replaced_holds_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unnamed: bool
) -> None:
    if not unnamed:
        monkeypatch.setattr(files, "_unnamed_work", lambda folder: False)
    (tmp_path / "a.txt").write_bytes(b"a longer old content")
    with files.replacing(tmp_path / "a.txt") as file:
        file.write(b"content")
    assert (tmp_path / "a.txt").read_bytes() == b"content" and len(list(tmp_path.iterdir())) == 1

"""Files that are whole or not there, with the permissions a user asked for; a process that is killed leaves nothing."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrograde import files
from retrograde.files import replacing, write_file


@pytest.fixture(params=["unnamed drafts", "named drafts"])
def drafts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With files that have no name until they are whole, and as on systems without them."""
    if request.param == "named drafts":
        monkeypatch.setattr(files, "_unnamed_work", lambda folder: False)
    return str(request.param)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_a_new_file_has_the_permissions_of_the_umask(drafts: str, umask: None, tmp_path: Path) -> None:
    write_file(tmp_path / "a.csv", b"x")
    assert stat.S_IMODE((tmp_path / "a.csv").stat().st_mode) == 0o600
    os.umask(0o027)
    write_file(tmp_path / "b.csv", b"x")
    assert stat.S_IMODE((tmp_path / "b.csv").stat().st_mode) == 0o640


def test_a_file_that_is_replaced_keeps_its_permissions(drafts: str, tmp_path: Path) -> None:
    for mode in (0o600, 0o664):
        path = tmp_path / f"{mode}.csv"
        path.touch()
        path.chmod(mode)
        write_file(path, b"new")
        assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_bytes() == b"new"


def test_an_error_leaves_the_old_file_and_nothing_else(drafts: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"new")
        raise KeyError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "link", "replace", "fchmod", "write"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failing_call_leaves_the_old_file(
    call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"old")
    write_file(path, b"old")  # whether unnamed drafts work here is known from now on

    def fail(*arguments: object, **named: object) -> None:
        raise OSError(code, os.strerror(code))

    if call == "link" and not files._unnamed_work(tmp_path):
        pytest.skip("this file system has no files without a name")
    monkeypatch.setattr(os, call, fail)
    if call == "write":  # a file object does not write through os.write
        with pytest.raises(OSError), replacing(path):
            fail()
    else:
        with pytest.raises(OSError, match=os.strerror(code)):
            write_file(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_file_system_that_cannot_sync_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(descriptor: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", cannot)
    write_file(tmp_path / "a.csv", b"x")
    assert (tmp_path / "a.csv").read_bytes() == b"x"


def test_a_folder_whose_sync_fails_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output error"):
        write_file(tmp_path / "a.csv", b"x")


def test_the_longest_names(drafts: str, tmp_path: Path) -> None:
    for name in ("a" * 251 + ".csv", "汉" * 83 + ".csv"):
        write_file(tmp_path / name, b"x")
        assert (tmp_path / name).read_bytes() == b"x"


def test_links_are_replaced_or_followed(drafts: str, tmp_path: Path) -> None:
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    for follow in (True, False):
        real.write_bytes(b"old")
        link.unlink(missing_ok=True)
        link.symlink_to(real)
        with replacing(link, follow=follow) as file:
            file.write(b"new")
        assert link.is_symlink() == follow and link.read_bytes() == b"new"
        assert real.read_bytes() == (b"new" if follow else b"old")


def test_what_is_no_file_is_not_replaced(drafts: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match=f"it is a {name}, which is not replaced"):
            write_file(tmp_path / name, b"x")
    for follow in (True, False):
        (tmp_path / "null").unlink(missing_ok=True)
        (tmp_path / "null").symlink_to("/dev/null")
        if follow:
            with pytest.raises(OSError, match="it is a device"), replacing(tmp_path / "null", follow=True):
                pass


def test_a_process_that_is_killed_as_it_writes_leaves_nothing(tmp_path: Path) -> None:
    program = f"""if True:
        import os, signal
        from retrograde.files import replacing
        with replacing({str(tmp_path / "a.csv")!r}) as file:
            file.write(b"x" * 100_000)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL and list(tmp_path.iterdir()) == []

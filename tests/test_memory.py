"""Memory that runs out is one line, however a library says so."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retrograde.errors import OptionError, RetrogradeError, RunError
from retrograde.experiment import load, train
from retrograde.memory import enough_memory, is_panic, shortage, without_reports

TORCH = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "62914560 bytes. Error code 12 (Cannot allocate memory)"
)
PanicException = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})
SHORT = [
    MemoryError(),
    MemoryError("Unable to allocate 8.00 EiB for an array"),
    RuntimeError(TORCH),
    RuntimeError("std::bad_alloc"),
    OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ImportError("libtorch.so: failed to map segment from shared object: Cannot allocate memory"),
    PanicException("PyObject pointer is null"),
    PanicException("memory allocation of 10000 bytes failed"),
]


@pytest.mark.parametrize("error", SHORT, ids=lambda error: f"{type(error).__name__} {str(error)[:20]}")
def test_every_way_of_running_out_is_one_line(error: BaseException) -> None:
    expected = pytest.raises(OptionError, match=r"there is not enough memory for this.*: lower it")
    with expected as caught, enough_memory("this", "lower it"):
        raise error
    assert "\n" not in str(caught.value)
    assert shortage(error) is not None


def test_other_errors_pass_and_other_panics_are_told() -> None:
    for error in (ValueError("x"), RuntimeError("shapes cannot be multiplied"), KeyboardInterrupt(), SystemExit(3)):
        assert shortage(error) is None
        with pytest.raises(type(error)), enough_memory("this", "lower it"):
            raise error
    with (
        pytest.raises(OptionError, match=r"a library gave up .index out of bounds."),
        enough_memory("this", "lower it"),
    ):
        raise PanicException("index out of bounds")
    assert is_panic(PanicException()) and not is_panic(ValueError())


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("".join(f"line {i}: cat {i % 7} sat on mat {i % 5}.\n" for i in range(40)))
    return path


SMALL = {"hidden_size": 6, "max_steps": 4, "eval_every": 2, "bptt": 9, "batch_size": 3, "report": False, "threads": 1}


@pytest.mark.parametrize("error", SHORT, ids=lambda error: f"{type(error).__name__} {str(error)[:20]}")
@pytest.mark.parametrize("where", ["safetensors.torch.save", "retrograde.tasks.language.LanguageTask.loss"])
def test_training_ends_with_one_line_and_goes_on_later(
    error: BaseException, where: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    from retrograde.tasks.language import LanguageTask

    home, name = (safetensors.torch, "save") if "save" in where else (LanguageTask, "loss")
    real, calls = getattr(home, name), [0]

    def short(*arguments: object, **named: object) -> object:
        calls[0] += 1
        if calls[0] == 3:
            raise error
        return real(*arguments, **named)

    monkeypatch.setattr(home, name, short)
    with pytest.raises(RetrogradeError, match=r"not enough memory.*lower --batch-size|written: Cannot allocate"):
        train(text, tmp_path / "run", **SMALL)
    monkeypatch.undo()
    assert train(None, tmp_path / "run", resume=True, report=False).summary.step == 4


@pytest.mark.parametrize("command", ["info", "evaluate", "predict", "generate", "flow", "train"])
def test_every_command_says_it_in_one_line(
    command: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from retrograde.cli import main
    from retrograde.runs import RunFolder

    train(text, tmp_path / "run", **SMALL)

    def panics(*arguments: object, **named: object) -> None:
        os.write(2, b"thread '<unnamed>' panicked at instance.rs:349:60:\nPyObject pointer is null\n")
        raise PanicException("PyObject pointer is null")

    if command == "info":
        monkeypatch.setattr(RunFolder, "config", lambda self: (_ for _ in ()).throw(MemoryError()))
    elif command == "train":
        monkeypatch.setattr("safetensors.torch.save", panics)
    else:
        monkeypatch.setattr("tokenizers.Tokenizer.from_str", panics, raising=False)
        monkeypatch.setattr("retrograde.data.vocabulary.Tokenizer", type("T", (), {"from_str": staticmethod(panics)}))
    more = {"train": [text, "--out", tmp_path / "new"], "info": [tmp_path / "run"], "generate": [tmp_path / "run"]}
    words = more.get(command, [tmp_path / "run", text])
    words = [*words, "--out", tmp_path / "out.csv"] if command == "predict" else words
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([command, *map(str, words), *(["--quiet"] if command == "train" else [])])
    said = capfd.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and "not enough memory" in said, said


def test_reports_of_panics_are_kept_back_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    with without_reports():
        os.write(2, b"a warning\n")
    with pytest.raises(PanicException), without_reports():
        os.write(2, b"thread panicked\n")
        raise PanicException("x")
    with pytest.raises(KeyError), without_reports():
        os.write(2, b"another\n")
        raise KeyError
    assert capfd.readouterr().err == "a warning\nanother\n"


def test_a_vocabulary_that_makes_its_library_panic(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(text, tmp_path / "run", **SMALL)

    def panics(text: str) -> None:
        raise PanicException("index out of bounds: the len is 3 but the index is 7")

    monkeypatch.setattr("retrograde.data.vocabulary.Tokenizer", type("T", (), {"from_str": staticmethod(panics)}))
    with pytest.raises(RunError, match="not a vocabulary that can be read: index out of bounds"):
        load(tmp_path / "run")


@pytest.mark.parametrize(
    ("does", "code", "line"),
    [
        ("os.write(2, b'memory allocation of 4 bytes failed'); os.abort()", 2, "a library ended the process (SIGABRT)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 2, "a library ended the process (SIGSEGV)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "ended by SIGKILL"),
        ("os.write(2, b'a warning\\n')", 0, "a warning"),
        ("os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)", 7, None),
        ("sys.exit(3)", 3, None),
        ("1 / 0", 1, None),
    ],
)
def test_a_crash_where_memory_is_limited_is_one_line(does: str, code: int, line: str | None) -> None:
    program = f"""if True:
        import os, signal, sys, time
        from retrograde.cli.watch import watched
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(7))
        def action():
            {does}
            return 0
        sys.exit(watched(action))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    if line is not None:
        assert line in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process does not hear of its parent's end")
def test_a_watched_process_ends_with_its_parent_however_that_ends() -> None:
    program = """if True:
        import os, time
        from retrograde.cli.watch import watched
        def action():
            print("here", flush=True)
            time.sleep(60)
        watched(action)
    """
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "here\n"
        parent.kill()
        began = time.monotonic()
        assert parent.stdout.read() == ""  # until the child, which has the other end, is gone
    assert time.monotonic() - began < 40


def test_only_a_limit_needs_a_watching_parent() -> None:
    from retrograde.cli import watch

    limits = resource.getrlimit(resource.RLIMIT_AS)
    assert watch.needed() == (limits[0] != resource.RLIM_INFINITY)
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, -1)); import retrograde.cli as c; c.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "info", "none"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (
        done.returncode == 2
        and done.stderr == "retrograde: none does not exist: name the --out folder of a training run.\n"
    )


def test_little_address_space_is_one_line(text: Path, tmp_path: Path) -> None:
    """A real limit: torch is loaded, then all that is left is 8 MB; torch says so, or a library aborts."""
    program = """if True:
        import resource, sys
        import retrograde.training.session, retrograde.cli
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20),) * 2)
        retrograde.cli.main()
    """
    words = ["train", text, "--out", tmp_path / "run", "--hidden-size", 3000, "--threads", 1, "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "not enough memory" in done.stderr, done.stderr
    assert json.dumps(resource.getrlimit(resource.RLIMIT_AS))  # ours is as it was

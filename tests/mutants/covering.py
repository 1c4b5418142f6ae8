"""Which tests execute a line of the package, quick ones first."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from mutations import Mutant  # type: ignore[import-not-found]

__all__ = ["Covering", "Server"]


class Server:
    """The process that forks one process for each run of tests, see server.py."""

    def __init__(self, python: Path, tree: Path) -> None:
        command = [python, Path(__file__).with_name("server.py")]
        self.process = subprocess.Popen(
            command,
            cwd=tree,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # as in `make test`: the limit is one of all threads together
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, limit: float, **request: Any) -> int | None:
        """Exit code of pytest; None where the tests took longer than the limit, in seconds."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(request | {"limit": limit}), file=self.process.stdin, flush=True)
        code: int | None = json.loads(self.process.stdout.readline())
        return code

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Covering:
    """The map from lines of ``sources`` to tests, file by file. A file is run again when it or the package changes."""

    def __init__(self, server: Server, tree: Path, sources: list[Path]) -> None:
        self.server, self.tree, self.sources = server, tree, sorted(map(str, set(sources)))
        self.seconds: dict[str, float] = {}  # of CPU time
        self._lines: dict[str, dict[str, dict[str, list[str]]]] = {}
        helpers = (path for path in (tree / "tests").rglob("*.py") if not path.name.startswith("test_"))
        helpers = (path for path in helpers if path.parent != tree / "tests" / "mutants")
        shared = sorted([*(tree / "src").rglob("*.py"), *helpers])
        self._shared = hashlib.sha256(repr(self.sources).encode() + b"".join(path.read_bytes() for path in shared))

    def tests(self, source: Path, mutant: Mutant, files: list[str]) -> list[str]:
        """The tests of the files that execute the statement which the mutant changes.

        All tests for a constant, a default or a cached function: these run once, when the first test needs them.
        """
        statement, each_time = self._statement(source, mutant)
        if not each_time:
            return self.everything(files)
        lines: dict[str, set[str]] = {}
        for file in files:
            for line, own in self._map(file).get(str(source), {}).items():
                lines.setdefault(line, set()).update(own)
        return self._ordered({test for line in statement for test in lines.get(str(line), ())} - {""})

    def _map(self, file: str) -> dict[str, dict[str, list[str]]]:
        if file not in self._lines:
            key = self._shared.copy()
            key.update(file.encode())
            if (self.tree / file).is_file():
                key.update((self.tree / file).read_bytes())
            kept = self.tree.parent / f"map-{key.hexdigest()[:16]}.json"
            if not kept.exists():
                self.server.run(3600, files=[file], map=str(kept), sources=self.sources)
            # A file that did not end in time: none of its tests is known to pass.
            found = json.loads(kept.read_text("utf-8")) if kept.exists() else {"seconds": {}, "lines": {}}
            self.seconds |= found["seconds"]
            self._lines[file] = found["lines"]
        return self._lines[file]

    def everything(self, files: list[str]) -> list[str]:
        """All tests of the files."""
        for file in files:
            self._map(file)
        return self._ordered({test for test in self.seconds if test.split("::")[0] in files})

    def _statement(self, file: Path, mutant: Mutant) -> tuple[range, bool]:
        """The lines of the innermost statement, without those of the statements in it; whether each call runs it."""
        inner, each_time = range(mutant.line, mutant.end_line + 1), False
        for node in ast.walk(ast.parse((self.tree / file).read_text("utf-8"))):
            if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case) and hasattr(node, "lineno"):
                body = getattr(node, "body", None)
                end = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
                if node.lineno <= mutant.line <= end:  # ast.walk goes from the outside to the inside
                    inner = range(node.lineno, end + 1)
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    cached = any("cache" in ast.unparse(decorator) for decorator in node.decorator_list)
                    each_time |= end < mutant.line <= (node.end_lineno or 0) and not cached
        return inner, each_time

    def _ordered(self, tests: set[str]) -> list[str]:
        """File by file, so that what a file shares is set up once; the quickest file first."""
        total: dict[str, float] = {}
        for test in tests:
            total[name] = total.get(name := test.split("::")[0], 0.0) + self.seconds[test]
        return sorted(tests, key=lambda test: (total[own := test.split("::")[0]], own, self.seconds[test]))

"""Which tests execute a line of the package, quick ones first."""

from __future__ import annotations

import ast
import hashlib
import json
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
            command, cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
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
    """The map from lines to tests of some test files. It is measured again when the sources or the tests change."""

    def __init__(self, server: Server, tree: Path, files: list[str]) -> None:
        self.tree, self.files = tree, files
        sources = sorted(file for folder in ("src", "tests") for file in (tree / folder).rglob("*.py"))
        content = repr(files).encode() + b"".join(file.read_bytes() for file in sources)
        kept = tree.parent / f"map-{hashlib.sha256(content).hexdigest()[:16]}.json"
        if not kept.exists():
            server.run(7200, files=files, map=str(kept))
        found = json.loads(kept.read_text("utf-8"))
        self.seconds: dict[str, float] = found["seconds"]
        self.lines: dict[str, dict[str, list[str]]] = found["lines"]

    def tests(self, file: Path, mutant: Mutant) -> list[str]:
        """The tests that execute the statement which the mutant changes; all of the file's where importing does."""
        lines = self.lines.get(str(file), {})
        found = {test for line in self._statement(file, mutant) for test in lines.get(str(line), ())}
        if "" in found:  # a constant, a default, a decorator: whoever uses the file may notice
            found |= {test for tests in lines.values() for test in tests}
        return self._ordered(found - {""})

    def everything(self) -> list[str]:
        """All tests of the files."""
        return self._ordered(set(self.seconds))

    def _statement(self, file: Path, mutant: Mutant) -> range:
        """The lines of the innermost statement, without those of the statements in it."""
        inner = range(mutant.line, mutant.end_line + 1)
        for node in ast.walk(ast.parse((self.tree / file).read_text("utf-8"))):
            if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case) and hasattr(node, "lineno"):
                body = getattr(node, "body", None)
                end = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
                if node.lineno <= mutant.line <= end:  # ast.walk goes from the outside to the inside
                    inner = range(node.lineno, end + 1)
        return inner

    def _ordered(self, tests: set[str]) -> list[str]:
        """File by file, so that what a file shares is set up once; the quickest file first."""
        total: dict[str, float] = {}
        for test in tests:
            total[name] = total.get(name := test.split("::")[0], 0.0) + self.seconds[test]
        return sorted(tests, key=lambda test: (total[own := test.split("::")[0]], own, self.seconds[test]))

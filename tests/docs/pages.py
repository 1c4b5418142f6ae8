"""Run the snippets of a page and compare what they print with what the page shows.

``python tests/docs/pages.py docs/tour.md`` writes what they print into the page.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from retrograde.cli import main

HOME = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])[-−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
BARS = re.compile("[▁▂▃▄▅▆▇█]")
SECONDS = re.compile(r"\bin \d+ s\b")


@dataclass
class Snippet:
    """Python with what it prints, or commands after ``$`` with what they print (then ``shown`` lies in ``source``)."""

    language: str
    source: str
    shown: str | None
    line: int
    span: tuple[int, int]  # of what is shown, in the page


def snippets(text: str) -> list[Snippet]:
    """All Python and console fences of a page; a fence without a language right after Python is its output."""
    fences, found = list(FENCE.finditer(text)), []
    for fence, after in zip(fences, [*fences, None][1:], strict=True):
        line = text.count("\n", 0, fence.start()) + 2
        if fence[1] == "console":
            found.append(Snippet("console", fence[2], None, line, fence.span(2)))
        if fence[1] == "python":
            output = after is not None and after[1] == "" and not text[fence.end() : after.start()].strip()
            shown, span = (after[2], after.span(2)) if output else (None, (0, 0))
            found.append(Snippet("python", fence[2], shown, line, span))
    return found


def printed(snippet: Snippet, names: dict[str, Any], page: str) -> str:
    """Run a snippet, in the names that the page has so far, and return what it prints."""
    out = io.StringIO()
    if snippet.language == "python":
        names["_check"] = check
        tree = ast.parse("\n" * (snippet.line - 1) + snippet.source, page)
        for node in tree.body:  # `expression  # 0.94` states a value: check it
            if isinstance(node, ast.Expr) and (said := stated(snippet, node.end_lineno)) is not None:
                where = ast.Constant(f"{page}, line {node.end_lineno}")
                node.value = ast.Call(ast.Name("_check", ast.Load()), [node.value, ast.Constant(said), where], [])
        code = compile(ast.fix_missing_locations(tree), page, "exec")
        with contextlib.redirect_stdout(out):
            exec(code, names)
        return out.getvalue()
    for command in re.findall(r"^\$ retrograde (.*)$", snippet.source, flags=re.MULTILINE):
        out.write(f"$ retrograde {command}\n")
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main(shlex.split(command))
    return out.getvalue()


def stated(snippet: Snippet, line: int) -> str | None:
    """The Python value with which the comment at the end of a line begins: ``# (1, 64); zeros``. None: words."""
    comment = snippet.source.splitlines()[line - snippet.line].partition("  # ")[2]
    for cut in re.finditer("[;:] |$", comment):
        with contextlib.suppress(ValueError, SyntaxError):
            ast.literal_eval(comment[: cut.start()])
            return comment[: cut.start()]
    return None


def check(value: Any, said: str, where: str) -> None:
    """Fail unless a value is as a comment states it; of several values in a row it may state the first alone."""
    expected = ast.literal_eval(said)
    first = value[0] if isinstance(value, tuple) and not isinstance(expected, tuple) else value
    same = first == (pytest.approx(expected, rel=0.05) if isinstance(expected, float) else expected)
    assert same, f"{where} states {said}, but it is {first}"


def difference(shown: str, real: str) -> str | None:
    """Why ``real`` is not what the page shows, or None.

    A line ``…`` stands for any lines. Numbers may differ by a twentieth, or by two units of their last digit, as other
    processors add in other orders; bars may have other heights.
    """
    pattern = ""
    for part in re.split(r"(^ *…\n)", tidy(shown), flags=re.MULTILINE):
        pattern += r"(?:.*\n)*?" if part.strip() == "…" else NUMBER.sub("@", part).replace("\\", "\\\\")
    pieces = re.split(r"(\(\?:\.\*\\n\)\*\?)", pattern)
    regex = "".join(one if one.startswith("(?:.*") else re.escape(one) for one in pieces)
    number = rf"({NUMBER.pattern})"
    found = re.fullmatch(regex.replace("@", number), tidy(real))
    if found is None:
        return f"the page shows\n{shown}\nbut it prints\n{real}"
    for expected, value in zip(NUMBER.findall(tidy(shown)), found.groups(), strict=True):
        digits, _, exponent = expected.partition("e")
        unit = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
        a, b = float(expected.replace("−", "-")), float(value.replace("−", "-"))
        if abs(a - b) > max(0.05 * abs(a), 2.001 * unit):
            return f"the page shows {expected}, but it is {value}, in\n{real}"
    return None


def tidy(text: str) -> str:
    """Without what may differ: heights of bars, durations, spaces at the end of lines and how they are aligned."""
    text = SECONDS.sub("in 0 s", BARS.sub("█", text)).strip("\n")
    lines = (re.sub(r"(?<=\S) +", " ", line).rstrip() for line in text.splitlines())
    return "\n".join(lines) + "\n"


def run(page: Path, names: dict[str, Any]) -> list[str]:
    """Run a page in the current folder; what is not as it shows, one entry each.

    Python runs first and alone, as in the notebooks that are made of pages: it may not need what a command wrote.
    """
    wrong = []
    for snippet in sorted(snippets(page.read_text(encoding="utf-8")), key=lambda one: one.language == "console"):
        real = printed(snippet, names, str(page))
        shown = snippet.source if snippet.language == "console" else snippet.shown
        if shown is not None and (why := difference(shown, real)):
            wrong.append(f"{page.name}, line {snippet.line}: {why}")
        if shown is None and real:
            wrong.append(f"{page.name}, line {snippet.line} prints what the page does not show:\n{real}")
    return wrong


def rewrite(page: Path) -> None:
    """Put what the snippets print into the page, except where it shows a part (a line ``…``) that still fits."""
    text, names = page.read_text(encoding="utf-8"), {"__name__": "__page__"}
    changes = []
    for snippet in snippets(text):
        real = printed(snippet, names, str(page))
        shown = snippet.source if snippet.language == "console" else snippet.shown
        if shown is not None and ("…\n" not in shown or difference(shown, real)):
            changes.append((snippet.span, "\n".join(line.rstrip() for line in real.splitlines()) + "\n"))
    for (start, end), real in reversed(changes):
        text = text[:start] + real + text[end:]
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        target = Path(name).resolve()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            rewrite(target)
            os.chdir(HOME)

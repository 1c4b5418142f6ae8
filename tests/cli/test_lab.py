from __future__ import annotations

import webbrowser
from pathlib import Path

import pytest

from retrograde.laboratory import PAGE


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(webbrowser, "open", found.append)
    return found


def test_it_opens_the_page_that_is_installed(retrograde, opened):
    outcome = retrograde("lab", "--case", "2")
    assert outcome.code == 0 and opened == [PAGE.as_uri() + "#case=2"]
    assert opened[0].rpartition("/")[2] in outcome.out


def test_it_writes_the_page_and_opens_nothing(retrograde, opened, tmp_path: Path):
    outcome = retrograde("lab", "--out", str(tmp_path / "page.html"))
    assert outcome.code == 0 and opened == []
    assert (tmp_path / "page.html").read_bytes() == PAGE.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--case", "6"], "--case"), (["--out", "/nowhere/page.html"], "/nowhere"), (["--out", "."], ".")],
)
def test_bad_input_gets_one_line(retrograde, opened, arguments, named):
    outcome = retrograde("lab", *arguments)
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and named in outcome.err
    assert opened == []

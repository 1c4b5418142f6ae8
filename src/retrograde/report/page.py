"""Sections become one HTML file; the only place where HTML is made.

Tests: `tests/report/test_write.py`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import plotly.io
from markupsafe import Markup

from ..errors import RetrogradeError, RunError
from ..files import write_file
from . import comparison
from .recording import is_recording, read_recording, sections_of_recording
from .run import RunContents, read
from .section import Figure, Section
from .sections import SECTIONS, verdict
from .words import visible


def write(run: str | os.PathLike[str]) -> Path:
    """Write RUN/report.html from what the folder of a run, or of a `GradientFlowRecorder`, contains; return its path.

    The file needs no network and no other file. It is replaced atomically.

    Raises
    ------
    RunError
        If `run` is no such folder, has a newer format, or cannot be written to.
    """
    if is_recording(run):
        recording = read_recording(run)
        about: dict[str, str | None] = {
            "kind": "recorded gradient flow",
            "name": recording.folder.resolve().name,
            "status": "",
            "created": "",
            "source": "what a GradientFlowRecorder wrote",
        }
        title = f"The gradient flow of {recording.folder.resolve().name} while training"
        return _replace(recording.folder / "report.html", _rendered(title, sections_of_recording(recording), about))
    found = read(run)
    found, sections = _built(found)
    about = {
        "kind": "run report",
        "name": found.folder.resolve().name,
        "status": verdict.status(found),
        "created": found.config.created,
        "source": "the files of this run",
    }
    return _replace(found.folder / "report.html", _rendered(verdict.title(found), sections, about))


def compared(runs: Sequence[str | os.PathLike[str]]) -> list[Section]:
    """Several runs next to each other, as sections.

    Raises
    ------
    RunError
        If one is not a run folder, or has a newer format.
    """
    return comparison.sections([read(run) for run in runs])


def write_comparison(sections: list[Section], runs: int, path: Path) -> Path:
    """Write what `compared` found as a page, and return its path.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    about = {"kind": "comparison", "name": "", "status": "", "created": "", "source": "the files of the runs"}
    path.parent.mkdir(parents=True, exist_ok=True)
    return _replace(path, _rendered(f"{runs} runs compared", sections, about))


def _rendered(title: str, sections: list[Section], about: Mapping[str, str | None]) -> str:
    return _template().render(
        title=title,
        **about,
        sections=sections,
        policy=_policy(),
        css=_asset("page.css"),
        plotly=Markup(base64.b64encode(_plotly()).decode()),
        script=_asset("page.js"),
    )


def _built(found: RunContents) -> tuple[RunContents, list[Section]]:
    """The sections of the page, and the run as it is shown: without its flows if they are damaged."""
    try:
        return found, [part for part in (build(found) for build in SECTIONS) if part is not None]
    except RetrogradeError:
        raise
    except Exception as error:
        if not found.flows:
            raise
        # Labels that contradict the numbers they belong to are noticed only when they are used.
        words = " ".join(str(error).split())
        why = {f"flow/{name}": f"it is damaged ({type(error).__name__}: {words:.100})" for name in found.flows}
        return _built(replace(found, flows={}, missing=found.missing | why))


@cache
def _template() -> jinja2.Template:
    # All that the template prints is made visible, then escaped; only Markup that is made in this file is not.
    environment = jinja2.Environment(
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else visible(str(value)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plot"] = _plot
    return environment.from_string(str(_asset("page.html")))


@cache
def _asset(name: str) -> Markup:
    return Markup(files(__package__).joinpath(name).read_text(encoding="utf-8"))


@cache
def _plotly() -> bytes:
    """plotly.js with the kinds of figures that pages have (npm: plotly.js-cartesian-dist-min), compressed by gzip.

    The whole of it, which plotly's Python package ships, would make each page 5 MB.
    """
    return files(__package__).joinpath("plotly-cartesian.min.js.gz").read_bytes()


@cache
def _policy() -> str:
    """The page's own prohibition: no connection to anywhere, and no script but our two."""
    scripts = gzip.decompress(_plotly()), _asset("page.js").encode()
    digests = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"


def _plot(figure: Figure) -> Markup:
    text: Any = plotly.io.to_json(figure.plot, validate=False)
    for character in "<>&\u2028\u2029":  # nothing in the data may end the script element it stands in
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _replace(path: Path, html: str) -> Path:
    try:
        write_file(path, html.encode())
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror or error}): fix the permissions of the folder, or make room."
        ) from None
    return path

"""The Doctor section of the page: what ``doctor.json`` says, escaped, and what to copy."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

import retrograde as rg
from retrograde.doctor import Diagnosis, Finding, Kind, Prescription, saving
from retrograde.doctor.findings import Chart, Curve
from retrograde.runs import RunFolder

HOSTILE = "<b>bold</b><script>alert(1)</script>"


def diagnosis(text: str = "l0", **changes: Any) -> Diagnosis:
    chart = Chart("Gradient by lag", "lag", text, [Curve(text, [0.0, 1.0, 2.0], [1.0, 0.1, None])], True, {"need": 2.0})
    numbers = {"need": 20.0, "reach": 6.0, "unknown": float("nan")}
    found = Finding(
        Kind.VANISHING_HURTS, f"it asks for 20 steps {text}.", numbers, "need 20 > reach 6", text, (text,), chart
    )
    remedy = Prescription(
        "chrono initialization",
        found.kind,
        {"chrono": 20},
        f"T_max = 20 {text}",
        f"retrograde train x --chrono 20 {text}",
        "rg.nn.initialize(model, chrono=20)",
    )
    parts: dict[str, Any] = {
        "findings": [found],
        "prescriptions": [remedy],
        "notes": [f"a note {text}"],
        "seconds": 3.0,
    }
    return Diagnosis(**parts | changes)


def section(run: Path, key: str = "doctor") -> str:
    html = rg.report.write(run).read_text(encoding="utf-8")
    if f'<section id="{key}"' not in html:
        return ""
    inside = html[html.index(f'<section id="{key}"') :]
    return inside[: inside.index("</section>")]


def test_findings_numbers_rule_figure_and_command_are_shown(make_run: Any) -> None:
    run = make_run()
    saving.save(diagnosis(), RunFolder(run))
    html = section(run)
    words = " ".join(re.sub("<[^>]*>", " ", html).split()).replace("&gt;", ">")
    for told in ("sick", "it asks for 20 steps", "need 20 > reach 6", "T_max = 20", "a note", "Hochreiter 1991"):
        assert told in words
    assert '<pre class="sample copy"' in html and "retrograde train x --chrono 20" in html
    (plot,) = [json.loads(data) for data in re.findall(r'<script type="application/json">(.*?)</script>', html, re.S)]
    assert plot["data"][0]["y"] == [1.0, 0.1, None] and plot["layout"]["shapes"][0]["x0"] == 2.0


def test_a_diagnosis_is_read_as_it_was_written(make_run: Any) -> None:
    folder, written = RunFolder(make_run()), diagnosis()
    saving.save(written, folder)
    read = saving.load(folder)
    assert read is not None and read.to_json() == written.to_json().replace('"in_place": true', '"in_place": false')
    assert read.advice == "reach 6 steps, need 20: try --chrono 20"


def test_what_a_stranger_wrote_is_text(make_run: Any) -> None:
    run = make_run()
    saving.save(diagnosis(HOSTILE), RunFolder(run))
    html = section(run)
    assert "<b>bold" not in html and "<script>alert" not in html
    assert "\\u003cb\\u003e" not in html, "plotly reads this as markup"


def test_a_healthy_run_and_one_that_was_not_diagnosed(make_run: Any) -> None:
    run = make_run()
    assert section(run) == ""
    saving.save(Diagnosis([]), RunFolder(run))
    assert "healthy" in section(run) and "No rule of the doctor found anything" in section(run)


@pytest.mark.parametrize("content", ["{", '{"findings": 3}', '{"findings": [{"kind": "unheard_of"}]}', "[]"])
def test_a_damaged_diagnosis_is_said_not_raised(make_run: Any, content: str) -> None:
    run = make_run()
    (run / "doctor.json").write_text(content)
    assert "The diagnosis cannot be shown" in section(run)


def test_the_verdict_gives_the_first_advice_only_where_the_run_was_not_learned(make_run: Any) -> None:
    run = make_run()
    saving.save(diagnosis(), RunFolder(run))
    assert "try --chrono 20" not in verdict(run)  # better than both baselines
    summary = json.loads((run / "summary.json").read_text())
    summary["baselines"]["bigram"]["loss"] = 0.1
    (run / "summary.json").write_text(json.dumps(summary))
    assert "try --chrono 20" in verdict(run)


def test_the_proof_of_the_remedies_has_a_row_and_a_curve_for_each_arm(make_run: Any) -> None:
    run = make_run()
    assert section(run, "proof") == ""

    def train(seed: int, remedy: str | None) -> dict[str, Any]:
        loss = math.inf if remedy == HOSTILE else 0.25 * seed + (0.0 if remedy == "cure" else 1.0)
        return {"loss": loss, "curve": [(10, 2.0), (20, loss)]}

    found = rg.trial(train, ["cure", HOSTILE], random=["other"], seeds=8, workers=1, out=run)
    html = section(run, "proof")
    assert "<b>bold" not in html and "<script>alert" not in html and "\\u003cb\\u003e" not in html
    words = " ".join(re.sub("<[^>]*>", " ", html).split())
    assert "1 of 2" in words and "helps: better for" in words and found["cure"].verdict == "helps"
    for arm in found.arms:
        assert html.count(arm.name.replace("<", "&lt;").replace(">", "&gt;"))
    (plot,) = [json.loads(data) for data in re.findall(r'<script type="application/json">(.*?)</script>', html, re.S)]
    assert [trace["name"] for trace in plot["data"]][:4] == ["untreated", "placebo", "random", "cure"]
    assert plot["data"][3]["x"] == [10, 20] and plot["data"][3]["y"][1] == found["cure"].curve[1][1]


@pytest.mark.parametrize("content", ["{", '{"arms": 3}', "[]"])
def test_a_damaged_proof_is_said_not_raised(make_run: Any, content: str) -> None:
    run = make_run()
    (run / "doctor-trial.json").write_text(content)
    assert "What was tried cannot be shown" in section(run, "proof")


def verdict(run: Path) -> str:
    html = rg.report.write(run).read_text(encoding="utf-8")
    inside = html[html.index('<section id="verdict"') :]
    return inside[: inside.index("</section>")]

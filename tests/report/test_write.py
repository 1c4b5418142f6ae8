"""What the page says and holds, read as text."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import retrograde as rg
from retrograde.cli import main
from retrograde.report import page, words
from retrograde.report.sections import SECTIONS

Make = Any  # conftest.Runs


def verdict(run: Path) -> str:
    """The words of the first section, without tags."""
    html = rg.report.write(run).read_text(encoding="utf-8")
    inside = html[html.index('<section id="verdict"') :]
    return " ".join(re.sub("<[^>]*>", " ", inside[: inside.index("</section>")]).split()).replace("&#39;", "'")


def figures(run: Path) -> list[dict[str, Any]]:
    html = rg.report.write(run).read_text(encoding="utf-8")
    return [json.loads(data) for data in re.findall(r'<script type="application/json">(.*?)</script>', html, re.S)]


def sections(html: str) -> set[str]:
    return set(re.findall(r'<section id="([\w-]+)"', html))


def test_the_verdict_names_model_data_time_and_scores(make_run: Make) -> None:
    said = verdict(make_run())
    assert "A vanilla tanh RNN (1 layer, 128 units, 54,321 parameters)" in said
    assert "next character of builtin:stdlib" in said
    assert "Training finished after 1 min, 1,200 steps and 3 passes over the text" in said
    assert "validation loss of 1.500 nats per token, a perplexity of 4.48 and 2.16 bits per character" in said
    assert "50 % better than the unigram baseline (4.33 bits)" in said
    assert "37 % better than the bigram baseline (3.46 bits)" in said


def test_the_verdict_states_the_horizon_of_either_network(make_run: Make, flows: Any) -> None:
    said = verdict(make_run())
    for name in ("trained", "untrained"):
        lag = flows[1, name].horizon(0.01)[0]
        assert f"The gradient of the {name} network: after {lag:.0f} steps less than 1 % of it is left" in said


def test_each_layer_has_its_horizon_and_a_choice(make_run: Make, flows: Any) -> None:
    run = make_run(layers=2)
    said = verdict(run)
    for layer, lag in zip(("l0", "l1"), flows[2, "trained"].horizon(0.01), strict=True):
        assert f"after {lag:.0f} steps less than 1 % of it is left in layer {layer}" in said
    html = (run / "report.html").read_text()
    assert html.count("<select data-choice>") == 3
    assert html.count(">l1</option>") == 3


def test_clipped_share_weighs_each_line_by_its_steps(make_run: Make) -> None:
    assert "clipped at a global norm of 1: it was active in 4.2 % of the steps" in verdict(make_run())
    uneven = make_run.metrics(2)
    uneven[1] |= {"step": 1000, "clipped_share": 0.1}  # 0.5 of 100 steps, 0.1 of 900: 14 %
    assert "active in 14 % of the steps" in verdict(make_run("uneven", metrics=uneven))


@pytest.mark.parametrize(
    ("options", "row", "sentence"),
    [
        ({"clip_norm": None}, {"clip_norm": None}, "Gradients were not clipped"),
        ({"clip_norm": None, "clip_value": 0.5}, {"clip_norm": None}, "Gradients were clipped by value at 0.5"),
        ({}, {"clipped_share": 0.0}, "Gradients were to be clipped at a global norm of 1, but none ever was"),
    ],
)
def test_the_verdict_says_how_gradients_were_clipped(
    make_run: Make, options: dict[str, Any], row: dict[str, Any], sentence: str
) -> None:
    made = make_run.config()
    made["options"] |= options
    assert sentence in verdict(make_run(config=made, metrics=[line | row for line in make_run.metrics(12)]))


def course(make_run: Make, losses: list[float], train: list[float] | None = None) -> list[dict[str, Any]]:
    rows = make_run.metrics(len(losses))
    for row, loss, other in zip(rows, losses, train or losses, strict=True):
        row |= {"validation_loss": loss, "train_loss": other}
    return rows


@pytest.mark.parametrize(
    ("losses", "train", "sentence"),
    [
        ([2.0, 1.9, 1.8, 1.7, 1.6, 1.5], None, "still falling at the end"),
        ([2.0, 1.6, 1.5, 1.6, 1.8, 2.0], [2.0, 1.5, 1.4, 1.3, 1.2, 1.1], "it is overfitting"),
        (
            [2.0, 1.6, 1.5, 1.6, 1.8, 2.0],
            [2.0, 1.5, 1.4, 1.3, 1.2, 1.1],
            "loss rose by 33 % after step 300",
        ),
        ([2.0, 1.6, 1.5, 1.6, 1.8, 2.0], [2.0, 1.5, 1.4, 1.5, 1.7, 1.9], "and the training loss with it"),
        ([2.0, math.nan, 1.5, 1.5], None, "The validation loss is not a finite number at step 200"),
        ([5.0, 5.0, 5.0, 5.0], None, "It does no better than the unigram baseline"),
        ([2.0], None, "Too few evaluations to judge"),
    ],
)
def test_what_is_alarming_is_said(make_run: Make, losses: list[float], train: Any, sentence: str) -> None:
    outcome = make_run.summary(len(losses))
    outcome["best_validation_loss"] = min(loss for loss in losses if loss == loss)
    assert sentence in verdict(make_run(metrics=course(make_run, losses, train), summary=outcome))


def test_a_calm_run_alarms_nobody(make_run: Make) -> None:
    run = make_run()
    rg.report.write(run)
    assert 'class="warning' not in (run / "report.html").read_text().split("<noscript>")[1].split("</noscript>")[1]


def test_exploding_and_mostly_clipped_gradients_are_said(make_run: Make) -> None:
    rows = [row | {"clipped_share": 0.8} for row in make_run.metrics(8)]
    rows[3]["gradient_norm_max"] = 900.0
    said = verdict(make_run(metrics=rows))
    assert "The gradient exploded at times: its norm reached 900" in said
    assert "80 % of the steps were clipped: the threshold acts as the learning rate" in said


def test_a_gradient_that_reaches_the_edge_of_the_window_is_said(make_run: Make) -> None:
    run = make_run(flow=())
    memory = torch.nn.RNN(2, 2, nonlinearity="relu", bias=False)
    with torch.no_grad():
        memory.weight_hh_l0.copy_(torch.eye(2))
        memory.weight_ih_l0.fill_(1.0)
    x = torch.rand(20, 2, 2)
    rg.gradient_flow(memory, x, loss=lambda output: output[0].sum(-1)).save(run / "flow" / "trained")
    said = verdict(run)
    assert "more than 1 % of it is left over the whole window of 20 steps" in said
    assert "still reaches across the whole window measured (20 steps)" in said


@pytest.mark.parametrize("status", ["interrupted", "diverged"])
def test_an_ended_run_says_how_it_ended(make_run: Make, status: str) -> None:
    outcome = make_run.summary(12) | {"status": status, "message": "loss became NaN at step 1201"}
    said = verdict(make_run(summary=outcome))
    assert status in said
    assert "Loss became NaN at step 1201." in said


def test_a_diverged_run_says_which_weights_are_left(make_run: Make) -> None:
    outcome = make_run.summary(12) | {"status": "diverged", "best_step": 300}
    assert "the weights kept are those of step 300" in verdict(make_run(summary=outcome))
    outcome |= {"best_step": None, "best_validation_loss": None, "best_validation_bits_per_character": None}
    said = verdict(make_run("early", summary=outcome, metrics=[]))
    assert "no step was scored" in said
    assert "No finite validation loss was recorded" in said


@pytest.mark.parametrize("gone", ["metrics", "summary", "sample", "flow"])
def test_a_missing_part_is_said_and_the_rest_is_shown(make_run: Make, gone: str) -> None:
    run = make_run(**{gone: None})
    expected = {
        "metrics": "There is no evaluation to draw (metrics.jsonl: it is not there)",
        "summary": "it is still training, or was killed",
        "sample": "This run has no sample text",
        "flow": "How far the gradient reaches is not known",
    }
    html = rg.report.write(run).read_text()
    assert expected[gone] in html
    whole = rg.report.write(make_run("whole")).read_text()
    of_flow = {"truncation"}  # sections that only runs with a flow have
    assert sections(whole) - sections(html) == (of_flow if gone == "flow" else set())
    # results, forecasts: other tasks; recorded, signal, doctor, proof, search: where asked for
    assert len(sections(whole)) == len(SECTIONS) - 7
    assert len(figures(run)) == {"metrics": 6, "summary": 8, "sample": 8, "flow": 2}[gone]


def test_shares_and_truncation_are_those_of_the_flow(make_run: Make, flows: Any) -> None:
    run = make_run()
    html = rg.report.write(run).read_text()
    bars, sums = figures(run)[5]["data"]
    share, cut = flows[1, "trained"].share_by_lag(), flows[1, "trained"].truncation()
    assert numbers(bars["y"]) == pytest.approx(share) and numbers(sums["y"]) == pytest.approx(share.cumsum())
    norm, cosine, *_ = figures(run)[6]["data"]
    assert numbers(norm["y"]) == pytest.approx(cut.norm)
    assert numbers(cosine["y"]) == pytest.approx(np.cos(np.radians(cut.angle)))
    steps = cut.shortest(0.99)
    assert f"99 % of the gradient of its recurrent weights from the last {steps} steps (of 30 measured)" in html
    assert "as trained, keeps" in rg.report.write(make_run("short", config=config(make_run, bptt=3))).read_text()


def test_a_flow_that_cannot_say_the_shares_is_said(make_run: Make, flows: Any, monkeypatch: Any) -> None:
    from retrograde.report.sections import truncation

    run = make_run()
    flows[1, "trained"].save(run / "flow" / "trained", trajectory=False)
    assert "The shares of the lags are not in this run" in rg.report.write(run).read_text()
    monkeypatch.setattr(truncation, "_CHEAP", 1.0)
    page = rg.report.write(make_run("large", flow=("untrained",))).read_text()
    assert "were not measured; for a network of this size that takes a while" in page


def test_what_was_recorded_while_training_is_drawn(make_run: Make) -> None:
    run = make_run()

    def record(step: int, **more: Any) -> str:
        layer = {"by_lag": [2.0, 1.0, None, 0.0, 0.25, 0.1 * step]}
        return json.dumps({"step": step, "layers": {"l0": layer}, "skipped": 3, "overhead": 0.024} | more) + "\n"

    failure = json.dumps({"step": 3, "error": "FlowError: <b>no</b>"}) + "\n"
    (run / "flow" / "recorded.jsonl").write_text(record(1) + record(2) + failure + '{"step": 4, "lay')
    html = rg.report.write(run).read_text()
    assert "measured 2 times while training, on the same held-out sequences. That took 2.4 % of the time" in html
    assert "6 measurements more would have taken too much" in html
    assert "1 measurement failed: FlowError: &lt;b&gt;no&lt;/b&gt;." in html
    drawn = next(figure["data"] for figure in figures(run) if "left 1 step back" in str(figure))
    assert [trace["name"] for trace in drawn] == ["1 step back", "5 steps back"]
    assert numbers(drawn[1]["y"]) == pytest.approx([0.05, 0.1])


@pytest.mark.parametrize(("values", "shown", "cut"), [([3e4, 0.5], (-3, 4), False), ([1e-9, math.inf], (-6, 0), True)])
def test_the_axis_of_what_was_recorded_holds_it(
    make_run: Make, values: list[float], shown: tuple[int, int], cut: bool
) -> None:
    run = make_run()
    records = [{"step": step, "layers": {"l0": {"by_lag": [1.0, value]}}} for step, value in enumerate(values)]
    (run / "flow" / "recorded.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    html = rg.report.write(run).read_text()
    axis = next(figure["layout"]["yaxis"] for figure in figures(run) if "left 1 step back" in str(figure))
    bottom, top = axis["range"]
    assert bottom == shown[0] and shown[1] < top < shown[1] + 1
    assert ("The axis starts at 0.0001 %" in html.partition('id="recorded"')[2]) is cut


def config(make_run: Make, **options: Any) -> dict[str, Any]:
    found = make_run.config()
    found["options"] |= options
    return found


def numbers(values: Any) -> list[float]:
    """A column of a figure: plotly writes arrays in base64."""
    if not isinstance(values, dict):
        return values
    return np.frombuffer(base64.b64decode(values["bdata"]), np.dtype(values["dtype"])).tolist()


def test_one_network_of_two_is_said(make_run: Make) -> None:
    html = rg.report.write(make_run(flow=("trained",))).read_text()
    assert "The untrained network is missing here: it was not measured" in html


def test_damaged_parts_are_said_and_left_out(make_run: Make) -> None:
    run = make_run()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1300, "train_lo')
    (run / "summary.json").write_text("{")
    (run / "flow" / "trained.safetensors").write_bytes(b"\x00\x01")
    html = rg.report.write(run).read_text()
    assert "1 unreadable line left out" in html
    assert "it is damaged, not complete JSON" in html
    assert "The trained network is missing here" in html
    assert str(run.parent) not in html  # where it lies on this machine is nobody's business


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda run: (run / "config.json").unlink(), "no config.json"),
        (lambda run: (run / "config.json").write_text('{"format": 1'), "cannot be read"),
        (lambda run: (run / "config.json").write_text("[]"), "cannot be read"),
        (lambda run: (run / "config.json").write_text('{"format": 0, "retrograde": "0"}'), "was not written by"),
        (lambda run: (run / "config.json").write_text("{}"), "was not written by retrograde"),
        (lambda run: (run / "config.json").write_text('{"format": 2, "retrograde": "9"}'), "upgrade retrograde"),
    ],
)
def test_what_is_no_run_folder_is_refused_in_one_line(
    make_run: Make, prepare: Callable[[Path], Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    prepare(run)
    with pytest.raises(rg.errors.RunError, match=message):
        rg.report.write(run)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run)])
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.err.count("\n") == 1
    assert not (run / "report.html").exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(rg.errors.RunError, match="nowhere does not exist"):
        rg.report.write(tmp_path / "nowhere")


def test_the_command_prints_the_path(make_run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run)])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"


def test_a_failed_write_keeps_the_old_page_and_leaves_nothing(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    (run / "report.html").write_text("old")
    before = sorted(run.iterdir())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page.os, "fsync", full)
    with pytest.raises(rg.errors.RunError, match="No space left on device"):
        rg.report.write(run)
    assert (run / "report.html").read_text() == "old"
    assert sorted(run.iterdir()) == before


def test_hostile_text_is_shown_and_not_obeyed(make_run: Make) -> None:
    hostile = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\x00\x1b[31m\u202egnp.exe\ud800{{ 7 * 7 }}"
    made = make_run.config()
    made["data"]["source"] = hostile
    made["options"]["text"], made["data"][hostile] = hostile, hostile
    html = rg.report.write(make_run(sample=hostile, config=made)).read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "<img" not in html.split("<main>")[1].split("</main>")[0]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "⟨U+0000⟩⟨U+001B⟩[31m⟨U+202E⟩gnp.exe" in html
    assert "{{ 7 * 7 }}" in html
    body = html.split("<main>")[1].split("</main>")[0]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_in_any_field_still_gives_a_page(
    make_run: Make, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    made, rows, outcome = make_run.config(), make_run.metrics(3), make_run.summary(3)
    for holder in (made, made["options"], made["data"], *rows, outcome, outcome["baselines"]):
        for key in data.draw(st.sets(st.sampled_from(sorted(holder)), max_size=3)) - {"format"}:
            holder[key] = data.draw(json_values)
    run = tmp_path_factory.mktemp("any")
    (run / "config.json").write_text(json.dumps(made))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "summary.json").write_text(json.dumps(outcome))
    try:
        page = rg.report.write(run)
    except rg.errors.RunError as error:  # every command refuses such a configuration
        assert "config.json" in str(error) and "\n" not in str(error)
        (run / "config.json").write_text(json.dumps(make_run.config()))
        page = rg.report.write(run)
    html = page.read_text(encoding="utf-8")
    assert html.rstrip().endswith("</html>")
    for drawn in re.findall(r'<script type="application/json">(.*?)</script>', html, re.S):
        json.loads(drawn, parse_constant=pytest.fail)  # strict JSON, as a browser reads it


def test_a_flow_whose_labels_contradict_its_numbers_is_left_out(tmp_path: Path) -> None:
    """Found by fuzzing: the name of a parameter that no array of the file belongs to."""
    kept = Path(__file__).parent.parent / "runs" / "released" / "0.1.0" / "tag"
    run = Path(shutil.copytree(kept, tmp_path / "run"))
    labels = json.loads((run / "flow" / "trained.json").read_text())
    labels["trajectories"][1]["suffix"] = 1
    (run / "flow" / "trained.json").write_text(json.dumps(labels))
    html = rg.report.write(run).read_text()
    assert html.rstrip().endswith("</html>") and "it is damaged (KeyError" in html


def unpacked(packed: dict[str, Any]) -> np.ndarray:
    """The codes of a heat map."""
    low, high = np.frombuffer(zlib.decompress(base64.b64decode(packed["deflated"])), np.uint8).reshape(2, -1)
    steps = np.stack([low, high], 1).copy().view("<i2").reshape(packed["rows"], packed["columns"])
    return np.cumsum(steps, 1, dtype=np.int16)


def test_heat_maps_keep_every_cell(make_run: Make, flows: Any) -> None:
    maps = [trace for figure in figures(make_run()) for trace in figure["data"] if trace["type"] == "heatmap"]
    assert len(maps) == 2
    for trace, name in zip(maps, ("trained", "untrained"), strict=True):
        packed = trace["meta"]["packed"]
        codes = unpacked(packed)
        norms = flows[1, name].norms[0]
        path = norms > 0
        np.testing.assert_allclose(10.0 ** (codes[path] * packed["unit"]), norms[path], rtol=3e-3)
        assert (codes[np.triu_indices(30, 1)] == 32767).all()
    assert maps[0]["zmin"] == maps[1]["zmin"]
    assert maps[0]["zmax"] == maps[1]["zmax"]


def test_the_by_lag_curve_is_the_flow_s_own(make_run: Make, flows: Any) -> None:
    run = make_run()
    table = rg.report.write(run).read_text().split("<caption>Share left at some lags</caption>")[1].split("</table>")[0]
    cells = {row[0]: row[1:] for row in (re.findall(r"<t[hd][^>]*>(.*?)</t", r) for r in table.split("<tr>")[2:])}
    for column, name in enumerate(("trained", "untrained")):
        curve = flows[1, name].by_lag()[0]
        assert cells["1"][column] == words.share(curve[1] / curve[0])


def test_the_page_of_a_large_run_stays_small(make_run: Make) -> None:
    """Four layers and 300 steps, each measured twice."""
    run, layers, T = make_run(flow=(), layers=4, evaluations=500, sample="x" * 60_000), 4, 300
    flow = rg.gradient_flow(torch.nn.RNN(2, 2, num_layers=layers), torch.randn(T, 1, 2), loss=lambda o: o[0].sum(-1))
    rng = np.random.default_rng(0)
    flow.norms *= rng.lognormal(0, 0.1, flow.norms.shape)  # the noise of a real measurement compresses badly
    for name in ("trained", "untrained"):
        flow.save(run / "flow" / name, trajectory=False)
    file = rg.report.write(run)
    assert file.stat().st_size < 1_500_000
    table = file.read_text().split("<caption>Share left at some lags</caption>")[1].split("</table>")[0]
    lags = [int(lag) for lag in re.findall(r'<th scope="row">l0</th><td>(\d+)</td>', table)]
    assert lags == [0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 299]
    maps = [trace for figure in figures(run) for trace in figure["data"] if trace["type"] == "heatmap"]
    assert len(maps) == 2 * layers and maps[0]["y"] == list(range(1, T, 2))
    packed, norms = maps[0]["meta"]["packed"], flow.norms[0, 1::2]
    path = norms > 0
    shown = 10.0 ** (packed["unit"] * unpacked(packed)[path])
    np.testing.assert_allclose(shown, norms[path], rtol=1.2 * packed["unit"])


def test_one_loss_per_sequence_gives_a_curve(make_run: Make) -> None:
    run = make_run(flow=())
    gru = torch.nn.GRU(3, 4)
    flow = rg.gradient_flow(gru, torch.randn(12, 2, 3), loss=lambda output: output[0][-1].sum(-1))
    flow.save(run / "flow/trained")
    html = rg.report.write(run).read_text()
    assert "one error per sequence, at its end" in html
    shown = figures(run)
    assert not any(trace["type"] == "heatmap" for figure in shown for trace in figure["data"])
    drawn = next(f for f in shown if f["layout"]["yaxis"]["title"]["text"] == "‖∂E/∂sₖ‖")["data"][0]["y"]
    np.testing.assert_allclose(plotted(drawn), flow.norms[0, 0])


def plotted(values: Any) -> np.ndarray:
    """Numbers as plotly writes them: a list, or the bytes of an array in base64."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
    return np.asarray(values, dtype=float)


def test_a_reverse_layer_is_blank_on_the_other_side(make_run: Make) -> None:
    run = make_run(flow=())
    gru = torch.nn.GRU(3, 4, bidirectional=True)
    rg.gradient_flow(gru, torch.randn(9, 2, 3), loss=lambda output: output[0].sum(-1)).save(run / "flow/trained")
    assert "reads the sequence from its end" in rg.report.write(run).read_text()
    forward, backward = (
        unpacked(trace["meta"]["packed"])
        for trace in next(f for f in figures(run) if f["data"][0]["type"] == "heatmap")["data"]
    )
    np.testing.assert_array_equal(forward == 32767, np.triu(np.ones((9, 9), bool), 1))
    np.testing.assert_array_equal(backward == 32767, np.tril(np.ones((9, 9), bool), -1))


def test_another_task_has_a_page_without_what_belongs_to_language(make_run: Make) -> None:
    made = config(make_run, task="classify") | {"task": "classify"}
    rows = [
        {key: row[key] for key in ("step", "epoch", "train_loss", "validation_loss")} for row in make_run.metrics(6)
    ]
    run = make_run(config=made, metrics=rows, sample=None)
    assert "trained on the task “classify”" in verdict(run)
    html = (run / "report.html").read_text()
    assert "What the network writes" not in html
    assert "not a number" not in html.split("<main>")[1].split("</main>")[0]


def test_long_runs_thin_the_table_and_say_so(make_run: Make) -> None:
    html = rg.report.write(make_run(metrics=make_run.metrics(1001))).read_text()
    assert "One evaluation in 6 (all are in metrics.jsonl)" in html
    assert '<th scope="row">100,100</th>' in html  # the last is always there


@given(st.floats(-1e300, 1e300), st.integers(1, 6))
def test_numbers_keep_their_significant_digits(value: float, digits: int) -> None:
    said = words.number(value, digits).replace(",", "").replace("−", "-")
    superscripts = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    mantissa, _, power = said.rpartition("10") if re.search("10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]", said) else (said, "", "")
    sign = -1.0 if mantissa == "-" else 1.0
    mantissa = mantissa.removesuffix(" × ")
    factor = sign if mantissa in ("", "-") else float(mantissa)
    read = float(f"{factor!r}e{power.translate(superscripts)}") if power else float(said)
    assert read == pytest.approx(value, rel=0.51 * 10.0 ** (1 - digits), abs=5e-324)


@given(st.text())
def test_nothing_invisible_is_left(text: str) -> None:
    shown = words.visible(text)
    assert words.visible(shown) == shown
    shown.encode("utf-8")


def test_the_report_and_the_flow_begin_at_the_same_lag(tmp_path: Path, make_run: Make) -> None:
    """A loss that does not look at its own step: 100 % is the first lag that has any gradient."""
    torch.manual_seed(0)
    rnn = torch.nn.RNN(3, 8)
    with torch.no_grad():
        rnn.weight_hh_l0.mul_(2.0)
    x = torch.randn(30, 2, 3)

    def loss(output: Any) -> torch.Tensor:
        return torch.cat([0 * output[0][:3], output[0][:-3]]).square().sum(-1)

    flow = rg.gradient_flow(rnn, x, loss=loss)
    run = make_run()
    records = []
    recorder = rg.GradientFlowRecorder(rnn, loss, every=1, budget=None, sequences=None, targets=None)
    for step in (1, 2):
        records.append(recorder.step(x, step=step))
    for name in ("trained", "untrained"):
        flow.save(run / "flow" / name)
    (run / "flow" / "recorded.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    curve = flow.by_lag()[0]
    assert (curve[:3] == 0).all()
    drawn = [trace for figure in figures(run) for trace in figure["data"]]
    (by_lag,) = [t for t in drawn if t.get("name") == "trained" and "of the first" in str(t.get("hovertemplate"))]
    values = decoded(by_lag["y"])
    np.testing.assert_allclose(values[3:], curve[3:] / curve[3], rtol=1e-6)
    assert np.isnan(values[:3]).all()
    while_training = {t["name"]: decoded(t["y"]) for t in drawn if "steps back" in str(t.get("name"))}
    for name, shown in while_training.items():
        lag = int(name.split()[0])
        np.testing.assert_allclose(shown, curve[lag] / curve[3], rtol=1e-5)
    assert while_training
    assert f"after {flow.horizon(0.01)[0]:.0f} steps less than 1 % of it is left" in verdict(run)


def decoded(values: Any) -> np.ndarray[Any, Any]:
    """Numbers as plotly writes them: a list, or an array in base64."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), dtype=np.dtype(values["dtype"]))
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def test_what_is_below_the_range_is_no_zero_on_the_page(make_run: Make) -> None:
    torch.manual_seed(0)
    rnn = torch.nn.RNN(3, 8)
    with torch.no_grad():
        rnn.weight_hh_l0.mul_(0.2)
    flow = rg.gradient_flow(rnn, torch.randn(200, 2, 3), loss=lambda output: output[0][-1].square().sum(-1))
    assert flow.below is not None
    run = make_run()
    for name in ("trained", "untrained"):
        flow.save(run / "flow" / name)
    html = rg.report.write(run).read_text(encoding="utf-8")
    assert f"{2 * int(flow.below.sum())} values are too small to be measured: they have no point." in html
    assert "below the range of float32" in html
    drawn = next(f for f in figures(run) if f["layout"]["yaxis"]["title"]["text"] == "‖∂E/∂sₖ‖")["data"]
    assert len(drawn) == 2
    for trace in drawn:
        np.testing.assert_array_equal(np.isnan(plotted(trace["y"])), flow.below[0].ravel())


def test_the_folder_of_a_recorder_has_a_page(tmp_path):
    layer, x = torch.nn.LSTM(2, 3), torch.randn(9, 2, 2)
    for name, norms in (("norms", (1.0, 2.0, 30.0, 1.5)), ("none", (None,) * 4)):
        recorder = rg.GradientFlowRecorder(
            layer, lambda output: output[0].sum(-1), every=2, budget=None, run=tmp_path / name
        )
        for norm in norms:
            recorder.step(x, gradient_norm=norm)
    page = rg.report.write(tmp_path / "norms")
    text = page.read_text()
    assert page == tmp_path / "norms" / "report.html" and "It was measured 2 times while training" in text
    assert "clip the gradient norm to" in text and "Replayed the gradient norms of 4 updates" in text
    with (tmp_path / "none" / "flow" / "recorded.jsonl").open("a") as file:
        file.write("broken\n")
    text = rg.report.write(tmp_path / "none").read_text()
    assert "no gradient norms were recorded" in text and "1 line of flow/recorded.jsonl cannot be read" in text
    (tmp_path / "none" / "flow" / "recorded.jsonl").write_text("")
    with pytest.raises(rg.errors.RunError, match="has no records"):
        rg.report.write(tmp_path / "none")

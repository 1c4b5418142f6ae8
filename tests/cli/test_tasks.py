"""Every task from a user's file to predictions, by the command line alone."""

from __future__ import annotations

import csv
import json
import math
import random
import re

import numpy as np
import pyarrow.parquet
import pytest
from safetensors.torch import load_file

import retrograde as rg

FAST = [
    *("--hidden-size", "16", "--lr", "0.02", "--threads", "1", "--batch-size", "16"),
    *("--quiet", "--no-report"),
]


def newest(run):
    return load_file(max((run / "checkpoints").glob("step-*.safetensors")))


def summary(run):
    return json.loads((run / "summary.json").read_text())


def rows(path):
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def reviews(tmp_path):
    """Which of two words came matters; they stand anywhere, in texts of different lengths."""
    draw = random.Random(0)
    path = tmp_path / "reviews.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "review", "sentiment"])
        for number in range(200):
            words = [
                draw.choice(["the", "a", "film", "was", "plot", "of", "and", "it"]) for _ in range(draw.randint(1, 12))
            ]
            label = draw.choice(["pos", "neg"])
            words.insert(draw.randint(0, len(words)), {"pos": "Great", "neg": "awful"}[label])
            writer.writerow([number, " ".join(words), label])
    return path


@pytest.fixture
def entities(tmp_path):
    draw = random.Random(0)
    path = tmp_path / "entities.jsonl"
    with path.open("w") as file:
        for _ in range(150):
            tokens, tags = [], []
            for _ in range(draw.randint(1, 5)):
                kind = draw.choice(["PER", "LOC", None])
                some = {"PER": ["Ann", "Lee"], "LOC": ["Rome"], None: ["went", "to"]}[kind]
                tokens += some
                tags += ["O"] * len(some) if kind is None else [f"B-{kind}"] + [f"I-{kind}"] * (len(some) - 1)
            file.write(json.dumps({"tokens": tokens, "ner_tags": tags}) + "\n")
    return path


@pytest.fixture
def sales(tmp_path):
    path = tmp_path / "sales.csv"
    draw = random.Random(0)
    lines = ["month,sales"]
    for n in range(180):
        value = 50 + 0.2 * n + 20 * math.sin(2 * math.pi * n / 12) + draw.gauss(0, 1)
        lines.append(f"{2000 + n // 12}-{n % 12 + 1:02d},{value:.3f}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_classify_from_file_to_predictions(retrograde, reviews, tmp_path):
    run = tmp_path / "run"
    outcome = retrograde("train", reviews, "--task", "classify", "--out", run, *FAST, "--epochs", 6)
    assert outcome.code == 0, outcome.err
    found = summary(run)
    assert found["best"]["validation_accuracy"] == 1.0
    assert found["baselines"]["most frequent"]["accuracy"] < 0.7
    results = json.loads((run / "evaluation.json").read_text())
    assert np.trace(results["validation"]["confusion_matrix"]) == 20
    assert set(results["validation"]["classes"]) == {"neg", "pos"}
    assert json.loads((run / "config.json").read_text())["options"]["task"] == "classify"

    outcome = retrograde("evaluate", run, reviews, "--json")
    assert json.loads(outcome.out)["accuracy"] == 1.0
    truth = [row["sentiment"] for row in rows(reviews)]
    for name in ("a.csv", "b.jsonl", "c.parquet"):
        out = tmp_path / name
        assert retrograde("predict", run, reviews, "--out", out, "--probabilities").code == 0
        written = rows(out)
        assert [row["prediction"] for row in written] == truth
        for row in written:
            assert float(row["probability of pos"]) + float(row["probability of neg"]) == pytest.approx(1)
    # Without labels, and with another order of columns.
    blind = tmp_path / "blind.csv"
    blind.write_text("review\n" + "\n".join(row["review"] for row in rows(reviews)) + "\n")
    assert retrograde("predict", run, blind, "--out", tmp_path / "d.csv").code == 0
    assert [row["prediction"] for row in rows(tmp_path / "d.csv")] == truth
    assert not list(tmp_path.glob(".*partial"))


def test_regress_from_file_to_predictions_and_page(retrograde, tmp_path):
    draw, path, run = random.Random(0), tmp_path / "houses.csv", tmp_path / "run"
    sizes = [draw.randint(1, 6) for _ in range(120)]
    names = ["one", "two", "three", "four", "five", "six"]
    lines = [f"a house of {names[size - 1]} rooms,{100 * size}" for size in sizes]
    path.write_text("\n".join(["description,price", *lines]) + "\n")
    options = ["--task", "regress", "--out", run, "--epochs", 12]
    outcome = retrograde("train", path, *options, *(one for one in FAST if one not in ("--quiet", "--no-report")))
    assert outcome.code == 0 and "compared with mean: " in outcome.out and "R² 0." in outcome.out
    assert summary(run)["best"]["validation_r2"] > 0.8 > 0.2 > summary(run)["baselines"]["mean"]["r2"]
    page = (run / "report.html").read_text()
    assert "R² is the share of the variance" in page and "Validation R² while training" in page
    assert "R² " in retrograde("evaluate", run, path).out
    assert retrograde("predict", run, path, "--out", tmp_path / "out.csv").code == 0
    found = [float(row["prediction"]) for row in rows(tmp_path / "out.csv")]
    assert np.abs(np.array(found) - 100 * np.array(sizes)).mean() < 60


@pytest.mark.parametrize("more", [["--pooling", "mean"], ["--pooling", "max", "--bidirectional"], ["--tokens", "char"]])
def test_classify_otherwise(retrograde, reviews, tmp_path, more):
    run = tmp_path / "run"
    assert retrograde("train", reviews, "--task", "classify", "--out", run, *FAST, "--epochs", 10, *more).code == 0
    assert summary(run)["best"]["validation_accuracy"] >= 0.85


def test_classify_with_files_of_its_own_and_weights(retrograde, reviews, tmp_path):
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    lines = reviews.read_text().splitlines(keepends=True)
    train.write_text("".join(lines[:150]))
    test.write_text("".join([lines[0], *lines[150:]]))
    run = tmp_path / "run"
    options = ["--validation", test, "--test", test, "--class-weights", "balanced", "--epochs", 6]
    assert retrograde("train", train, "--task", "classify", "--out", run, *FAST, *options).code == 0
    assert summary(run)["results"]["test"]["accuracy"] == 1.0
    data = json.loads((run / "config.json").read_text())["data"]
    assert (data["train_sequences"], data["validation_sequences"], data["test_sequences"]) == (149, 51, 51)


def test_classify_numbers_in_groups_of_rows(retrograde, tmp_path):
    path = tmp_path / "signals.csv"
    draw = random.Random(0)
    lines = ["signal,t,x,y,kind"]
    steps = []
    for signal in range(60):
        kind = signal % 2
        for t in range(draw.randint(3, 9)):
            x = (1 if kind else -1) * (t == 0) * 100 + draw.gauss(0, 5)
            steps.append(f"{signal},{t},{x:.3f},{draw.random():.3f},{'up' if kind else 'down'}")
    draw.shuffle(steps)
    path.write_text("\n".join(lines + steps) + "\n")
    run = tmp_path / "run"
    options = ["--group", "signal", "--epochs", 40]
    assert retrograde("train", path, "--task", "classify", "--out", run, *FAST, *options).code == 0
    assert summary(run)["best"]["validation_accuracy"] == 1.0
    kept = json.loads((run / "preprocessing.json").read_text())
    assert kept["columns"]["features"] == ["x", "y"]
    assert retrograde("predict", run, path, "--out", tmp_path / "out.csv").code == 0
    written = rows(tmp_path / "out.csv")
    assert len(written) == 60
    assert all(row["prediction"] == ("up" if int(row["signal"]) % 2 else "down") for row in written)


def test_tag_from_file_to_predictions(retrograde, entities, tmp_path):
    run = tmp_path / "run"
    outcome = retrograde("train", entities, "--task", "tag", "--out", run, *FAST, "--epochs", 8)
    assert outcome.code == 0, outcome.err
    best = summary(run)["best"]
    assert best["validation_accuracy"] == 1.0
    assert best["validation_entity_f1"] == 1.0
    assert retrograde("predict", run, entities, "--out", tmp_path / "a.jsonl").code == 0
    given = rows(entities)
    assert [row["prediction"] for row in rows(tmp_path / "a.jsonl")] == [row["ner_tags"] for row in given]
    # The same as a table of steps, whose sentences lie among one another.
    steps = [(s, w, t) for s, row in enumerate(given) for w, t in zip(row["tokens"], row["ner_tags"], strict=True)]
    steps.sort(key=lambda step: step[0] % 3)
    table = tmp_path / "steps.csv"
    table.write_text("sentence_id,word,tag\n" + "".join(f"{s},{w},{t}\n" for s, w, t in steps))
    other = tmp_path / "other"
    assert retrograde("train", table, "--task", "tag", "--out", other, *FAST, "--epochs", 8).code == 0
    assert retrograde("predict", other, table, "--out", tmp_path / "b.csv", "--probabilities").code == 0
    assert [row["prediction"] for row in rows(tmp_path / "b.csv")] == [t for _, _, t in steps]


@pytest.mark.parametrize("strategy", ["direct", "autoregressive"])
def test_forecast_from_file_to_predictions(retrograde, sales, tmp_path, strategy):
    run = tmp_path / "run"
    options = ["--strategy", strategy, "--epochs", 25]
    outcome = retrograde("train", sales, "--task", "forecast", "--out", run, *FAST, *options)
    assert outcome.code == 0, outcome.err
    found = summary(run)
    naive, seasonal = found["baselines"]["naive"], found["baselines"]["seasonal naive"]
    assert found["best"]["validation_mae"] < 0.8 * seasonal["mae"] < naive["mae"]
    assert retrograde("predict", run, sales, "--out", tmp_path / "a.csv").code == 0
    written = rows(tmp_path / "a.csv")
    assert [row["month"] for row in written[:2]] == ["2015-01", "2015-02"]
    for n, row in enumerate(written, 180):
        assert float(row["sales"]) == pytest.approx(50 + 0.2 * n + 20 * math.sin(2 * math.pi * n / 12), abs=6)
    judged = json.loads(retrograde("evaluate", run, sales, "--json").out)
    assert judged["mase"] < judged["baselines"]["seasonal naive"]["mase"]
    tested = retrograde("evaluate", run, sales, "--backtest", 2)
    assert "Backtest from 2 origins, 12 steps apart, MASE:" in tested.out and "\n  step 12: " in tested.out
    assert "the model was trained on this data" in tested.err
    backtest = json.loads(retrograde("evaluate", run, sales, "--backtest", 2, "--json").out)["backtest"]
    assert [row["name"] for row in backtest["origins"]] == ["24 steps before the end", "12 steps before the end"]


def test_forecast_of_a_table_with_a_row_for_each_series(retrograde, tmp_path):
    path, run = tmp_path / "wide.csv", tmp_path / "run"
    months = [f"{2018 + n // 12}-{n % 12 + 1:02d}" for n in range(48)]
    lines = ["shop," + ",".join(months)]
    for shop in range(5):
        cells = [f"{10 * shop + 3 * math.sin(2 * math.pi * n / 12):.2f}" for n in range(48)]
        lines.append(f"s{shop}," + ",".join(cells if shop else ["", "", *cells[2:]]))
    path.write_text("\n".join(lines) + "\n")
    options = ["--horizon", 3, "--max-steps", 3]
    assert retrograde("train", path, "--task", "forecast", "--out", run, *FAST, *options).code == 0
    assert retrograde("predict", run, path, "--out", tmp_path / "a.csv").code == 0
    written = rows(tmp_path / "a.csv")
    assert list(written[0]) == ["shop", "2022-01", "2022-02", "2022-03"]
    assert [row["shop"] for row in written] == ["s0", "s1", "s2", "s3", "s4"]
    assert float(written[3]["2022-03"]) == pytest.approx(33, abs=0.5)
    # A table with months that training did not have is read by the same columns.
    path.write_text("\n".join(line + (f",{n}" if n else ",2022-01") for n, line in enumerate(lines)) + "\n")
    assert retrograde("predict", run, path, "--out", tmp_path / "a.csv").code == 0
    assert list(rows(tmp_path / "a.csv")[0]) == ["shop", "2022-02", "2022-03", "2022-04"]


def test_scales_are_those_of_training(retrograde, tmp_path):
    """The held-out end of a series, however large, leaves no trace in the scale."""
    kept = []
    for end in (1.0, 1e6):
        path = tmp_path / f"{end:.0f}.csv"
        values = [math.sin(n) for n in range(80)] + [end] * 20
        path.write_text("value\n" + "\n".join(map(str, values)) + "\n")
        run = tmp_path / f"run-{end:.0f}"
        options = ["--horizon", 2, "--context", 5, "--max-steps", 1]
        assert retrograde("train", path, "--task", "forecast", "--out", run, *FAST, *options).code == 0
        kept.append(json.loads((run / "preprocessing.json").read_text())["scalers"])
    assert kept[0] == kept[1]


def test_synthetic_task_beside_chance_and_optimum(retrograde, tmp_path):
    run = tmp_path / "run"
    source = "builtin:latch?length=12&noise=0.05"
    options = ["--lr", 0.01, "--forget-bias", 2, "--max-steps", 100, "--eval-every", 50]
    outcome = retrograde("train", source, "--out", run, *FAST, "--batch-size", 64, *options)
    assert outcome.code == 0, outcome.err
    found = summary(run)
    assert found["baselines"]["chance"]["loss"] == pytest.approx(math.log(2))
    assert found["baselines"]["optimum"]["accuracy"] == 1.0
    assert found["best"]["validation_accuracy"] > 0.95
    goal = json.loads((run / "evaluation.json").read_text())
    assert goal["sequences"] == 256
    assert goal["solved"] == (goal["wrong"] == 0 and goal["mean_error"] < 0.01)
    longer = "builtin:latch?length=14&noise=0.05"
    judged = json.loads(retrograde("evaluate", run, longer, "--json").out)
    assert retrograde("predict", run, longer, "--out", tmp_path / "a.parquet", "--probabilities").code == 0
    written = rows(tmp_path / "a.parquet")
    assert len(written) == 1000
    right = [row["prediction"] == row["target"] for row in written]
    assert sum(right) / 1000 == pytest.approx(judged["accuracy"])
    assert all((row["probability of 1"] > 0.5) == row["prediction"] for row in written)
    for source, message in (
        ("builtin:adding", "builtin:adding has 2 inputs"),
        (tmp_path, "name builtin:latch?length=12"),
    ):
        outcome = retrograde("predict", run, source, "--out", tmp_path / "b.csv")
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert message in outcome.err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("adding?seed=-1", "seed is -1; it must be a whole number"),
        ("adding?length=20&length=30", "length is given twice"),
        ("adding?length", "write options as name=value"),
        ("addition", "there is no builtin:addition; there are builtin:stdlib, builtin:digits, "),
    ],
)
def test_synthetic_task_that_does_not_exist(retrograde, tmp_path, source, message):
    outcome = retrograde("train", f"builtin:{source}", "--out", tmp_path / "run", *FAST, "--max-steps", 1)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert message in outcome.err


def test_language_predictions(retrograde, text, tmp_path):
    run = tmp_path / "run"
    options = ["--hidden-size", 12, "--bptt", 20, "--quiet", "--no-report", "--max-steps", 5]
    assert retrograde("train", text, "--out", run, *options).code == 0
    assert retrograde("predict", run, text, "--out", tmp_path / "a.jsonl", "--probabilities").code == 0
    written = rows(tmp_path / "a.jsonl")
    assert "".join(row["token"] for row in written) == text.read_text()[1:]
    nats = [-math.log(row["probability of token"]) for row in written]
    judged = json.loads(retrograde("evaluate", run, text, "--json").out)
    assert sum(nats) / len(nats) == pytest.approx(judged["loss"], rel=1e-3)
    assert all(row["probability of prediction"] >= row["probability of token"] for row in written)


@pytest.mark.parametrize(
    "more",
    [
        ["--init", "orthogonal", "--forget-bias", 1, "--clip-quantile", 0.5],
        ["--chrono", 20, "--cell", "gru", "--weight-drop", 0.3],
        ["--cell", "rnn", "--nonlinearity", "relu", "--init", "identity", "--omega", 0.5],
        ["--layer-norm", "--recurrent-dropout", 0.2],
        ["--cell", "rnn", "--spectral-radius", 0.9, "--clip-value", 0.1],
    ],
)
def test_remedies_train_and_resume(retrograde, text, reviews, tmp_path, more):
    words = "--layer-norm" in more or "--chrono" in more
    task, source = ("classify", reviews) if words else ("language", text)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ["--task", task, "--hidden-size", 8, "--threads", 1, "--quiet", "--no-report", "--eval-every", 5, *more]
    options += ["--schedule", "constant"]  # that of cosine ends where the steps end
    assert retrograde("train", source, "--out", whole, *options, "--max-steps", 8).code == 0
    assert retrograde("train", source, "--out", parts, *options, "--max-steps", 6).code == 0
    assert retrograde("train", "--out", parts, "--resume", "--max-steps", 8, "--quiet", "--no-report").code == 0
    a, b = newest(whole), newest(parts)
    assert all((a[key] == b[key]).all() for key in a)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{reviews}"], "is a table: say what to learn from it, --task classify, tag, regress, forecast or language"),
        (
            ["{reviews}", "--task", "classify", "--text", "body"],
            "no such column; there are 'id', 'review', 'sentiment'",
        ),
        (["{reviews}", "--task", "classify", "--horizon", "3"], "--horizon is for --task forecast"),
        (["{sales}", "--task", "forecast", "--quantiles", "0.1,90"], "write levels between 0 and 1, such as 0.1,0.5"),
        (["{sales}", "--task", "forecast", "--backtest", "500", "--horizon", "2"], "needs 500 forecasts of 2 steps"),
        (["{reviews}", "--task", "classify", "--bptt", "3"], "--bptt is for --task language"),
        (["{reviews}", "--task", "forecast"], "no column of numbers to forecast"),
        (["{reviews}", "--task", "classify", "--label", "id"], "look like numbers or names, not classes"),
        (["{reviews}", "--task", "classify", "--omega", "1", "--cell", "lstm"], "not for LSTM"),
        (["{reviews}", "--task", "synthetic"], "--task synthetic needs one of builtin:adding"),
        (["builtin:adding?length=3"], "length is 3"),
        (["builtin:adding", "--task", "classify"], "is a task by itself"),
        (["{sales}", "--task", "forecast", "--horizon", "500"], "need 5"),
        (["{text}", "--clip-norm", "1", "--clip-quantile", "0.5"], "exclude one another"),
    ],
)
def test_refusals(retrograde, reviews, sales, text, tmp_path, arguments, message):
    names = {"reviews": reviews, "sales": sales, "text": text}
    run = tmp_path / "run"
    outcome = retrograde("train", *[argument.format(**names) for argument in arguments], "--out", run)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not run.exists()


def test_predict_refuses(retrograde, reviews, sales, tmp_path):
    run = tmp_path / "run"
    assert retrograde("train", reviews, "--task", "classify", "--out", run, *FAST, "--max-steps", 2).code == 0
    for arguments, message in (
        ([run, sales, "--out", tmp_path / "a.csv"], "has no column 'review', which the model was trained with"),
        ([run, reviews, "--out", tmp_path / "a.xlsx"], "must end in one of .jsonl, .csv, .parquet"),
        ([run, reviews, "--out", tmp_path / "no" / "a.csv"], "name a file in a folder that is there"),
        ([tmp_path / "none", reviews, "--out", tmp_path / "a.csv"], "does not exist"),
    ):
        outcome = retrograde("predict", *arguments)
        assert outcome.code == 2
        assert message in outcome.err
    assert retrograde("generate", run).code == 2
    unseen = tmp_path / "unseen.csv"
    unseen.write_text("review,sentiment\ngreat,pos\nso so,mixed\n")
    outcome = retrograde("evaluate", run, unseen)
    assert outcome.code == 2
    assert "row 2: label 'mixed' does not occur in the training data, which has 'neg', 'pos'" in outcome.err


def test_other_tasks_get_a_page(retrograde, reviews, entities, sales, tmp_path):
    for task, source in (("classify", reviews), ("tag", entities), ("forecast", sales)):
        run = tmp_path / task
        options = [option for option in FAST if option != "--no-report"]
        assert retrograde("train", source, "--task", task, "--out", run, *options, "--max-steps", 4).code == 0
        assert "<html" in (run / "report.html").read_text()
        assert retrograde("info", run).code == 0


def test_a_folder_that_datasets_saved_from_training_to_predictions(retrograde, tmp_path):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = {"text": ["so bad", "very good"] * 20, "label": [0, 1] * 20}
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    run, out = tmp_path / "run", tmp_path / "out.jsonl"
    train = ["train", tmp_path / "saved", "--task", "classify", "--out", run, *FAST, "--max-steps", 4]
    assert retrograde(*train).code == 0
    assert retrograde("train", "--out", run, "--resume", "--max-steps", 6, "--quiet").code == 0
    assert retrograde("evaluate", run, tmp_path / "saved").code == 0
    assert retrograde("predict", run, tmp_path / "saved", "--out", out, "--probabilities").code == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(found) == 40
    assert set(found[0]) == {"prediction", "probability of bad", "probability of good"}
    assert retrograde("train", tmp_path / "saved", "--out", tmp_path / "other").code == 2


def test_gaps_and_repeated_times_from_the_command_line(retrograde, tmp_path):
    path, run = tmp_path / "a.csv", tmp_path / "run"
    days = [n for n in range(1, 29) for _ in range(1 + (n == 9)) if n not in (12, 13)]
    path.write_text("date,value\n" + "".join(f"2020-{m:02}-{n:02},{n % 7}\n" for m in (1, 2, 3) for n in days))
    train = ["train", path, "--task", "forecast", "--out", run, *FAST, "--max-steps", 2]
    for more, message in (
        (
            [],
            "time '2020-01-09' comes twice; if rows of several series are mixed, name the --group column; --duplicates",
        ),
        (["--duplicates", "last", "--gaps", "error"], "are missing in 5 gaps: 2 after '2020-01-11'"),
        (["--duplicates", "last", "--freq", "1y"], "is not on the grid of --freq 1y"),
        (["--duplicates", "last", "--freq", "often"], "--freq 'often' is not a frequency; write 30s, 15min, 1h"),
    ):
        outcome = retrograde(*train, *more)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1) and message in outcome.err
    told = retrograde(*[one for one in train if one != "--quiet"], "--duplicates", "mean")
    assert told.code == 0, told.err
    assert "rows repeat a time" in told.out + told.err and "are missing in 5 gaps" in told.out + told.err
    assert json.loads((run / "config.json").read_text())["data"]["plan"]["freq"] == "1d"
    assert retrograde("evaluate", run, path).code == 0
    outcome = retrograde("train", path, "--task", "classify", "--gaps", "fill", "--out", tmp_path / "other")
    assert outcome.code == 2 and "--gaps is for --task forecast" in outcome.err


def test_an_archive_is_no_text(retrograde, tmp_path):
    path, run = tmp_path / "a.ts", tmp_path / "run"
    path.write_text("@classLabel true a b\n@data\n" + "1,2,3:a\n3,2,1:b\n" * 12)
    outcome = retrograde("train", path, "--out", run, *FAST)
    assert outcome.code == 2 and "is a table: say what to learn from it" in outcome.err and not run.exists()
    assert retrograde("train", path, "--task", "classify", "--out", run, *FAST, "--max-steps", 2).code == 0
    assert retrograde("predict", run, path, "--out", tmp_path / "out.csv").code == 0


def test_a_run_and_its_predictions_say_what_was_assumed(retrograde, tmp_path):
    labels = {"schön": "größer", "x": "klein"}
    rows = "".join(f"{word} {k};{label}\n" for k in range(20) for word, label in labels.items())
    data, run = tmp_path / "a.csv", tmp_path / "run"
    data.write_bytes(f"text;label\n{rows}".encode("cp1252"))
    trained = retrograde("train", data, "--task", "classify", "--max-steps", "2", "--no-report", "--out", run)
    assert (
        trained.code == 0
        and "read as cp1252 (Windows, Western European): 'schön', 'größer'" in trained.out + trained.err
    )
    assert "(cp1252)" in retrograde("info", run).out
    predicted = retrograde("predict", run, data, "--out", tmp_path / "p.csv")
    assert predicted.code == 0 and "read as cp1252" in predicted.err
    assert set((tmp_path / "p.csv").read_text(encoding="utf-8").split()[1:]) <= {"größer", "klein"}


def test_one_number_everywhere(retrograde, tmp_path):
    """What the network adds to its baseline is scaled after training; every place shows what the run predicts."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(120, 10)).cumsum(1)
    y = x @ draw.normal(size=10) + 0.3 * np.sin(3 * x[:, 2])
    header = ",".join([*(f"x{step}" for step in range(10)), "life"])
    data, run, page = tmp_path / "a.csv", tmp_path / "run", tmp_path / "both.html"
    np.savetxt(data, np.column_stack([x, y]), delimiter=",", header=header, comments="")
    words = ["--task", "regress", "--test-fraction", "0.2", "--max-steps", "30", "--hidden-size", "8", "--threads", "1"]
    trained = retrograde("train", data, "--out", run, *words)
    kept = json.loads((run / "summary.json").read_text())
    judged = json.loads((run / "evaluation.json").read_text())["validation"]
    measured = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    before = next(line["validation_loss"] for line in measured if line["step"] == kept["best_step"])
    loss, r2, mae = judged["loss"], judged["r2"], judged["mae"]
    assert f"{before:.4f}" != f"{loss:.4f}"  # else nothing is shown here
    assert kept["best"]["validation_loss"] == kept["best_validation_loss"] == loss
    assert kept["best"]["validation_r2"] == r2 and kept["best"]["validation_mae"] == mae
    line = f"loss {loss:.4f}, R² {r2:.3f}, MSE {judged['mse']:.4g}, MAE {mae:.4g}"
    assert f"Best on validation (step {kept['best_step']}): {line}." in trained.out
    assert line in retrograde("info", run).out
    text = re.sub(r"<[^>]+>", " ", (run / "report.html").read_text(encoding="utf-8").partition("How it was trained")[0])
    assert f"it reached a validation loss of {loss:.4g} and R² of {r2:.3g}" in text
    assert f"The curves show {before:.4g} there: what it puts out was corrected on the validation part" in text
    assert f"{mae:.3g}" in text
    retrograde("train", data, "--out", tmp_path / "other", *words, "--no-report")
    assert retrograde("compare", run, tmp_path / "other", "--page", page).code == 0
    assert f"{loss:.4g}" in page.read_text(encoding="utf-8")
    assert rg.load(run).summary.best["loss"] == loss

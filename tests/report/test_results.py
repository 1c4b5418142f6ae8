"""The page of a task that is no language model: its metrics beside its baselines, labels shown as text only."""

from __future__ import annotations

import json

import pytest

from retrograde.report import write
from retrograde.report.run import read
from retrograde.report.sections import results, verdict


@pytest.fixture
def run(tmp_path):
    hostile = "<script>alert(1)</script>"
    lines = [
        {"step": s, "epoch": s / 10, "validation_loss": 1 / s, "validation_accuracy": s / 40} for s in (10, 20, 30)
    ]
    files = {
        "config.json": {
            "format": 1,
            "retrograde": "0.1.0",
            "task": "classify",
            "options": {"task": "classify", "cell": "lstm", "num_layers": 1, "hidden_size": 8},
            "data": {"source": "reviews.csv", "train_sequences": 900, "validation_sequences": 100},
            "parameters": 1000,
            "environment": {"python": "3.11.2"},
        },
        "summary.json": {
            "status": "finished",
            "step": 30,
            "best_step": 30,
            "best_validation_loss": 1 / 30,
            "best": {"validation_loss": 1 / 30, "validation_accuracy": 0.75, "validation_macro_f1": 0.7},
            "results": {"test": {"loss": 0.5, "accuracy": 0.72, "macro_f1": 0.69}},
            "baselines": {"most frequent": {"loss": 0.69, "accuracy": 0.5}},
        },
        "evaluation.json": {
            "labels": ["good", hostile],
            "test": {
                "confusion_matrix": [[40, 10], [18, 32]],
                "classes": {
                    "good": {"precision": 0.69, "recall": 0.8, "f1": 0.74, "support": 50},
                    hostile: {"precision": 0.76, "recall": 0.64, "f1": 0.7, "support": 50},
                },
            },
        },
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_metrics_baselines_and_confusion(run):
    section = results.section(read(run))
    overall, labels, confusion = section.tables
    assert overall.columns == ("", "loss", "accuracy", "macro F1")
    assert [row[0] for row in overall.rows] == ["validation", "test", "most frequent"]
    assert overall.rows[1][2] == "72 %"
    assert confusion.rows[0][1:] == ["40", "10"]
    assert len(labels.rows) == 2
    assert len(section.figures) == 1


def test_the_verdict_speaks_of_sequences(run):
    found = verdict.section(read(run))
    words = " ".join(found.words)
    assert "900 sequences to learn from, 100 sequences held out" in words
    assert "accuracy" in words
    assert "perplexity" not in words
    assert found.facts[0].value == "75 %"


def test_labels_are_escaped(run):
    html = write(run).read_text()
    assert "<script>alert(1)</script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_without_evaluation_it_says_less(run):
    (run / "evaluation.json").unlink()
    assert len(results.section(read(run)).tables) == 1

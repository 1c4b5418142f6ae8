"""The snippets of the other pages run, with the models, data and files that their reader has (and fewer updates)."""

import inspect
import os
import re
from pathlib import Path

import pages
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import retrograde as rg

TEXT = "".join(f"line {i}: the cat number {i % 7} sat on mat {i % 5}.\n" for i in range(120))


def squared(output, target):
    return (output - target).square()


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = torch.nn.RNN(2, 6), torch.nn.Linear(6, 1)

    def forward(self, x):
        return self.head(self.layer(x)[0][-1])[:, 0]


def of_flow():
    x = torch.randn(8, 64, 2)
    save_file(torch.nn.GRU(3, 5).state_dict(), "weights.safetensors")
    h = c = torch.zeros(1, 4)
    return {
        "untrained": Network(),
        "trained": Network(),
        "batches": [(x, x[0, :, 0])] * 2,
        "loss": squared,
        "h": h,
        "c": c,
    }


def of_doctor():
    """Trials take minutes: the calls are checked against the signature, and answered by a trial of a function."""

    def draw(seed, remedy):
        return 1.0 if remedy is None else 0.5

    found = rg.trial(draw, ["clip", "lr"], random=["dropout"], seeds=2, workers=1)

    def trial(*arguments, **options):
        inspect.signature(real).bind(*arguments, **options)
        return found

    real, rg.trial = rg.trial, trial
    return {"model": Network(), "batches": of_flow()["batches"], "loss": squared, "train": draw} | {
        "_undo": lambda: setattr(rg, "trial", real)
    }


STORES = [("Lyon", "a"), ("Nice", "b")]


def rows(store, name, steps, start=0):
    times = pd.date_range("2024-01-01", periods=start + steps)[start:]
    values = {"y": [float(i % 7) for i in range(steps)], "promotion": [float(i % 5 == 0) for i in range(steps)]}
    return pd.DataFrame({"store": store, "region": store, "unique_id": name, "ds": times, **values})


class Quick(rg.Forecaster):
    """Makes two updates."""

    def fit(self, *arguments, **options):
        return self.set_params(max_steps=2, threads=1).fit_(*arguments, **options)

    fit_ = rg.Forecaster.fit


def of_estimators():
    real, rg.Forecaster = rg.Forecaster, Quick
    months = pd.date_range("2015-01-01", periods=96, freq="MS")
    frame = pd.DataFrame({"month": months, "sales": range(96)})
    names = {"long": pd.concat([rows(one, two, 120) for one, two in STORES])}
    names |= {"planned": pd.concat([rows(one, two, 14, 120) for one, two in STORES])}
    names |= {"later": pd.concat([rows(one, two, 60, 120) for one, two in STORES])}
    undo = {"_undo": lambda: setattr(rg, "Forecaster", real)}
    return names | {"frame": frame, "longer": frame.set_index("month")["sales"]} | undo


def of_training():
    real, rg.train = rg.train, lambda *arguments, **options: real(*arguments, max_steps=2, threads=1, **options)
    Path("book.txt").write_text(TEXT, encoding="utf-8")
    return {"_undo": lambda: setattr(rg, "train", real)}


READERS = {"flow": of_flow, "doctor": of_doctor, "estimators": of_estimators, "training": of_training}
ELSEWHERE = {"docs/tour.md", "docs/not-learning.md", "docs/theory.md", "docs/forecasting.md"}  # test_pages.py
SLOW = {"training", "estimators", "doctor", "streams"}  # 6 to 30 s: they run with `make docs`
# What the development environment does not have is only compiled here; `make zoo` installs the tools and runs them.
NOT_HERE = re.compile("mlflow")
PAGES = [p for p in sorted(pages.HOME.glob("docs/**/*.md")) if "```python" in p.read_text() and "zh" not in p.parts]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if str(p.relative_to(pages.HOME)) not in ELSEWHERE], ids=lambda p: p.stem
)
def test_the_snippets_of_a_page_run(page, tmp_path, monkeypatch):
    if page.stem in SLOW and "SITE" not in os.environ:
        pytest.skip("takes long: `make docs` runs it")
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__page__", "torch": torch, "rg": rg} | READERS.get(page.stem, dict)()
    try:
        for snippet in pages.snippets(page.read_text(encoding="utf-8")):
            if snippet.language == "python" and (page.parent.name == "tools" or NOT_HERE.search(snippet.source)):
                compile(snippet.source, str(page), "exec")
            elif snippet.language == "python":
                pages.printed(snippet, names, str(page))
    finally:
        names.get("_undo", lambda: None)()

"""The snippets of the other pages run, with the models, data and files that their reader has (and fewer updates)."""

import functools
import importlib.util
import inspect
from pathlib import Path

import numpy as np
import pages
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import retrograde as rg
import retrograde.estimators

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
    each, one = retrograde.estimators.forecast_each, functools.partial(retrograde.estimators.forecast_each, workers=1)
    retrograde.estimators.forecast_each = lambda *arguments, workers, **options: one(*arguments, **options)

    def undo():
        rg.Forecaster, retrograde.estimators.forecast_each = real, each

    return names | {"frame": frame, "longer": frame.set_index("month")["sales"], "_undo": undo}


def of_training():
    real, rg.train = rg.train, lambda *arguments, **options: real(*arguments, max_steps=2, threads=1, **options)
    Path("book.txt").write_text(TEXT, encoding="utf-8")
    return {"_undo": lambda: setattr(rg, "train", real)}


def of_streams():
    """The export is compared on fewer steps."""
    real, rg.export = rg.export, lambda *arguments, **options: real(*arguments, steps=300, **options)
    return {"_undo": lambda: setattr(rg, "export", real)}


def waves(series, steps):
    t, phase = np.arange(steps), np.random.default_rng(0).uniform(0, 6, (series, 1))
    return np.sin(2 * np.pi * t / 24 + phase).astype(np.float32)


class Tool:
    """A tool that builds its layer inside `fit`."""

    def fit(self, series):
        self.layer = torch.nn.GRU(1, 4)


def of_index():
    return {"model": Tool(), "series": waves(2, 20)}


def of_darts():
    from darts import TimeSeries

    return {"series": [TimeSeries.from_values(one) for one in waves(2, 100)]}


def of_neuralforecast():
    times = pd.date_range("2020-01-01", periods=160, freq="h")
    series = [pd.DataFrame({"unique_id": str(i), "ds": times, "y": one}) for i, one in enumerate(waves(2, 160))]
    return {"frame": pd.concat(series)}


def of_pytorch_forecasting():
    from pytorch_forecasting import TimeSeriesDataSet

    series = [pd.DataFrame({"group": str(i), "time": range(80), "value": one}) for i, one in enumerate(waves(2, 80))]
    data = TimeSeriesDataSet(
        pd.concat(series, ignore_index=True), time_idx="time", target="value", group_ids=["group"],
        max_encoder_length=24, max_prediction_length=6, time_varying_unknown_reals=["value"],
    )  # fmt: skip
    return {"data": data, "loader": data.to_dataloader(train=True, batch_size=32, num_workers=0)}


class Classes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = torch.nn.GRU(3, 8, batch_first=True), torch.nn.Linear(8, 2)

    def forward(self, x):
        return torch.softmax(self.head(self.layer(x)[0][:, -1]), -1)


def of_skorch():
    X, y = of_sktime().values()
    return {"Network": Classes, "X": X.transpose(0, 2, 1).copy(), "y": y}


def of_sktime():
    random = np.random.default_rng(0)
    return {"X": random.normal(size=(40, 3, 20)).astype(np.float32), "y": random.integers(0, 2, 40)}


READERS = {"flow": of_flow, "doctor": of_doctor, "estimators": of_estimators, "training": of_training}
READERS |= {"streams": of_streams, "index": of_index, "darts": of_darts, "neuralforecast": of_neuralforecast}
READERS |= {"pytorch-forecasting": of_pytorch_forecasting, "skorch": of_skorch, "sktime": of_sktime}
ELSEWHERE = {"docs/tour.md", "docs/not-learning.md", "docs/theory.md", "docs/forecasting.md"}  # test_pages.py
# Tools that the development environment does not have: `make zoo` installs them and runs their pages.
TOOLS = {"darts", "neuralforecast", "pytorch-forecasting", "skorch", "sktime", "torchrl"}
TRACKERS = "tensorboard,mlflow"  # mlflow 3 asks for pandas before 3.0, on which other pages run: tensorboard alone
PAGES = [p for p in sorted(pages.HOME.glob("docs/**/*.md")) if "```python" in p.read_text() and "zh" not in p.parts]


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if str(p.relative_to(pages.HOME)) not in ELSEWHERE],
    ids=lambda p: f"{p.parent.name}-{p.stem}" if p.parent.name == "tools" else p.stem,
)
def test_the_snippets_of_a_page_run(page, tmp_path, monkeypatch):
    text = page.read_text(encoding="utf-8").replace(TRACKERS, TRACKERS.partition(",")[0])
    if page.stem in TOOLS and not importlib.util.find_spec(page.stem.replace("-", "_")):
        for snippet in pages.snippets(text):
            compile(snippet.source, str(page), "exec")
        pytest.skip(f"{page.stem} is not installed: `make zoo` installs it and runs this page")
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__page__", "torch": torch, "rg": rg} | READERS.get(page.stem, dict)()
    try:
        for snippet in pages.snippets(text):
            if snippet.language == "python":
                real = pages.printed(snippet, names, str(page))
                assert snippet.shown is None or pages.difference(snippet.shown, real) is None
    finally:
        names.get("_undo", lambda: None)()

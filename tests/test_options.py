from __future__ import annotations

import math

import pytest

from retrograde.errors import OptionError
from retrograde.options import seconds
from retrograde.training import Options
from retrograde.training.schedule import learning_rate


def test_defaults_depend_on_what_is_asked_for():
    assert Options.of({}).clip_norm == 1.0
    assert Options.of({"clip_value": 0.1}).clip_norm is None
    assert Options.of({"clip_norm": None}).clip_norm is None
    assert Options.of({"optimizer": "sgd"}).lr == 1.0
    assert Options.of({"max_time": "1m30s"}).max_time == 90
    assert Options.of(Options.of({"clip_value": 0.1, "lr": 3.0}).as_dict()) == Options.of(
        {"clip_value": 0.1, "lr": 3.0}
    )


def test_misspelt_and_impossible_options():
    for given in (
        {"hiden_size": 3},
        {"hidden_size": 2.5},
        {"hidden_size": True},
        {"cell": "GRU"},
        {"lr": math.nan},
        {"epochs": None},
        {"lr": "fast"},
        {"clip_norm": 1, "clip_value": 1},
    ):
        with pytest.raises(OptionError, match=next(iter(given)).replace("_", ".")):
            Options.of(given)


def test_durations():
    assert [seconds(text) for text in ("90", "90s", "1.5m", "1h30m", "1d")] == [90, 90, 90, 5400, 86400]
    for text in ("", "s", "-5s", "1x", "5 minutes", "1m1h"):
        with pytest.raises(OptionError):
            seconds(text)


def test_schedules():
    def rates(**given: object) -> list[float]:
        options = Options.of({"lr": 1.0, **given})
        return [learning_rate(options, step, 10, 100) for step in range(101)]

    assert set(rates()) == {1.0}
    cosine, linear = rates(schedule="cosine"), rates(schedule="linear")
    assert cosine[0] == linear[0] == 1 and cosine[100] == pytest.approx(linear[100]) == pytest.approx(0.01)
    assert cosine == sorted(cosine, reverse=True) and cosine[50] == pytest.approx(0.505)
    assert rates(schedule="step", decay_every=2, decay_factor=0.1)[45] == pytest.approx(0.01)
    assert rates(warmup=5)[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])

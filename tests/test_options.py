from __future__ import annotations

import math

import pytest

from retrograde.errors import OptionError
from retrograde.options import (
    OPTIONS,
    DataOptions,
    ForecastOptions,
    ModelOptions,
    RunOptions,
    TrainingOptions,
    seconds,
)
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


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("lowercase", True, "--lowercase"),
        ("lowercase", False, "--keep-case"),
        ("bidirectional", False, "--no-bidirectional"),
        ("tie", True, "--tie"),
        ("tie", False, ""),
        ("lr", 0.5, "--lr 0.5"),
        ("clip_norm", 2.0, "--clip-norm 2"),
        ("clip_norm", None, ""),
        ("patience", None, "--patience 0"),
        ("max_time", 90, "--max-time 90s"),
        ("cell", "gru", "--cell gru"),
    ],
)
def test_what_a_command_line_says_for_a_value(name, value, words):
    assert OPTIONS[name].words(value) == words.split()


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


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"hidden_size": -3}, "--hidden-size -3 is impossible: it must be a whole number, at least 1."),
        ({"hidden_size": None}, "--hidden-size None is impossible: it must be a whole number, at least 1."),
        ({"warmup": 0.5}, "--warmup 0.5 is impossible: it must be a whole number, at least 0."),
        ({"threads": 2000}, "--threads 2000 is impossible: it must be a whole number, at least 1 and at most 1,024."),
        ({"dropout": 1}, "--dropout 1 is impossible: it must be a number, at least 0 and below 1."),
        ({"clip_quantile": 0.0}, "--clip-quantile 0.0 is impossible: it must be a number above 0 and at most 1."),
        ({"clip_norm": 0}, "it must be a number above 0; --no-clip turns clipping off."),
        ({"seed": 2**63}, "it must be a whole number, at least 0 and below 2**63."),
        ({"chrono": 2}, "--chrono 2 is impossible: it must be a whole number, at least 3."),
        ({"forget_bias": math.inf}, "--forget-bias inf is impossible: it must be a number."),
        ({"tie": 1}, "--tie 1 is impossible: it must be True or False."),
        ({"label": 1}, "--label 1 is impossible: it must be text."),
        ({"gaps": "cut"}, "--gaps 'cut' is unknown: choose from fill, split, error."),
    ],
)
def test_impossible_values_are_named_with_what_is_possible(given, said):
    with pytest.raises(OptionError) as caught:
        Options.of(given)
    assert str(caught.value).endswith(said)


def test_bounds_themselves_are_allowed():
    Options.of({"clip_quantile": 1.0, "decay_factor": 1, "dropout": 0, "threads": 1024, "chrono": 3, "seed": 2**63 - 1})


def test_each_option_is_in_one_group_and_described():
    groups = (DataOptions, ModelOptions, ForecastOptions, TrainingOptions, RunOptions)
    names = [name for group in groups for name in group.__dataclass_fields__]
    assert sorted(names) == sorted(OPTIONS) == sorted(Options().as_dict())
    assert all(option.help[-1] in ".…" and option.panel for option in OPTIONS.values())


def test_tasks_have_their_own_defaults_and_options():
    asked = Options.of({"lr": 0.1})
    classify, synthetic = asked.for_task("classify", {"lr"}), asked.for_task("synthetic", {"lr"})
    assert (classify.task, classify.tokens, classify.hidden_size, classify.embedding_size) == (
        "classify",
        "word",
        128,
        128,
    )
    assert (synthetic.hidden_size, synthetic.epochs, synthetic.lr) == (128, 50.0, 0.1)
    assert asked.for_task("forecast", {"lr"}).hidden_size == 64
    language = asked.for_task("language", {"lr"})
    assert (language.hidden_size, language.embedding_size) == (256, 64)
    assert Options.of({"hidden_size": 9}).for_task("forecast", {"hidden_size"}).hidden_size == 9
    assert Options.of({"max_steps": 9}).for_task("synthetic", {"max_steps"}).epochs is None
    Options.check_task("tag", ["label", "bidirectional", "hidden_size"])
    with pytest.raises(OptionError, match="--horizon is for --task forecast; this is --task tag: leave it out"):
        Options.check_task("tag", ["horizon"])


def test_what_may_change_when_a_run_is_resumed():
    when, where = (
        {"epochs", "max_steps", "max_time", "patience"},
        {"threads", "device", "stall_minutes", "validation", "test"},
    )
    assert when | where | {"checkpoint_minutes", "keep_checkpoints"} == Options.MAY_CHANGE


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


def test_a_network_is_one_layer_in_one_direction_without_dropout_unless_asked():
    options = Options.of({})
    assert (options.num_layers, options.dropout, options.bidirectional, options.tie) == (1, 0.0, False, False)

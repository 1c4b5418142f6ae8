"""Prescriptions: numbers that follow from the measurement, lines that run, remedies that suit the model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde.doctor import Examination, Finding, Kind, TrainingRecord
from retrograde.doctor.examination import untrained_twin
from retrograde.doctor.remedies import LADDERS, prescribe
from retrograde.flow.clip import replayed

STEPS, NEED = 24, 20


class Last(nn.Module):
    """A network that answers at the end of a sequence."""

    def __init__(
        self, cell: type[nn.Module] = nn.RNN, layer: str = "layer", hidden: int = 8, **options: object
    ) -> None:
        super().__init__()
        self.add_module(layer, cell(1, hidden, **options))
        self.name, self.head = layer, nn.Linear(hidden, 1)

    def forward(self, x):
        return self.head(getattr(self, self.name)(x)[0][-1])[:, 0]


class Stepwise(nn.Module):
    """The same by a loop over a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.ModuleList([nn.RNNCell(1, 8)]), nn.Linear(8, 1)

    def forward(self, x):
        h = x.new_zeros(x.shape[1], 8)
        for step in x:
            h = self.cells[0](step, h)
        return self.head(h)[:, 0]


def squared(output):
    return output.square()


def examination(model: nn.Module, **record: object) -> Examination:
    torch.manual_seed(0)
    x = torch.randn(STEPS, 6, 1)
    return Examination(model, rg.doctor.examination.samples_of(x, squared), model, TrainingRecord(**record))


def found(kind: Kind, where: str = "", **numbers: float) -> Finding:
    return Finding(kind, "measured.", numbers, "rule", where)


def remedies(model: nn.Module, kind: Kind, record: dict[str, object] | None = None, **numbers: float):
    return prescribe(examination(model, **record or {}), [found(kind, **numbers)])


def by_name(prescriptions, word):
    return next(one for one in prescriptions if word in one.remedy)


# --- Lines run, and do what they say ----------------------------------------------------------------------------------


def run(lines: str, model: nn.Module) -> nn.Module:
    """Execute the lines as a user would, with the names that they speak of."""
    x = torch.randn(STEPS, 6, 1)
    names = {"rg": rg, "torch": torch, "model": model, "x": x, "target": torch.randn(6), "lengths": torch.full((6,), 5)}
    names["output"] = torch.randn(6, 1)
    names["optimizer"] = torch.optim.Adam(model.parameters())
    names["loss"] = model(x).sum()
    model(x).sum().backward()
    exec(lines, names)
    names["model"](x).sum().backward()
    return names["model"]


MODELS = [
    lambda: Last(nn.RNN),
    lambda: Last(nn.RNN, nonlinearity="relu"),
    lambda: Last(nn.RNN, num_layers=2, bidirectional=False),
    lambda: Last(nn.GRU, layer="encoder"),
    lambda: Last(rg.nn.LSTM, bias=True),
    lambda: Last(nn.LSTM, bias=False),
    lambda: Last(rg.nn.StepwiseLSTM, layer_norm=True),
    Stepwise,
]


@pytest.mark.parametrize("make", MODELS)
def test_lines_of_every_remedy_run_on_the_model(make):
    torch.manual_seed(0)
    numbers = {"need": NEED, "reach": 5, "sharpness": 4000.0, "lyapunov": 0.2, "loss": 1.0}
    record = {"lr": 0.01, "optimizer": "sgd", "clip_norm": 5.0, "gradient_norms": [0.1] * 50 + [9.0]}
    every = [found(kind, **numbers) for kind in LADDERS]
    prescriptions = prescribe(examination(make(), **record), every)
    assert len(prescriptions) >= 4
    for one in prescriptions:
        assert one.arithmetic and (one.python or one.options)
        assert one.as_dict()["in_place"] == (one.apply is not None)
        run(one.python, make())


@pytest.mark.parametrize("make", MODELS)
def test_what_is_applied_in_place_is_what_the_lines_do(make):
    for one in remedies(make(), Kind.VANISHING_HURTS, need=NEED, reach=5):
        if one.apply is None:
            continue
        torch.manual_seed(1)
        applied = make()
        torch.manual_seed(1)
        told = make()
        torch.manual_seed(2)
        one.apply(applied)
        torch.manual_seed(2)
        exec(one.python, {"rg": rg, "model": told})
        for a, b in zip(applied.parameters(), told.parameters(), strict=True):
            assert torch.equal(a, b)


def test_mistakes_in_code_are_prescribed_for_before_weights():
    """Saturated units may follow from outputs with bounds, or from a loop that does not train."""
    exam = examination(Last(), lr=0.01, optimizer="sgd", updates=100)
    for kind, words in {
        Kind.OUTPUT_RANGE: "leave out its last function",
        Kind.NOT_TRAINED: "torch.optim.SGD(model.parameters(), lr=0.01)",
        Kind.TRAINING_LOOP: "optimizer.zero_grad()\nloss.backward()\noptimizer.step()",
    }.items():
        first = prescribe(exam, [found(Kind.SATURATION, size_of_inputs=5.0), found(kind)])[0]
        assert first.finding == kind and words in first.python and first.python.startswith("# where")


# --- Remedies suit the model ------------------------------------------------------------------------------------------


class Doubled(Last):
    """Computes in float64."""

    def forward(self, x):
        return super().forward(x.double()).float()


def test_a_layer_that_replaces_one_in_float64_is_in_float64():
    lines = {
        double: [
            one.python
            for one in remedies(model, Kind.VANISHING_HURTS, need=9, reach=2)
            if "model.layer = rg.nn" in one.python
        ]
        for double, model in ((False, Last(nn.RNN)), (True, Doubled(nn.RNN).double()))
    }
    assert lines[True] and all(".to(next(model.parameters()))" in line for line in lines[True])
    assert lines[False] and not any(".to(" in line for line in lines[False])


def test_a_vanilla_network_gets_no_gate_bias_and_a_gated_one_no_relu():
    for one in remedies(Last(nn.RNN), Kind.VANISHING_HURTS, need=NEED, reach=5):
        assert one.options.get("cell") or not {"chrono", "forget_bias"} & set(one.options)
    for cell in (nn.GRU, nn.LSTM):
        for one in remedies(Last(cell), Kind.VANISHING_HURTS, need=NEED, reach=5):
            assert not {"omega", "nonlinearity", "spectral_radius"} & set(one.options)
            assert one.options.get("init") != "identity"


def test_a_gated_layer_without_biases_gets_none():
    assert not remedies(Last(nn.LSTM, bias=False), Kind.VANISHING_HURTS, need=NEED, reach=5)


def test_only_the_layers_of_the_finding_are_changed():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.LSTM(1, 8), nn.LSTM(8, 8), nn.Linear(8, 1)

        def forward(self, x):
            return self.head(self.b(self.a(x)[0])[0][-1])[:, 0]

    exam = examination(Two())
    (label,) = [label for label in exam.flow.layers if label.startswith("b.")]
    first = prescribe(exam, [found(Kind.VANISHING_HURTS, label, need=NEED, reach=5)])[0]
    assert "initialize(model.b," in first.python and "model.a" not in first.python
    both = prescribe(exam, [found(Kind.VANISHING_HURTS, one, need=NEED, reach=5) for one in exam.flow.layers])[0]
    assert "initialize(model," in both.python


def test_notes_and_unknowns_get_no_prescription():
    assert not remedies(Last(), Kind.VANISHING_HARMLESS, need=3, reach=5)
    assert not remedies(Last(), Kind.NO_FIRST_ORDER_SIGNAL)


# --- Numbers follow from the measurement ------------------------------------------------------------------------------


@pytest.mark.parametrize("need", [5, 20])
def test_the_bias_of_a_gate_follows_from_the_need(need):
    lstm = remedies(Last(nn.LSTM), Kind.VANISHING_HURTS, need=need, reach=2)
    one = by_name(lstm, "forget bias")
    bias = one.options["forget_bias"]
    assert bias == pytest.approx(math.log(need - 1), rel=0.01) and f"log({need} - 1)" in one.arithmetic
    gru = remedies(Last(nn.GRU), Kind.VANISHING_HURTS, need=need, reach=2)
    assert lstm[0].options["chrono"] == gru[0].options["chrono"] == need


def test_the_spectral_radius_keeps_the_gradient_of_the_network_that_it_is_for():
    torch.manual_seed(0)
    model = Last(nn.RNN, hidden=16)
    found = remedies(model, Kind.VANISHING_HURTS, need=NEED, reach=5)
    assert found[0].options["cell"] == "gru"  # which learned where an orthogonal tanh network did not
    first = by_name(found, "orthogonal start")
    assert first.options["init"] == "orthogonal" and "not enough" not in first.arithmetic
    x = torch.randn(STEPS, 6, 1)
    before = rg.gradient_flow(model, x, loss=squared).horizon()[0]
    torch.manual_seed(0)
    first.apply(model)
    after = rg.gradient_flow(model, x, loss=squared).horizon()[0]
    assert before < NEED and (np.isnan(after) or after >= NEED)


def test_what_reaches_far_enough_comes_first():
    torch.manual_seed(0)
    model = Last(nn.RNN, hidden=16)
    nn.init.constant_(model.layer.weight_ih_l0, 4.0)  # saturated: no start of the recurrent weights can help
    prescriptions = remedies(model, Kind.VANISHING_HURTS, need=NEED, reach=1)
    assert prescriptions[0].options.get("cell") in ("gru", "lstm")
    assert "not enough alone" in by_name(prescriptions, "orthogonal start").arithmetic


class Copier(nn.Module):
    """A network that answers at every step."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.layer, self.head = nn.RNN(4, hidden), nn.Linear(hidden, 4)

    def forward(self, x):
        return self.head(self.layer(x)[0])


def cross_entropy(output, target):
    return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none").view_as(target)


@pytest.mark.parametrize(
    ("task", "first"),
    [("every input d steps later", "orthogonal start"), ("the first input, at every step", "GRU"), ("chain", "GRU")],
)
def test_the_state_that_passes_many_inputs_on_gets_orthogonal_weights_first(task, first):
    torch.manual_seed(1)
    symbols, steps, d = torch.randint(4, (60, 200)), torch.arange(60)[:, None], 20
    if task == "chain":  # symbols stay for a while: what is asked for is no longer one input
        new = (torch.rand(60, 200) < 0.2) | (steps == 0)
        symbols = symbols.gather(0, torch.where(new, steps, 0).cummax(0).values)
    target = symbols[:1].expand(60, -1) if first == "GRU" and task != "chain" else symbols.roll(d, 0)
    loss = lambda y, t: cross_entropy(y, t) * (steps >= d)  # noqa: E731
    torch.manual_seed(0)
    diagnosis = rg.diagnose(Copier(), (nn.functional.one_hot(symbols, 4).float(), target.contiguous()), loss)
    assert Kind.VANISHING_HURTS in [finding.kind for finding in diagnosis.findings]
    assert diagnosis.prescriptions[0].remedy.startswith(first)
    assert any(one.remedy.startswith("GRU") for one in diagnosis.prescriptions)
    flossed = [one.options["floss"] for one in diagnosis.prescriptions if "floss" in one.options]
    assert flossed == ([d] if first == "orthogonal start" else [])  # as many exponents as inputs that are passed on


def test_a_state_that_passes_inputs_on_keeps_the_weakest_of_their_directions():
    """A radius that keeps the whole gradient (1.24 here) loses four fifths of it."""
    d, hidden = 20, 24

    class Numbers(Copier):
        def __init__(self):
            super().__init__(hidden)
            self.layer, self.head = nn.RNN(1, hidden), nn.Linear(hidden, 1)

    torch.manual_seed(1)
    x = 2 * torch.rand(60, 200, 1) - 1
    loss = lambda y, t: (y - t).square().squeeze(-1) * (torch.arange(60)[:, None] >= d)  # noqa: E731
    first = rg.diagnose(Numbers(), (x, x.roll(d, 0)), loss).prescriptions[0]
    assert first.remedy == "orthogonal start"

    def exponents(**arguments):
        model = untrained_twin(Numbers())
        torch.manual_seed(0)
        rg.nn.initialize(model, recurrent="orthogonal", **arguments)
        return rg.gradient_flow(model, x[:, :16], loss=squared_by_step).lyapunov_exponents()

    plain, stretched = exponents(), exponents(spectral_radius=first.options["spectral_radius"])
    assert stretched[d - 1] > plain[d - 1] and plain[0] < stretched[0] < 0
    assert f"the weakest of {d} directions" in first.arithmetic


def squared_by_step(output):
    return output.square().squeeze(-1)


def test_a_start_is_stretched_for_the_need_and_not_for_all_steps():
    torch.manual_seed(0)
    model, x = Last(nn.RNN, hidden=16), torch.randn(STEPS, 64, 1)
    with torch.no_grad():
        model.layer.weight_ih_l0.mul_(2)
    radii = {}
    for need in (6, NEED):
        one = by_name(remedies(model, Kind.VANISHING_HURTS, need=need, reach=2), "orthogonal start")
        torch.manual_seed(0)
        one.apply(model)
        curve = rg.gradient_flow(model, x, loss=squared).by_lag()[0]
        assert 0.05 < curve[need] / curve[0] < (0.4 if "spectral_radius" in one.options else 1)
        radii[need] = one.options.get("spectral_radius", 1.0)
    assert 1.0 <= radii[6] < radii[NEED]


def test_bptt_covers_need():
    exam = examination(Last(), bptt=5)
    (one,) = prescribe(exam, [found(Kind.TRUNCATION, need=NEED)])
    assert one.options["bptt"] >= NEED + 1 and f"need = {NEED}" in one.arithmetic


def test_chaos_is_cut_at_its_predictable_time():
    prescriptions = remedies(Last(), Kind.CHAOS, lyapunov=0.1)
    assert by_name(prescriptions, "predictable").options == {"bptt": 7}  # ln 2 / 0.1


def test_chaos_whose_predictable_time_is_shorter_than_the_need_is_calmed_instead():
    torch.manual_seed(0)
    model = Last()
    radius = torch.linalg.eigvals(model.layer.weight_hh_l0.detach()).abs().max().item()
    every = remedies(model, Kind.CHAOS, lyapunov=0.1, need=NEED)
    one = by_name(every, "spectral radius")
    assert one.options["spectral_radius"] == pytest.approx(radius * math.exp(-0.1), rel=0.01)
    assert not any("bptt" in other.options for other in every) and "largest Lyapunov exponent is 0.1" in one.arithmetic


def test_padding_in_the_loss_is_masked_there_and_padding_that_is_read_is_packed():
    (mask,) = remedies(Last(), Kind.MASK_ERROR, padding_share=0.4)
    names = {"torch": torch, "losses": torch.arange(6.0).reshape(3, 2), "lengths": torch.tensor([1, 3])}
    exec(mask.python, names)
    assert names["loss"] == (0 + 1 + 3 + 5) / 4
    (pack,) = remedies(Last(nn.GRU), Kind.MASK_ERROR, changed=2)
    names = {"torch": torch, "model": Last(nn.GRU), "x": torch.randn(3, 2, 1), "lengths": torch.tensor([1, 3])}
    exec(pack.python, names)
    assert not names["output"][1:, 0].any() and torch.equal(names["state"][0, 0], names["output"][0, 0])


def test_inputs_that_are_all_the_same_have_no_remedy_in_training():
    assert remedies(Last(), Kind.CONSTANT_OUTPUT, inputs=1.0) and not remedies(Last(), Kind.CONSTANT_OUTPUT, inputs=0.0)


def test_flossing_pushes_as_many_exponents_as_directions_are_asked_for():
    one = by_name(remedies(Last(), Kind.ONE_DIRECTION, asked=2.3), "flossing")
    assert one.options == {"floss": 3} and "2.3 directions" in one.arithmetic
    model = Last()
    one.apply(model)
    x = torch.randn(STEPS, 6, 1)
    flow = rg.gradient_flow(model, x, loss=squared)
    before = rg.gradient_flow(Last(), x, loss=squared)
    assert abs(flow.lyapunov_exponents()[2]) < abs(before.lyapunov_exponents()[2]) / 2
    assert not any("floss" in one.options for one in remedies(Last(nonlinearity="relu"), Kind.ONE_DIRECTION, asked=2.3))


def test_an_exploding_start_is_scaled_to_its_edge():
    torch.manual_seed(0)
    model = Last(nn.RNN, hidden=32)
    nn.init.orthogonal_(model.layer.weight_hh_l0, gain=1.8)
    nn.init.normal_(model.layer.weight_ih_l0, std=0.01)
    one = by_name(remedies(model, Kind.EXPLODING), "spectral radius")
    assert 0.8 < one.options["spectral_radius"] < 1.8


def test_a_start_that_explodes_is_calmed_before_the_gradient_is_clipped():
    torch.manual_seed(0)
    record = {"lr": 0.002, "optimizer": "sgd", "losses": [1.0] * 50, "gradient_norms": [1e12] + [1e9, 2e11] * 25}
    model = Last(nn.RNN, hidden=32, nonlinearity="relu")
    nn.init.orthogonal_(model.layer.weight_hh_l0, gain=2.0)
    every = remedies(model, Kind.EXPLODING, record)
    assert every[0].remedy == "orthogonal start" and every[0].options["init"] == "orthogonal"
    every[0].apply(model)
    lags = rg.gradient_flow(model, torch.randn(STEPS, 6, 1), loss=squared).by_lag()[0]
    assert np.nanmax(lags) < 100 * lags[0]  # it had grown 2^24 times
    spikes = {"gradient_norms": [0.1] * 50 + [9.0], "losses": [1.0] * 51}
    first = remedies(Last(nn.RNN), Kind.EXPLODING, record | spikes)[0]
    assert first.options == {"clip_norm": 0.1}  # it came in training, and seldom


@pytest.mark.parametrize(
    ("trained", "start", "words"),
    [(2.0, 1.0, "the gradient of the network has"), (1.0, 2.0, "the gradient of the untrained network has")],
)
def test_the_spectral_radius_is_that_of_the_weights_whose_gradient_grows(trained, start, words):
    models = [Last(nonlinearity="relu", hidden=32) for _ in range(2)]
    for model, radius in zip(models, (trained, start), strict=True):
        torch.manual_seed(0)
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.1)
        nn.init.orthogonal_(model.layer.weight_hh_l0, gain=radius)
    samples = examination(models[0]).samples
    exam = Examination(models[0], samples, models[1], TrainingRecord(updates=10, lr=0.01))
    one = by_name(prescribe(exam, [found(Kind.EXPLODING)]), "spectral radius")
    assert words in one.arithmetic and "at spectral radius 2; 2 × " in one.arithmetic


@pytest.mark.parametrize("cell", [nn.RNN, nn.LSTM])
def test_a_chaotic_start_becomes_orthogonal_first(cell):
    torch.manual_seed(0)
    model = Last(cell, hidden=32)
    nn.init.normal_(model.layer.weight_hh_l0, std=4 / 32**0.5)
    first = remedies(model, Kind.CHAOS, need=4)[0]
    assert first.remedy == "orthogonal start"
    first.apply(model)
    flow = rg.gradient_flow(model, torch.randn(STEPS, 6, 1), loss=squared)
    assert flow.lyapunov_exponents()[0] < 0.05


def test_a_rate_for_adam_under_which_a_copy_gets_worse_is_lowered():
    torch.manual_seed(0)
    model = Last(nn.RNN)
    record = {"lr": 0.1, "optimizer": "sgd", "gradient_norms": [500.0] * 20}
    one = by_name(remedies(model, Kind.CURSE_OF_MEMORY, record), "Adam")
    same_length = 0.1 * 500 / sum(p.numel() for p in model.parameters()) ** 0.5
    assert one.options["lr"] == pytest.approx(same_length / 100, rel=0.01) and "copies" in one.arithmetic


def test_a_training_that_diverged_unclipped_is_clipped_at_its_lower_rate():
    record = {"lr": 20.0, "optimizer": "sgd"}
    (one, *_) = remedies(Last(), Kind.LEARNING_RATE_TOO_HIGH, record, better_lr=2.0, loss=9.0, loss_better=1, clip=0.1)
    assert one.options == {"lr": 2.0, "clip_norm": 0.1} and "clip_grad_norm_" in one.python
    (one, *_) = remedies(Last(), Kind.LEARNING_RATE_TOO_HIGH, record, better_lr=2.0, loss=9.0, loss_better=1)
    assert one.options == {"lr": 2.0}


def test_where_training_took_the_loss_above_chance_shorter_steps_come_before_what_it_spoiled():
    """Saturation and stuck gates are then what long steps did."""
    record = {"losses": [1.0] * 10 + [50.0] * 30, "gradient_norms": [1.0] * 36 + [80.0] * 4, "updates": 40}
    for kind, usual in ((Kind.SATURATION, "layer normalization"), (Kind.STUCK_GATES, "chrono initialization")):
        numbers = {"preactivation": 5.0, "need": 4.0}
        (first, second, *_) = remedies(Last(nn.LSTM), kind, record, **numbers)
        assert first.remedy == "clip the gradient norm" and second.remedy == usual
        (first, *_) = remedies(Last(nn.LSTM), kind, record | {"losses": [1.0] * 40}, **numbers)
        assert first.remedy == usual


def test_saturated_units_get_weights_that_add_one():
    torch.manual_seed(0)
    model = Last(nn.RNN, hidden=64)
    nn.init.normal_(model.layer.weight_ih_l0, std=6.0)
    x = torch.randn(STEPS, 6, 1)
    size = float((x @ model.layer.weight_ih_l0.detach().t()).square().mean().sqrt())
    one = remedies(model, Kind.SATURATION, **{"size_of_inputs": size, "size_of_recurrent weights": 0.5})[0]
    one.apply(model)
    assert float((x @ model.layer.weight_ih_l0.detach().t()).square().mean().sqrt()) == pytest.approx(1, rel=0.3)


def test_states_that_saturate_their_units_are_brought_to_a_size_of_one():
    torch.manual_seed(0)
    model = Last(nn.RNN, hidden=32)
    nn.init.orthogonal_(model.layer.weight_hh_l0, gain=3.0)
    numbers = {"size_of_inputs": 0.5, "size_of_recurrent weights": 4.0}
    one = by_name(remedies(model, Kind.SATURATION, **numbers), "spectral radius")
    assert one.options["spectral_radius"] == pytest.approx(0.75, rel=0.01)


def test_layer_normalization_states_the_size_that_the_states_of_the_network_show():
    torch.manual_seed(0)
    model = Last(nn.RNN)
    nn.init.normal_(model.layer.weight_ih_l0, std=6.0)
    one = by_name(remedies(model, Kind.SATURATION), "layer normalization")
    slope = examination(model).flow.saturation(0).derivative
    assert f"root mean square of {math.atanh(math.sqrt(1 - slope)):.2g}" in one.arithmetic


def test_the_weights_that_saturate_are_those_of_the_network_not_of_its_untrained_twin():
    torch.manual_seed(0)
    model, twin = Last(nn.RNN, hidden=64), Last(nn.RNN, hidden=64)
    nn.init.normal_(model.layer.weight_ih_l0, std=6.0)
    exam = examination(model)
    exam.untrained = twin
    numbers = {"size_of_inputs": 6.0, "size_of_recurrent weights": 0.5}
    prescribe(exam, [found(Kind.SATURATION, **numbers)])[0].apply(twin)
    assert float(twin.layer.weight_ih_l0.detach().std()) == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize(
    ("kind", "nonlinearity", "bias"), [(Kind.SATURATION, "tanh", 8.0), (Kind.DEAD_RELU, "relu", -8.0)]
)
def test_biases_out_of_range_are_set_to_zero_before_anything_about_memory(kind, nonlinearity, bias):
    model = Last(nn.RNN, nonlinearity=nonlinearity, num_layers=2)
    nn.init.constant_(model.layer.bias_ih_l0, bias)
    findings = [
        found(Kind.VANISHING_HURTS, need=NEED, reach=1),
        found(kind, **{"size_of_inputs": 0.5, "size_of_recurrent weights": 0.5}),
    ]
    one = prescribe(examination(model), findings)[0]
    one.apply(model)
    assert one.remedy == "biases of 0" and not (model.layer.bias_ih_l0 + model.layer.bias_hh_l0).any()
    assert all(p.remedy != one.remedy for p in prescribe(examination(Last(nn.RNN)), findings))  # those are as usual


def test_the_learning_rate_follows_from_the_sharpness():
    one = remedies(Last(), Kind.LEARNING_RATE_TOO_HIGH, {"lr": 0.1}, sharpness=50.0)[0]
    assert one.options == {"lr": 0.04} and "2 / 50 = 0.04" in one.arithmetic
    stable = remedies(Last(), Kind.LEARNING_RATE_TOO_HIGH, {"lr": 0.01}, sharpness=50.0)
    assert not any("lr" in one.options for one in stable)


def test_a_learning_rate_that_is_too_low_is_raised():
    (one, *_) = remedies(Last(), Kind.LEARNING_RATE_TOO_LOW, {"lr": 1e-6}, better_lr=0.01, loss=0.9, loss_better=0.2)
    assert one.options == {"lr": 0.01} and one.remedy == "higher learning rate"


def test_inputs_and_targets_are_standardized_by_what_was_measured():
    torch.manual_seed(0)
    x, y = 30 + 5 * torch.randn(STEPS, 200, 2), torch.randn(200)
    x[..., 1] /= 10
    model = nn.RNN(2, 4)
    samples = rg.doctor.examination.samples_of((x, y), lambda output, target: output[0][-1, :, 0] - target)
    exam = Examination(model, samples, model)
    one = prescribe(exam, [found(Kind.INPUT_SCALE)])[0]
    names = {"torch": torch, "x": x}
    exec(one.python, names)
    assert names["x"].mean((0, 1)).abs().max() < 0.05 and names["x"].std((0, 1)).sub(1).abs().max() < 0.05


# --- The threshold of clipping ----------------------------------------------------------------------------------------


def test_equal_norms_are_not_clipped():
    found = replayed([0.5] * 30)
    assert found.threshold == 0.5 and found.clipped == 0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_threshold_parts_spikes_from_the_rest_at_any_scale(scale):
    random = np.random.default_rng(0)
    usual = np.exp(0.3 * random.standard_normal(500))
    norms = scale * np.concatenate([usual, 1e4 * usual[:5]])
    random.shuffle(norms)
    found = replayed(norms)
    assert np.quantile(usual, 0.9) < found.threshold / scale <= usual.max()
    assert 5 / 505 <= found.clipped < 0.1 and found.before > 0.9 > 0.2 > found.after


def test_the_threshold_is_the_best_of_all_by_its_own_criterion():
    norms = np.abs(np.random.default_rng(1).standard_cauchy(200))

    def score(threshold):
        cut = np.minimum(norms, threshold)
        return (norms <= threshold).mean() * cut.sum() ** 2 / (len(norms) * (cut**2).sum())

    assert score(replayed(norms).threshold) == pytest.approx(max(map(score, norms)))


def test_norms_that_are_not_finite_do_not_count():
    assert replayed([1.0, math.nan, 2.0, math.inf]).threshold == 2.0
    assert replayed([1.0, math.nan]) is None and replayed([]) is None


def test_without_a_record_the_norms_of_sequences_are_replayed():
    (one,) = remedies(Last(), Kind.CLIPPING_TOO_TIGHT)
    assert one.options["clip_norm"] > 0 and "no norms of updates are recorded" in one.arithmetic
    (two,) = remedies(Last(), Kind.CLIPPING_TOO_TIGHT, {"gradient_norms": [1.0, 100.0]})
    assert "of 2 updates (median 50.5" in two.arithmetic


def test_data_that_is_not_finite_and_a_cut_head_have_no_remedy_in_training():
    x = torch.randn(STEPS, 16, 1)
    x[3, 2] = math.nan
    broken = rg.diagnose(Last(), x, squared)
    assert broken.found("not_finite") and not broken.prescriptions
    head = [found(Kind.DEAD_HEAD), found(Kind.CONSTANT_OUTPUT)]
    assert prescribe(examination(Last()), head[1:]) and not prescribe(examination(Last()), head)

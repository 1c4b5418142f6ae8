"""Vanishing, truncation, directions and the curse of memory: each found where it is, and not where it is not."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from small import Net, found, squared, train
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import retrograde as rg
from retrograde.doctor import TrainingRecord
from retrograde.doctor.examination import Examination, samples_of
from retrograde.doctor.rules import memory
from retrograde.doctor.thresholds import table
from retrograde.tasks.models import SequenceModel

UNTRAINED = TrainingRecord(updates=0)
STUCK = TrainingRecord(updates=500)


def sums_of(which, steps=20, count=200, inputs=1, offset=0.0, seed=1):
    """Sequences of noise, and the sum of some of their steps."""
    x = torch.randn(steps, count, inputs, generator=torch.Generator().manual_seed(seed))
    return x + offset, x[which].sum((0, 2))


def early(**options):
    return sums_of(slice(0, 2), **options)


def late(**options):
    return sums_of(slice(-2, None), **options)


def echo(lag=2, steps=12, count=100, inputs=3, seed=1):
    """Vectors, and the vector some steps ago."""
    x = torch.randn(steps, count, inputs, generator=torch.Generator().manual_seed(seed))
    return x, x.roll(lag, 0) * (torch.arange(steps) >= lag)[:, None, None]


def by_step(output, target):
    return (output - target).square().mean(-1)


class Each(Net):
    """Reads every state, and returns it next to the answers, as models do."""

    def forward(self, x):
        states, last = self.layer(x)
        return self.head(states), last


def each(output, target):
    return by_step(output[0], target)


# --- Vanishing --------------------------------------------------------------------------------------------------------


def test_a_weak_signal_of_many_lags_together_is_a_need():
    """The adding problem: no lag alone has a signal in so few sequences, all of them together do."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, 1200, 2, generator=generator)
    marks = torch.rand(40, 1200, generator=generator).topk(2, dim=0).indices
    x[:, :, 1] = torch.zeros(40, 1200).scatter_(0, marks, 1.0)
    target = (x[:, :, 0] * x[:, :, 1]).sum(0)
    torch.manual_seed(0)
    batches = [(x[:, i : i + 100], target[i : i + 100]) for i in range(0, 1200, 100)]
    model = Net(inputs=2)
    model.layer.weight_hh_l0.data.mul_(0.3)
    (hurts,) = rg.diagnose(model, batches, squared, record=STUCK).found("vanishing_hurts")
    assert hurts.numbers["need"] >= 10


def started(model, radius):
    """Recurrent weights of a vanilla layer: orthogonal, times a number."""
    for name, weight in model.named_parameters():
        if "weight_hh" in name:
            nn.init.orthogonal_(weight, radius)
    return model


@pytest.mark.parametrize("layers", [1, 2])
def test_vanishing_hurts_where_the_data_asks_for_more_than_the_gradient_reaches(layers):
    model = started(Net(num_layers=layers), 0.5)
    sick = found(memory.RULES, model, early, record=UNTRAINED, untrained=model)
    (finding,) = sick["vanishing_hurts"]
    assert finding.numbers["need"] == 19 and finding.numbers["reach"] < 10 and "need 19 > reach" in finding.rule
    assert finding.chart.marks["need"] == 19 and finding.where == ""  # one for the whole network
    fine = found(memory.RULES, model, late, record=UNTRAINED, untrained=model)
    (note,) = fine["vanishing_harmless"]
    assert note.numbers["need"] == 1 and "vanishing_hurts" not in fine


def test_a_network_whose_gradient_reaches_far_enough_is_not_called_sick():
    model = started(Net(hidden=24), 1.0)
    assert "vanishing_hurts" not in found(memory.RULES, model, early, record=UNTRAINED, untrained=model)


def test_the_cause_of_vanishing_is_weights_saturation_or_gates():
    weights = started(Net(), 0.4)
    (finding,) = found([memory.vanishing], weights, early, record=STUCK)["vanishing_hurts"]
    assert finding.numbers["part_of_weights"] > 0.8 and finding.numbers["radius"] == pytest.approx(0.4, abs=0.01)
    assert any("not saturation" in other and "f′" in other for other in finding.ruled_out)

    saturated = started(Net(), 0.95)
    with torch.no_grad():
        saturated.layer.bias_ih_l0.fill_(1.7)
    (finding,) = found([memory.vanishing], saturated, early, record=STUCK)["vanishing_hurts"]
    assert finding.numbers["part_of_saturation"] > 0.8 and "saturated units" in finding.message

    (finding,) = found([memory.vanishing], Net(nn.LSTM), early, record=STUCK)["vanishing_hurts"]
    assert finding.numbers["share_through_gates"] < 0.01 and "gate f" in finding.message


def test_a_solved_task_is_never_called_sick():
    model = Net(hidden=12)
    record = train(model, late, updates=200, steps=20, count=64)
    given = late(seed=5)
    diagnosis = rg.diagnose(model, given, squared, record=record)
    assert diagnosis.verdict == "healthy" and diagnosis.remaining < 0.05 and diagnosis.risk == 0
    # nor at any size of the gradient, nor with spikes in the norms of training
    loud = TrainingRecord(updates=200, gradient_norms=[776.0] * 100 + [1e5] + [776.0] * 99)
    assert rg.diagnose(model, given, lambda output, y: 1e6 * squared(output, y), record=loud).verdict == "healthy"


def test_a_network_that_answers_rightly_is_healthy_although_its_gradient_vanishes():
    """The targets are its own answers."""
    model = started(Net(), 0.5)
    x, _ = early()
    with torch.no_grad():
        y = model(x)
    kinds = found(memory.RULES, model, lambda seed=0: (x, y), record=TrainingRecord(updates=10, chance=1.0))
    assert set(kinds) <= {"vanishing_harmless"}


def test_partly_learned_the_signal_that_is_left_decides():
    """Half of the target is at the end and is learned, half at the start: what is left is beyond reach."""

    def both(seed=1, count=200):
        x = torch.randn(20, count, 1, generator=torch.Generator().manual_seed(seed))
        return x, x[0, :, 0] + x[-1, :, 0]

    model = started(Net(hidden=8), 0.5)
    record = train(model, both, updates=150, count=64)
    kinds = found([memory.vanishing], model, both, record=record)
    (finding,) = kinds["vanishing_hurts"]
    assert finding.numbers["left_peak"] == 19 and "left to learn is clearest at lag 19" in finding.rule


def test_partly_learned_the_inputs_tell_what_is_left_where_no_gradient_does():
    def both(seed=1, count=200, noise=0.0):
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(20, count, 1, generator=draw)
        return x, x[-1, :, 0] + (noise * torch.randn(count, generator=draw) if noise else x[3, :, 0])

    model = started(Net(hidden=8), 0.5)
    record = train(model, both, updates=150, count=64)

    def numbers(**options):
        exam = Examination(model, samples_of([both(**options)], squared), model, record)
        vars(exam)["left"] = rg.flow.NetworkSignal([], 200, 1, False, 0.7)  # as of a network whose gradient is too weak
        return [finding.numbers for finding in memory.vanishing(exam) if finding.severity == "sick"]

    (own,) = numbers()
    assert own["left_lag"] == 16 and own["left_share"] > 0.8
    assert not numbers(noise=1.0)


def test_what_is_learned_without_looking_at_the_sequences_does_not_hide_that_the_rest_is_not():
    """Half of the loss is what comes at which step; the gradient reaches by now, but it did not as training began."""

    class Placed(Each):
        def __init__(self, place, decay):
            super().__init__(inputs=3, outputs=3, last=False)
            started(self, decay)
            self.place = nn.Parameter(place)

        def forward(self, x):
            states, last = self.layer(x)
            return self.head(states) + self.place, last

    place = torch.linspace(-3, 3, 24)[:, None, None].expand(24, 1, 3)
    x, y = echo(lag=12, steps=24)
    batch = [(x, y + place)]
    learned, start = Placed(place, 1.0), Placed(torch.zeros(24, 1, 3), 0.4)
    found = rg.diagnose(learned, batch, each, untrained=start, record=STUCK).found("vanishing_hurts")
    assert found and found[0].numbers["need"] == 12 and found[0].numbers["reach"] < 12
    assert "before training" in found[0].rule and found[0].numbers["error_share"] > 0.8


def test_negative_gate_biases_by_design_are_healthy():
    model = Net(nn.LSTM)
    with torch.no_grad():
        model.layer.bias_ih_l0[:16] = -2.0
        model.layer.bias_ih_l0[48:] = -2.0
    assert rg.diagnose(model, late(), squared, record=UNTRAINED).verdict == "healthy"


def test_the_risk_rises_with_the_lag():
    model = started(Net(), 0.6)
    risks = [
        rg.diagnose(model, sums_of(slice(20 - lag - 1, 20 - lag)), squared, record=UNTRAINED).risk for lag in (1, 9, 19)
    ]
    assert risks[0] < 0.2 < risks[1] < risks[2] and risks[2] > 0.9


def test_inputs_that_repeat_themselves_can_be_learned_from_a_later_step():
    """A slow series: what it was 15 steps ago, it still is."""
    x = torch.randn(1, 200, 1).expand(20, -1, -1) + 0.1 * torch.randn(20, 200, 1)
    model = started(Net(), 0.5)
    diagnosis = rg.diagnose(model, (x, x[3, :, 0]), squared, record=UNTRAINED)
    assert not diagnosis.found("vanishing_hurts") and diagnosis.risk < 0.5


# --- No signal --------------------------------------------------------------------------------------------------------


def test_a_task_learned_in_part_has_no_risk_because_no_signal_is_seen():
    x, y = torch.randn(10, 200, 1, generator=torch.Generator().manual_seed(1)), torch.randn(200)
    known = {"updates": 500, "chance": 3.0}  # of a loss of about 1
    diagnosis = rg.diagnose(Net(), (x, y), squared, record=TrainingRecord(**known))
    assert diagnosis.remaining < 0.8 and math.isnan(diagnosis.risk) and "risk" not in str(diagnosis).splitlines()[0]
    assert rg.diagnose(Net(), (x, y), squared, record=TrainingRecord(**known | {"chance": None})).risk > 0.5


def test_noise_and_parity_cannot_be_told():
    torch.manual_seed(1)
    x = torch.randn(10, 200, 1)
    noise = rg.diagnose(Net(), (x, torch.randn(200)), squared, record=UNTRAINED)
    assert noise.verdict == "cannot tell" and noise.found("no_first_order_signal") and noise.risk > 0.5
    # If input, losses and layer agree on the wrong axis, this is all that can be seen: say what was taken for time.
    assert "layer (batch_first=False) read 10 steps of 200 sequences" in noise.findings[0].message
    bits = torch.randint(2, (6, 300, 1)) * 2.0 - 1
    parity = rg.diagnose(Net(), (bits, bits[-2:].prod(0)[:, 0]), squared, record=UNTRAINED)
    assert parity.verdict == "cannot tell"
    assert not found([memory.no_signal], Net(), late)


def test_targets_that_belong_to_the_next_input_are_not_called_a_matter_of_memory():
    def shifted(later=1, count=200, seed=1):
        x = torch.randn(12, count, 1, generator=torch.Generator().manual_seed(seed))
        return x, x.roll(-later, 0)[..., 0]  # the last target is the first input

    for later in (1, 2):
        own = found(memory.RULES, Net(nn.GRU, last=False), partial(shifted, later))
        assert list(own) == ["targets_ahead"] and own["targets_ahead"][0].numbers["ahead"] == later
        assert own["targets_ahead"][0].severity == "unknown"
    assert "targets_ahead" not in found(memory.RULES, Net(nn.GRU, last=False), partial(shifted, -1))


@pytest.mark.parametrize("trained", [False, True])
def test_a_forecast_of_what_is_hardly_foreseen_is_no_mistake_before_training(trained):
    def series(count=400, seed=1):
        x = [torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))]
        for step in range(12):
            x.append(0.25 * x[-1] + torch.randn(count, 1, generator=torch.Generator().manual_seed(100 * seed + step)))
        whole = torch.stack(x)
        return whole[:-1], whole[1:, :, 0]

    record = TrainingRecord(updates=500) if trained else TrainingRecord()
    own = found([memory.targets_ahead], Net(nn.GRU, last=False), series, record=record)
    assert bool(own) == trained  # 6 % of the targets are foreseen; what a training finds in them is not known before


def test_few_sequences_do_not_say_that_there_is_no_signal():
    """In 40 of them a lag must explain a quarter of the errors to be seen."""
    torch.manual_seed(1)
    x = torch.randn(10, 40, 1)
    few = rg.diagnose(Net(), (x, torch.randn(40)), squared, record=UNTRAINED)
    assert few.verdict == "cannot tell" and not few.found("no_first_order_signal")
    assert any("40 sequences are too few" in note for note in few.notes)


def test_the_first_step_of_sequences_that_end_at_different_steps_is_a_need():
    """Every sequence has it at another lag, at which its gradient has another size."""

    class Ends(Net):
        def forward(self, x, lengths):
            return self.head(self.layer(x)[0][lengths - 1, torch.arange(x.shape[1])]).squeeze(-1)

    lengths = torch.randint(20, 41, (600,), generator=torch.Generator().manual_seed(0))
    x = (
        torch.randn(40, 600, 1, generator=torch.Generator().manual_seed(1))
        * (torch.arange(40)[:, None] < lengths)[..., None]
    )
    diagnosis = rg.diagnose(Ends(nn.GRU), (x, lengths, x[0, :, 0]), squared, record=UNTRAINED)
    (finding,) = diagnosis.found("vanishing_hurts")
    assert 36 <= finding.numbers["need"] <= 39


# --- Truncation -------------------------------------------------------------------------------------------------------


def test_truncation_hides_lags_that_the_data_asks_for():
    def rule(bptt, lag):
        record = TrainingRecord(bptt=bptt, updates=50)
        return found(
            [memory.truncation], started(Each(inputs=3, outputs=3, last=False), 0.9), echo, each, record=record, lag=lag
        )

    (finding,) = rule(3, 5)["truncation"]
    assert finding.numbers["need"] == 5 and finding.numbers["bptt"] == 3 and finding.numbers["cosine"] < 0.99
    assert "12 steps were looked at" not in finding.message
    assert not rule(8, 5) and not rule(3, 1)
    (short,) = rule(6, 7)["truncation"]
    assert "it may ask for more: 12 steps were looked at" in short.message


def test_truncation_hides_the_signal_although_the_gradient_beyond_is_small():
    """Of a gradient that shrinks fast the truncated one has its direction, which is that of noise."""
    model = started(Each(inputs=3, outputs=3, last=False), 0.1)
    record = TrainingRecord(bptt=3, updates=0)
    (finding,) = found([memory.truncation], model, echo, each, record=record, untrained=model, lag=5)["truncation"]
    assert finding.numbers["cosine"] > 0.99 and "half of the signal is at lag 5" in finding.rule


# --- Directions -------------------------------------------------------------------------------------------------------


def test_one_direction_is_found_where_the_errors_have_three():
    model = Net(inputs=3, outputs=3, last=False)
    basis = nn.init.orthogonal_(torch.empty(16, 16))
    with torch.no_grad():
        model.layer.weight_hh_l0.copy_(basis @ torch.diag(torch.tensor([1.0] + [0.1] * 15)) @ basis.T)
    (finding,) = found([memory.one_direction], model, echo, by_step, record=UNTRAINED, untrained=model, lag=4)[
        "one_direction"
    ]
    assert finding.numbers["directions"] == 1 and finding.numbers["asked"] == pytest.approx(3, abs=0.2)
    model = started(Net(inputs=3, outputs=3, last=False), 1.0)
    assert not found([memory.one_direction], model, echo, by_step, record=UNTRAINED, untrained=model, lag=4)


def test_one_direction_is_measured_where_the_shortest_sequence_is_as_long_as_the_lag():
    """From the state before its first step to its last; in a shorter one there is no such state."""

    class Packs(Net):
        def forward(self, x, lengths):
            packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
            return self.head(pad_packed_sequence(self.layer(packed)[0])[0])

    model = Packs(inputs=3, outputs=3, last=False)
    basis = nn.init.orthogonal_(torch.empty(16, 16))
    with torch.no_grad():
        model.layer.weight_hh_l0.copy_(basis @ torch.diag(torch.tensor([1.0] + [0.1] * 15)) @ basis.T)

    def kinds(shortest):
        x, y = echo(lag=4)
        lengths = torch.full((x.shape[1],), 12)
        lengths[0] = shortest
        y = y * (torch.arange(12)[:, None] < lengths)[..., None]
        return {one.kind.value for one in rg.diagnose(model, (x, lengths, y), by_step, record=UNTRAINED).findings}

    assert "one_direction" in kinds(4) and "one_direction" not in kinds(3)


def test_one_direction_is_found_where_even_that_one_shrinks():
    """It keeps more than 1 % of its gradient, but of a gradient in twelve directions less than 1 % is left."""
    model = Net(inputs=12, outputs=12, last=False)
    basis = nn.init.orthogonal_(torch.empty(16, 16))
    with torch.no_grad():
        model.layer.weight_hh_l0.copy_(basis @ torch.diag(torch.tensor([0.62] + [0.05] * 15)) @ basis.T)
    rules = [memory.vanishing, memory.one_direction]
    kinds = found(rules, model, echo, by_step, record=UNTRAINED, untrained=model, lag=6, inputs=12)
    assert "vanishing_harmless" not in kinds  # need > reach
    assert 0.01 < kinds["one_direction"][0].numbers["first"] < 0.02


def test_one_direction_is_found_where_all_shrink_and_one_the_least_and_where_one_of_several_values_is_learned():
    def net(first, others):
        model = Net(inputs=3, outputs=3, last=False)
        basis = nn.init.orthogonal_(torch.empty(16, 16))
        keeps = torch.tensor([first] + [others] * 15)
        model.layer.weight_hh_l0.data = basis @ torch.diag(keeps) @ basis.T
        return model

    def kinds(model, judge=by_step):
        record = STUCK
        return found([memory.one_direction], model, echo, judge, record=record, untrained=model, lag=6, count=200)

    (finding,) = kinds(net(0.45, 0.05))["one_direction"]
    assert finding.numbers["first"] < 0.01 and "alike" in finding.ruled_out[0]
    assert not kinds(net(0.3, 0.28))

    class Knows(Net):
        """Learned one of three values."""

        def forward(self, x):
            answers = super().forward(x) * torch.tensor([0.0, 0.1, 0.1])
            return answers + echo_of(x) * torch.tensor([1.0, 0.0, 0.0])

    def echo_of(x):
        return x.roll(6, 0) * (torch.arange(len(x)) >= 6)[:, None, None]

    model = net(0.95, 0.1)
    model.__class__ = Knows
    (finding,) = kinds(model)["one_direction"]
    assert "clearest at lag 6" in finding.rule


def test_a_network_that_has_learned_all_but_noise_has_no_lack_of_directions():
    """Of its errors nearly all is noise; what is not has a signal that is significant, and not worth learning."""

    class Knows(Net):
        def forward(self, x):
            known = x.roll(6, 0) * (torch.arange(len(x)) >= 6)[:, None, None]
            return super().forward(x) * 0.1 + known * self.share

    def noisy(seed, **options):
        x, y = echo(seed=seed, **options)
        return x, y + torch.randn(y.shape, generator=torch.Generator().manual_seed(seed + 99))

    def kinds(share):
        model = Net(inputs=3, outputs=3, last=False)
        basis = nn.init.orthogonal_(torch.empty(16, 16))
        model.layer.weight_hh_l0.data = basis @ torch.diag(torch.tensor([0.95] + [0.1] * 15)) @ basis.T
        model.__class__, model.share = Knows, share
        return found([memory.one_direction], model, noisy, by_step, record=STUCK, untrained=model, lag=6, count=600)

    assert kinds(0.5)["one_direction"]
    assert not kinds(0.8)


# --- The curse of memory ----------------------------------------------------------------------------------------------


def test_a_long_memory_with_a_calm_state_and_a_huge_parameter_gradient_is_a_curse():
    def net(keep):
        model = Net(nonlinearity="relu")
        with torch.no_grad():
            model.layer.weight_hh_l0.copy_(keep * torch.eye(16))
            model.layer.bias_ih_l0.zero_()
            model.layer.bias_hh_l0.zero_()
        return model

    kinds = {
        keep: found(
            [memory.curse], model := net(keep), late, record=UNTRAINED, untrained=model, steps=120, count=64, offset=1.0
        )
        for keep in (0.999, 0.8)
    }
    (finding,) = kinds[0.999]["curse_of_memory"]
    assert finding.numbers["growth"] <= 1.01 and finding.numbers["amplified"] > 30
    assert finding.numbers["sensitivity"] > 100
    assert not kinds[0.8]
    learned, model = TrainingRecord(updates=500, chance=1e9), net(0.999)  # next to nothing is left of such a loss
    assert not found([memory.curse], model, late, record=learned, untrained=model, steps=120, count=64, offset=1.0)
    keeps = Net(nn.LSTM, last=True)  # for long, at a small gradient of its weights
    with torch.no_grad():
        keeps.layer.bias_ih_l0[16:32] = 6.0
    assert not found([memory.curse], keeps, late, record=UNTRAINED, untrained=keeps, steps=120, count=64)


def test_the_thresholds_are_written_in_the_table_only():
    assert all(threshold.meaning and threshold.source for _, threshold in table())
    assert math.isclose(dict(table())["truncation_cosine"].value, 0.99)


def adding(steps=80, count=64, seed=1):
    """The sum of two marked numbers, one in each half."""
    torch.manual_seed(seed)
    b, x, mark = torch.arange(count), torch.rand(steps, count), torch.zeros(steps, count)
    mark[torch.randint(steps // 2, (count,)), b] = mark[torch.randint(steps // 2, steps, (count,)), b] = 1
    return torch.stack([x, mark], -1), (x * mark).sum(0)


def test_an_adding_problem_that_is_not_learned_asks_for_half_of_its_steps():
    """An LSTM with a forget bias of 1, as in Tallec and Ollivier 2018: no lag has a signal by itself."""
    model = Net(nn.LSTM, inputs=2, hidden=16)
    model.layer.bias_hh_l0.data[16:32] = 1.0
    (finding,) = found([memory.vanishing], model, adding, record=STUCK, batches=6, untrained=model)["vanishing_hurts"]
    assert finding.numbers["need"] >= 50 and 35 <= finding.numbers["middle"] <= 55 > finding.numbers["reach"]


def waves(count=256, steps=50, seed=1):
    """Two frequencies, from a random place of the period on: the last steps say which, and all others as well."""
    torch.manual_seed(seed)
    y = torch.randint(2, (count,))
    phase = 0.3 * torch.arange(steps).unsqueeze(1) * (1 + y) + 6.28 * torch.rand(count)
    return (phase.sin() + 0.3 * torch.randn(steps, count)).unsqueeze(-1), y.double() - 0.5


def test_what_the_last_steps_say_as_well_is_no_risk():
    model = Net(nn.GRU)
    exam = Examination(model, samples_of([waves()], squared), model, UNTRAINED)
    assert exam.need.signal > exam.travel.reach and exam.middle <= 7 and exam.risk < 0.5
    exam = Examination(model, samples_of([early(steps=50)], squared), model, UNTRAINED)
    assert exam.middle >= 48 and exam.risk > 0.9


def test_what_was_a_season_ago_is_told_by_this_season_too():
    """Of inputs that repeat themselves after seven steps, not from step to step; the targets are mostly noise."""
    torch.manual_seed(3)
    x = torch.randn(24, 512, 1)
    seasonal = [*x[:7]]
    for noise in x[7:]:
        seasonal.append(0.95 * seasonal[-7] + 0.31 * noise)
    model, noise = Net(nn.GRU, hidden=8), 1.5 * torch.randn(512)

    def middle(x):
        exam = Examination(model, samples_of([(x, x[-17, :, 0] + noise)], squared), model, UNTRAINED)
        assert exam.need.signal >= 16
        return exam.middle

    assert middle(torch.stack(seasonal)) <= 2
    assert middle(x) == 16


def test_a_wave_is_forecast_at_every_step_from_the_last_few():
    torch.manual_seed(1)
    wave = (0.4 * torch.arange(41).unsqueeze(1) + 6.28 * torch.rand(128)).sin()
    model = Net(nn.LSTM, last=False)
    exam = Examination(model, samples_of([(wave[:-1, :, None], wave[1:])], squared), model, UNTRAINED)
    assert exam.need.signal > exam.travel.reach and exam.middle <= 3 and exam.risk < 0.2
    assert exam.need.lag <= 3


def lagged(lag, stay=0.8, steps=24, count=256):
    """Symbols that stay with some probability, and which it was some steps ago."""
    torch.manual_seed(1)
    x = [torch.randint(4, (count,))]
    for _ in range(steps - 1):
        x.append(torch.where(torch.rand(count) < stay, x[-1], torch.randint(4, (count,))))
    return nn.functional.one_hot(torch.stack(x), 4).float(), x[-1 - lag]


def seasonal(lag, noise, steps=24, count=256):
    """A wave of ten steps and noise, and its value some steps ago."""
    torch.manual_seed(1)
    wave = (2 * math.pi / 10 * torch.arange(steps).unsqueeze(1) + 6.28 * torch.rand(count)).sin()
    x = wave + noise * torch.randn(steps, count)
    return x.unsqueeze(-1), x[-1 - lag]


@pytest.mark.parametrize(
    ("lag", "sample", "loss"),
    [
        (5, lagged(5), partial(nn.functional.cross_entropy, reduction="none")),
        (0, lagged(0), partial(nn.functional.cross_entropy, reduction="none")),
        (8, seasonal(8, 1.0), squared),
        (1, seasonal(8, 0.0), squared),  # two steps say where in its period the wave is
    ],
)
def test_inputs_that_resemble_the_step_that_counts_are_not_needed(lag, sample, loss):
    model = Net(nn.GRU, inputs=sample[0].shape[-1], outputs=4 if loss is not squared else 1)
    exam = Examination(model, samples_of([sample], loss), model, UNTRAINED)
    assert exam.need.lag == lag and exam.need.signal > 1.5 * lag + 1


# --- A head that pools, and two directions ----------------------------------------------------------------------------


def ordered(gap, steps=50, count=256, seed=1, margin=0):
    """Two events so many steps apart at a random place not near the ends, and which of them comes first."""
    torch.manual_seed(seed)
    b, x, y = torch.arange(count), 0.1 * torch.randn(steps, count, 2), torch.randint(2, (count,))
    t = torch.randint(margin, steps - gap - margin, (count,))
    x[t, b, y], x[t + gap, b, 1 - y] = 1.0, 1.0
    return x, y


def test_under_a_head_that_pools_need_and_reach_are_counted_from_where_the_gradient_enters():
    torch.manual_seed(0)
    model = SequenceModel(2, 2, 12, pooling="max", bidirectional=True, cell="gru")
    crossed = partial(nn.functional.cross_entropy, reduction="none")
    far = rg.diagnose(model, ordered(18, steps=54, count=320, margin=14), crossed, record=UNTRAINED)
    (finding,) = far.found("vanishing_hurts")
    assert far.risk > 0.5
    assert 18 <= finding.numbers["need"] <= 20 and finding.numbers["reach"] < 15
    assert "chrono=" in far.prescriptions[0].python and ": enough" in far.prescriptions[0].arithmetic
    assert not [note for note in far.notes if note.startswith("Not known")]
    near = found(
        [memory.vanishing, memory.no_signal], model, ordered, crossed, record=UNTRAINED, untrained=model, gap=2
    )
    assert set(near) == {"vanishing_harmless"} and near["vanishing_harmless"][0].numbers["need"] == 2


def test_in_both_directions_with_a_loss_at_every_step_need_is_a_distance_and_each_direction_has_a_reach():
    model = started(Net(bidirectional=True, last=False, head=nn.Linear(32, 1)), 0.5)
    with torch.no_grad():
        model.layer.weight_hh_l0_reverse.mul_(0.5)

    def later(lag, seed=0):
        x = torch.randn(20, 100, 1, generator=torch.Generator().manual_seed(seed))
        return x, (x.roll(-lag, 0) * (torch.arange(20) < 20 - lag)[:, None, None])[..., 0]

    (far,) = found(memory.RULES, model, later, record=UNTRAINED, untrained=model, lag=12)["vanishing_hurts"]
    assert far.numbers["need"] == 12 and far.numbers["reach"] < 10
    near = found(memory.RULES, model, later, record=UNTRAINED, untrained=model, lag=2)
    assert near["vanishing_harmless"][0].numbers["need"] == 2 and "vanishing_hurts" not in near


def test_under_a_head_that_pools_events_near_the_ends_teach_what_needs_more_memory():
    """The same gap of 18 steps as above, where some of the events are the first or last steps."""
    torch.manual_seed(0)
    model = SequenceModel(2, 2, 12, pooling="max", bidirectional=True, cell="gru")
    crossed = partial(nn.functional.cross_entropy, reduction="none")
    near = Examination(model, samples_of([ordered(18, steps=36)], crossed), model, UNTRAINED)
    assert near.need.lag >= 18 > near.travel.reach and near.risk < 0.5
    x = torch.randn(20, 200, 2)
    level = Examination(model, samples_of([(x, (x[..., 0].sum(0) > 0).long())], crossed), model, UNTRAINED)
    assert level.need.lag == 0 and level.risk < 0.05

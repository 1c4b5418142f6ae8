"""The doctor on encoder-decoders: what it finds with the signal by lag, and without it under attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde.doctor import Kind
from retrograde.doctor.travel import travel_of

SYMBOLS, SIZE = 6, 64


class Translator(nn.Module):
    """An encoder, a decoder that starts from its final state, and attention if asked for."""

    def __init__(self, cell=nn.RNN, hidden=16, *, attends=False, **options):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(SYMBOLS + 1, 8)
        self.encoder, self.decoder = cell(8, hidden, **options), cell(8, hidden, **options)
        self.head, self.attends = nn.Linear(hidden, SYMBOLS), attends

    def forward(self, source, before):
        seen, state = self.encoder(self.embedding(source))
        h = self.decoder(self.embedding(before), state)[0]
        if self.attends:
            weights = torch.einsum("tbi,kbi->tbk", h, seen).softmax(-1)
            h = h + torch.einsum("tbk,kbi->tbi", weights, seen)
        return self.head(h)


class Autoencoder(Translator):
    """The decoder starts from zero and reads the encoder's final state at every step."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.RNN(16, 16)

    def forward(self, source, before):
        return self.head(self.decoder(self.encoder(self.embedding(source))[1].expand(len(before), -1, -1))[0])


def cross_entropy(scores, target):
    return nn.functional.cross_entropy(scores.transpose(1, 2), target, reduction="none")


def copies(steps=6, batches=8, *, noise=False):
    """Sources, the targets of the step before, and targets: the source, or noise."""
    torch.manual_seed(1)
    found = []
    for _ in range(batches):
        source = torch.randint(0, SYMBOLS, (steps, SIZE))
        target = torch.randint(0, SYMBOLS, (steps, SIZE)) if noise else source
        found.append((source, torch.cat([torch.full((1, SIZE), SYMBOLS), target[:-1]]), target))
    return found


def kinds(diagnosis):
    return {finding.kind for finding in diagnosis.findings if finding.severity == "sick"}


def remembering(model):
    for layer in (model.encoder, model.decoder):
        nn.init.orthogonal_(layer.weight_hh_l0, 1.1)
    return model


def test_an_encoder_that_forgets_is_found_and_one_that_remembers_is_healthy():
    healthy = rg.diagnose(remembering(Translator()), copies(), cross_entropy)
    assert healthy.verdict == "healthy" and healthy.risk < 0.3
    model = remembering(Translator())
    with torch.no_grad():
        model.encoder.weight_hh_l0.mul_(0.1)
    sick = rg.diagnose(model, copies(), cross_entropy)
    assert kinds(sick) == {Kind.VANISHING_HURTS}
    finding = sick.findings[0]
    assert finding.numbers["need"] == 6 and finding.numbers["reach"] < 6
    assert finding.chart.curves[0].label == "gradient (encoder.l0)"


def test_the_reach_of_an_encoder_is_that_of_its_own_steps_too():
    model = remembering(Translator())
    with torch.no_grad():
        model.encoder.weight_hh_l0.mul_(0.1)
    source, before, target = copies()[0]
    flow = rg.gradient_flow(model, source, before, loss=lambda scores: cross_entropy(scores, target))
    travel = travel_of(flow)
    assert travel.layer == "encoder.l0"
    norms, lags = flow.norms[flow.layer_index("encoder.l0")], flow.lag("encoder.l0")
    at_six = norms[lags == 6]
    first = norms[lags == 1]
    assert len(at_six) == 6 and len(first) == 1
    typical = torch.tensor(at_six).log().mean().exp().item() / first[0]
    assert travel.at(6) == pytest.approx(typical, rel=1e-9)


def test_targets_that_have_nothing_to_do_with_the_source_are_no_disease():
    found = rg.diagnose(Translator(nn.GRU), copies(noise=True), cross_entropy)
    assert not kinds(found) and found.verdict == "cannot tell"
    assert {finding.kind for finding in found.findings} == {Kind.NO_FIRST_ORDER_SIGNAL}


def nan(model):
    model.encoder.bias_hh_l0[0] = torch.nan


def exploding(model):
    for layer in (model.encoder, model.decoder):
        layer.weight_hh_l0.copy_(torch.eye(16) * 3)
        layer.weight_ih_l0.abs_()


def saturated(model):
    for layer in (model.encoder, model.decoder):
        layer.weight_ih_l0.mul_(100)


def dead(model):
    for layer in (model.encoder, model.decoder):
        layer.bias_hh_l0.fill_(-1000)


def beheaded(model):
    model.head.weight.zero_()
    model.head.weight.requires_grad_(requires_grad=False)


@pytest.mark.parametrize("attends", [False, True])
@pytest.mark.parametrize(
    ("spoil", "options", "kind"),
    [
        (nan, {}, Kind.NOT_FINITE),
        (exploding, {"nonlinearity": "relu"}, Kind.EXPLODING),
        (saturated, {}, Kind.SATURATION),
        (dead, {"nonlinearity": "relu"}, Kind.DEAD_RELU),
        (beheaded, {}, Kind.DEAD_HEAD),
    ],
)
def test_what_needs_no_signal_is_found_with_and_without_attention(spoil, options, kind, attends):
    model = Translator(attends=attends, **options)
    with torch.no_grad():
        spoil(model)
    assert kind in kinds(rg.diagnose(model, copies(12, 2), cross_entropy, untrained=model))


def test_attention_leaves_out_what_needs_the_signal_and_says_why():
    found = rg.diagnose(Translator(attends=True), copies(16, 2), cross_entropy)
    assert found.verdict == "cannot tell" and not kinds(found)
    (note,) = found.notes  # its gradient takes the short way, so it does not vanish
    assert note.startswith("Not known: targets ahead, vanishing, no signal, truncation, one direction. ")
    assert "the loss reads states of encoder.l0 directly (attention" in note and "Diagnose the network without" in note


def test_where_the_signal_is_not_known_vanishing_is_reported_as_a_size():
    vanishing, note = rg.diagnose(Autoencoder(), copies(16, 2), cross_entropy).notes
    assert vanishing.startswith("The gradient vanishes: 1% of it is left after ") and "(encoder.l0)" in vanishing
    assert "decoder.l0 reads states of encoder.l0 directly" in note

"""Which layers have the steps of the losses: found through the layers that they feed; gradients alone do not show it.

If a layer above runs backwards, every loss has a gradient of every state, as with an encoder.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import retrograde as rg

T, B, H, INPUTS = 8, 3, 4, 3


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def squares(output: Tensor) -> Tensor:
    return (output.square() * torch.arange(1, output.shape[-1] + 1)).sum(-1)


def layer(size: int, kind: type[nn.RNNBase] = nn.LSTM, **how: object) -> nn.RNNBase:
    return kind(size, H, dtype=torch.float64, **how)


def check_places(flow: rg.GradientFlow, places: dict[str, Callable[[np.ndarray], np.ndarray]]) -> None:
    for label, at in places.items():
        expected = at(flow.targets)[:, None] - np.arange(flow.norms.shape[2])
        i = flow.layer_index(label)
        sign = -1 if flow.reverse[i] and flow.alignments[i].kind == "step" else 1
        np.testing.assert_array_equal(flow.lag(label), sign * expected, err_msg=label)


class Normed(nn.Module):
    """Bidirectional layers with layer normalization between them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer(size, bidirectional=True) for size in (INPUTS, 2 * H, 2 * H)])
        self.norm = nn.LayerNorm(2 * H, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        for rnn in self.layers:
            x = self.norm(rnn(x)[0])
        return x


class Stack(nn.Module):
    """A bidirectional layer, or one built from two layers, under layers that run forwards."""

    def __init__(self, flipped: bool) -> None:
        super().__init__()
        self.low = layer(INPUTS, bidirectional=not flipped)
        self.back = layer(INPUTS) if flipped else None
        self.high = layer(2 * H, nn.GRU, num_layers=2)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(x)[0]
        if self.back is not None:
            low = torch.cat([low, self.back(x.flip(0))[0].flip(0)], -1)
        return self.high(low)[0]


CUTS = {
    "all": (lambda o: squares(o), lambda t: t),
    "the last left out": (lambda o: squares(o[:-1]), lambda t: t),
    "the first left out": (lambda o: squares(o[2:]), lambda t: t + 2),
    "a tail": (lambda o: squares(o[-3:]), lambda t: t + T - 3),
    "every other": (lambda o: squares(o[1::2]), lambda t: 2 * t + 1),
}


@pytest.mark.parametrize("cut", CUTS)
def test_layers_under_one_that_runs_backwards_are_no_encoder(cut: str) -> None:
    loss, at = CUTS[cut]
    x = randn(T, B, INPUTS)
    flow = rg.gradient_flow(layer(INPUTS, num_layers=2, bidirectional=True), x, loss=lambda o: loss(o[0]))
    check_places(flow, dict.fromkeys(flow.layers, at))
    assert not flow.notes
    flow = rg.gradient_flow(Normed(), x, loss=loss)
    check_places(flow, dict.fromkeys(flow.layers, at))
    flow = rg.gradient_flow(Stack(flipped=False), x, loss=loss)
    check_places(flow, dict.fromkeys(flow.layers, at))
    flow = rg.gradient_flow(Stack(flipped=True), x, loss=loss)
    check_places(flow, dict.fromkeys(("low.l0", "high.l0", "high.l1"), at) | {"back.l0": lambda t: T - 1 - at(t)})
    assert flow.share_by_lag("low.weight_hh_l0").sum() == pytest.approx(1)


def test_a_lower_layer_whose_gradient_leaves_the_range_stands_where_it_feeds() -> None:
    """The gradient of each loss ends at another step, where it falls below the range of float32."""
    rnn, x = nn.GRU(INPUTS, H, 2, bidirectional=True), torch.randn(300, 2, INPUTS)
    with torch.no_grad():
        for p in rnn.parameters():
            p.mul_(0.2)
    flow = rg.gradient_flow(rnn, x, loss=lambda o: squares(o[0][3:]), targets=[0, 1, 150, 290, 296])
    check_places(flow, dict.fromkeys(flow.layers, lambda t: t + 3))
    assert np.isfinite(flow.horizon()).all()


@pytest.mark.parametrize("how", [{"layers": ["l0"]}, {"targets": [3]}, {"targets": [2, 4], "layers": ["l0_reverse"]}])
def test_a_layer_measured_alone_stands_where_it_does_among_all(how: dict[str, object]) -> None:
    module, x = layer(INPUTS, num_layers=2, bidirectional=True), randn(T, B, INPUTS)
    flow = rg.gradient_flow(module, x, loss=lambda o: squares(o[0][1:]), **how)
    check_places(flow, dict.fromkeys(flow.layers, lambda t: t + 1))


def test_layers_under_sequences_turned_around_within_their_lengths_are_refused() -> None:
    """The sequences are at different steps of the lower layer: no table of lags is right for all of them."""
    lengths = torch.tensor([5, 8, 3])
    at = torch.arange(T)[:, None]
    turned = torch.where(at < lengths, lengths - 1 - at, at)[..., None]
    forwards, backwards, high = layer(INPUTS), layer(INPUTS), layer(2 * H, nn.GRU, bidirectional=True)

    def turn(x: Tensor) -> Tensor:
        return x.gather(0, turned.expand(-1, -1, x.shape[-1]))

    def model(x: Tensor) -> Tensor:
        return high(torch.cat([forwards(x)[0], turn(backwards(turn(x))[0])], -1))[0]

    for loss, places in (CUTS["all"], CUTS["the first left out"]):
        flow = rg.gradient_flow(model, randn(T, B, INPUTS), loss=loss)
        assert [own.kind for own in flow.alignments] == ["step", "refused", "step", "step"]
        check_places(flow, {flow.layers[0]: places})
        assert any("its sequences are at different steps" in note for note in flow.notes)


class Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = layer(INPUTS), layer(INPUTS)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.decoder(target, self.encoder(source)[1])[0]


@pytest.mark.parametrize("steps", [T, T - 3])
def test_an_encoder_measured_without_its_decoder_is_one(steps: int) -> None:
    flow = rg.gradient_flow(
        Seq2Seq(), randn(T, B, INPUTS), randn(steps, B, INPUTS), loss=squares, layers=["encoder.l0"]
    )
    check_places(flow, {"encoder.l0": lambda t: T + t})


def test_an_encoder_counts_the_steps_of_its_decoder_that_have_no_loss() -> None:
    flow = rg.gradient_flow(Seq2Seq(), randn(T, B, INPUTS), randn(T, B, INPUTS), loss=lambda o: squares(o[2:]))
    check_places(flow, {"decoder.l0": lambda t: t + 2, "encoder.l0": lambda t: T + t + 2})


class Pyramid(nn.Module):
    """Three bidirectional layers, each over pairs of steps of the one below (Chan et al. 2016); and a decoder."""

    def __init__(self, decodes: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer(size, bidirectional=True) for size in (INPUTS, 4 * H, 4 * H)])
        self.decoder = nn.LSTMCell(2 * H, H, dtype=torch.float64) if decodes else None

    def forward(self, x: Tensor, steps: int = 0) -> Tensor:
        for i, rnn in enumerate(self.layers):
            if i:
                x = x.transpose(0, 1).flatten(1).view(B, len(x) // 2, -1).transpose(0, 1)
            x = rnn(x)[0]
        if self.decoder is None:
            return x
        state, outputs = None, []
        for _ in range(steps):
            memory = x.mean(0) if state is None else torch.einsum("tb,tbh->bh", (x[..., :H] * state[0]).sum(-1), x)
            state = self.decoder(memory, state)
            outputs.append(state[0])
        return torch.stack(outputs)


def test_a_pyramid_of_bidirectional_layers_counts_the_steps_of_each() -> None:
    flow = rg.gradient_flow(Pyramid(False), randn(4 * T, B, INPUTS), loss=squares)
    places = {f"layers.{i}.l0": lambda t, n=2 ** (2 - i): n * t + n - 1 for i in range(3)}
    check_places(flow, places | {f"layers.{i}.l0_reverse": lambda t, n=2 ** (2 - i): n * t for i in range(3)})
    assert not flow.notes


@pytest.mark.parametrize("steps", [2, 4, 5, T])
def test_a_pyramid_under_a_decoder_is_an_encoder(steps: int) -> None:
    flow = rg.gradient_flow(Pyramid(True), randn(T, B, INPUTS), steps, loss=squares)
    check_places(flow, {f"layers.{i}.l0": lambda t, n=T // 2**i: n + t for i in range(3)} | {"decoder": lambda t: t})


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("horizon", [T, 5])
def test_a_head_that_forecasts_from_the_last_state_makes_an_encoder(
    layers: int, bidirectional: bool, horizon: int
) -> None:
    """A forecast with as many steps as its history is still a forecast."""
    rnn = layer(INPUTS, num_layers=layers, bidirectional=bidirectional)
    head = nn.Linear(H * (1 + bidirectional), horizon, dtype=torch.float64)
    flow = rg.gradient_flow(lambda x: head(rnn(x)[0][-1]).T, randn(T, B, INPUTS), loss=torch.square)
    forward = [label for label in flow.layers if not label.endswith("_reverse")]
    check_places(flow, dict.fromkeys(forward, lambda t: T + t))
    assert not flow.notes


def test_an_attention_over_all_states_stays_at_its_own_step() -> None:
    rnn, attention = layer(INPUTS), nn.MultiheadAttention(H, 2, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        h = rnn(x)[0]
        return h + attention(h, h, h, need_weights=False)[0]

    flow = rg.gradient_flow(model, randn(T, B, INPUTS), loss=squares)
    check_places(flow, dict.fromkeys(flow.layers, lambda t: t))
    assert any("after their own step" in note for note in flow.notes)


@pytest.mark.parametrize("steps", [T, T - 3])
def test_an_encoder_under_attention_over_both_is_one_also_if_they_are_as_long(steps: int) -> None:
    """As in the temporal fusion transformer (Lim et al. 2021): each loss looks at all states of both."""
    encoder, decoder, attention = layer(INPUTS), layer(INPUTS), nn.MultiheadAttention(H, 2, dtype=torch.float64)

    def model(past: Tensor, future: Tensor) -> Tensor:
        memory, state = encoder(past)
        own, _ = decoder(future, state)
        every = torch.cat([memory, own])
        return own + attention(own, every, every, need_weights=False)[0]

    flow = rg.gradient_flow(model, randn(T, B, INPUTS), randn(steps, B, INPUTS), loss=squares)
    check_places(flow, {"encoder.l0": lambda t: T + t, "decoder.l0": lambda t: t})


def test_several_decoders_each_count_from_their_own_first_step() -> None:
    """A dialogue (Serban et al. 2016): utterances are encoded, and answered, one by one."""
    encoder, context, decoder = layer(INPUTS, nn.GRU), nn.GRUCell(H, H, dtype=torch.float64), layer(INPUTS, nn.GRU)

    def model(x: Tensor) -> Tensor:
        state, answers = None, []
        for said, answer in itertools.pairwise(x):
            state = context(encoder(said)[1][0], state)
            answers.append(decoder(answer, state[None])[0])
        return torch.cat(answers)

    flow = rg.gradient_flow(model, randn(4, 5, B, INPUTS), loss=squares)
    places = {f"decoder.l0#{i + 1}": lambda t, i=i: t - 5 * i for i in range(3)}
    check_places(flow, places | {f"encoder.l0#{i + 1}": lambda t, i=i: t + 5 - 5 * i for i in range(3)})


class Documents(nn.Module):
    """Reads each sentence word by word, then the sequence of sentences."""

    def __init__(self, bidirectional: bool) -> None:
        super().__init__()
        self.words = layer(INPUTS, nn.GRU, bidirectional=bidirectional)
        self.sentences = layer(H * (1 + bidirectional), nn.GRU, bidirectional=bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        return self.sentences(torch.stack([self.words(sentence)[0].tanh().mean(0) for sentence in x]))[0]


@pytest.mark.parametrize("words", [4, 5, 7])  # fewer than sentences, as many, more
@pytest.mark.parametrize("bidirectional", [False, True])
def test_words_read_sentence_by_sentence_count_from_the_end_of_their_sentence(words: int, bidirectional: bool) -> None:
    flow = rg.gradient_flow(Documents(bidirectional), randn(5, words, B, INPUTS), loss=squares)
    check_places(flow, {"sentences.l0": lambda t: t})
    i = flow.layer_index("words.l0#2")
    assert flow.alignments[i].kind == "sequence" and flow.steps[i] == words
    looking = flow.norms[i, :, words - 1] != 0  # of a forward layer of sentences the first has no gradient of them
    assert looking.tolist() == [True] * 5 if bidirectional else [False, True, True, True, True]
    expected = [flow.norms[i, looking, words - 1 - lag].mean() for lag in range(words)]
    np.testing.assert_allclose(flow.by_lag()[i, :words], expected, rtol=1e-12)
    assert any("words.l0 runs once for each step of sentences.l0" in note for note in flow.notes)
    assert sum("runs once" in note for note in flow.notes) == 1 + bidirectional
    assert flow.share_by_lag("words.weight_hh_l0").sum() == pytest.approx(1)


def test_steps_dealt_out_to_the_batch_are_counted_in_steps_of_the_layer() -> None:
    """Dilated layers (Chang et al. 2017): each step of the second is two of the first, in twice as many sequences."""
    layers = nn.ModuleList([layer(INPUTS, nn.GRU), layer(H, nn.GRU), layer(H, nn.GRU)])

    def model(x: Tensor) -> Tensor:
        for i, rnn in enumerate(layers):
            x = rnn(x.reshape(T // 2**i, B * 2**i, -1))[0].reshape(T, B, H)
        return x

    flow = rg.gradient_flow(model, randn(T, B, INPUTS), loss=squares)
    names = [label for label in flow.layers if label.endswith("l0")]
    check_places(flow, {name: lambda t, n=2**i: t // n for i, name in enumerate(names)})
    assert flow.by_lag()[1, 0] > flow.by_lag()[1, 1] > 0


def test_other_sequences_that_follow_no_line_are_refused() -> None:
    rnn, other = layer(INPUTS), layer(INPUTS)
    order = torch.tensor([0, 3, 1, 4, 2, 5, 7, 6])

    def model(x: Tensor, y: Tensor) -> Tensor:
        return rnn(x)[0] + other(y)[0][order].view(T, 2, B, H).sum(1)

    flow = rg.gradient_flow(model, randn(T, B, INPUTS), randn(T, 2 * B, INPUTS), loss=squares)
    kinds = [own.kind for own in flow.alignments]
    assert kinds == ["step", "refused"] and any("6 sequences" in note and "loss_at=" in note for note in flow.notes)


def test_a_loss_with_smoothed_labels_is_measured() -> None:
    """Its graph has a product with a plain number, which no operation of Python leaves there."""
    rnn, label = layer(INPUTS), torch.tensor([0, 1, 2])

    def loss(output: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(output[0][-1], label, label_smoothing=0.1, reduction="none")

    flow = rg.gradient_flow(rnn, randn(T, B, INPUTS), loss=loss)
    check_places(flow, {"l0": lambda t: np.full(1, T - 1)})


def test_lags_ahead_are_counted_from_the_step_of_each_sequence() -> None:
    torch.manual_seed(0)
    rnn = nn.GRU(2, 4, bidirectional=True, dtype=torch.float64)
    x, at = torch.randn(9, 3, 2, dtype=torch.float64), [1, 4, 6]
    flow = rg.gradient_flow(rnn, x, loss=lambda o: o[0][at, range(3)].square().sum(-1))
    alone = [rg.gradient_flow(rnn, x[:, b], loss=lambda o, t=t: o[0][t].square().sum(-1)) for b, t in enumerate(at)]
    for lag in range(8):
        ahead = [own.norms[1, 0, t + lag] for own, t in zip(alone, at, strict=True) if t + lag < 9]
        np.testing.assert_allclose(flow.by_lag()[1, lag], np.mean(ahead))

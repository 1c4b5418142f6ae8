"""The signal by lag of encoder-decoders: against recurrences unrolled by hand in float64, and planted tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import retrograde as rg
from retrograde.errors import FlowError

SIZE, SYMBOLS = 64, 5


class Translator(nn.Module):
    """An encoder whose final state starts a decoder, with the targets of the step before as inputs."""

    def __init__(self, cell=nn.GRU, layers=1, hidden=16, *, both=False, bridge=None):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(SYMBOLS + 1, 6)
        self.encoder = cell(6, hidden, layers, bidirectional=both)
        self.decoder = cell(6, hidden, layers)
        self.bridge = bridge
        self.head = nn.Linear(hidden, SYMBOLS)

    def encoded(self, source):
        outputs, state = self.encoder(self.embedding(source))
        return outputs, state if self.bridge is None else self.bridge(state)

    def forward(self, source, before):
        return self.head(self.decoder(self.embedding(before), self.encoded(source)[1])[0])


class StepByStep(Translator):
    """The decoder is called once a step."""

    def forward(self, source, before):
        _, state = self.encoded(source)
        scores = []
        for step in self.embedding(before).split(1):
            output, state = self.decoder(step, state)
            scores.append(self.head(output))
        return torch.cat(scores)


class OfCells(nn.Module):
    """The same of two cells."""

    def __init__(self, cell=nn.LSTMCell):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(SYMBOLS + 1, 6)
        self.encoder, self.decoder, self.head = cell(6, 16), cell(6, 16), nn.Linear(16, SYMBOLS)

    def forward(self, source, before):
        state, scores = None, []
        for step in self.embedding(source):
            state = self.encoder(step, state)
        for step in self.embedding(before):
            state = self.decoder(step, state)
            scores.append(self.head(state[0]))
        return torch.stack(scores)


class Packed(Translator):
    """Every second source is two steps shorter."""

    def encoded(self, source):
        lengths = torch.full((source.shape[1],), len(source))
        lengths[1::2] -= 2
        return self.encoder(pack_padded_sequence(self.embedding(source), lengths, enforce_sorted=False))


class Attending(Translator):
    """The head reads the encoder's states, weighed by their product with the decoder's."""

    def forward(self, source, before):
        seen, state = self.encoded(source)
        h = self.decoder(self.embedding(before), state)[0]
        weights = torch.einsum("tbi,kbi->tbk", h, seen).softmax(-1)
        return self.head(h + torch.einsum("tbk,kbi->tbi", weights, seen))


class WithContext(Translator):
    """The decoder starts from zero and reads the encoder's final state at every step, as an autoencoder does."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.GRU(16, 16)

    def forward(self, source, before):
        return self.head(self.decoder(self.encoded(source)[1].expand(len(before), -1, -1))[0])


class Pooled(Translator):
    """The decoder starts from the mean of the encoder's states."""

    def encoded(self, source):
        outputs, _ = self.encoder(self.embedding(source))
        return outputs, outputs.mean(0, keepdim=True)


class Fed(nn.Module):
    """The decoder reads its own forecasts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder, self.head = nn.GRU(1, 16), nn.GRU(1, 16), nn.Linear(16, 1)

    def forward(self, x):
        _, state = self.encoder(x)
        y, found = x[-1:], []
        for _ in range(4):
            output, state = self.decoder(y, state)
            y = self.head(output)
            found.append(y)
        return torch.cat(found)


def cross_entropy(scores, target):
    return nn.functional.cross_entropy(scores.transpose(1, 2), target, reduction="none")


def planted(kind, steps=6, batches=6, seed=1):
    """Sources, the targets of the step before, and targets: the source, the source backwards, or noise."""
    torch.manual_seed(seed)
    found = []
    for _ in range(batches):
        source = torch.randint(0, SYMBOLS, (steps, SIZE))
        noise = torch.randint(0, SYMBOLS, (steps, SIZE))
        target = {"copy": source, "reverse": source.flip(0), "noise": noise}[kind]
        before = torch.cat([torch.full((1, SIZE), SYMBOLS), target[:-1]])
        found.append((source, before, target))
    return found


# --- Against recurrences unrolled by hand -----------------------------------------------------------------------------


def stepped(kind, a, b, state):
    """One step of a cell from W_ih x + b_ih and W_hh h + b_hh."""
    h, *c = state
    if kind == "GRU":
        (ar, az, an), (br, bz, bn) = a.chunk(3, -1), b.chunk(3, -1)
        z = (az + bz).sigmoid()
        return [(1 - z) * (an + (ar + br).sigmoid() * bn).tanh() + z * h]
    if kind == "LSTM":
        i, f, g, o = (a + b).chunk(4, -1)
        cell = f.sigmoid() * c[0] + i.sigmoid() * g.tanh()
        return [o.sigmoid() * cell.tanh(), cell]
    return [(a + b).tanh()]


def walked(module, x, states, lengths, *, reverse=False):
    """Outputs of a layer or stack, its final states by layer, and W_ih x + b_ih of the lowest layer by step."""
    summed, ends = [], []
    for layer in range(module.num_layers):
        name = f"l{layer}_reverse" if reverse else f"l{layer}"
        w_ih, w_hh, b_ih, b_hh = (
            getattr(module, f"{p}_{name}") for p in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        state, outputs = states[layer], {}
        for k in reversed(range(len(x))) if reverse else range(len(x)):
            a = nn.functional.linear(x[k], w_ih, b_ih)
            if layer == 0:
                a.requires_grad_()
                summed.append(a)
            new = stepped(module.mode.split("_")[0], a, nn.functional.linear(state[0], w_hh, b_hh), state)
            live = (k < lengths).unsqueeze(1)
            state = [torch.where(live, n, s) for n, s in zip(new, state, strict=True)]
            outputs[k] = state[0]
        x = torch.stack([outputs[k] for k in range(len(x))])
        ends.append(state)
    return x, ends, summed[::-1] if reverse else summed


def centered(a, there):
    weight = there.unsqueeze(-1).double()
    return (a - (a * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)) * weight


@pytest.mark.parametrize(
    ("cell", "layers", "bridge", "packed", "both"),
    [
        (nn.RNN, 1, False, False, False),
        (nn.LSTM, 2, False, False, False),
        (nn.GRU, 1, True, True, False),
        (nn.GRU, 1, True, False, True),
        (nn.GRU, 1, True, True, True),
    ],
)
def test_the_statistic_is_that_of_recurrences_unrolled_by_hand(cell, layers, bridge, packed, both):
    torch.manual_seed(0)
    steps, after, size, hidden = 5, 4, 8, 4
    x, y = torch.randn(steps, size, 2).double(), torch.randn(after, size, 3).double()
    target = torch.randn(after, size).double()
    encoder, decoder = cell(2, hidden, layers, bidirectional=both).double(), cell(3, hidden, layers).double()
    head, link = nn.Linear(hidden, 1).double(), nn.Linear((1 + both) * hidden, hidden).double()
    lengths = torch.tensor([5, 4, 2, 5, 3, 5, 5, 4] if packed else [steps] * size)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = encoder, decoder

        def forward(self, x, y):
            _, state = encoder(pack_padded_sequence(x, lengths, enforce_sorted=False) if packed else x)
            return decoder(y, link(torch.cat(list(state), -1)).tanh()[None] if bridge else state)[0]

    def losses(h):
        return (head(h)[..., 0] - target).square()

    flow = rg.gradient_flow(Both(), x, y, loss=losses)

    zero = [[torch.zeros(size, hidden).double() for _ in range(1 + (cell is nn.LSTM))] for _ in range(layers)]
    _, ends, summed = walked(encoder, x, zero, lengths)
    if both:
        _, back, back_summed = walked(encoder, x, zero, lengths, reverse=True)
        ends = [[torch.cat([ends[0][0], back[0][0]], -1)]]
    starts = [[link(ends[0][0]).tanh()]] if bridge else ends
    h, _, within = walked(decoder, y, starts, torch.full((size,), after))
    own = h.detach().requires_grad_()
    (errors,) = torch.autograd.grad(losses(own).sum(), own)
    errors = errors - errors.mean(1, keepdim=True)

    def check(label, summed, x, place, there):
        """Compare S by lag with that of ∂E_t/∂(W x_k + b) of all pairs; the lag is t + ``place`` `(steps, B)`."""
        g = torch.zeros(after + steps + 1, size, summed[0].shape[1], x.shape[2]).double()
        means = {p: x[there & (place == p)].mean(0) for p in set(place[there].tolist())}
        for t in range(after):
            adjoints = torch.autograd.grad((h[t] * errors[t]).sum(), summed, retain_graph=True, allow_unused=True)
            for k, adjoint in enumerate(adjoints):
                for b in range(size):
                    p = int(place[k, b])
                    if adjoint is not None and there[k, b] and t + p >= 0:
                        g[t + p, b] += torch.outer(adjoint[b], x[k, b] - means[p])
        g = g.flatten(2)
        square = g.square().sum((1, 2))
        expected = ((g.sum(1).square().sum(1) - square) / square)[square > 0].detach().numpy()
        found = flow.signal_by_lag(label, exact=True).statistic
        np.testing.assert_allclose(found[~np.isnan(found)], expected, rtol=1e-6)

    k, own_steps = torch.arange(steps).unsqueeze(1), torch.arange(after).unsqueeze(1)
    from_end, there = lengths - 1 - k, k < lengths
    check("decoder.l0", within, y, -own_steps.expand(-1, size), torch.ones(after, size, dtype=torch.bool))
    check("encoder.l0", summed, x, from_end + 1, there & (from_end <= k) if both else there)
    if both:
        check("encoder.l0_reverse", back_summed, x, (k + 1).expand(-1, size), there & (k < from_end))
    if layers > 1:
        with pytest.raises(FlowError, match=r"ask for the signal of decoder\.l0, encoder\.l0"):
            flow.signal_by_lag("encoder.l1")


# --- Planted tasks ----------------------------------------------------------------------------------------------------


def tanh_of_both(state):
    return (state[:1] + state[1:]).tanh()


@pytest.mark.parametrize(
    "model",
    [
        Translator(),
        Translator(nn.RNN),
        Translator(nn.LSTM, 2),
        Translator(bridge=nn.Tanh()),
        StepByStep(nn.LSTM),
        OfCells(),
    ],
)
def test_the_need_of_a_copy_is_the_way_through_decoder_and_encoder(model):
    found = rg.flow.need_of(model, planted("copy"), cross_entropy)
    assert found.need == found.peak == 6  # t + 1 steps of the decoder, 5 - t of the encoder
    backwards = rg.flow.need_of(model, planted("reverse"), cross_entropy)
    assert backwards.need == 11  # the first symbol is the last to be returned
    assert found.layers[0].need is None  # the decoder's inputs say nothing


def test_a_step_counts_from_the_nearer_end_of_an_encoder_in_both_directions():
    model = Translator(both=True, bridge=tanh_of_both)
    assert rg.flow.need_of(model, planted("copy"), cross_entropy).need == 6
    assert rg.flow.need_of(model, planted("reverse"), cross_entropy).need == 6  # t + 1 + 5 - t, from the start


def test_packed_sources_end_where_they_end():
    torch.manual_seed(0)
    batches = []
    for source, before, _ in planted("copy"):
        last = torch.stack([source[-1], source[-3]])[torch.arange(SIZE) % 2, torch.arange(SIZE)]
        batches.append((source, before, last.expand(6, -1)))  # the last symbol, at every step
    found = rg.flow.need_of(Packed(), [(a, torch.zeros_like(b), c) for a, b, c in batches], cross_entropy)
    assert found.need == 6
    assert set(found.layers[1].first[found.layers[1].significant]) <= set(range(1, 7))
    assert found.layers[1].significant[0] and found.layers[1].first[0] == 1


def test_noise_has_no_need():
    found = rg.flow.need_of(Translator(), planted("noise"), cross_entropy)
    assert found.need is None and not found.constant
    assert found.joint is not None and not found.joint.found and not found.joint.by_lag


def test_how_few_steps_tell_is_of_several_losses():
    kept = rg.flow.learning_signal.stream.fewest_of(
        Translator(), planted("reverse", batches=8), cross_entropy, 11, (0.5, 0.9)
    )
    assert kept is not None
    half, most = kept
    assert most == 11 and 3 <= half <= 7  # lags 1, 3, 5, … 11


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Attending(), "the loss reads states of encoder.l0 directly"),
        (WithContext(), "decoder.l0 reads states of encoder.l0 directly"),
        (Pooled(), "made from several states of encoder.l0"),
        (
            Translator(layers=2, both=True, bridge=lambda state: (state[::2] + state[1::2]).tanh()),
            "must be layers that feed",
        ),
    ],
)
def test_what_has_no_one_lag_is_refused_with_the_reason(model, reason):
    with pytest.raises(FlowError, match=reason) as refused:
        rg.flow.need_of(model, planted("copy"), cross_entropy)
    assert "\n" not in str(refused.value)


def test_a_decoder_that_reads_its_own_forecasts_is_refused_with_what_to_do():
    torch.manual_seed(0)
    x, y = torch.randn(6, SIZE, 1), torch.randn(4, SIZE, 1)
    with pytest.raises(FlowError, match="teacher forcing"):
        rg.flow.need_of(Fed(), (x, y), lambda output, target: (output - target).square()[..., 0])


def test_mixed_sequences_are_refused():
    mixing = Translator(bridge=lambda state: state + state.mean(1, keepdim=True))
    with pytest.raises(FlowError, match="Sequences are mixed"):
        rg.flow.need_of(mixing, planted("copy"), cross_entropy)

"""The learning signal by lag, compared with unrolled networks and with tasks of known lag."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde.errors import FlowError


def tokens(lag: int | None, *, steps: int = 14, sequences: int = 100, cell: type[nn.RNNBase] = nn.RNN, seed: int = 0):
    """The flow of an untrained network whose target is the input ``lag`` steps before (None: noise)."""
    torch.manual_seed(seed)
    x = torch.randint(4, (steps, sequences))
    y = torch.randint(4, (steps, sequences)) if lag is None else x.roll(lag, 0)
    model, head = cell(4, 16), nn.Linear(16, 4)

    def loss(output):
        losses = nn.functional.cross_entropy((1e-3 * head(output[0])).movedim(-1, 1), y, reduction="none")
        return losses * (torch.arange(steps) >= (lag or 0)).unsqueeze(1)

    return rg.gradient_flow(model, nn.functional.one_hot(x, 4).float(), loss=loss)


def last(which: slice | None, *, steps: int = 20, sequences: int = 150, scale: float = 1.0, seed: int = 0, **layer):
    """The flow of an untrained network whose target is the sum of some input steps, at the end (None: noise)."""
    torch.manual_seed(seed)
    x = torch.randn(steps, sequences, 1)
    y = torch.randn(sequences) if which is None else x[which].sum((0, 2))
    model, head = nn.RNN(1, 16, **layer), nn.Linear(32 if "bidirectional" in layer else 16, 1)
    model.weight_hh_l0.data.mul_(scale)
    return rg.gradient_flow(model, x, loss=lambda output: (1e-3 * head(output[0][-1])[:, 0] - y).square())


@pytest.mark.parametrize("lag", [0, 3, 9])
@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
def test_the_need_is_the_lag_of_the_task(lag, cell):
    found = tokens(lag, cell=cell).signal_by_lag(alpha=1e-4)
    assert found.need == found.peak == lag


def test_targets_that_are_noise_have_no_signal():
    alarms = [
        bool(tokens(None, sequences=64, seed=seed).signal_by_lag(alpha=0.05).significant.any()) for seed in range(5)
    ]
    assert sum(alarms) <= 1
    assert tokens(None).signal_by_lag().need is None
    assert "no signal" in str(tokens(None).signal_by_lag())


def test_a_loss_at_the_end_only_and_a_gradient_far_below_the_range_of_float32():
    assert last(slice(-4, None)).signal_by_lag().need == 3
    early = last(slice(1, 4), scale=0.005)
    assert (early.norms == 0).any() or early.norms[early.norms > 0].min() < 1e-30
    assert early.signal_by_lag(bins=5).need == 19
    assert last(None, seed=1).signal_by_lag().need is None


def test_sequences_of_different_lengths_are_aligned_at_their_ends():
    torch.manual_seed(0)
    lengths = torch.randint(10, 17, (120,))
    x = torch.randn(16, 120, 1)
    y = torch.stack([x[n - 8, b, 0] for b, n in enumerate(lengths)])
    model, head = nn.GRU(1, 16), nn.Linear(16, 1)

    def loss(output):
        return (1e-3 * head(output[1][-1])[:, 0] - y).square()

    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    found = rg.gradient_flow(model, packed, loss=loss).signal_by_lag()
    assert found.need == found.peak == 7


def unrolled(model: nn.RNN, x, errors):
    """δ_{t,k,b}, found by autograd through leaves added to the pre-activations of every step: `(T, T, B, H)`."""
    steps, batch, _ = x.shape
    leaves = torch.zeros(steps, batch, model.hidden_size, dtype=x.dtype, requires_grad=True)
    h, states = x.new_zeros(batch, model.hidden_size), []
    for k in range(steps):
        h = torch.tanh(
            x[k] @ model.weight_ih_l0.T + model.bias_ih_l0 + h @ model.weight_hh_l0.T + model.bias_hh_l0 + leaves[k]
        )
        states.append(h)
    parts = [
        torch.autograd.grad((s * e).sum(), leaves, retain_graph=True)[0] for s, e in zip(states, errors, strict=True)
    ]
    before = torch.stack([torch.zeros_like(h), *states[:-1]]).detach()
    return torch.stack(parts), before


def centered(a):
    return a - a.mean(1, keepdim=True)


def test_the_statistic_is_that_of_an_unrolled_twin():
    torch.manual_seed(0)
    steps, batch = 6, 9
    x, target = torch.randn(steps, batch, 2).double(), torch.randn(steps, batch, 3).double()
    model = nn.RNN(2, 3).double()
    flow = rg.gradient_flow(model, x, loss=lambda output: (output[0] * target).sum(-1))
    found = flow.signal_by_lag()
    parts, before = unrolled(model, x, centered(target))
    for lag in range(steps):
        left = parts.diagonal(-lag).movedim(-1, 0)
        own = torch.cat(
            [torch.einsum("kbi,kbj->bij", left, centered(right)[: steps - lag]).flatten(1) for right in (x, before)],
            1,
        )
        square = own.square().sum()
        if square > 0:
            assert found.statistic[lag] == pytest.approx(float((own.sum(0).square().sum() - square) / square), rel=1e-9)
        assert found.size[lag] == pytest.approx(float((square / batch).sqrt()), rel=1e-9)


def test_two_layers_a_saved_flow_and_another_seed(tmp_path):
    flow = last(slice(3, 6), num_layers=2)
    for layer in ("l0", "l1"):
        assert flow.signal_by_lag(layer, bins=10).need == 17
    flow = tokens(4)
    found = flow.signal_by_lag(seed=1)
    flow.save(tmp_path / "flow")
    again = rg.GradientFlow.load(tmp_path / "flow").signal_by_lag(seed=1)
    np.testing.assert_allclose(again.p_value, found.p_value)
    assert found.need == flow.signal_by_lag(seed=2).need == 4


def test_a_random_projection_finds_the_same_lag():
    flow = tokens(6, cell=nn.LSTM)
    exact, projected = flow.signal_by_lag(exact=True), flow.signal_by_lag(exact=False)
    assert not exact.notes and "projected" in projected.notes[0]
    assert projected.need == exact.need == 6


def test_bins_take_lags_together():
    found = tokens(7).signal_by_lag(bins=5)
    assert list(found.first) == [0, 3, 6, 9, 12] and list(found.last) == [2, 5, 8, 11, 13]
    assert found.need == 8 and found.peak == 6
    share = found.consistency[found.first == 6][0]
    assert f"a signal up to lag 8, the most consistent at lag 6 ({share:.0%}), in" in str(found)


def test_what_cannot_be_known_is_refused():
    with pytest.raises(FlowError, match="5 are too few"):
        tokens(1, sequences=5).signal_by_lag()
    with pytest.raises(FlowError, match="as it is"):
        last(slice(0, 1), bidirectional=True).signal_by_lag()
    with pytest.raises(FlowError, match="alpha is 2"):
        tokens(1).signal_by_lag(alpha=2)
    with pytest.raises(FlowError, match="at least 2"):
        tokens(1).signal_by_lag(permutations=1)
    with pytest.raises(FlowError, match="bins is 0"):
        tokens(1).signal_by_lag(bins=0)

    class Normalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.norm = nn.RNN(2, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.norm(self.rnn(x)[0].flatten(0, 1)).view(5, 16, 4)

    mixed = rg.gradient_flow(
        Normalized(), torch.randn(5, 16, 2), loss=lambda output: output.square().sum(-1), training=True
    )
    with pytest.raises(FlowError, match="mixed"):
        mixed.signal_by_lag()


def test_a_layer_over_one_that_reads_both_ways_is_refused_with_those_to_ask():
    class Over(nn.Module):
        def __init__(self):
            super().__init__()
            self.low, self.high = nn.GRU(2, 4, bidirectional=True), nn.GRU(8, 1)

        def forward(self, x):
            return self.high(self.low(x)[0])[0][..., 0]

    torch.manual_seed(0)
    x = torch.randn(12, 40, 2)
    flow = rg.gradient_flow(Over(), x, loss=lambda y: (y - x.roll(3, 0)[..., 0]).square())
    with pytest.raises(FlowError, match=r"ask for the signal of low\.l0, low\.l0_reverse"):
        flow.signal_by_lag("high.l0")


def test_a_parity_sends_no_signal():
    torch.manual_seed(0)
    x = torch.randint(2, (6, 400)).float().unsqueeze(-1)
    y = x.sum((0, 2)) % 2
    model, head = nn.RNN(1, 16), nn.Linear(16, 1)
    flow = rg.gradient_flow(model, 2 * x - 1, loss=lambda output: (1e-3 * head(output[0][-1])[:, 0] - y).square())
    assert flow.signal_by_lag().need is None


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_a_loop_over_steps_has_the_signal_of_the_whole_call(kind):
    torch.manual_seed(0)
    x, layer, cell, head = (
        torch.randn(12, 60, 1),
        getattr(nn, kind)(1, 8),
        getattr(nn, f"{kind}Cell")(1, 8),
        nn.Linear(8, 1),
    )
    for name, parameter in cell.named_parameters():
        getattr(layer, f"{name}_l0").data.copy_(parameter.data)

    def loop(x):
        state = None
        for x_t in x:
            state = cell(x_t, state)
        return state[0] if isinstance(state, tuple) else state

    def loss(output):
        return (1e-3 * head(output)[:, 0] - x[5, :, 0]).square()

    whole = rg.gradient_flow(layer, x, loss=lambda output: loss(output[0][-1])).signal_by_lag(permutations=4)
    stepwise = rg.gradient_flow(loop, x, loss=loss, module=cell).signal_by_lag(permutations=4)
    assert whole.need == stepwise.need == 6
    np.testing.assert_allclose(stepwise.statistic, whole.statistic, rtol=1e-4, atol=1e-4)


def test_a_model_in_bfloat16():
    torch.manual_seed(0)
    x, model, head = torch.randn(12, 100, 1).bfloat16(), nn.RNN(1, 8).bfloat16(), nn.Linear(8, 1).bfloat16()
    flow = rg.gradient_flow(model, x, loss=lambda output: (1e-3 * head(output[0][-1])[:, 0] - x[-4, :, 0]).square())
    assert flow.signal_by_lag(permutations=4).need == 3


def test_an_output_that_depends_on_no_state_is_refused():
    x, model, head = torch.randn(6, 20, 1), nn.RNN(1, 4), nn.Linear(4, 1)
    flow = rg.gradient_flow(model, x, loss=lambda output: head(output[0][-1]).softmax(-1)[:, 0] - x[3, :, 0])
    with pytest.raises(FlowError, match="No loss has a gradient"):
        flow.signal_by_lag()


def test_a_signal_of_a_few_sequences_is_flagged():
    torch.manual_seed(0)
    rnn, head, x, target = nn.RNN(2, 8), nn.Linear(8, 1), torch.randn(12, 128, 2), torch.randn(128)

    def loss(output, target):
        return (head(output[0][-1])[:, 0] - target).square()

    x[5, :2], target[:2] = 100.0, 300.0  # two sequences outweigh all others, and agree
    found = rg.flow.need_of(rnn, [(x, target)], loss)
    assert found.need is not None and "a few of 128 sequences contribute most of the gradient" in " ".join(found.notes)
    few = rg.flow.need_of(rnn, [(torch.randn(12, 128, 2), torch.randn(128))], loss)
    assert not [note for note in few.notes if "contribute most" in note]
    even = torch.randn(12, 256, 2)
    clear = rg.flow.need_of(rnn, [(even, even[7, :, 0])], loss)
    assert clear.need == 4 and not [note for note in clear.notes if "contribute most" in note]


def test_sequences_whose_gradients_have_nothing_in_common_are_no_signal():
    """Their products are so small that the third power of the variance is below the range."""
    gram = torch.full((10, 10), 1e-70, dtype=torch.float64).fill_diagonal_(1.0)
    moments = rg.flow.learning_signal.statistic.Moments()
    moments.add(gram)
    assert all(np.isnan(moments.p_value(0.5, 0.1, 10)))

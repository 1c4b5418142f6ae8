"""Lags where the loss has other steps than the layer: measured, given by the user, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import retrograde as rg
from retrograde.errors import FlowError, OptionError
from retrograde.flow.summary import summarize
from retrograde.flow.wiring.alignment import Reach, aligned

T, B, H = 40, 3, 8


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def fading(gain: float = 0.5, kind: type[nn.RNNBase] = nn.RNN) -> nn.RNNBase:
    """A layer whose gradient shrinks by the factor ``gain`` at each step, if it is an RNN."""
    module = kind(3, H, dtype=torch.float64)
    if kind is nn.RNN:
        nn.init.orthogonal_(module.weight_hh_l0, gain=gain)
        with torch.no_grad():
            module.weight_ih_l0.mul_(0.1)
            module.bias_ih_l0.zero_(), module.bias_hh_l0.zero_()
    return module


def x(steps: int = T, batch: int = B) -> Tensor:
    return torch.randn(steps, batch, 3, dtype=torch.float64)


def squares(output: Tensor) -> Tensor:
    return output.square().sum(-1)


LOSSES = {
    "the last left out": (lambda o: squares(o[0][:-1]), lambda t: t),
    "the first left out": (lambda o: squares(o[0][25:]), lambda t: t + 25),
    "a forecast of the last": (lambda o: squares(o[0][-6:]), lambda t: t + T - 6),
    "every third": (lambda o: squares(o[0][2::3]), lambda t: 3 * t + 2),
    "the last first": (lambda o: squares(o[0].flip(0)[:30]), lambda t: T - 1 - t),
    "each twice": (lambda o: squares(o[0].repeat_interleave(2, 0)), lambda t: t // 2),
    "each three times, but the first": (lambda o: squares(o[0].repeat_interleave(3, 0)[1:]), lambda t: (t + 1) // 3),
    "all, from the end": (lambda o: squares(o[0].flip(0)), lambda t: T - 1 - t),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM])
def test_a_loss_of_other_steps_has_the_lags_of_the_whole_one(name: str, kind: type[nn.RNNBase]) -> None:
    module, data = fading(kind=kind), x()
    loss, at = LOSSES[name]
    whole = rg.gradient_flow(module, data, loss=lambda o: squares(o[0]))
    flow = rg.gradient_flow(module, data, loss=loss)
    for n, t in enumerate(flow.targets):
        np.testing.assert_allclose(flow.norms[0, n], whole.norms[0, at(t)], rtol=1e-9, atol=1e-300)
        assert (flow.lag()[n] == at(t) - np.arange(T)).all()
    rows = [at(t) for t in flow.targets]
    expected = [np.mean([whole.norms[0, t, t - lag] for t in rows if t >= lag]) for lag in range(max(rows) + 1)]
    np.testing.assert_allclose(flow.by_lag()[0, : len(expected)], expected, rtol=1e-9)
    assert flow.contributions("weight_hh_l0").lags[0] == 0
    assert flow.share_by_lag("weight_hh_l0").sum() == pytest.approx(1)
    assert not flow.notes


def test_horizon_and_truncation_do_not_depend_on_an_output_that_is_cut_off() -> None:
    module, data = fading(), x()
    whole = rg.gradient_flow(module, data, loss=lambda o: squares(o[0]))
    assert whole.horizon()[0] == 7  # 0.5^7 < 1 %
    for loss in (lambda o: squares(o[0][:-1]), lambda o: squares(o[0][25:]), lambda o: squares(o[0][-6:])):
        flow = rg.gradient_flow(module, data, loss=loss)
        assert flow.horizon()[0] == 7
        assert 1 < flow.truncation().shortest(0.99) < 12
        assert flow.share_by_lag()[0] > 0.4
        assert summarize(flow).kinds == ["vanishing"]


@pytest.mark.parametrize("targets", [[-1], [0, 3], [5]])
def test_a_few_targets_stand_where_all_do(targets: list[int]) -> None:
    module, data = fading(), x()
    every = rg.gradient_flow(module, data, loss=lambda o: squares(o[0][10:]))
    flow = rg.gradient_flow(module, data, loss=lambda o: squares(o[0][10:]), targets=targets)
    np.testing.assert_array_equal(flow.lag(), every.lag()[flow.targets])


class Pyramid(nn.Module):
    """Two layers, the upper one over every other step of the lower."""

    def __init__(self, up: bool = False) -> None:
        super().__init__()
        self.low, self.high = fading(), nn.GRU(H, H, dtype=torch.float64)
        self.up = up

    def forward(self, data: Tensor) -> Tensor:
        high = self.high(self.low(data)[0][1::2])[0]
        return high.repeat_interleave(2, 0) if self.up else high


def test_a_pyramid_counts_the_steps_of_each_layer() -> None:
    model, data = Pyramid(), x()
    flow = rg.gradient_flow(model, data, loss=squares)
    t = np.arange(T // 2)
    assert (flow.lag("high.l0") == t[:, None] - np.arange(T)).all()
    assert (flow.lag("low.l0") == 2 * t[:, None] + 1 - np.arange(T)).all()
    assert "exploding" not in summarize(flow).kinds
    np.testing.assert_allclose(flow.by_lag()[0, 0], np.mean([flow.norms[0, n, 2 * n + 1] for n in t]))
    upsampled = rg.gradient_flow(Pyramid(up=True), data, loss=squares)
    assert (upsampled.lag("high.l0") == np.arange(T)[:, None] // 2 - np.arange(T)).all()


class Repeating(nn.Module):
    """An autoencoder: the decoder reads the encoder's last output at every step, optionally over as many steps."""

    def __init__(self, how: str, bidirectional: bool = False) -> None:
        super().__init__()
        self.encoder = nn.LSTM(3, H, dtype=torch.float64, bidirectional=bidirectional)
        size = H * (1 + bidirectional)
        self.decoder = nn.GRU(size, H, dtype=torch.float64)
        self.how = how

    def forward(self, data: Tensor, steps: int) -> Tensor:
        memory, (h, _) = self.encoder(data)
        if self.how == "repeated":
            return self.decoder(memory[-1:].expand(steps, -1, -1))[0]
        if self.how == "fed back":
            token, state, outputs = memory[-1:], None, []
            for _ in range(steps):
                output, state = self.decoder(token, state)
                token = torch.einsum("tbh,sbh->tsb", output, memory).softmax(1)
                token = torch.einsum("tsb,sbh->tbh", token, memory)
                outputs.append(output)
            return torch.cat(outputs)
        if self.how == "state":
            return self.decoder(torch.zeros(steps, *memory.shape[1:], dtype=memory.dtype), h[:1])[0]
        weights = torch.linspace(0, 1, steps * len(memory), dtype=memory.dtype).view(steps, -1).softmax(1)
        return self.decoder(torch.einsum("ts,sbh->tbh", weights, memory))[0]  # attention


@pytest.mark.parametrize("how", ["repeated", "state", "attention", "fed back"])
@pytest.mark.parametrize("steps", [T, T - 7, 1])
def test_an_encoder_lies_before_its_decoder_also_if_both_are_as_long(how: str, steps: int) -> None:
    flow = rg.gradient_flow(Repeating(how), x(), steps, loss=squares)
    t = np.arange(steps)[:, None]
    assert (flow.lag("encoder.l0")[:, :T] == t + T - np.arange(T)).all()
    assert (flow.lag("decoder.l0")[:, :steps] == t - np.arange(steps)).all()
    assert flow.alignments[0].kind == "encoder"


def test_the_lower_layers_of_a_tagger_are_no_encoder() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low = nn.LSTM(3, H, bidirectional=True, dtype=torch.float64)
            self.between = nn.LSTM(2 * H, H, bidirectional=True, dtype=torch.float64)
            self.high = nn.GRU(2 * H, H, 2, bidirectional=True, dtype=torch.float64)

        def forward(self, data: Tensor) -> Tensor:
            return self.high(self.between(self.low(data)[0])[0].tanh())[0]

    flow = rg.gradient_flow(Tagger(), x(9), loss=squares)
    t, k = np.arange(9)[:, None], np.arange(9)
    for label, reverse in zip(flow.layers, flow.reverse, strict=True):
        assert (flow.lag(label) == (k - t if reverse else t - k)).all()


def packed(module: nn.RNNBase, data: Tensor, lengths: list[int]) -> Tensor:
    whole = pack_padded_sequence(data, lengths, enforce_sorted=False)
    return pad_packed_sequence(module(whole)[0], total_length=len(data))[0]


@pytest.mark.parametrize("reduce", ["mean", "none", [0.5]])
def test_sequences_of_an_encoder_count_each_from_its_own_end(reduce: object) -> None:
    encoder, decoder = fading(), nn.GRU(H, H, dtype=torch.float64)
    data, lengths = x(6), [3, 6, 4]

    def model(data: Tensor, lengths: list[int]) -> Tensor:
        last = encoder(pack_padded_sequence(data, lengths, enforce_sorted=False))[1]
        return decoder(torch.zeros(4, len(lengths), H, dtype=data.dtype), last)[0]

    flow = rg.gradient_flow(model, data, lengths, loss=squares, reduce=reduce)
    i = next(i for i, steps in enumerate(flow.steps) if steps == 6)
    alone = [
        rg.gradient_flow(model, data[:n, b : b + 1], [n], loss=squares).norms[i, :, :n] for b, n in enumerate(lengths)
    ]
    curves = flow.by_lag()[i]
    for lag in range(1, 10):
        rows = []
        for t in range(4):
            k = [(b, t + n - lag) for b, n in enumerate(lengths)]
            values = [alone[b][t, at] for b, at in k if 0 <= at < lengths[b]]
            if values:
                rows.append(np.mean(values) if reduce != [0.5] else np.median(values))
        if reduce != "none":
            assert curves[lag] == pytest.approx(np.mean(rows), rel=1e-9)
    assert np.isnan(curves[0]).all()


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_padded_sequences_read_at_their_own_ends_count_from_there_without_being_told(kind: str) -> None:
    module, data, lengths = getattr(nn, kind)(3, H, dtype=torch.float64), x(6), torch.tensor([3, 6, 4])
    flow = rg.gradient_flow(module, data, loss=lambda o: squares(o[0][lengths - 1, torch.arange(B)]))
    told = rg.gradient_flow(module, data, loss=lambda o: squares(o[0][lengths - 1, torch.arange(B)]), lengths=lengths)
    for lag in range(6):
        own = [
            rg.gradient_flow(module, data[:n, b : b + 1], loss=lambda o: squares(o[0][-1])).norms[0, 0, n - 1 - lag]
            for b, n in enumerate(lengths.tolist())
            if lag < n
        ]
        assert flow.by_lag()[0, lag] == pytest.approx(np.mean(own), rel=1e-9)
    np.testing.assert_allclose(flow.by_lag(), told.by_lag(), rtol=1e-12)
    assert (flow.lag()[0] == 5 - np.arange(6)).all()
    shares = flow.contributions("weight_hh_l0")
    assert shares.lags.tolist() == list(range(6)) and shares.share.sum() == pytest.approx(1)


def test_sequences_turned_around_within_their_lengths() -> None:
    """E_t reads output n − 1 − t of a sequence of n steps: the offset differs between sequences."""
    module, data, lengths = fading(), x(6), torch.tensor([3, 6, 4])
    at = (lengths - 1 - torch.arange(6).unsqueeze(1)).clamp(min=0)
    live = torch.arange(6).unsqueeze(1) < lengths

    def loss(output: tuple[Tensor, Tensor]) -> Tensor:
        return squares(output[0].gather(0, at.unsqueeze(-1).expand(-1, -1, H))) * live

    flow = rg.gradient_flow(module, data, loss=loss)
    each = rg.gradient_flow(module, data, loss=lambda o: squares(o[0]), reduce="none").norms[0]
    for lag in range(6):
        rows = []
        for t in range(6):
            own = [each[n - 1 - t, n - 1 - t - lag, b] for b, n in enumerate(lengths.tolist()) if n - 1 - t - lag >= 0]
            rows += [np.mean(own)] if own else []
        assert flow.by_lag()[0, lag] == pytest.approx(np.mean(rows), rel=1e-9)
    assert flow.horizon()[0] != flow.horizon()[0] or flow.horizon()[0] > 3


def test_losses_on_no_line_have_norms_and_no_lags(tmp_path: Path) -> None:
    module, data = fading(), x()
    order = torch.randperm(T)[: T // 2]
    flow = rg.gradient_flow(module, data, loss=lambda o: squares(o[0][order]))
    assert flow.norms.max() > 0 and flow.alignments[0].kind == "refused"
    assert "loss_at=" in flow.notes[0] and "loss 0 up to step" in flow.notes[0]
    for ask in (flow.by_lag, flow.horizon, flow.lag, flow.truncation, flow.share_by_lag, flow.plot_by_lag):
        with pytest.raises(FlowError, match=r"Lags of l0 are not known: the loss has 20 steps, the layer 40"):
            ask()
    assert "lags are not known" in str(flow) and summarize(flow).kinds == ["unknown"]
    assert "l0" in flow._repr_html_()
    flow.plot_heatmap()
    flow.to_csv(tmp_path / "flow.csv")
    assert (tmp_path / "flow.csv").read_text().splitlines()[1].split(",")[3] == ""
    flow.save(tmp_path / "flow")
    with pytest.raises(FlowError, match="loss_at="):
        rg.GradientFlow.load(tmp_path / "flow").by_lag()
    said = rg.gradient_flow(module, data, loss=lambda o: squares(o[0][order]), loss_at=order)
    assert (said.lag() == order.numpy()[:, None] - np.arange(T)).all()
    assert said.horizon()[0] == 7 and not said.notes


def test_a_stated_place_may_be_one_number_or_by_layer() -> None:
    module, data = fading(), x()
    for loss_at in (7, list(range(7, 27)), {"l0": 7}, np.arange(7, 27)):
        flow = rg.gradient_flow(module, data, loss=lambda o: squares(o[0][7:27]), loss_at=loss_at)
        assert flow.alignments[0].kind == "stated"
        assert (flow.lag() == np.arange(7, 27)[:, None] - np.arange(T)).all()
    final = rg.gradient_flow(module, data, loss=lambda o: squares(o[0][20]), loss_at=[20, 25, 30])
    assert final.by_lag()[0, 10] == pytest.approx(final.last[0, [10, 15, 20], [0, 1, 2]].mean())
    for bad in ([1, 2], "x", 1.5, {"l0": [0.5] * T}):
        with pytest.raises(OptionError, match=r"loss_at is .*whole numbers"):
            rg.gradient_flow(module, data, loss=lambda o: squares(o[0]), loss_at=bad)


def test_one_loss_a_sequence_counts_from_the_step_it_looks_at() -> None:
    flow = rg.gradient_flow(fading(), x(), loss=lambda o: squares(o[0][20]))
    assert flow.horizon()[0] == 7 and (flow.lag()[0] == 20 - np.arange(T)).all()


def test_saved_flows_keep_their_lags_and_older_ones_find_them(tmp_path: Path) -> None:
    import json

    lengths = torch.tensor([3, 6, 4])
    for i, loss in enumerate(
        (
            lambda o: squares(o[0][lengths - 1, torch.arange(B)]),
            lambda o: squares(o[0][2:]),
            lambda o: squares(o[0][:-1]),
        )
    ):
        flow = rg.gradient_flow(fading(), x(6), loss=loss)
        flow.save(tmp_path / str(i))
        np.testing.assert_array_equal(rg.GradientFlow.load(tmp_path / str(i)).by_lag(), flow.by_lag())
        labels = json.loads((tmp_path / f"{i}.json").read_text())
        del labels["alignments"]
        (tmp_path / f"{i}.json").write_text(json.dumps(labels | {"format": 2}))
        np.testing.assert_allclose(rg.GradientFlow.load(tmp_path / str(i)).by_lag(), flow.by_lag(), rtol=1e-12)


def test_older_flows_of_layers_under_one_that_runs_backwards_refuse_their_lags(tmp_path: Path) -> None:
    import json

    module = nn.LSTM(3, H, 2, bidirectional=True, dtype=torch.float64)
    flow = rg.gradient_flow(module, x(6), loss=lambda o: squares(o[0][1:]))
    flow.save(tmp_path / "flow")
    labels = json.loads((tmp_path / "flow.json").read_text())
    del labels["alignments"]
    (tmp_path / "flow.json").write_text(json.dumps(labels | {"format": 2}))
    older = rg.GradientFlow.load(tmp_path / "flow")
    assert [own.kind for own in older.alignments] == ["refused", "refused", "step", "step"]
    np.testing.assert_array_equal(older.lag("l1"), flow.lag("l1"))


@settings(max_examples=60, deadline=None)
@given(
    stride=st.integers(1, 4),
    offset=st.integers(0, 9),
    rows=st.integers(2, 12),
    reverse=st.booleans(),
    missing=st.sets(st.integers(0, 11), max_size=4),
    broken=st.booleans(),
)
def test_every_line_is_found_and_nothing_else(
    stride: int, offset: int, rows: int, reverse: bool, missing: set[int], broken: bool
) -> None:
    t = np.arange(rows)
    near = (offset + stride * t)[:, None].repeat(2, 1)
    near[[m for m in missing if m < rows]] = -1
    steps = offset + stride * rows + 3
    known = near[:, 0] >= 0
    if known.sum() < 3:
        return
    if broken:
        near[np.flatnonzero(known)[1]] += 1
    reach = Reach(
        t, near if reverse else np.where(near >= 0, 0, -1), near if not reverse else np.where(near >= 0, steps - 1, -1)
    )
    found = aligned(reach, t, steps, rows, reverse=reverse, final=False, encodes=False, follows=False, label="l0")
    if broken:
        assert found.kind == "refused" and "l0" in found.reason
    else:
        assert found.kind == "step" and found.at.tolist() == (offset + stride * t)[:, None].tolist()
        lag = found.lags(steps)[..., 0]
        assert (lag == (np.arange(steps) - found.at if reverse else found.at - np.arange(steps))).all()

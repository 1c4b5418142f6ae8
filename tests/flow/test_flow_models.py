"""Models as users write them: packed sequences, loops over cells, encoder and decoder, and many mistakes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint, checkpoint_sequential, create_selective_checkpoint_contexts
from twin import norms, unrolled

import retrograde as rg
from retrograde.errors import FlowError
from retrograde.flow.recording import torch_patches

T, B = 6, 3


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def losses(output: Tensor) -> Tensor:
    return (output.square() * torch.linspace(0.5, 2, output.shape[-1], dtype=output.dtype)).sum(-1)


class Tagger(nn.Module):
    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor, lengths: list[int]) -> Tensor:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        return pad_packed_sequence(self.rnn(packed)[0], total_length=len(x))[0]


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences_in_the_users_order(kind: str, bidirectional: bool) -> None:
    module = getattr(nn, kind)(2, 3, 2, bidirectional=bidirectional, dtype=torch.float64)
    x, lengths = randn(T, B, 2), [3, 6, 4]
    live = (torch.arange(T)[:, None] < torch.tensor(lengths)).double()
    flow = rg.gradient_flow(Tagger(module), x, lengths, loss=lambda o: losses(o) * live, reduce="none")
    output, states = unrolled(module, x, lengths=lengths)
    expected = norms(losses(output) * live, states) * live.numpy()[None, None]
    np.testing.assert_allclose(flow.norms, expected, rtol=1e-9, atol=1e-300)
    assert flow.lengths is not None and flow.lengths.tolist() == lengths
    mean = rg.gradient_flow(Tagger(module), x, lengths, loss=lambda o: losses(o) * live).norms
    there = (live[:, None] * live[None]).numpy()
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(mean, np.nan_to_num(expected.sum(-1) / there.sum(-1)), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_one_loss_a_sequence_counts_lags_from_each_end(kind: str) -> None:
    module = getattr(nn, kind)(2, 3, dtype=torch.float64)
    x, lengths = randn(T, B, 2), [3, 6, 4]
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)

    def last(o: tuple) -> Tensor:
        return losses((o[1][0] if kind == "LSTM" else o[1])[-1])

    flow = rg.gradient_flow(module, packed, loss=last)
    assert flow.norms.shape == (1, 1, T) and flow.final
    for lag in range(T):
        own = []
        for b, n in enumerate(lengths):
            if lag < n:
                output, states = unrolled(module, x[:n, b : b + 1])
                own.append(norms(losses(output[-1:]), states)[0, 0, n - 1 - lag, 0])
        assert flow.by_lag()[0, lag] == pytest.approx(np.mean(own), rel=1e-9)


class Loop(nn.Module):
    """A two-layer network that loops over its steps."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        cell = getattr(nn, f"{kind}Cell")
        self.cells = nn.ModuleList([cell(2, 3, dtype=torch.float64), cell(3, 3, dtype=torch.float64)])

    def forward(self, x: Tensor) -> Tensor:
        states: list = [None, None]
        outputs = []
        for a in x:
            for i, cell in enumerate(self.cells):
                states[i] = cell(a, states[i])
                a = states[i][0] if isinstance(states[i], tuple) else states[i]
            outputs.append(a)
        return torch.stack(outputs)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_cells_in_a_loop_are_the_layers_of_a_stack(kind: str) -> None:
    loop = Loop(kind)
    module = getattr(nn, kind)(2, 3, 2, dtype=torch.float64)
    for i, cell in enumerate(loop.cells):
        for name, p in cell.named_parameters():
            getattr(module, f"{name}_l{i}").data.copy_(p)
    x = randn(T, B, 2)
    flow = rg.gradient_flow(loop, x, loss=losses, reduce="none")
    whole = rg.gradient_flow(module, x, loss=lambda o: losses(o[0]), reduce="none")
    assert flow.layers == ["cells.0", "cells.1"]
    np.testing.assert_allclose(flow.norms, whole.norms, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(
        flow.share_by_lag("cells.0.weight_hh"), whole.share_by_lag("weight_hh_l0"), rtol=1e-7, atol=1e-12
    )


class Translator(nn.Module):
    """An encoder, and a decoder with attention that is called one step at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(2, 4, dtype=torch.float64, batch_first=True)
        self.decoder = nn.LSTM(4, 4, dtype=torch.float64, batch_first=True)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        memory, state = self.encoder(x)
        token, outputs = memory[:, -1:], []
        for _ in range(steps):
            out, state = self.decoder(token, state)
            token = (out @ memory.transpose(1, 2)).softmax(-1) @ memory
            outputs.append(out + token)
        return torch.cat(outputs, 1).transpose(0, 1)


def test_encoder_and_decoder_equal_autograd() -> None:
    model, x = Translator(), randn(B, 5, 2)
    flow = rg.gradient_flow(model, x, 4, loss=losses, reduce="none", state="h")
    assert flow.layers == ["encoder.l0", "decoder.l0"] and flow.steps == [5, 4]
    memory_parts, decoded, state = [], [], None
    encoder, decoder = model.encoder, model.decoder
    for k in range(5):
        _, (h, c) = encoder(x[:, k : k + 1], state)
        h = h.clone()
        memory_parts.append(h)
        state = (h, c)
    memory = torch.cat([h.transpose(0, 1) for h in memory_parts], 1)
    token, outputs = memory_parts[-1].transpose(0, 1), []
    for _ in range(4):
        _, (h, c) = decoder(token, state)
        h = h.clone()
        decoded.append(h)
        state, out = (h, c), h.transpose(0, 1)
        token = (out @ memory.transpose(1, 2)).softmax(-1) @ memory
        outputs.append(out + token)
    table = losses(torch.cat(outputs, 1).transpose(0, 1))
    for t in range(4):
        found = torch.autograd.grad(table[t].sum(), memory_parts + decoded, retain_graph=True, allow_unused=True)
        for k, g in enumerate(found):
            i, step = divmod(k, 5)
            expected = 0 if g is None else g[0].norm(dim=-1).detach().numpy()
            np.testing.assert_allclose(flow.norms[i, t, step], expected, rtol=1e-9, atol=1e-300)
    # The encoder lies before the decoder: its last step is one step before the first loss.
    assert flow.lag("encoder.l0")[0].tolist() == [5, 4, 3, 2, 1]
    assert flow.lag("decoder.l0")[3].tolist()[:4] == [3, 2, 1, 0]


class Residual(nn.Module):
    """Two modules in a row with dropout between; the head reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.GRU(2, 3, dtype=torch.float64)
        self.drop = nn.Dropout(0.5)
        self.second = nn.RNN(3, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        low, _ = self.first(x)
        high, _ = self.second(self.drop(low))
        return low + high


def test_modules_in_a_row_with_a_head_that_reads_both() -> None:
    model, x = Residual(), randn(T, B, 2)
    flow = rg.gradient_flow(model, x, loss=losses, reduce="none")
    assert flow.layers == ["first.l0", "second.l0"]
    assert flow.linearization is not None and flow.linearization.local is not None  # the short way
    low, below = unrolled(model.first, x)
    high, above = unrolled(model.second, low)
    states = {"first": below["l0"], "second": above["l0"]}
    np.testing.assert_allclose(flow.norms, norms(losses(low + high), states), rtol=1e-9, atol=1e-300)
    assert "eval mode" in flow.notes[0]
    assert model.training and model.drop.training


@pytest.mark.parametrize(("state", "free"), [("hc", True), ("h", True), ("c", False)])
@pytest.mark.parametrize("mixing", [False, True])
def test_states_of_an_lstm_together_and_each_alone(state: str, free: bool, mixing: bool) -> None:
    module, x = nn.LSTM(2, 3, 2, dtype=torch.float64), randn(T, B, 2)
    head = (lambda o: losses(o.cumsum(0).flip(0))) if mixing else losses
    flow = rg.gradient_flow(module, x, loss=lambda o: head(o[0]), state=state, reduce="none")
    output, states = unrolled(module, x, free_cell=free)
    if state == "h":
        # h_k alone: the first three coordinates of (h_k, c_k).
        flat = [s for track in states.values() for s in track]
        for t, row in enumerate(head(output)):
            for j, g in enumerate(torch.autograd.grad(row.sum(), flat, retain_graph=True, allow_unused=True)):
                expected = 0 if g is None else g[:, :3].norm(dim=-1).numpy()
                np.testing.assert_allclose(flow.norms[j // T, t, j % T], expected, rtol=1e-9, atol=1e-300)
        return
    np.testing.assert_allclose(flow.norms, norms(head(output), states), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("mixing", [False, True])
def test_targets_layers_and_reductions_are_parts_of_the_whole(mixing: bool) -> None:
    module, x = nn.GRU(2, 3, 3, dtype=torch.float64), randn(T, B, 2)

    def measure(**options: object) -> rg.GradientFlow:
        head = (lambda o: losses(o[0].cumsum(0))) if mixing else (lambda o: losses(o[0]))
        return rg.gradient_flow(module, x, loss=head, **options)

    every = measure(reduce="none").norms
    np.testing.assert_allclose(measure().norms, every.mean(-1), rtol=1e-12)
    np.testing.assert_allclose(measure(reduce="median").norms, np.median(every, -1), rtol=1e-12)
    found = measure(reduce=(0.1, 0.5, 0.9)).norms
    np.testing.assert_allclose(found, np.moveaxis(np.quantile(every, (0.1, 0.5, 0.9), axis=-1), 0, -1), rtol=1e-9)
    chosen = measure(targets=[4, -1, 1], layers=["l0", "l2"], reduce="none")
    assert chosen.layers == ["l0", "l2"] and chosen.targets.tolist() == [1, 4, 5]
    np.testing.assert_allclose(chosen.norms, every[[0, 2]][:, [1, 4, 5]], rtol=1e-9, atol=1e-300)


def test_the_model_is_left_as_it_was() -> None:
    model, x = Residual(), torch.randn(T, B, 2, dtype=torch.float64)
    model.first.weight_hh_l0.requires_grad_(False)
    model.second.eval()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    random_state = torch.get_rng_state()
    seen: list[tuple[int, ...]] = []
    handle = model.first.register_forward_hook(lambda m, args, out: seen.append(tuple(out[0].shape)))
    with torch.no_grad():
        rg.gradient_flow(model, x, loss=losses)
    with torch.inference_mode():
        rg.gradient_flow(model, x.clone(), loss=losses)
    assert seen == [(T, B, 3)] * 2
    handle.remove()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    assert [m.training for m in (model, model.first, model.drop, model.second)] == [True, True, True, False]
    assert not model.first.weight_hh_l0.requires_grad and model.first.weight_ih_l0.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert not model.first._forward_pre_hooks and not model.first._forward_hooks
    with pytest.raises(FlowError):
        rg.gradient_flow(model, x, loss=lambda o: o)
    assert model.training and not model.first._forward_pre_hooks


def test_a_small_gradient_in_float32_keeps_its_digits() -> None:
    module, x = nn.RNN(3, 32), torch.randn(90, 2, 3)
    nn.init.orthogonal_(module.weight_hh_l0, gain=0.5)
    found = rg.gradient_flow(module, x, loss=lambda o: o[0].square().sum(-1)).norms
    expected = rg.gradient_flow(module.double(), x.double(), loss=lambda o: o[0].square().sum(-1)).norms
    assert 0 < expected[expected > 0].min() < 1e-24
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-35)


def test_unbatched_and_batch_first_inputs() -> None:
    module, x = nn.LSTM(2, 3, 2, dtype=torch.float64), randn(T, B, 2)
    whole = rg.gradient_flow(module, x, loss=lambda o: losses(o[0]), reduce="none").norms
    one = rg.gradient_flow(module, x[:, 1], loss=lambda o: losses(o[0])).norms
    np.testing.assert_allclose(one, whole[..., 1], rtol=1e-9, atol=1e-300)
    module.batch_first = True
    found = rg.gradient_flow(module, x.transpose(0, 1), loss=lambda o: losses(o[0]).T, reduce="none").norms
    np.testing.assert_allclose(found, whole, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda o: o.sum(), "single number.*reduction='none'"),
        (lambda o: o.sum(-1).T, "transposed"),
        (lambda o: o, r"returned shape \(6, 3, 3\)"),
        (lambda o: o.sum(-1).detach(), "does not depend on any recurrent layer"),
        (lambda o: 3.0, "returned float"),
        (lambda o: torch.fft.fft(o).sum(-1), r"returned torch\.complex128; .*\.abs\(\) or \.real"),
        (lambda o: o.argmax(-1), r"returned torch\.int64; expected floating-point numbers"),
        (lambda o: o.sum(-1) > 0, r"returned torch\.bool; expected floating-point numbers"),
        (lambda o: o.sum(-1)[:, :2], r"\(T, B\) = \(6, 3\)"),
        (lambda o: o.sum(-1) / torch.where(torch.arange(T)[:, None] == 2, 0.0, 1.0), "step 2"),
    ],
)
def test_a_loss_of_the_wrong_form_is_named(loss, message: str) -> None:
    with pytest.raises(FlowError, match=message):
        rg.gradient_flow(Residual(), randn(T, B, 2), loss=loss)
    with pytest.raises(FlowError, match=message):
        rg.flow.sequence_gradients(Residual(), randn(T, B, 2), loss=loss)
    with pytest.raises(FlowError, match=message):
        rg.GradientFlowRecorder(Residual(), loss).step(randn(T, B, 2))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM])
def test_a_transposed_loss_is_named_where_there_are_as_many_steps_as_sequences(
    kind: type[nn.RNNBase], bidirectional: bool
) -> None:
    module = kind(2, 3, batch_first=True, bidirectional=bidirectional, num_layers=2, dtype=torch.float64)
    x = randn(4, 4, 2)
    flow = rg.gradient_flow(module, x, loss=lambda o: losses(o[0]).T)
    assert flow.norms.max() > 0
    found = rg.flow.sequence_gradients(module, x, loss=lambda o: losses(o[0]).T)
    alone = rg.flow.sequence_gradients(module, x[1:2], loss=lambda o: losses(o[0]).T)
    assert found.total[1] == pytest.approx(alone.total[0], rel=1e-9)
    for measure in (rg.gradient_flow, rg.flow.sequence_gradients):
        with pytest.raises(FlowError, match=r"\(4, 4\) .* Return losses\.T"):
            measure(module, x, loss=lambda o: losses(o[0]))
    with pytest.raises(FlowError, match=r"\(4, 4\) .* Return losses\.T"):
        rg.GradientFlowRecorder(module, lambda o: losses(o[0])).step(x)


def test_a_layer_along_the_other_axis_is_not_taken_for_a_transposed_loss() -> None:
    class Grid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.GRU(2, 2, dtype=torch.float64) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)[0].transpose(0, 1))[0].transpose(0, 1)

    assert rg.gradient_flow(Grid(), randn(4, 4, 2), loss=losses).norms.max() > 0


def test_sequences_that_are_mixed_are_not_taken_for_a_transposed_loss() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(2, 3, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            output = self.rnn(x)[0]
            return output - output.mean(1, keepdim=True)

    assert rg.gradient_flow(Mixing(), randn(4, 4, 2), loss=losses).norms.max() > 0


def test_what_cannot_be_measured_is_said() -> None:
    x = randn(T, B, 2)
    with pytest.raises(FlowError, match="ran no recurrent layer"):
        rg.gradient_flow(nn.Linear(2, 3, dtype=torch.float64), x, loss=losses)
    bad = x.clone()
    bad[2, 1] = torch.nan
    with pytest.raises(FlowError, match=r"input of layer first\.l0 is not finite from step 2 on \(sequence 1\)"):
        rg.gradient_flow(Residual(), bad, loss=losses)
    model = Residual()
    with torch.no_grad():
        model.second.bias_hh_l0[0] = torch.inf
        model.second.weight_ih_l0[0, 0] = -torch.inf
    with pytest.raises(FlowError, match=r"state of layer second\.l0 is not finite from step 0"):
        rg.gradient_flow(model, x, loss=losses)
    with pytest.raises(FlowError, match=r"this model has first\.l0, second\.l0"):
        rg.gradient_flow(Residual(), x, loss=losses, layers=["l5"])
    with pytest.raises(FlowError, match="steps between 0 and 5"):
        rg.gradient_flow(Residual(), x, loss=losses, targets=[6])
    with pytest.raises(FlowError, match="only an LSTM has a cell state"):
        rg.gradient_flow(Residual(), x, loss=losses, state="c")
    with pytest.raises(rg.errors.OptionError, match="between 0 and 1"):
        rg.gradient_flow(Residual(), x, loss=losses, reduce=1.5)
    with pytest.raises(rg.errors.OptionError, match="loss is NoneType; give a function"):
        rg.gradient_flow(Residual(), x, loss=None)
    with pytest.raises(FlowError, match=r"given no steps: \(T, B, I\) \(0, 3, 2\)"):
        rg.gradient_flow(Residual(), x[:0], loss=losses)


def test_what_a_model_takes_by_keyword() -> None:
    module, x, h_0 = nn.GRU(2, 3, dtype=torch.float64), randn(T, B, 2), randn(1, B, 3)
    flow = rg.gradient_flow(module, x, kwargs={"hx": h_0}, loss=lambda o: losses(o[0]))
    np.testing.assert_array_equal(flow.norms, rg.gradient_flow(module, x, h_0, loss=lambda o: losses(o[0])).norms)
    found = rg.flow.sequence_gradients(module, kwargs={"input": x, "hx": h_0}, loss=lambda o: losses(o[0]))
    assert found.losses.shape == (B,)


def test_a_horizon_counts_from_the_first_lag_that_the_loss_looks_at() -> None:
    module, x = nn.RNN(2, 3, dtype=torch.float64), randn(30, B, 2)
    nn.init.orthogonal_(module.weight_hh_l0, gain=0.5)

    def of_the_past(output: tuple) -> Tensor:
        return losses(torch.cat([0 * output[0][:2], output[0][:-2]]))

    flow = rg.gradient_flow(module, x, loss=of_the_past)
    curve = flow.by_lag()[0]
    assert curve[0] == curve[1] == 0 < curve[2]
    assert flow.horizon(0.1)[0] == np.flatnonzero((np.arange(30) > 2) & (curve < 0.1 * curve[2]))[0]


@pytest.mark.parametrize("reduce", ["mean", "none", [0.1, 0.9]])
def test_labelled_arrays(reduce: object) -> None:
    module, x = nn.LSTM(2, 3, bidirectional=True), torch.randn(T, B, 2)
    flow = rg.gradient_flow(module, x, loss=lambda o: o[0].sum(-1), reduce=reduce, targets=[1, 4])
    array = flow.to_xarray()
    tail = {"mean": (), "none": ("sequence",)}.get(str(reduce), ("quantile",))
    assert array.name == "norm" and array.dims == ("layer", "t", "k", *tail)
    np.testing.assert_array_equal(array.sel(layer="l0_reverse", t=4).values, flow.norms[1, 1])
    if reduce == [0.1, 0.9]:
        np.testing.assert_array_equal(array.sel(quantile=0.9).values, flow.norms[..., 1])
    assert array["cell"].values.tolist() == ["lstm", "lstm"] and array["reverse"].values.tolist() == [False, True]
    assert array["lag"].sel(layer="l0", t=4, k=1).item() == 3 == -array["lag"].sel(layer="l0_reverse", t=4, k=1).item()
    by_lag = array.sel(layer="l0").where(array["lag"].sel(layer="l0") == 2).mean(["t", "k"])
    np.testing.assert_allclose(by_lag, flow.by_lag()[0, 2], rtol=1e-12)


@pytest.mark.parametrize("mixing", [False, True])
def test_a_saved_flow_answers_as_the_measured_one_does(tmp_path: Path, mixing: bool) -> None:
    module, x = nn.LSTM(2, 3, 2, bidirectional=mixing, dtype=torch.float64), randn(T, B, 2)
    flow = rg.gradient_flow(module, x, loss=lambda o: losses(o[0]))
    flow.save(tmp_path / "deep" / "flow.safetensors")
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["flow.json", "flow.safetensors"]
    again = rg.GradientFlow.load(tmp_path / "deep" / "flow")
    np.testing.assert_array_equal(again.norms, flow.norms)
    np.testing.assert_array_equal(again.by_lag(), flow.by_lag())
    np.testing.assert_allclose(again.share_by_lag(), flow.share_by_lag(), rtol=1e-12)
    np.testing.assert_allclose(again.truncation().angle, flow.truncation().angle)
    np.testing.assert_array_equal(again.jacobian_norms("l1"), flow.jacobian_norms("l1"))
    np.testing.assert_array_equal(again.lyapunov_exponents(), flow.lyapunov_exponents())
    assert again.gates("l1")["f"].mean == flow.gates("l1")["f"].mean
    flow.save(tmp_path / "small", trajectory=False)
    small = rg.GradientFlow.load(tmp_path / "small")
    np.testing.assert_array_equal(small.horizon(), flow.horizon())
    with pytest.raises(FlowError, match="without its trajectory"):
        small.jacobian_norms()
    flow.to_csv(tmp_path / "flow.csv")
    lines = (tmp_path / "flow.csv").read_text().splitlines()
    assert lines[0] == "layer,t,k,lag,norm" and len(lines) == 1 + int((flow.norms != 0).sum())
    with pytest.raises(FlowError, match="no saved gradient flow"):
        rg.GradientFlow.load(tmp_path / "absent")
    (tmp_path / "small.json").write_text("{")
    with pytest.raises(FlowError, match="not a complete gradient flow"):
        rg.GradientFlow.load(tmp_path / "small")


def test_sequence_gradients_equal_one_backward_pass_a_sequence() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(11, 3)
            self.rnn = nn.LSTM(3, 5, 2, bidirectional=True, proj_size=4)
            self.head = nn.Linear(8, 11)
            self.unused = nn.Linear(2, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.rnn(self.embedding(tokens))[0])

    model, tokens = Model().double(), torch.randint(0, 11, (T, 4))

    def loss(logits: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view(T, 4)

    found = rg.flow.sequence_gradients(model, tokens, loss=loss, names=["a", "b", "c", "d"])
    for b in range(4):
        model.zero_grad()
        loss(model(tokens))[:, b].sum().backward()
        for name, p in model.named_parameters():
            expected = 0 if p.grad is None else float(p.grad.norm())
            assert found.norms[name][b] == pytest.approx(expected, rel=1e-9)
    worst = int(found.total.argmax())
    names = [name for name, _ in found.exploding(0.999 * found.total.max() / np.median(found.total))]
    assert names == ["abcd"[worst]]
    assert found.exploding(1e6) == []


@pytest.mark.parametrize("restricted", [False, True])
def test_stacks_side_by_side_go_the_short_way(restricted: bool) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.GRU(2, 3, 2, dtype=torch.float64)
            self.right = nn.LSTM(2, 3, 2, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.left(x)[0] * self.right(x.flip(0))[0]

    model, x = Pair(), randn(T, B, 2)
    layers = ["left.l1", "right.l0"] if restricted else None
    flow = rg.gradient_flow(model, x, loss=losses, reduce="none", layers=layers)
    assert flow.linearization is not None and flow.linearization.local is not None
    left, below = unrolled(model.left, x)
    right, above = unrolled(model.right, x.flip(0))
    states = {f"left.{k}": v for k, v in below.items()} | {f"right.{k}": v for k, v in above.items()}
    kept = {label: states[label] for label in flow.layers}
    np.testing.assert_allclose(flow.norms, norms(losses(left * right), kept), rtol=1e-9, atol=1e-300)
    losses(model(x)).sum().backward()
    for name in ("left.weight_ih_l1", "right.weight_hh_l0"):
        whole = np.linalg.norm(dict(model.named_parameters())[name].grad)
        found = flow.contributions(name)
        assert found.share.sum() == pytest.approx(1)
        assert np.nansum(found.norm * found.cosine) == pytest.approx(whole, rel=1e-9)  # parts along the whole


class Changing(nn.Module):
    """Writes in place into the outputs of its layers, between them and after them."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.first, self.second = nn.LSTM(2, 3, dtype=torch.float64), nn.GRU(3, 3, dtype=torch.float64)
        self.depth = depth

    def forward(self, x: Tensor, in_place: bool) -> Tensor:
        output, _ = self.first(x)
        factor = torch.linspace(0.5, 2, T, dtype=torch.float64)[:, None, None]
        output = output.mul_(factor) if in_place else output * factor
        if self.depth > 1:
            output, _ = self.second(output)
        output = output.clone() if not in_place else output
        output[:, 1] *= 2
        return output


@pytest.mark.parametrize("depth", [1, 2])
def test_an_output_may_be_written_into(depth: int) -> None:
    model, x = Changing(depth), randn(T, B, 2)
    expected = rg.gradient_flow(model, x, False, loss=losses)
    flow = rg.gradient_flow(model, x, True, loss=losses)
    np.testing.assert_allclose(flow.losses, expected.losses, rtol=1e-12)
    np.testing.assert_allclose(flow.norms, expected.norms, rtol=1e-9, atol=1e-300)
    # By hand, at t = k: ∂E_t/∂(output_t) through what was written into it.
    if depth == 1:
        plain = model.first(x)[0].detach().requires_grad_()
        changed = plain * torch.linspace(0.5, 2, T, dtype=torch.float64)[:, None, None]
        changed = torch.cat([changed[:, :1], 2 * changed[:, 1:2], changed[:, 2:]], 1)
        torch.testing.assert_close(changed, model(x, False))
        (g,) = torch.autograd.grad(losses(changed).sum(), plain)
        np.testing.assert_allclose(np.diagonal(flow.norms[0]), g.norm(dim=-1).mean(1), rtol=1e-9)


class Between(nn.Module):
    """Changes what one layer passes to the next; ``plain`` does the same with operators that autograd sees."""

    def __init__(self, way: str, plain: bool, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.LSTM(2, 3, batch_first=batch_first).double()
        self.second = nn.GRU(3, 3, batch_first=batch_first).double()
        self.way, self.plain = way, plain

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.first(x)
        if self.plain:
            change = {"detached": lambda o: o.detach(), "doubled": lambda o: o + o.detach()}
            return self.second(change.get(self.way, Tripled.apply)(output))[0]
        if self.way == "detached":
            output.detach_()
        if self.way == "doubled":
            output.data *= 2
        if self.way == "hooked":
            output.register_hook(lambda g: 3 * g)
        last = self.second(output)[0]
        if self.way == "hooked later":
            output.register_hook(lambda g: 3 * g)
        return last


class Tripled(torch.autograd.Function):
    """Multiplies the gradient by 3."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * g


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("way", ["detached", "doubled", "hooked", "hooked later"])
def test_what_happens_between_two_layers_counts(way: str, batch_first: bool) -> None:
    x = randn(T, B, 2).transpose(0, 1) if batch_first else randn(T, B, 2)

    def loss(output: Tensor) -> Tensor:
        return losses(output).T if batch_first else losses(output)

    flow = rg.gradient_flow(Between(way, False, batch_first), x, loss=loss)
    expected = rg.gradient_flow(Between(way, True, batch_first), x, loss=loss)
    untouched = rg.gradient_flow(Between("", False, batch_first), x, loss=loss)
    np.testing.assert_allclose(flow.losses, expected.losses, rtol=1e-12)
    np.testing.assert_allclose(flow.norms, expected.norms, rtol=1e-9, atol=1e-300)
    assert not np.allclose(flow.norms[0], untouched.norms[0])


class Thrifty(nn.Module):
    """Recomputes its layers, or its head, in the backward pass."""

    def __init__(self, where: str, how: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.LSTM(2, 3, bidirectional=True).double(), nn.Linear(6, 3).double()
        self.where, self.how = where, how

    def recomputed(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if self.how == "sequential":
            return checkpoint_sequential([run, torch.clone], 2, x, use_reentrant=True)
        if self.how == "selective":
            contexts = partial(create_selective_checkpoint_contexts, [torch.ops.aten.mm.default])
            return checkpoint(run, x, use_reentrant=False, context_fn=contexts)
        return run(x) if self.how is None else checkpoint(run, x, use_reentrant=self.how)

    def forward(self, x: Tensor) -> Tensor:
        if self.where == "layers":
            return self.recomputed(lambda x: self.head(self.rnn(x)[0]).cumsum(0).tanh(), x)
        return self.recomputed(lambda o: self.head(o).cumsum(0).tanh(), self.rnn(x)[0])


@pytest.mark.parametrize("where", ["layers", "head"])
@pytest.mark.parametrize("how", [True, False, "selective", "sequential"])
@pytest.mark.parametrize("own_gradient", [False, True])
def test_what_is_recomputed_is_measured_as_what_is_kept(where: str, how: object, own_gradient: bool) -> None:
    x = randn(T, B, 2).requires_grad_(own_gradient)
    name = "rnn.weight_hh_l0"
    model, plain = Thrifty(where, how), Thrifty(where, None)
    flow, expected = (rg.gradient_flow(m, x, loss=losses) for m in (model, plain))
    assert expected.norms.max() > 0.1
    np.testing.assert_allclose(flow.norms, expected.norms, rtol=1e-12)
    np.testing.assert_allclose(flow.share_by_lag(name), expected.share_by_lag(name), rtol=1e-9)
    found, wanted = (rg.flow.sequence_gradients(m, x, loss=losses).norms for m in (model, plain))
    np.testing.assert_allclose(found[name], wanted[name], rtol=1e-9)
    recorder = rg.GradientFlowRecorder(model, losses, every=1, budget=None)
    record = recorder.step(x)
    assert record is not None and record["layers"]["l0"]["norm_at_lag_0"] > 0.1
    for m in (model, plain):  # checkpoints are themselves again
        m(x.detach().requires_grad_()).sum().backward()
    torch.testing.assert_close(model.rnn.weight_hh_l0.grad, plain.rnn.weight_hh_l0.grad)
    assert torch.utils.checkpoint.CheckpointFunction.apply.__func__ is torch.autograd.Function.apply.__func__


def test_a_torch_whose_checkpoints_cannot_be_kept_says_what_to_switch_off(monkeypatch) -> None:
    monkeypatch.setattr(torch_patches, "_GENERATOR", "renamed")  # as where torch has renamed its own
    x = randn(T, B, 2)
    with pytest.raises(FlowError, match="disable that while its gradient is measured"):
        rg.gradient_flow(Thrifty("layers", False), x, loss=losses)
    expected = rg.gradient_flow(Thrifty("layers", None), x, loss=losses).norms
    np.testing.assert_allclose(rg.gradient_flow(Thrifty("layers", True), x, loss=losses).norms, expected, rtol=1e-12)


def test_another_thread_keeps_its_checkpoints() -> None:
    model, x, seen = Thrifty("layers", True), randn(T, B, 2).requires_grad_(), []
    other = Thrifty("layers", True)
    other.head.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))

    def loss(output: Tensor) -> Tensor:
        thread = Thread(target=lambda: other(x).sum().backward())
        thread.start()
        thread.join()
        return losses(output)

    rg.gradient_flow(model, x, loss=loss)
    assert seen == [False, True]  # without a graph, and again


class Anew(torch.autograd.Function):
    """A reentrant checkpoint written by the user."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[Tensor], Tensor], x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.run, ctx.x, ctx.parameters = run, x, parameters
        return run(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x = ctx.x.detach().requires_grad_()
        with torch.enable_grad():
            output = ctx.run(x)
        return None, *torch.autograd.grad(output, (x, *ctx.parameters), g)


@pytest.mark.parametrize("way", ["states", "parameters", "no_grad", "marked"])
def test_what_runs_out_of_sight_is_no_zero(way: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.GRU(2, 2).double(), nn.GRU(2, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            def run(x: Tensor) -> Tensor:
                if way == "marked":
                    return torch.stack([rg.mark_state(x_t.cumsum(-1)) for x_t in x])
                with torch.set_grad_enabled(torch.is_grad_enabled() and way != "no_grad"):
                    return self.second(x)[0]

            if way == "parameters":
                return self.first(x)[0] + Anew.apply(run, x, *self.second.parameters())
            return Anew.apply(run, self.first(x)[0])

    with pytest.raises(FlowError, match=r"(second\.)?l0 runs inside Anew, .* use_reentrant=False"):
        rg.gradient_flow(Model(), randn(T, B, 2), loss=losses)


@pytest.mark.parametrize("hidden", [0, 2])
def test_nor_does_a_step_of_a_loop(hidden: int) -> None:
    """Also where the steps before it were in sight."""
    cell = nn.GRUCell(2, 2).double()

    def model(x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(B, 2), []
        for k, x_t in enumerate(x):

            @torch.enable_grad()
            def run(h: Tensor, x_t: Tensor = x_t) -> Tensor:
                return 2 * cell(x_t, h)

            new = cell(x_t, h) if k != hidden else h
            outputs.append(Anew.apply(run, h) if k == hidden else new)
            h = new
        return torch.stack(outputs)

    with pytest.raises(FlowError, match=r"runs inside Anew, .* use_reentrant=False"):
        rg.gradient_flow(model, randn(6, B, 2), loss=losses, module=cell)


@pytest.mark.parametrize("frozen", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("own_function", [False, True])
def test_a_frozen_layer_has_no_gradient(frozen: Callable[[], Any], own_function: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.GRU(2, 2).double(), nn.GRU(2, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            with frozen():
                features = Anew.apply(lambda x: self.first(x)[0], x) if own_function else self.first(x)[0]
            return self.second(features.clone())[0]

    model, x = Model(), randn(T, B, 2)
    flow = rg.gradient_flow(model, x, loss=losses)
    alone = rg.gradient_flow(model.second, model.first(x)[0].detach(), loss=lambda o: losses(o[0]))
    assert (flow.norms[0] == 0).all()
    np.testing.assert_allclose(flow.norms[1], alone.norms[0], rtol=1e-9)


class Attending(nn.Module):
    """An encoder of packed sequences, and a decoder with attention that is as long as the target."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(2, 3, bidirectional=True).double(), nn.GRUCell(6, 6).double()

    def forward(self, x: Tensor, lengths: list[int], steps: int) -> Tensor:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        memory, last = self.encoder(packed)
        memory = pad_packed_sequence(memory)[0]
        state, outputs = torch.cat([last[0], last[1]], -1), []
        for _ in range(steps):
            scores = (memory * state).sum(-1).masked_fill(memory.abs().sum(-1) == 0, -torch.inf)
            state = self.decoder((scores.softmax(0).unsqueeze(-1) * memory).sum(0), state)
            outputs.append(state)
        return torch.stack(outputs)


@pytest.mark.parametrize("steps", [4, T])
def test_targets_may_be_longer_than_what_a_packed_encoder_reads(steps: int) -> None:
    model, x, lengths = Attending(), randn(T, B, 2), [3, 6, 2]
    flow = rg.gradient_flow(model, x, lengths, steps, loss=losses, reduce="none")
    mean = rg.gradient_flow(model, x, lengths, steps, loss=losses)
    assert flow.lengths is None and (flow.sequences == B).all()
    live = (torch.arange(T)[:, None] < torch.tensor(lengths)).numpy()
    for b, n in enumerate(lengths):  # each by itself, where nothing is padded
        alone = rg.gradient_flow(model, x[:n, b : b + 1], [n], steps, loss=losses)
        np.testing.assert_allclose(flow.norms[:2, :, :n, b], alone.norms[:2, :, :n], rtol=1e-9)
        np.testing.assert_allclose(flow.norms[2, :, :steps, b], alone.norms[2, :, :steps], rtol=1e-9)
    there = np.where(live[None, None], flow.norms[:2], np.nan)
    np.testing.assert_allclose(mean.norms[:2], np.nanmean(there, -1), rtol=1e-9)


def test_two_packed_inputs_end_each_where_it_ends() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.LSTM(2, 3).double(), nn.GRU(2, 3).double()

        def forward(self, x: Tensor, left: list[int], right: list[int]) -> Tensor:
            (_, (h, _)) = self.left(pack_padded_sequence(x, left, enforce_sorted=False))
            _, other = self.right(pack_padded_sequence(x.flip(0), right, enforce_sorted=False))
            return h[0] * other[0]

    model, x, left, right = Pair(), randn(T, B, 2), [2, 6, 4], [6, 1, 5]
    flow = rg.gradient_flow(model, x, left, right, loss=losses, reduce="none")
    mean = rg.gradient_flow(model, x, left, right, loss=losses)
    assert flow.lengths is None
    for i, lengths in enumerate([left, right]):
        live = (torch.arange(T)[:, None] < torch.tensor(lengths)).numpy()
        assert ((flow.norms[i, 0] > 0) == live).all()
        np.testing.assert_allclose(mean.norms[i, 0], np.nanmean(np.where(live, flow.norms[i, 0], np.nan), -1))

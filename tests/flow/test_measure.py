"""``gradient_flow`` compared with autograd over unrolled float64 networks, on models of many shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from twin import norms, unrolled

import retrograde as rg
from retrograde.errors import FlowError, OptionError

LAYERS = ["RNN", "ReLU", "GRU", "LSTM", "projected"]


def make(kind: str, inputs: int, hidden: int, **options: object) -> nn.RNNBase:
    options = {"dtype": torch.float64, **options}
    if kind == "ReLU":
        return nn.RNN(inputs, hidden, nonlinearity="relu", **options)
    if kind == "projected":
        return nn.LSTM(inputs, hidden, proj_size=max(1, hidden - 1), **options)
    return getattr(nn, kind)(inputs, hidden, **options)


def local_head(output: Tensor) -> Tensor:
    return (output.square() * torch.linspace(0.5, 2, output.shape[-1], dtype=output.dtype)).sum(-1)


def mixing_head(output: Tensor) -> Tensor:
    """Self-attention: every step attends to all steps."""
    scores = torch.einsum("tbh,sbh->tsb", output, output).softmax(1)
    return local_head(torch.einsum("tsb,sbh->tbh", scores, output) + output)


HEADS = {"local": local_head, "mixing": mixing_head}


def close(found: np.ndarray, expected: np.ndarray, rtol: float = 1e-9) -> None:
    # A zero must be a zero: no path means no gradient, not a small one.
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-300 if rtol < 1e-6 else 1e-12)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(LAYERS),
    depth=st.integers(1, 3),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    head=st.sampled_from(sorted(HEADS)),
    steps=st.integers(1, 7),
    batch=st.integers(1, 4),
    hidden=st.integers(2, 5),
    seed=st.integers(0, 2**16),
)
def test_every_pair_equals_autograd_over_an_unrolled_twin(
    kind: str, depth: int, bidirectional: bool, bias: bool, head: str, steps: int, batch: int, hidden: int, seed: int
) -> None:
    torch.manual_seed(seed)
    module = make(kind, 3, hidden, num_layers=depth, bidirectional=bidirectional, bias=bias)
    x = torch.randn(steps, batch, 3, dtype=torch.float64)
    flow = rg.gradient_flow(module, x, loss=lambda o: HEADS[head](o[0]), reduce="none")
    output, states = unrolled(module, x)
    assert flow.layers == list(states)
    close(flow.norms, norms(HEADS[head](output), states))


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(2, 23), data=st.data(), coupling=st.sampled_from([1.0, -1e-9]))
def test_a_head_that_looks_from_one_step_at_one_other_is_found_out(
    steps: int, data: st.DataObject, coupling: float
) -> None:
    here = data.draw(st.integers(0, steps - 1), label="the loss that looks elsewhere")
    there = data.draw(st.integers(0, steps - 1).filter(lambda t: t != here), label="at")
    module, x = make("RNN", 1, 2), torch.randn(steps, 1, 1, dtype=torch.float64)

    def head(output: Tensor) -> Tensor:
        other = torch.zeros(steps, 1, dtype=output.dtype)
        other[here] = 1
        return local_head(output) + coupling * other * output[there].sum(-1)

    flow = rg.gradient_flow(module, x, loss=lambda o: head(o[0]), reduce="none")
    assert flow.linearization is not None and flow.linearization.local is None
    output, states = unrolled(module, x)
    close(flow.norms, norms(head(output), states))


def test_a_hook_that_refuses_nan_disturbs_nothing() -> None:
    module, x = make("GRU", 2, 3), torch.randn(4, 2, 2, dtype=torch.float64)

    def refuse(g: Tensor) -> None:
        if g.isnan().any():
            raise ValueError("NaN in the gradient")

    def head(output: Tensor) -> Tensor:
        output.register_hook(refuse)
        return local_head(output)

    flow = rg.gradient_flow(module, x, loss=lambda o: head(o[0]), reduce="none")
    output, states = unrolled(module, x)
    close(flow.norms, norms(local_head(output), states))


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from(LAYERS),
    depth=st.integers(1, 2),
    bidirectional=st.booleans(),
    head=st.sampled_from(sorted(HEADS)),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    seed=st.integers(0, 2**16),
)
def test_packed_sequences_equal_each_sequence_by_itself(
    kind: str, depth: int, bidirectional: bool, head: str, lengths: list[int], seed: int
) -> None:
    torch.manual_seed(seed)
    module = make(kind, 3, 3, num_layers=depth, bidirectional=bidirectional)
    x = torch.randn(max(lengths), len(lengths), 3, dtype=torch.float64)
    live = (torch.arange(max(lengths)).unsqueeze(1) < torch.tensor(lengths)).double()

    def run(x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(module(packed)[0])[0]

    flow = rg.gradient_flow(run, x, loss=lambda o: HEADS[head](o) * live, reduce="none")
    output, states = unrolled(module, x, lengths=lengths)
    expected = norms(HEADS[head](output) * live, states) * live.numpy()
    close(flow.norms, expected)
    assert flow.lengths is not None and flow.lengths.tolist() == lengths


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_one_loss_per_sequence_batch_first(kind: str, bidirectional: bool) -> None:
    module = make(kind, 3, 4, num_layers=2, bidirectional=bidirectional)
    x = torch.randn(5, 3, 3, dtype=torch.float64)
    output, states = unrolled(module, x)
    expected = norms(output[-1].square().sum(-1)[None], states)
    module.batch_first = True
    flow = rg.gradient_flow(module, x.transpose(0, 1), loss=lambda o: o[0][:, -1].square().sum(-1), reduce="none")
    assert flow.final
    close(flow.norms, expected)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_the_cell_state_alone(head: str) -> None:
    module = make("LSTM", 3, 4, num_layers=2)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    flow = rg.gradient_flow(module, x, loss=lambda o: HEADS[head](o[0]), reduce="none", state="c")
    output, states = unrolled(module, x, free_cell=False)
    close(flow.norms, norms(HEADS[head](output), states))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("head", sorted(HEADS))
def test_float32_equals_the_float64_twin(kind: str, head: str) -> None:
    module = make(kind, 5, 16, num_layers=2)
    x = torch.randn(20, 3, 5, dtype=torch.float64)
    output, states = unrolled(module, x)
    expected = norms(HEADS[head](output), states)
    flow = rg.gradient_flow(module.float(), x.float(), loss=lambda o: HEADS[head](o[0]), reduce="none")
    np.testing.assert_allclose(flow.norms, expected, rtol=1e-5, atol=1e-7 * float(expected.max()))


@pytest.mark.parametrize("factor", [1e-3, 30.0])
@pytest.mark.parametrize("depth", [1, 2])
def test_float32_follows_gradients_far_outside_its_range(factor: float, depth: int) -> None:
    """‖∂E_t/∂s_k‖ = factor^(t−k)·‖∂E_t/∂s_t‖ for W_hh = factor·1 at rest: to 1e-90 and to 1e44 over these steps."""
    module = nn.RNN(2, 4, num_layers=depth, bias=False)
    with torch.no_grad():
        for layer in range(depth):
            getattr(module, f"weight_hh_l{layer}").copy_(factor * torch.eye(4))
    x = torch.zeros(31, 2, 2)
    output, states = unrolled(module.double(), x.double())
    expected = norms(local_head(output + 1), states)
    flow = rg.gradient_flow(module.float(), x, loss=lambda o: local_head(o[0] + 1), reduce="none")
    assert not ((expected > 1e-30) & (expected < 1e30)).all()
    np.testing.assert_allclose(flow.norms, expected, rtol=1e-5)


def test_masked_targets_layers_and_reductions() -> None:
    module = make("GRU", 3, 4, num_layers=2, bidirectional=True)
    x, mask = torch.randn(6, 3, 3, dtype=torch.float64), torch.ones(6, 3, dtype=torch.float64)
    mask[2, 1] = mask[4] = 0

    def loss(o: tuple[Tensor, Tensor]) -> Tensor:
        return local_head(o[0]) * mask

    output, states = unrolled(module, x)
    every = norms(local_head(output) * mask, states)
    for head in (loss, lambda o: mixing_head(o[0]) * mask):
        whole = rg.gradient_flow(module, x, loss=head, reduce="none")
        part = rg.gradient_flow(module, x, loss=head, reduce="none", targets=[-1, 1], layers=["l1", "l0_reverse"])
        assert part.targets.tolist() == [1, 5]
        close(part.norms, whole.norms[[whole.layer_index(name) for name in part.layers]][:, [1, 5]])
    close(rg.gradient_flow(module, x, loss=loss, reduce="none").norms, every)
    mean = rg.gradient_flow(module, x, loss=loss).norms
    exists = mask.numpy()[None, :, None] != 0
    close(mean, every.sum(-1) / np.maximum(exists.sum(-1), 1))
    median = rg.gradient_flow(module, x, loss=loss, reduce="median").norms
    close(median[:, 0], np.median(every[:, 0], -1))
    spread = rg.gradient_flow(module, x, loss=loss, reduce=[0.1, 0.9]).norms
    close(spread[:, 0], np.moveaxis(np.quantile(every[:, 0], [0.1, 0.9], axis=-1), 0, -1))


@pytest.mark.parametrize("reduce", ["mean", "none", [0.25, 0.75]])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_by_lag_is_the_mean_along_diagonals(reduce: object, bidirectional: bool) -> None:
    module = make("RNN", 3, 4, bidirectional=bidirectional)
    x = torch.randn(7, 3, 3, dtype=torch.float64)
    flow = rg.gradient_flow(module, x, loss=lambda o: local_head(o[0]), reduce=reduce, targets=[2, 3, 6])
    found = flow.by_lag()
    for i, label in enumerate(flow.layers):
        sign = -1 if label.endswith("reverse") else 1
        for lag in range(found.shape[1]):
            pairs = [(n, t - sign * lag) for n, t in enumerate(flow.targets) if 0 <= t - sign * lag < 7]
            if pairs:
                close(found[i, lag], np.mean([flow.norms[i, n, k] for n, k in pairs], axis=0), 1e-12)
            else:
                assert np.isnan(found[i, lag]).all()


def test_errors_name_what_is_wrong_and_the_mend() -> None:
    x = torch.randn(5, 2, 3)
    rnn = nn.RNN(3, 4)
    with pytest.raises(FlowError, match="ran no recurrent layer"):
        rg.gradient_flow(nn.Linear(3, 4), x, loss=lambda o: o.sum(-1))
    with pytest.raises(FlowError, match="reduction='none'"):
        rg.gradient_flow(rnn, x, loss=lambda o: o[0].sum())
    with pytest.raises(FlowError, match=r"\(5, 2\)"):
        rg.gradient_flow(rnn, x, loss=lambda o: o[0])
    with pytest.raises(FlowError):
        rg.gradient_flow(rnn, x, loss=lambda o: o[0].detach().sum(-1))
    bad = x.clone()
    bad[3, 1] = torch.nan
    with pytest.raises(FlowError, match=r"l0 is not finite from step 3 on \(sequence 1\)"):
        rg.gradient_flow(rnn, bad, loss=lambda o: o[0].sum(-1))
    with pytest.raises(FlowError, match="targets"):
        rg.gradient_flow(rnn, x, loss=lambda o: o[0].sum(-1), targets=[5])
    with pytest.raises(FlowError, match="this model has l0"):
        rg.gradient_flow(rnn, x, loss=lambda o: o[0].sum(-1), layers=["l7"])
    with pytest.raises(OptionError, match="state"):
        rg.gradient_flow(rnn, x, loss=lambda o: o[0].sum(-1), state="x")


def test_dropout_is_off_unless_asked_and_said() -> None:
    rnn, x = nn.RNN(3, 4, num_layers=2, dropout=0.5), torch.randn(5, 2, 3)
    quiet = rg.gradient_flow(rnn, x, loss=lambda o: o[0].sum(-1))
    assert "eval mode" in " ".join(quiet.notes)
    assert rnn.training
    assert "dropout is active" in " ".join(rg.gradient_flow(rnn, x, loss=lambda o: o[0].sum(-1), training=True).notes)


@pytest.mark.parametrize("measure", ["gradient_flow", "sequence_gradients"])
def test_training_true_measures_in_training_mode(measure: str) -> None:
    """``training=True`` puts a model in eval mode into training mode; a model in training mode keeps its eval parts."""
    modes: list[tuple[bool, bool]] = []
    model = nn.Sequential(nn.Dropout(0.5), nn.RNN(3, 4))
    model[1].register_forward_hook(lambda *_: modes.append((model.training, model[0].training)))

    def run() -> list[str]:
        return list(getattr(rg, measure)(model, torch.randn(5, 2, 3), loss=lambda o: o[0].sum(-1), training=True).notes)

    model.eval()
    assert any("dropout is active" in note for note in run())
    assert modes.pop() == (True, True) and not model.training and not model[0].training
    model.train()
    model[0].eval()
    assert not any("dropout" in note for note in run())
    assert modes.pop() == (True, False) and model.training and not model[0].training


def test_a_layer_is_named_by_label_or_index() -> None:
    flow = rg.gradient_flow(nn.RNN(3, 4, num_layers=2), torch.randn(5, 2, 3), loss=lambda o: o[0].sum(-1))
    assert [flow.layer(0), flow.layer(-1), flow.layer("l1")] == ["l0", "l1", "l1"]
    assert [flow.layer_index(name) for name in ("l0", "l1", 1, -2)] == [0, 1, 1, 0]
    for wrong in ("l2", 2, -3):
        with pytest.raises(FlowError, match="There is no layer"):
            flow.layer_index(wrong)


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_lengths_leave_padding_out(kind: str) -> None:
    """A padded sequence gives the same numbers as alone; losses and states beyond its end do not count."""
    lengths, (steps, batch) = [7, 4, 1], (7, 3)
    layer, x = make(kind, 2, 3), torch.randn(steps, batch, 2, dtype=torch.float64)
    flow, mean = (
        rg.gradient_flow(layer, x, loss=lambda o: local_head(o[0]), lengths=lengths, reduce=reduce)  # type: ignore[arg-type]
        for reduce in ("none", "mean")
    )
    for b, n in enumerate(lengths):
        alone = rg.gradient_flow(layer, x[:n, b : b + 1], loss=lambda o: local_head(o[0]))
        close(flow.norms[0, :n, :n, b], alone.norms[0])
        assert not flow.norms[0, n:, :, b].any()
    live = np.arange(steps)[:, None] < np.array(lengths)
    assert flow.sequences.tolist() == mean.sequences.tolist() == live.sum(1).tolist()
    assert flow.lengths is not None and flow.lengths.tolist() == lengths
    for t in range(steps):
        close(mean.norms[0, t], flow.norms[0, t, :, live[t]].mean(0))
    assert (rg.gradient_flow(layer, x, loss=lambda o: local_head(o[0])).sequences == batch).all()
    for wrong in ([7, 4], [8, 4, 1], [7, 0, 1], [7.5, 4, 1]):
        with pytest.raises(FlowError, match=r"expected 3 whole numbers between 1 and 7"):
            rg.gradient_flow(layer, x, loss=lambda o: local_head(o[0]), lengths=wrong)  # type: ignore[arg-type]


def test_lengths_leave_padding_out_of_a_reverse_layer_too() -> None:
    lengths, x = [6, 3, 2], torch.randn(6, 3, 2, dtype=torch.float64)
    layer = make("GRU", 2, 3, bidirectional=True)
    each, mean = (
        rg.gradient_flow(layer, x, loss=lambda o: local_head(o[0]), lengths=lengths, reduce=reduce)  # type: ignore[arg-type]
        for reduce in ("none", "mean")
    )
    live = np.arange(6)[:, None] < np.array(lengths)
    assert not each.norms[:, :, ~live].any() and each.norms[1][0, live].all()
    for k in range(6):
        close(mean.norms[1, 0, k], each.norms[1, 0, k, live[k]].mean())


def test_quantiles_include_the_ends_and_negative_targets_count_from_the_end() -> None:
    layer, x = make("RNN", 2, 3), torch.randn(5, 4, 2, dtype=torch.float64)

    def measure(**options: object) -> np.ndarray:
        return rg.gradient_flow(layer, x, loss=lambda o: local_head(o[0]), **options).norms  # type: ignore[arg-type]

    each, ends = measure(reduce="none"), measure(reduce=[0, 1])
    close(ends, np.stack([each.min(-1), each.max(-1)], -1))
    assert np.array_equal(measure(targets=[-1, -3]), measure(targets=[2, 4]))


def test_sequences_explode_above_ten_times_the_median() -> None:
    norms = np.array([1.0, 1.0, 1.0, 9.9, 10.1, np.nan, 500.0])
    found = rg.flow.SequenceGradients({"w": norms}, norms, list("abcdefg"), [])
    assert np.median(norms[np.isfinite(norms)]) == 5.45
    assert [name for name, _ in found.exploding()] == ["f", "g"]
    assert [name for name, _ in found.exploding(1.0)] == ["f", "g", "e", "d"]
    few = rg.flow.SequenceGradients({"w": norms[[0, 1, 2, 3, 4]]}, norms[:5], list("abcde"), [])
    assert few.exploding() == [("e", 10.1)] and few.exploding(9.0) == [("e", 10.1), ("d", 9.9)]

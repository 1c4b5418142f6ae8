"""One layer called several times: one recurrence where a call continues another, otherwise separate runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from twin import norms, unrolled

import retrograde as rg
from retrograde.errors import FlowError

T, B, H = 6, 3, 4


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def squares(output: Tensor) -> Tensor:
    return (output.square() * torch.linspace(0.5, 2, output.shape[-1], dtype=output.dtype)).sum(-1)


class Siamese(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(2, H, dtype=torch.float64)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return self.rnn(left)[0], self.rnn(right)[0]


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("mixing", [False, True])
def test_the_towers_of_a_siamese_network_are_two_runs(kind: str, mixing: bool) -> None:
    model, left, right = Siamese(kind), randn(T, B, 2), randn(T, B, 2)

    def loss(o: tuple[Tensor, Tensor]) -> Tensor:
        return squares((o[0] - o[1]).cumsum(0) if mixing else o[0] - o[1])

    flow = rg.gradient_flow(model, left, right, loss=loss, reduce="none")
    assert flow.layers == ["l0#1", "l0#2"] and flow.steps == [T, T]
    (a, below), (b, above) = unrolled(model.rnn, left), unrolled(model.rnn, right)
    states = {"1": below["l0"], "2": above["l0"]}
    np.testing.assert_allclose(flow.norms, norms(loss((a, b)), states), rtol=1e-9, atol=1e-300)
    assert (flow.lag("l0#2") == np.arange(T)[:, None] - np.arange(T)).all()
    alone = rg.gradient_flow(model, left, right, loss=loss, layers=["l0#2"], reduce="none")
    np.testing.assert_array_equal(alone.norms[0], flow.norms[1])
    assert rg.gradient_flow(model, left, right, loss=loss, layers=["l0"]).layers == flow.layers
    # One parameter, used by both: the parts of both runs together are the whole gradient.
    loss(model(left, right)).sum().backward()
    whole = float(model.rnn.weight_hh_l0.grad.norm())
    found = flow.contributions("weight_hh_l0")
    assert found.share.sum() == pytest.approx(1)
    assert np.nansum(found.norm * found.cosine) == pytest.approx(whole, rel=1e-9)
    pairs = [flow.pair_contributions(f"weight_hh_l0#{run}") for run in (1, 2)]
    assert sum(own.share.sum() for own in pairs) == pytest.approx(1)
    with pytest.raises(FlowError, match=r"used by 2 runs .* weight_hh_l0#1, weight_hh_l0#2"):
        flow.pair_contributions("weight_hh_l0")


def test_runs_may_have_other_batches_and_lengths() -> None:
    model, left, right = Siamese("GRU"), randn(T, B, 2), randn(T - 2, 4 * B, 2)

    def loss(o: tuple[Tensor, Tensor]) -> Tensor:
        negatives = o[1][-1].view(4, B, H).sum(0)
        return squares(o[0] * negatives)

    flow = rg.gradient_flow(model, left, right, loss=loss)
    assert flow.layers == ["l0#1", "l0#2"] and flow.steps == [T, T - 2]
    assert any("l0#2 ran over 12 sequences" in note for note in flow.notes)
    assert flow.alignments[1].at.tolist() == [[T - 3] * 12] * T or (flow.alignments[1].at == T - 3).all()


def test_a_layer_over_its_own_output_is_two_runs() -> None:
    rnn, x = nn.GRU(H, H, dtype=torch.float64), randn(T, B, H)
    flow = rg.gradient_flow(lambda x: rnn(rnn(x)[0])[0], x, loss=squares, reduce="none")
    low, below = unrolled(rnn, x)
    high, above = unrolled(rnn, low)
    states = {"1": below["l0"], "2": above["l0"]}
    assert flow.layers == ["l0#1", "l0#2"]
    np.testing.assert_allclose(flow.norms, norms(squares(high), states), rtol=1e-9, atol=1e-300)


Stepping = Callable[[nn.RNNBase, Tensor], Tensor]


def _in_chunks(rnn: nn.RNNBase, x: Tensor) -> Tensor:
    state, outputs = None, []
    for part in (x[:2], x[2:5], x[5:]):
        output, state = rnn(part, state)
        outputs.append(output)
    return torch.cat(outputs)


def _by_step(rnn: nn.RNNBase, x: Tensor) -> Tensor:
    state, outputs = None, []
    for k in range(len(x)):
        output, state = rnn(x[k : k + 1], state)
        outputs.append(output)
    return torch.cat(outputs)


def _by_step_cloned(rnn: nn.RNNBase, x: Tensor) -> Tensor:
    state, outputs = None, []
    for k in range(len(x)):
        output, state = rnn(x[k : k + 1], state)
        state = tuple(s.clone() for s in state) if isinstance(state, tuple) else state.clone()
        outputs.append(output[0])
    return torch.stack(outputs)


def _from_states(rnn: nn.RNNBase, x: Tensor) -> Tensor:
    state, outputs = None, []
    for k in range(len(x)):
        _, state = rnn(x[k : k + 1], state)
        outputs.append((state[0] if isinstance(state, tuple) else state)[-1])
    return torch.stack(outputs)


@pytest.mark.parametrize("stepping", [_in_chunks, _by_step, _by_step_cloned, _from_states])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("layers", [1, 2])
def test_calls_that_go_on_from_one_another_are_one_recurrence(stepping: Stepping, kind: str, layers: int) -> None:
    rnn, x = getattr(nn, kind)(2, H, layers, dtype=torch.float64), randn(T, B, 2)
    flow = rg.gradient_flow(lambda x: stepping(rnn, x), x, loss=squares, reduce="none")
    whole = rg.gradient_flow(rnn, x, loss=lambda o: squares(o[0]), reduce="none")
    assert flow.layers == whole.layers and not flow.notes
    np.testing.assert_allclose(flow.norms, whole.norms, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(flow.jacobian_norms(), whole.jacobian_norms(), rtol=1e-9)
    name = f"weight_hh_l{layers - 1}"
    np.testing.assert_allclose(flow.share_by_lag(name), whole.share_by_lag(name), rtol=1e-7, atol=1e-12)
    # Step by step is measured as the whole is, without a walk through the user's graph for every target.
    assert flow.linearization is not None and flow.linearization.local is not None


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_state_that_was_detached_goes_on_by_its_values(kind: str) -> None:
    rnn, x = getattr(nn, kind)(2, H, dtype=torch.float64), randn(T, B, 2)

    def model(x: Tensor) -> Tensor:
        first, state = rnn(x[:3])
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        return torch.cat([first, rnn(x[3:], state)[0]])

    flow = rg.gradient_flow(model, x, loss=squares)
    whole = rg.gradient_flow(rnn, x, loss=lambda o: squares(o[0])).norms[0]
    assert flow.layers == ["l0"] and flow.steps == [T]
    assert (flow.norms[0, 3:, :3] == 0).all()
    np.testing.assert_allclose(flow.norms[0, 3:, 3:], whole[3:, 3:], rtol=1e-9)
    np.testing.assert_allclose(flow.norms[0, :3, :3], whole[:3, :3], rtol=1e-9)


def test_two_states_of_zeros_are_not_the_same_state() -> None:
    rnn = nn.RNN(2, H, nonlinearity="relu", bias=False, dtype=torch.float64)
    with torch.no_grad():
        rnn.weight_ih_l0.abs_()
    dead, alive = -randn(T, B, 2).abs(), randn(T, B, 2)  # the first sequence ends in zeros
    flow = rg.gradient_flow(
        lambda a, b: (rnn(a)[0], rnn(b, torch.zeros(1, B, H, dtype=torch.float64))[0]),
        dead,
        alive,
        loss=lambda o: (o[0] + o[1]).sum(-1),
    )
    assert flow.layers == ["l0#1", "l0#2"]


def test_packed_sequences_go_on_in_the_users_order() -> None:
    rnn, x = nn.LSTM(2, H, dtype=torch.float64), randn(T, B, 2)

    def model(x: Tensor) -> Tensor:
        _, state = rnn(pack_padded_sequence(x, [3, 6, 4], enforce_sorted=False))
        return rnn(x, state)[0]

    flow = rg.gradient_flow(model, x, loss=squares)
    assert flow.layers == ["l0"] and flow.steps == [2 * T]


def test_a_batch_that_shrinks_as_sequences_end_is_refused_by_name() -> None:
    cell, x, lengths = nn.LSTMCell(2, H).double(), randn(T, B, 2), [6, 4, 3]

    def model(x: Tensor) -> Tensor:
        state = (x.new_zeros(B, H), x.new_zeros(B, H))
        total = x.new_zeros(B)
        for k in range(T):
            n = sum(length > k for length in lengths)
            state = cell(x[k, :n], (state[0][:n], state[1][:n]))
            total = total + nn.functional.pad(squares(state[0]), (0, B - n))
        return total

    with pytest.raises(FlowError, match=r"continues from 3 sequences with 2.*Keep the finished sequences"):
        rg.gradient_flow(model, x, loss=lambda o: o)


class Zoneout(nn.Module):
    """The state is mixed with the previous one at a fixed rate, as zoneout does in evaluation (Krueger et al. 2017)."""

    def __init__(self, kind: str = "RNN", rate: float = 0.3) -> None:
        super().__init__()
        self.cell, self.rate, self.kind = getattr(nn, f"{kind}Cell")(2, H).double(), rate, kind

    def forward(self, x: Tensor) -> Tensor:
        zero = x.new_zeros(x.shape[1], H)
        state: tuple[Tensor, ...] = (zero, zero) if self.kind == "LSTM" else (zero,)
        outputs = []
        for a in x:
            new = self.cell(a, state if self.kind == "LSTM" else state[0])
            new = new if self.kind == "LSTM" else (new,)
            state = tuple(self.rate * old + (1 - self.rate) * n for old, n in zip(state, new, strict=True))
            outputs.append(state[0])
        return torch.stack(outputs)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_jacobians_of_zoneout_are_those_of_the_state_that_is_handed_on(kind: str) -> None:
    model, x = Zoneout(kind), randn(T, B, 2)
    flow = rg.gradient_flow(model, x, loss=squares)
    assert flow.steps == [T] and any("changed between its steps" in note for note in flow.notes)
    assert not any("loop over steps" in note for note in flow.notes)
    size = H * (1 + (kind == "LSTM"))
    found, exponents = flow.jacobian_norms(), flow.lyapunov_exponents(n=1)

    def step(state: Tensor, a: Tensor) -> Tensor:
        old = state.split(H)
        new = model.cell(a[None], tuple(s[None] for s in old) if kind == "LSTM" else old[0][None])
        new = [n[0] for n in new] if kind == "LSTM" else [new[0]]
        return torch.cat([0.3 * o + 0.7 * n for o, n in zip(old, new, strict=True)])

    for b in range(B):
        state = torch.zeros(size, dtype=torch.float64)
        for k in range(T):
            jacobian = torch.autograd.functional.jacobian(lambda s, k=k, b=b: step(s, x[k, b]), state)
            if 0 < k < T - 1:
                assert found[k, b] == pytest.approx(float(torch.linalg.matrix_norm(jacobian, 2)), rel=1e-9)
            state = step(state, x[k, b]).detach()
    assert np.isnan(found[[0, -1]]).all() and np.isfinite(exponents).all()
    assert flow.singular_values(log=True).shape == (B, size)
    assert flow.saturation().derivative > 0


def test_weights_that_change_from_step_to_step_are_followed_as_they_are() -> None:
    rnn, x = nn.RNN(2, H).double(), randn(T, B, 2)
    masks = torch.rand(T, H, H, dtype=torch.float64) > 0.5

    def model(x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(1, B, H), []
        for k in range(T):
            own = dict(rnn.named_parameters()) | {"weight_hh_l0": rnn.weight_hh_l0 * masks[k]}
            output, h = torch.func.functional_call(rnn, own, (x[k : k + 1], h))
            outputs.append(output)
        return torch.cat(outputs)

    flow = rg.gradient_flow(model, x, loss=squares)
    assert flow.layers == ["l0"] and flow.steps == [T]
    found = flow.jacobian_norms()
    for k in range(1, T - 1):
        w = rnn.weight_hh_l0 * masks[k]
        h = flow.linearization.runs["l0"].h[k]
        for b in range(B):
            expected = torch.linalg.matrix_norm(torch.diag(1 - h[b] ** 2) @ w.detach(), 2)
            assert found[k, b] == pytest.approx(float(expected), rel=1e-9)


def test_a_layer_of_the_same_numbers_made_afresh_is_one_layer() -> None:
    """One step at a time, with a weight that belongs to no module and is a new tensor at every step."""
    w = [nn.Parameter(p) for p in (randn(H, 2), randn(H, H) / 3, randn(H), randn(H))]

    def model(x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(1, B, H), []
        for k in range(T):
            own = [p * 1.0 for p in w]
            output, h = torch.rnn_tanh(x[k : k + 1], h, own, True, 1, 0.0, False, False, False)
            outputs.append(output)
        return torch.cat(outputs)

    flow = rg.gradient_flow(model, randn(T, B, 2), loss=squares)
    assert flow.layers == ["l0"] and flow.steps == [T]


# --- Marked states ------------------------------------------------------------------------------------------------


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.back = nn.Linear(2, H).double(), nn.Linear(H, H).double()

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.into(x) + self.back(h))


class TwoMarks(nn.Module):
    """Two recurrences in one module, both marked without a label: in parallel, or one above the other."""

    def __init__(self, stacked: bool, one_line: bool) -> None:
        super().__init__()
        self.first, self.second = Cell(), Cell()
        self.down = nn.Linear(H, 2).double()
        self.stacked, self.one_line = stacked, one_line

    def forward(self, x: Tensor) -> Tensor:
        a = b = x.new_zeros(x.shape[1], H)
        outputs = []
        for x_t in x:
            if self.one_line:
                states = [a, b]
                for i, cell in enumerate((self.first, self.second)):
                    given = self.down(states[0]) if self.stacked and i else x_t
                    states[i] = rg.mark_state(cell(given, states[i]))
                a, b = states
            else:
                a = rg.mark_state(self.first(x_t, a))
                b = rg.mark_state(self.second(self.down(a) if self.stacked else x_t, b))
            outputs.append(a * b)
        return torch.stack(outputs)


class Labeled(TwoMarks):
    def forward(self, x: Tensor) -> Tensor:
        a = b = x.new_zeros(x.shape[1], H)
        outputs = []
        for x_t in x:
            a = rg.mark_state(self.first(x_t, a), layer="l0")
            b = rg.mark_state(self.second(self.down(a) if self.stacked else x_t, b), layer="l1")
            outputs.append(a * b)
        return torch.stack(outputs)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("one_line", [False, True])
def test_marks_of_two_recurrences_with_one_label_are_told_apart(stacked: bool, one_line: bool) -> None:
    model, x = TwoMarks(stacked, one_line), randn(T, B, 2)
    labeled = Labeled(stacked, one_line)
    labeled.load_state_dict(model.state_dict())
    flow, expected = (rg.gradient_flow(m, x, loss=squares, reduce="none") for m in (model, labeled))
    assert flow.layers == ["l0#1", "l0#2"] and expected.layers == ["l0", "l1"]
    np.testing.assert_allclose(flow.norms, expected.norms, rtol=1e-12)


def test_marks_set_in_hooks_belong_to_the_module_of_the_hook() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.ModuleList([Cell(), Cell()])

        def forward(self, x: Tensor) -> Tensor:
            states = [x.new_zeros(x.shape[1], H)] * 2
            outputs = []
            for x_t in x:
                states = [cell(x_t, h) for cell, h in zip(self.cells, states, strict=True)]
                outputs.append(states[0] + states[1])
            return torch.stack(outputs)

    model = Model()
    for cell in model.cells:
        cell.register_forward_hook(lambda module, args, output: rg.mark_state(output))
    flow = rg.gradient_flow(model, randn(T, B, 2), loss=squares)
    assert flow.layers == ["cells.0.l0", "cells.1.l0"] and flow.steps == [T, T]


def test_a_recurrence_marked_before_and_in_its_loop_is_one() -> None:
    cell = Cell()

    def model(x: Tensor) -> Tensor:
        h = rg.mark_state(cell(x[0], x.new_zeros(B, H)))
        outputs = [h]
        for x_t in x[1:]:
            h = rg.mark_state(cell(x_t, h))
            outputs.append(h)
        return torch.stack(outputs)

    flow = rg.gradient_flow(model, randn(T, B, 2), loss=squares)
    assert flow.layers == ["l0"] and flow.steps == [T]


def test_one_marked_recurrence_over_its_own_outputs_is_two_runs() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = Cell()

        def forward(self, x: Tensor) -> Tensor:
            h, outputs = x.new_zeros(x.shape[1], H), []
            for x_t in x:
                h = rg.mark_state(self.cell(x_t, h))
                outputs.append(h)
            return torch.stack(outputs)

    model = Model()
    flow = rg.gradient_flow(lambda x: model(model(x)[..., :2]), randn(T, B, 2), loss=squares)
    assert [label.rpartition("l0")[2] for label in flow.layers] == ["#1", "#2"] and flow.steps == [T, T]


def test_marks_that_cannot_be_told_apart_are_refused() -> None:
    cell = Cell()

    def model(x: Tensor, label: str) -> Tensor:
        h = [x.new_zeros(B, H), x.new_zeros(B, H)]
        outputs = []
        for x_t in x:  # a recurrence that looks two steps back, or two that feed each other?
            h = [h[1], rg.mark_state(cell(x_t, h[0] + h[1]), layer=label)]
            outputs.append(h[1])
        return torch.stack(outputs)

    with pytest.raises(FlowError, match="several recurrences: give each a label of its own"):
        rg.gradient_flow(model, randn(T, B, 2), "l0", loss=squares)
    assert rg.gradient_flow(model, randn(T, B, 2), "own", loss=squares).steps == [T]


# --- What is not seen, and what mixes ---------------------------------------------------------------------------------


class Unmarked(nn.Module):
    """An encoder of torch and a decoder written by hand, marked or not."""

    def __init__(self, marked: bool, final: bool = False) -> None:
        super().__init__()
        self.encoder, self.cell = nn.GRU(2, H).double(), Cell()
        self.marked, self.final = marked, final

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)[1][0]
        outputs = []
        for _ in range(T):
            h = self.cell(x.new_zeros(x.shape[1], 2), h)
            h = rg.mark_state(h) if self.marked else h
            outputs.append(h)
        return h if self.final else torch.stack(outputs)


@pytest.mark.parametrize("final", [False, True])
def test_a_loop_that_is_not_marked_is_said(final: bool) -> None:
    x = randn(T, B, 2)
    flow = rg.gradient_flow(Unmarked(False, final), x, loss=squares)
    assert any("loop over steps" in note and "mark_state" in note for note in flow.notes)
    flow = rg.gradient_flow(Unmarked(True, final), x, loss=squares)
    assert not any("loop over steps" in note for note in flow.notes)


def test_heads_without_a_recurrence_are_not_taken_for_one() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(2, H, dtype=torch.float64)
            self.attention = nn.MultiheadAttention(H, 2, dtype=torch.float64)
            self.layers = nn.ModuleList([nn.Linear(H, H).double() for _ in range(12)])

        def forward(self, x: Tensor) -> Tensor:
            h, _ = self.rnn(x)
            h = self.attention(h, h, h)[0]
            rows = []
            for row in h:  # one step at a time, by the same layers
                for layer in self.layers:
                    row = layer(row).tanh()
                rows.append(row)
            return torch.stack(rows)

    assert not any("loop" in note for note in rg.gradient_flow(Deep(), randn(T, B, 2), loss=squares).notes)


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_losses_added_up_step_by_step_are_no_recurrence(decay: float) -> None:
    def loss(output: tuple[Tensor, Tensor]) -> Tensor:
        rows, total = [], torch.zeros(B, dtype=torch.float64)
        for row in squares(output[0]):
            total = decay * total + row
            rows.append(total)
        return torch.stack(rows)

    assert not rg.gradient_flow(nn.GRU(2, H).double(), randn(T, B, 2), loss=loss).notes


@pytest.mark.parametrize("where", ["before", "after", "mixing head"])
def test_batch_normalization_in_training_is_said_to_mix_sequences(where: str) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.rnn = nn.GRU(2, H).double(), nn.GRU(H, H).double()
            self.norm = nn.BatchNorm1d(H).double()

        def forward(self, x: Tensor) -> Tensor:
            h = self.low(x)[0]
            if where == "before":
                return self.rnn(self.norm(h.transpose(1, 2)).transpose(1, 2))[0]
            h = self.norm(self.rnn(h)[0].transpose(1, 2)).transpose(1, 2)
            return h.cumsum(0) if where == "mixing head" else h

    model, x = Normed(), randn(T, B, 2)
    mixed = [
        any("sequences are mixed" in note for note in rg.gradient_flow(model, x, loss=squares, training=training).notes)
        for training in (True, False)
    ]
    assert mixed == [True, False]
    found = rg.flow.sequence_gradients(model, x, loss=squares, training=True)
    assert any("sequences are mixed" in note for note in found.notes)


@pytest.mark.parametrize(("of", "on"), [(0, 1), (1, 0), (2, 0), (0, 3)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_sequences_that_are_mixed_in_one_direction_are_noted(of: int, on: int, bidirectional: bool) -> None:
    """The loss of one sequence also depends on the states of another one."""
    mixing = torch.eye(4).index_put((torch.tensor([of]), torch.tensor([on])), torch.tensor(0.5))
    layer, x = nn.GRU(2, 3, bidirectional=bidirectional), torch.randn(5, 4, 2)

    def loss(output: tuple[Tensor, Tensor]) -> Tensor:
        return torch.einsum("bc,tch->tbh", mixing, output[0]).square().sum(-1)

    assert any("sequences are mixed" in note for note in rg.gradient_flow(layer, x, loss=loss).notes)

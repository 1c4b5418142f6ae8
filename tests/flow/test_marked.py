"""Recurrences written by hand: marked states give the same numbers as a layer with the same equations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import retrograde as rg
from retrograde.errors import FlowError, OptionError

T, B = 6, 3


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def losses(output: Tensor) -> Tensor:
    return (output.square() * torch.linspace(0.5, 2, output.shape[-1], dtype=output.dtype)).sum(-1)


class ByHand(nn.Module):
    """A stack of LSTMs in plain operators with the parameters of a layer; optionally the last layer runs backwards."""

    def __init__(self, layer: nn.LSTM) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        layer = self.layer
        for i in range(layer.num_layers):
            outputs = []
            for suffix in ("", "_reverse") if layer.bidirectional else ("",):
                w = [
                    getattr(layer, f"{name}_l{i}{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                ]
                h = c = x.new_zeros(x.shape[1], layer.hidden_size)
                row: list[Tensor] = [h] * len(x)
                for k in reversed(range(len(x))) if suffix else range(len(x)):
                    gates = nn.functional.linear(x[k], w[0], w[2]) + nn.functional.linear(h, w[1], w[3])
                    a, f, g, o = gates.chunk(4, -1)
                    new_c = f.sigmoid() * c + a.sigmoid() * g.tanh()
                    new = o.sigmoid() * new_c.tanh()
                    live = None if lengths is None else k < lengths
                    if live is not None:
                        new, new_c = (torch.where(live[:, None], n, old) for n, old in ((new, h), (new_c, c)))
                    h, c = rg.mark_state(new, new_c, layer=f"l{i}{suffix}", live=live)
                    row[k] = h if live is None else h * live[:, None]
                outputs.append(torch.stack(row))
            x = torch.cat(outputs, -1)
        return x


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("state", ["hc", "h"])
def test_marked_states_are_measured_as_the_layers_are(bidirectional: bool, state: str, tmp_path: Path) -> None:
    layer = nn.LSTM(2, 3, 2, bidirectional=bidirectional, dtype=torch.float64)
    model, x = ByHand(layer), torch.randn(T, B, 2, dtype=torch.float64)
    whole = rg.gradient_flow(layer, x, loss=lambda o: losses(o[0]), state=state, reduce="none")
    flow = rg.gradient_flow(model, x, loss=losses, state=state, reduce="none")
    assert flow.layers == whole.layers and flow.reverse == whole.reverse and set(flow.cells) == {"custom"}
    np.testing.assert_allclose(flow.norms, whole.norms, rtol=1e-9, atol=1e-300)
    for label in flow.layers:
        first = slice(0, -1) if label.endswith("_reverse") else slice(1, None)  # the first step has none before it
        found, expected = flow.jacobian_norms(label), whole.jacobian_norms(label)
        assert np.isnan(found).any(1).sum() == 1
        np.testing.assert_allclose(found[first], expected[first], rtol=1e-9)
        np.testing.assert_allclose(flow.spectral_radii(label)[first], whole.spectral_radii(label)[first], rtol=1e-7)
        np.testing.assert_allclose(
            flow.singular_values(layer=label, log=True), whole.singular_values(layer=label, log=True), rtol=1e-7
        )
        assert flow.lyapunov_exponents(label, 2).shape == (2,)
    flow.save(tmp_path / "flow")
    again = rg.GradientFlow.load(tmp_path / "flow")
    np.testing.assert_array_equal(again.norms, flow.norms)
    with pytest.raises(FlowError, match="need the model's graph"):
        again.jacobian_norms()


@pytest.mark.parametrize("state", ["hc", "h"])
def test_marked_steps_that_no_loss_reads_have_no_gradient(state: str) -> None:
    weight, x = torch.randn(2, 2, dtype=torch.float64), torch.randn(T, B, 2, dtype=torch.float64)

    def read(x: Tensor, step: int) -> Tensor:
        h = c = x.new_zeros(B, 2)
        outputs = []
        for x_t in x:
            c = 0.5 * c + (x_t + h @ weight).tanh()
            h, c = rg.mark_state(c.sin(), c)
            outputs.append(h)
        return outputs[step]

    flow, short = (rg.gradient_flow(read, x[:n], 3, loss=losses, state=state) for n in (T, 4))
    np.testing.assert_allclose(flow.norms[..., :4], short.norms, rtol=1e-9)
    assert (flow.norms[..., 4:] == 0).all() and (flow.norms[..., :4] > 0).all()


def test_sequences_that_end_early_and_unmarked_runs() -> None:
    layer, lengths = nn.LSTM(2, 3, bidirectional=True, dtype=torch.float64), torch.tensor([3, 6, 4])
    model, x = ByHand(layer), torch.randn(T, B, 2, dtype=torch.float64)

    def packed(x: Tensor) -> Tensor:
        return pad_packed_sequence(layer(pack_padded_sequence(x, lengths, enforce_sorted=False))[0])[0]

    whole = rg.gradient_flow(packed, x, loss=losses)
    flow = rg.gradient_flow(model, x, lengths, loss=losses)
    assert flow.lengths is not None and flow.lengths.tolist() == [3, 6, 4]
    np.testing.assert_allclose(flow.norms, whole.norms, rtol=1e-9, atol=1e-300)
    torch.testing.assert_close(model(x, lengths), packed(x))  # outside a measurement marks change nothing
    h = torch.ones(2, 3)
    assert rg.mark_state(h) is h and rg.mark_state(h, h) == (h, h)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")  # of torch.jit
def test_what_a_mark_cannot_tell_is_said() -> None:
    model, x = ByHand(nn.LSTM(2, 3)), torch.randn(T, B, 2)
    flow = rg.gradient_flow(model, x, loss=losses)
    for ask in (flow.truncation, flow.share_by_lag, flow.keep_sums):
        with pytest.raises(FlowError, match="No parameters of l0 are known: the states were marked"):
            ask()
    for ask in (flow.gates, flow.saturation, flow.bounds, flow.plot_gates, flow.plot_activation, flow.plot_shares):
        with pytest.raises(FlowError, match="states of l0 were marked by hand"):
            ask()
    with pytest.raises(OptionError, match=r"mark_state was given torch\.int64"):
        rg.mark_state(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(OptionError, match="not one batch"):
        rg.mark_state(torch.ones(2, 3), torch.ones(3, 3))
    with pytest.raises(FlowError, match=r"mark the state at every step: h = retrograde\.mark_state\(h\)"):
        rg.gradient_flow(nn.Linear(2, 2), x, loss=losses)
    x[4, 1] = torch.nan
    with pytest.raises(FlowError, match=r"state of layer l0 is not finite from step 4 on \(sequence 1\)"):
        rg.gradient_flow(model, x, loss=losses)
    with pytest.raises(FlowError, match=r"is scripted \(torch\.jit\), so measure the model it was made from"):
        rg.gradient_flow(torch.jit.trace(nn.LSTM(2, 3), x), x, loss=lambda o: losses(o[0]))


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_stepwise_layers(kind: str) -> None:
    """Without normalization they are measured as torch's layers, gates included; with it, as marked states."""
    step = getattr(rg.nn, f"Stepwise{kind}")(2, 3, 2, bidirectional=True, recurrent_dropout=0.5).double()
    plain = getattr(nn, kind)(2, 3, 2, bidirectional=True).double()
    plain.load_state_dict(step.state_dict())
    x = torch.randn(T, B, 2, dtype=torch.float64)

    def measure(layer: nn.Module) -> rg.GradientFlow:
        return rg.gradient_flow(layer, x, loss=lambda o: losses(o[0]))

    flow, whole = measure(step), measure(plain)
    np.testing.assert_array_equal(flow.norms, whole.norms)
    np.testing.assert_allclose(flow.share_by_lag("weight_hh_l1"), whole.share_by_lag("weight_hh_l1"))
    normed = getattr(rg.nn, f"Stepwise{kind}")(2, 3, layer_norm=True).double()
    output, _ = normed(x)
    flow = measure(normed)
    # ∂E_t/∂h_t of the last step, by hand: h_T looks at E_T alone.
    g = torch.autograd.grad(losses(output)[-1].sum(), output)[0][-1]
    assert flow.norms[0, -1, -1] == pytest.approx(float(g.norm(dim=-1).mean()), rel=1e-9)
    assert flow.layers == ["l0"] and (np.diagonal(flow.norms[0], -1) > 0).all()


def test_several_coupled_recurrences_marked_in_turn_at_one_line_are_separated() -> None:
    weights = torch.randn(3, 4, 4, dtype=torch.float64) / 2

    def model(x: Tensor) -> Tensor:
        states, outputs = [torch.zeros(2, 4, dtype=x.dtype)] * 3, []
        for x_t in x:
            coupled = 0.1 * sum(states)
            states = [rg.mark_state(torch.tanh(x_t + h @ w + coupled)) for h, w in zip(states, weights, strict=True)]
            outputs.append(sum(states))
        return torch.stack(outputs)

    x = torch.randn(6, 2, 4, dtype=torch.float64)
    flow = rg.gradient_flow(model, x, loss=lambda o: o.square().sum(-1))
    assert flow.layers == ["l0#1", "l0#2", "l0#3"] and flow.steps == [6, 6, 6]


def test_a_marked_state_has_the_name_of_the_module_that_marks_it() -> None:
    class Elman(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inputs, self.states = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            h, row = x.new_zeros(x.shape[1], 2), []
            for one in x:
                h = rg.mark_state(torch.tanh(self.inputs(one) + self.states(h)))
                row.append(h)
            return torch.stack(row)

    model = nn.Sequential(Elman(), Elman())
    assert rg.gradient_flow(model, torch.randn(T, B, 2), loss=losses).layers == ["0.l0", "1.l0"]

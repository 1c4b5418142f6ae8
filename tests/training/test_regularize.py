"""Ω and ∂⁺Ω/∂W against the paper's formula, over a network unrolled step by step with autograd."""

import itertools

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import retrograde as rg
from retrograde.errors import OptionError
from retrograde.training.regularize import VanishingGradientRegularizer


def by_hand(layer, sequences, loss, h_0=None):
    """Ω by its definition, and its derivative with all but the W in the formula held constant.

    ``loss(outputs, last)`` takes per sequence the top outputs (T, D·H) and the final states (layers·D, H).
    """
    f = torch.tanh if layer.nonlinearity == "tanh" else torch.relu
    directions = ["", "_reverse"] if layer.bidirectional else [""]
    states, tops, lasts = [], [], []  # states: (suffix, [(s_k, a_k), …]) as the network reads
    for b, x in enumerate(sequences):
        finals = []
        for depth in range(layer.num_layers):
            outputs = []
            for side, name in enumerate(directions):
                suffix = f"_l{depth}{name}"
                U, W = getattr(layer, "weight_ih" + suffix), getattr(layer, "weight_hh" + suffix)
                bias = getattr(layer, "bias_ih" + suffix) + getattr(layer, "bias_hh" + suffix)
                h = x.new_zeros(layer.hidden_size) if h_0 is None else h_0[depth * len(directions) + side, b]
                row = []
                for x_t in x.flip(0) if name else x:
                    a = U @ x_t + W @ h + bias
                    h = f(a)
                    h.retain_grad()
                    row.append((h, a))
                states.append((suffix, row))
                hs = torch.stack([h for h, _ in row])
                outputs.append(hs.flip(0) if name else hs)
                finals.append(h)
            x = torch.cat(outputs, -1)
        tops.append(x)
        lasts.append(torch.stack(finals))
    layer.zero_grad()
    loss(tops, lasts).backward()
    plain = {name: p.grad.clone() for name, p in layer.named_parameters()}
    total, gradients = 0.0, {}
    for suffix, row in states:
        W = getattr(layer, "weight_hh" + suffix).detach().requires_grad_()
        omega = W.new_zeros(())
        for h, a in row:
            if h.grad.square().sum() > 1e-20:
                slope = (1 - h**2 if layer.nonlinearity == "tanh" else (a > 0).to(h)).detach()
                jacobian = torch.diag(slope) @ W  # ∂s_{k+1}/∂s_k
                omega = omega + ((h.grad @ jacobian).norm() / h.grad.norm() - 1) ** 2 / len(sequences)
        total += float(omega.detach())
        (gradient,) = torch.autograd.grad(omega, W, allow_unused=True)
        gradients[suffix] = gradients.get(suffix, 0) + gradient
    return total, {n: g + gradients.get(n.removeprefix("weight_hh"), 0) for n, g in plain.items()}


def sequences(lengths, size=3):
    return [torch.randn(n, size, dtype=torch.float64) for n in lengths]


@pytest.mark.parametrize(
    ("kind", "nonlinearity", "layers", "both"),
    [*itertools.product([torch.nn.RNN], ["tanh", "relu"], [1, 2], [False, True]), (rg.nn.RNN, "tanh", 2, True)],
)
@pytest.mark.parametrize("form", ["plain", "batch_first", "packed", "state"])
def test_omega_and_its_gradient(kind, nonlinearity, layers, both, form):
    torch.manual_seed(0)
    layer = kind(3, 4, layers, nonlinearity, batch_first=form == "batch_first", bidirectional=both, dtype=torch.float64)
    xs = sequences([2, 6, 4] if form == "packed" else [5, 5, 5])
    h_0 = torch.randn(layers * (2 if both else 1), 3, 4, dtype=torch.float64) if form == "state" else None
    weight = torch.randn(4 * (2 if both else 1), dtype=torch.float64)

    # The last output, two steps on the way, and h_n have a part in the loss.
    def of_lists(tops, lasts):
        return sum(
            (x[-1] @ weight).tanh() + x[:2].sin().sum() + 0.3 * s.cos().sum() for x, s in zip(tops, lasts, strict=True)
        )

    want_omega, want = by_hand(layer, xs, of_lists, h_0)

    layer.zero_grad()
    regularizer = VanishingGradientRegularizer(layer, alpha=1.0)
    if form == "packed":
        output, h_n = layer(pack_sequence(xs, enforce_sorted=False))
        output, lengths = pad_packed_sequence(output)
        tops = [output[:n, b] for b, n in enumerate(lengths)]
    else:
        stacked = torch.stack(xs, 0 if form == "batch_first" else 1)
        output, h_n = layer(stacked, h_0) if form == "state" else layer(stacked)
        tops = list(output.unbind(0 if form == "batch_first" else 1))
    of_lists(tops, list(h_n.unbind(1))).backward()
    got_omega = regularizer.add_gradients()
    assert got_omega == pytest.approx(want_omega, rel=1e-9)
    for name, p in layer.named_parameters():
        torch.testing.assert_close(p.grad, want[name], rtol=1e-8, atol=1e-10)


def test_only_h_n_in_the_loss():
    torch.manual_seed(0)
    layer = torch.nn.RNN(3, 4, dtype=torch.float64)
    xs = sequences([7])
    want, _ = by_hand(layer, xs, lambda tops, lasts: lasts[0].sum())
    layer.zero_grad()
    regularizer = VanishingGradientRegularizer(layer)
    layer(xs[0])[1].sum().backward()  # without a batch
    assert regularizer.add_gradients() == pytest.approx(want, rel=1e-9)


def test_descent_on_omega_brings_the_gradient_back():
    """With α > 0, the norm ratio of a vanishing network rises towards 1."""
    torch.manual_seed(0)
    layer = torch.nn.RNN(3, 16)
    torch.nn.init.normal_(layer.weight_hh_l0, std=0.05)
    x = torch.randn(20, 8, 3)
    regularizer = VanishingGradientRegularizer(layer, alpha=1.0)
    omegas = []
    for _ in range(60):
        layer.zero_grad()
        (layer(x)[0][-1].sum() * 1e-3).backward()
        omegas.append(regularizer.add_gradients())
        with torch.no_grad():
            layer.weight_hh_l0 -= 0.02 * layer.weight_hh_l0.grad
    assert omegas[-1] < 0.2 * omegas[0]


def test_alpha_zero_measures_only():
    torch.manual_seed(0)
    layer = torch.nn.RNN(3, 4)
    regularizer = VanishingGradientRegularizer(layer, alpha=0.0)
    x = torch.randn(5, 2, 3)
    layer(x)[0].sum().backward()
    before = layer.weight_hh_l0.grad.clone()
    assert regularizer.add_gradients() > 0
    assert torch.equal(layer.weight_hh_l0.grad, before)


def test_what_no_backward_reached_is_left_out():
    layer = torch.nn.RNN(3, 4)
    regularizer = VanishingGradientRegularizer(layer)
    layer(torch.randn(5, 2, 3))
    assert regularizer.add_gradients() == 0
    layer.eval()
    layer(torch.randn(5, 2, 3))[0].sum().backward()
    assert regularizer.add_gradients() == 0
    regularizer.remove()
    layer.train()
    layer(torch.randn(5, 2, 3))[0].sum().backward()
    assert regularizer.add_gradients() == 0


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (torch.nn.LSTM(2, 3), "not for LSTM"),
        (torch.nn.GRU(2, 3), "not for GRU"),
        (torch.nn.Linear(2, 3), "Linear has no recurrent layer"),
        (torch.nn.RNN(2, 3, 2, dropout=0.1), "dropout between layers; it is 0.1"),
        (rg.nn.weight_drop_(torch.nn.RNN(2, 3)), "leave one of the two out"),
    ],
)
def test_refusals(module, message):
    with pytest.raises(OptionError, match=message):
        VanishingGradientRegularizer(module)

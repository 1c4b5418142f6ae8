"""Without normalisation and dropout these are torch.nn's layers; with them, the equations of the papers."""

import copy

import pytest
import torch
from torch.nn.functional import layer_norm
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

import retrograde as rg
from retrograde.errors import OptionError
from retrograde.nn import StepwiseGRU, StepwiseLSTM, StepwiseRNN

PAIRS = {StepwiseRNN: torch.nn.RNN, StepwiseGRU: torch.nn.GRU, StepwiseLSTM: torch.nn.LSTM}
every_layer = pytest.mark.parametrize("ours", list(PAIRS))


def flat(result):
    output, state = result
    tensors = [output, *(state if isinstance(state, tuple) else (state,))]
    return [tensor.data if hasattr(tensor, "batch_sizes") else tensor for tensor in tensors]


def assert_same(a, b):
    for x, y in zip(flat(a), flat(b), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10)


@every_layer
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}, {"bias": False}]
)
def test_equal_to_torch_when_nothing_is_asked_for(ours, options):
    torch.manual_seed(0)
    layer = ours(3, 5, dtype=torch.float64, **options)
    torch.manual_seed(0)
    twin = PAIRS[ours](3, 5, dtype=torch.float64, **options)
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), twin.parameters(), strict=True))
    twin.load_state_dict(layer.state_dict())
    rows = twin.num_layers * (2 if twin.bidirectional else 1)
    sequence = torch.randn(4, 6, 3, dtype=torch.float64)
    batch_size = 4 if twin.batch_first else 6
    h = torch.randn(rows, batch_size, 5, dtype=torch.float64)
    state = (h, h.sin()) if ours is StepwiseLSTM else h
    assert_same(layer(sequence), twin(sequence))
    assert_same(layer(sequence, state), twin(sequence, state))
    assert_same(layer(sequence[0]), twin(sequence[0]))
    packed = pack_sequence([torch.randn(n, 3, dtype=torch.float64) for n in (2, 7, 5)], enforce_sorted=False)
    assert_same(layer(packed), twin(packed))


@every_layer
def test_gradients_pass(ours):
    torch.manual_seed(0)
    layer = ours(2, 3, num_layers=2, bidirectional=True, layer_norm=True, dtype=torch.float64)
    sequence = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x)[0], (sequence,), fast_mode=True)
    layer(sequence)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    assert all(p.grad.abs().max() > 0 for p in layer.parameters())


def test_layer_norm_lstm_is_the_papers():
    torch.manual_seed(1)
    layer = StepwiseLSTM(3, 5, layer_norm=True, dtype=torch.float64)
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    x, h, c = (torch.randn(2, n, dtype=torch.float64) for n in (3, 5, 5))
    w = dict(layer.named_parameters())
    a = layer_norm(x @ w["weight_ih_l0"].T, (20,)) * w["gain_ih_l0"]
    b = layer_norm(h @ w["weight_hh_l0"].T, (20,)) * w["gain_hh_l0"]
    i, f, g, o = (a + b + w["bias_ih_l0"] + w["bias_hh_l0"]).chunk(4, -1)
    c_new = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h_new = o.sigmoid() * (layer_norm(c_new, (5,)) * w["gain_c_l0"] + w["shift_c_l0"]).tanh()
    _, (got_h, got_c) = layer(x[None], (h[None], c[None]))
    torch.testing.assert_close((got_h[0], got_c[0]), (h_new, c_new))


def test_layer_norm_gru_and_rnn_are_the_papers():
    torch.manual_seed(1)
    x, h = (torch.randn(2, n, dtype=torch.float64) for n in (3, 5))
    gru = StepwiseGRU(3, 5, layer_norm=True, dtype=torch.float64)
    for p in gru.parameters():
        torch.nn.init.normal_(p)
    w = {name.removesuffix("_l0"): p for name, p in gru.named_parameters()}

    def norm(weight, gain, v):
        a = v @ weight.T
        return torch.cat([layer_norm(a[:, :10], (10,)) * gain[:10], layer_norm(a[:, 10:], (5,)) * gain[10:]], -1)

    a = norm(w["weight_ih"], w["gain_ih"], x) + w["bias_ih"]
    b = norm(w["weight_hh"], w["gain_hh"], h) + w["bias_hh"]
    r, z = (a + b)[:, :5].sigmoid(), (a + b)[:, 5:10].sigmoid()
    wanted = (1 - z) * (a[:, 10:] + r * b[:, 10:]).tanh() + z * h
    torch.testing.assert_close(gru(x[None], h[None])[1][0], wanted)

    rnn = StepwiseRNN(3, 5, nonlinearity="relu", layer_norm=True, dtype=torch.float64)
    w = {name.removesuffix("_l0"): p for name, p in rnn.named_parameters()}
    a = layer_norm(x @ w["weight_ih"].T + h @ w["weight_hh"].T, (5,)) + w["bias_ih"] + w["bias_hh"]
    torch.testing.assert_close(rnn(x[None], h[None])[1][0], a.relu())


def test_layer_norm_packed_equals_one_by_one():
    torch.manual_seed(0)
    layer = StepwiseLSTM(3, 4, num_layers=2, bidirectional=True, layer_norm=True, dtype=torch.float64)
    sequences = [torch.randn(n, 3, dtype=torch.float64) for n in (2, 6, 4)]
    output, _ = layer(pack_sequence(sequences, enforce_sorted=False))
    for sequence, got in zip(sequences, unpack_sequence(output), strict=True):
        torch.testing.assert_close(got, layer(sequence)[0])


@every_layer
def test_recurrent_dropout_keeps_one_mask_per_sequence(ours):
    """With an identity-like read-out of the state: what is dropped once is dropped at each step."""
    torch.manual_seed(0)
    layer = ours(2, 40, recurrent_dropout=0.5, dtype=torch.float64)
    sequence = torch.randn(1, 2, dtype=torch.float64).expand(6, 2).clone()
    torch.manual_seed(1)
    mask = torch.nn.functional.dropout(torch.ones(1, 40, dtype=torch.float64), 0.5)
    torch.manual_seed(1)
    got, _ = layer(sequence)
    masked = copy.deepcopy(layer).eval()  # the same mask, moved into the weights
    with torch.no_grad():
        masked.weight_hh_l0.mul_(mask)
    torch.testing.assert_close(got, masked(sequence)[0])
    assert torch.equal(layer.eval()(sequence)[0], layer(sequence)[0])


@every_layer
@pytest.mark.parametrize("options", [{"recurrent_dropout": 0.5}, {"dropout": 0.5, "num_layers": 2}])
def test_gradient_flow_of_training_measures_what_dropout_leaves(ours, options):
    torch.manual_seed(0)
    layer, sequence = ours(2, 20, dtype=torch.float64, **options), torch.randn(5, 2, 2, dtype=torch.float64)
    torch.manual_seed(1)
    expected, found = layer(sequence)[0].detach(), []

    def loss(result):
        found.append(result[0].detach().clone())
        return result[0].pow(2).sum(-1)

    torch.manual_seed(1)
    rg.gradient_flow(layer, sequence, loss=loss, training=True)
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"recurrent_dropout": 1.0}, "recurrent_dropout is 1.0"),
        ({"nonlinearity": "gelu"}, "nonlinearity is 'gelu'"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(OptionError, match=message):
        StepwiseRNN(**{"input_size": 2, "hidden_size": 3, **options})


def test_wrong_shapes_are_named():
    with pytest.raises(OptionError, match=r"the input is \(5, 2, 4\).*I = 3"):
        StepwiseGRU(3, 4)(torch.zeros(5, 2, 4))
    with pytest.raises(OptionError, match=r"the initial state is \[\(1, 3, 4\)\]"):
        StepwiseGRU(3, 4)(torch.zeros(5, 2, 3), torch.zeros(1, 3, 4))

import copy
import warnings

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import retrograde as rg
from retrograde.errors import OptionError


@pytest.mark.parametrize("kind", [torch.nn.RNN, torch.nn.GRU, torch.nn.LSTM, rg.nn.LSTM])
def test_weight_drop_changes_what_the_layer_computes(kind):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = kind(3, 8, num_layers=2, bidirectional=True)
        layer = rg.nn.weight_drop_(copy.deepcopy(plain), 0.5)
        x = torch.randn(5, 2, 3)
        torch.testing.assert_close(layer.eval()(x)[0], plain.eval()(x)[0])  # nothing is dropped in eval mode
        layer.train()
        assert not torch.equal(layer(x)[0], layer(x)[0])
        layer(x)[0].sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    assert all(g is not None for g in gradients.values())
    assert sum("original" in name for name in gradients) == 4  # weight_hh of two layers in two directions


def test_weight_drop_has_one_mask_for_all_steps():
    """The gradient of a dropped weight is 0 over a long sequence: it was dropped at each of its steps."""
    torch.manual_seed(0)
    layer = rg.nn.weight_drop_(torch.nn.LSTM(3, 20), 0.5)
    layer(torch.randn(50, 4, 3))[0].sum().backward()
    dropped = layer.parametrizations.weight_hh_l0.original.grad == 0
    assert float(dropped.float().mean()) == pytest.approx(0.5, abs=0.05)


def test_weight_drop_keeps_the_mean():
    drop = rg.nn.WeightDrop(0.25)
    assert float(drop(torch.ones(400, 400)).mean()) == pytest.approx(1, abs=0.01)


def test_weight_drop_survives_saving():
    layer = rg.nn.weight_drop_(rg.nn.GRU(3, 4), 0.3).eval()
    other = rg.nn.weight_drop_(rg.nn.GRU(3, 4), 0.3).eval()
    other.load_state_dict(layer.state_dict())
    x = torch.randn(5, 2, 3)
    assert torch.equal(layer(x)[0], other(x)[0])
    assert torch.equal(copy.deepcopy(layer)(x)[0], layer(x)[0])


def test_weight_drop_says_no():
    with pytest.raises(OptionError, match="Linear has no recurrent layer"):
        rg.nn.weight_drop_(torch.nn.Linear(2, 2))
    with pytest.raises(OptionError, match=r"p is 1.0"):
        rg.nn.weight_drop_(torch.nn.RNN(2, 2), 1.0)
    with pytest.raises(OptionError, match=r"weight_hh_l0 of this .* is parametrized already"):
        rg.nn.weight_drop_(rg.nn.weight_drop_(torch.nn.RNN(2, 2)))


@pytest.mark.parametrize("batch_first", [False, True])
def test_variational_dropout_has_one_mask_per_sequence(batch_first):
    torch.manual_seed(0)
    output = rg.nn.VariationalDropout(0.5, batch_first=batch_first)(torch.ones(6, 7, 40))
    if batch_first:
        output = output.transpose(0, 1)
    assert (output == output[0]).all()
    assert not torch.equal(output[0, 0], output[0, 1])
    assert set(output.unique().tolist()) == {0.0, 2.0}


def test_variational_dropout_of_packed_sequences():
    torch.manual_seed(0)
    sequences = [torch.ones(n, 30) for n in (2, 6, 4)]
    packed = pack_sequence(sequences, enforce_sorted=False)
    output, lengths = pad_packed_sequence(rg.nn.VariationalDropout(0.5)(packed))
    assert lengths.tolist() == [2, 6, 4]
    for b, length in enumerate(lengths):
        assert (output[:length, b] == output[0, b]).all()
    assert not torch.equal(output[0, 0], output[0, 1])


def test_variational_dropout_is_off_in_eval_mode():
    x = torch.randn(3, 2, 5)
    assert rg.nn.VariationalDropout(0.5).eval()(x) is x
    assert rg.nn.VariationalDropout(0.0)(x) is x


def test_variational_dropout_says_no():
    with pytest.raises(OptionError, match=r"p is -0.1"):
        rg.nn.VariationalDropout(-0.1)
    with pytest.raises(OptionError, match=r"the input is \(4,\)"):
        rg.nn.VariationalDropout(0.1)(torch.ones(4))

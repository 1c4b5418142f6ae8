import pytest
import torch

import retrograde as rg
from retrograde.cells import BY_NAME, FUSED
from retrograde.errors import OptionError


@pytest.mark.parametrize("cell", list(BY_NAME))
@pytest.mark.parametrize(
    "remedy",
    [
        {},
        {"layer_norm": True},
        {"recurrent_dropout": 0.3},
        {"weight_drop": 0.5},
        {"init": "orthogonal"},
        {"init": "xavier"},
        {"spectral_radius": 0.9},
    ],
)
def test_every_cell_with_every_remedy(cell, remedy):
    if "weight_drop" in remedy and BY_NAME[cell] not in FUSED:
        pytest.skip("only layers that are computed as a whole drop weights")
    layer = rg.nn.recurrent_layer(3, 4, cell=cell, num_layers=2, dropout=0.1, bidirectional=True, **remedy)
    output, _ = layer(torch.randn(5, 2, 3))
    assert output.shape == (5, 2, 8)
    output.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_the_plain_choice_is_our_layer():
    assert type(rg.nn.recurrent_layer(3, 4, cell="gru")) is rg.nn.GRU


def test_irnn():
    layer = rg.nn.recurrent_layer(300, 40, cell="rnn", nonlinearity="relu", init="identity")
    assert torch.equal(layer.weight_hh_l0, torch.eye(40))
    assert layer.weight_ih_l0.detach().std().item() == pytest.approx(0.001, rel=0.05)


def test_contradictions():
    with pytest.raises(OptionError, match="weight drop excludes"):
        rg.nn.recurrent_layer(3, 4, layer_norm=True, weight_drop=0.5)
    with pytest.raises(OptionError, match="no cell 'qrnn'"):
        rg.nn.recurrent_layer(3, 4, cell="qrnn")
    with pytest.raises(OptionError, match="has gates"):
        rg.nn.recurrent_layer(3, 4, cell="lstm", init="identity")

"""``accelerate_``: somebody else's model, its layers ours, nothing else changed."""

import copy

import pytest
import torch
from torch.nn.utils import parametrizations, parametrize

import retrograde as rg
from retrograde.errors import OptionError


class Tagger(torch.nn.Module):
    """A model as people write them: layers in lists and dictionaries, one used twice, one subclassed."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 4)
        self.stack = torch.nn.ModuleList([torch.nn.RNN(4, 4), torch.nn.GRU(4, 4)])
        self.named = torch.nn.ModuleDict({"deep": torch.nn.Sequential(torch.nn.LSTM(4, 4, bidirectional=True))})
        self.again = self.stack[1]
        self.custom = CustomGRU(8, 4)
        self.cell = torch.nn.GRUCell(4, 4)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in (*self.stack, self.again):
            x = layer(x)[0]
        x = self.named["deep"](x)[0]
        return self.cell(self.custom(x)[0][-1])


class CustomGRU(torch.nn.GRU):
    pass


def trained(model, steps=3):
    torch.manual_seed(0)
    tokens = torch.randint(11, (6, 3))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for step in range(steps):
        if step == 1:
            assert rg.nn.accelerate_(model) is model  # in the middle of training
        optimiser.zero_grad()
        loss = model(tokens).square().sum()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return losses


def test_every_layer_is_ours_and_the_rest_as_it_was():
    model = Tagger().eval()
    before = dict(model.named_parameters())
    modules = dict(model.named_modules())
    tokens = torch.randint(11, (6, 3))
    expected = model(tokens)
    state = copy.deepcopy(model.state_dict())
    assert rg.nn.accelerate_(model) is model
    assert type(model.stack[0]) is rg.nn.RNN
    assert type(model.stack[1]) is rg.nn.GRU
    assert type(model.named["deep"][0]) is rg.nn.LSTM
    assert model.again is model.stack[1]
    assert type(model.custom) is CustomGRU
    assert type(model.cell) is torch.nn.GRUCell
    assert all(new is before[name] for name, new in model.named_parameters())
    assert dict(model.named_modules()) == modules
    assert not any(m.training for m in model.modules())
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    torch.testing.assert_close(model(tokens), expected)
    rg.nn.accelerate_(model)  # again: nothing to do
    torch.testing.assert_close(copy.deepcopy(model)(tokens), expected)


def test_training_goes_on_undisturbed():
    torch.manual_seed(1)
    model = Tagger()
    twin = copy.deepcopy(model)
    untouched = twin.custom.__class__
    losses = trained(model)
    reference = trained_without(twin)
    assert untouched is CustomGRU
    torch.testing.assert_close(losses, reference)


def trained_without(model, steps=3):
    torch.manual_seed(0)
    tokens = torch.randint(11, (6, 3))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = model(tokens).square().sum()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return losses


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_layer_by_itself_keeps_its_hooks_and_parametrisations(kind):
    layer = getattr(torch.nn, kind)(3, 6, batch_first=True)
    seen = []
    layer.register_forward_hook(lambda *_: seen.append(1))
    parametrizations.orthogonal(layer, "weight_hh_l0")
    parametrizations.weight_norm(layer, "weight_ih_l0")
    x = torch.randn(2, 4, 3)
    expected = layer(x)[0]
    assert rg.nn.accelerate_(layer) is layer
    assert isinstance(layer, getattr(rg.nn, kind))
    assert rg.nn.explain(layer, x).path in ("engine", "torch")
    torch.testing.assert_close(layer(x)[0], expected)
    assert len(seen) == 2
    copied = copy.deepcopy(layer)
    assert isinstance(copied, getattr(rg.nn, kind))
    torch.testing.assert_close(copied(x)[0], expected)
    parametrize.remove_parametrizations(layer, "weight_hh_l0")
    parametrize.remove_parametrizations(layer, "weight_ih_l0")
    assert type(layer) is getattr(rg.nn, kind)
    torch.testing.assert_close(layer(x)[0], expected)


def test_what_is_no_model_is_refused():
    with pytest.raises(OptionError, match="not dict"):
        rg.nn.accelerate_({})


@pytest.mark.filterwarnings("ignore")
def test_scripted_and_quantized_layers_are_left_alone():
    scripted = torch.jit.script(torch.nn.Sequential(torch.nn.GRU(3, 4)))
    before = type(scripted[0])
    assert type(rg.nn.accelerate_(scripted)[0]) is before
    if torch.backends.quantized.engine == "none":
        pytest.skip("this torch cannot quantize")
    model = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.LSTM(3, 4)), {torch.nn.LSTM})
    before = type(model[0])
    assert before is not torch.nn.LSTM
    assert type(rg.nn.accelerate_(model)[0]) is before

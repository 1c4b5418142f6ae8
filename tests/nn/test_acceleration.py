"""``accelerate_``: somebody else's model, its layers ours, nothing else changed."""

import abc
import copy
import io
import pickle
from typing import ClassVar, Generic, TypeVar

import pytest
import torch
from torch.nn.utils import parametrizations, parametrize, prune

import retrograde as rg
from retrograde import kernels
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
    assert isinstance(model.custom, CustomGRU) and isinstance(model.custom, rg.nn.GRU)
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
    losses = trained(model)
    reference = trained_without(twin)
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_and_quantized_layers_are_left_alone_and_named():
    scripted = torch.jit.script(torch.nn.Sequential(torch.nn.GRU(3, 4)))
    before = type(scripted[0])
    with pytest.warns(UserWarning, match=r"skipped 0 \(GRU\), since it is scripted"):
        assert type(rg.nn.accelerate_(scripted)[0]) is before
    if torch.backends.quantized.engine == "none":
        pytest.skip("this torch cannot quantize")
    model = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.LSTM(3, 4)), {torch.nn.LSTM})
    before = type(model[0])
    assert before is not torch.nn.LSTM
    with pytest.warns(UserWarning, match=r"skipped 0 \(LSTM\), since it is a quantized"):
        assert type(rg.nn.accelerate_(model)[0]) is before


# ---- subclasses ------------------------------------------------------------------------------------------------


class Interface(abc.ABC):
    """As pytorch-forecasting has it: an abstract mixin, and one subclass of each layer."""

    @abc.abstractmethod
    def handle_no_encoding(self, hidden): ...

    def init_hidden_state(self, x):
        return torch.zeros(self.num_layers, x.shape[1], self.hidden_size)


class ForecastingLSTM(Interface, torch.nn.LSTM):
    def handle_no_encoding(self, hidden):
        return hidden


class OwnConstructor(torch.nn.LSTM):
    def __init__(self, size):
        super().__init__(size, 2 * size)
        self.size = size


class Slots(torch.nn.LSTM):
    __slots__ = ("note",)

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.note = "kept"


Item = TypeVar("Item")


class Generics(torch.nn.LSTM, Generic[Item]): ...


class OwnState(torch.nn.LSTM):
    def __getstate__(self):
        return super().__getstate__() | {"extra": 1}


class OwnReduction(torch.nn.LSTM):
    def __reduce__(self):
        return type(self), (self.input_size, self.hidden_size), self.state_dict()

    def __setstate__(self, state):
        self.load_state_dict(state)


class OwnStep(torch.nn.LSTM):
    def step(self):
        return "mine"


SUBCLASSES = [
    lambda: ForecastingLSTM(3, 6),
    lambda: OwnConstructor(3),
    lambda: Slots(3, 6),
    lambda: Generics[int](3, 6),
    lambda: OwnState(3, 6),
    lambda: OwnReduction(3, 6),
    lambda: OwnStep(3, 6),
]


def saved_and_loaded(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("make", SUBCLASSES, ids=lambda make: type(make()).__name__)
def test_a_subclass_is_accelerated_and_stays_one(make):
    layer, x = make(), torch.randn(4, 2, 3)
    theirs, text, expected = type(layer), repr(layer), layer(x)
    state = vars(layer).copy()
    rg.nn.accelerate_(layer)
    assert isinstance(layer, theirs) and isinstance(layer, rg.nn.LSTM)
    assert repr(layer) == text and type(layer).__qualname__ == theirs.__qualname__
    if kernels.available():
        assert rg.nn.explain(layer, x).path == "engine"
    torch.testing.assert_close(layer(x), expected)
    for copied in (copy.copy, copy.deepcopy, saved_and_loaded, lambda m: pickle.loads(pickle.dumps(m, protocol=2))):
        twin = copied(layer)
        assert type(twin) is type(layer)
        torch.testing.assert_close(twin(x), expected)
    assert rg.nn.restore_(layer) is layer
    assert type(layer) is theirs
    assert vars(layer).keys() == state.keys()
    torch.testing.assert_close(layer(x), expected)


def test_a_subclass_keeps_its_methods():
    layer = rg.nn.accelerate_(ForecastingLSTM(3, 6))
    assert layer.handle_no_encoding(5) == 5
    assert layer.init_hidden_state(torch.zeros(4, 2, 3)).shape == (1, 2, 6)
    assert rg.nn.accelerate_(OwnStep(3, 6)).step() == "mine"
    assert rg.nn.accelerate_(Slots(3, 6)).note == "kept"
    assert type(rg.nn.accelerate_(OwnConstructor(3))) is type(rg.nn.accelerate_(OwnConstructor(4)))


def test_an_accelerated_subclass_is_parametrized_and_restored():
    layer, x = rg.nn.accelerate_(ForecastingLSTM(3, 6)), torch.randn(4, 2, 3)
    expected = layer(x)
    parametrizations.weight_norm(layer, "weight_hh_l0")
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(copy.deepcopy(layer)(x), expected)
    rg.nn.restore_(layer)
    assert isinstance(layer, ForecastingLSTM) and not isinstance(layer, rg.nn.LSTM)
    torch.testing.assert_close(layer(x), expected)
    rg.nn.accelerate_(layer)
    torch.testing.assert_close(layer(x), expected)
    parametrize.remove_parametrizations(layer, "weight_hh_l0")
    rg.nn.restore_(layer)
    assert type(layer) is ForecastingLSTM


class Flexible(abc.ABC, torch.nn.RNNBase):
    """As pytorch-forecasting's layers: sequences may be empty, and their lengths are given to forward."""

    @abc.abstractmethod
    def first(self, x): ...

    def forward(self, x, hx=None, lengths=None):
        if lengths is None:
            return super().forward(2 * x, hx=hx)
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths.clamp(min=1), enforce_sorted=False)
        output, state = super().forward(packed, hx if hx is not None else self.first(x))
        return torch.nn.utils.rnn.pad_packed_sequence(output, total_length=len(x))[0], state


class FlexibleGRU(Flexible, torch.nn.GRU):
    def first(self, x):
        return x.new_ones(1, x.shape[1], self.hidden_size)


def test_a_forward_that_passes_on_to_supers_is_kept_around_ours(tmp_path):
    torch.manual_seed(0)
    layer, x, lengths = FlexibleGRU(3, 4), torch.randn(6, 2, 3), torch.tensor([0, 5])
    expected, packed = layer(x), layer(x, lengths=lengths)
    expected[0].sum().backward()
    gradients = [parameter.grad.clone() for parameter in layer.parameters()]
    flow = rg.gradient_flow(layer, x, loss=lambda output: output[0].pow(2).mean(-1))
    layer.zero_grad()
    assert isinstance(rg.nn.accelerate_(layer), rg.nn.GRU) and isinstance(layer, FlexibleGRU)
    for one in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(one(x), expected)
        torch.testing.assert_close(one(x, lengths=lengths), packed)
    layer(x)[0].sum().backward()
    torch.testing.assert_close([parameter.grad for parameter in layer.parameters()], gradients)
    again = rg.gradient_flow(layer, x, loss=lambda output: output[0].pow(2).mean(-1))
    torch.testing.assert_close(torch.tensor(again.norms), torch.tensor(flow.norms))
    with torch.no_grad():
        torch.testing.assert_close(layer.step(x[0])[0], expected[0][0])
    for call in (lambda: layer.trace(x), lambda: layer.stream()):
        with pytest.raises(OptionError, match="FlexibleGRU has its own forward"):
            call()
    rg.nn.restore_(layer)
    assert type(layer) is FlexibleGRU
    torch.testing.assert_close(layer(x), expected)


def test_layers_that_are_built_inside_a_block_are_ours():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.LSTM(3, 4, num_layers=2, dropout=0.1, bidirectional=True, proj_size=2)
            self.first = torch.nn.RNN(3, 4, nonlinearity="relu")
            self.flexible = FlexibleGRU(3, 4)
            self.own = OwnForward(3, 4)

    torch.manual_seed(0)
    plain = Network()
    torch.manual_seed(0)
    with rg.nn.accelerated(), rg.nn.accelerated():
        ours = Network()
    assert [layer.status for layer in rg.nn.acceleration_report(ours).layers] == ["accelerated"] * 3 + ["skipped"]
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=0, atol=0)
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(ours.eval().encoder(x), plain.eval().encoder(x))
    with pytest.raises(ValueError, match="num_layers"), rg.nn.accelerated():
        torch.nn.GRU(3, 4, num_layers=0)
    assert type(torch.nn.GRU(3, 4)) is torch.nn.GRU
    rg.nn.restore_(ours)
    assert [type(layer) for layer in ours.children()] == [type(layer) for layer in plain.children()]


class OwnForward(torch.nn.LSTM):
    def forward(self, input, hx=None):
        return torch.nn.LSTM.forward(self, 2 * input, hx)


class ReadsWeights(torch.nn.LSTM):
    def forward(self, input, hx=None):
        return super().forward(self._flat_weights[0].sum() * input, hx)


class Inherited(OwnForward): ...


class OwnChecks(torch.nn.GRU):
    def check_forward_args(self, input, hidden, batch_sizes):
        raise ValueError("checked")


class OwnWeights(torch.nn.GRU):
    def __setattr__(self, name, value):
        super().__setattr__(name, value)


class Watching(torch.nn.GRU):
    seen: ClassVar[list] = []

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        Watching.seen.append(cls)


class Metaclass(type(torch.nn.GRU)): ...


class WithMetaclass(torch.nn.GRU, metaclass=Metaclass): ...


class OurName(torch.nn.GRU):
    def _call(self):
        return None


class Lazy(torch.nn.modules.lazy.LazyModuleMixin, torch.nn.GRU):
    def __init__(self):
        super().__init__(3, 4)
        self.weight_ih_l0 = torch.nn.UninitializedParameter()

    def initialize_parameters(self, *inputs):
        self.weight_ih_l0.materialize((12, inputs[0].shape[-1]))


def replaced_forward():
    layer = torch.nn.GRU(3, 4)
    layer.forward = lambda input, hx=None: (input, hx)
    return layer


SKIPPED = {
    "OwnForward has its own forward": lambda: OwnForward(3, 4),
    "OwnForward has its own forward ": lambda: Inherited(3, 4),
    "ReadsWeights has its own forward": lambda: ReadsWeights(3, 4),
    "OwnChecks has its own check_forward_args": lambda: OwnChecks(3, 4),
    "OwnWeights has its own __setattr__": lambda: OwnWeights(3, 4),
    "Watching has __init_subclass__": lambda: Watching(3, 4),
    "metaclass Metaclass": lambda: WithMetaclass(3, 4),
    "OurName has its own _call": lambda: OurName(3, 4),
    "no shape yet": Lazy,
    "forward was replaced on this one layer": replaced_forward,
    "neither a torch.nn.RNN, a GRU nor an LSTM": lambda: torch.nn.RNNBase("GRU", 3, 4),
}


@pytest.mark.parametrize("reason", SKIPPED)
def test_what_is_skipped_is_named_with_its_reason_and_stays_as_it_was(reason):
    layer = SKIPPED[reason]()
    before, state = type(layer), vars(layer).copy()
    model = torch.nn.Sequential(torch.nn.RNN(3, 3), layer)
    with pytest.warns(UserWarning, match=rf"skipped 1 \({before.__name__}\), since .*{reason.strip()}") as caught:
        rg.nn.accelerate_(model)
    assert len(caught) == 1
    assert type(layer) is before and vars(layer) == state
    assert type(model[0]) is rg.nn.RNN
    assert not Watching.seen


# ---- the report and the way back -------------------------------------------------------------------------------


class OfOurs(rg.nn.LSTM): ...


def test_the_report_before_and_after():
    def model():
        parts = [torch.nn.GRU(3, 3), rg.nn.LSTM(3, 3), OwnForward(3, 3), torch.nn.LSTMCell(3, 3), torch.nn.Linear(3, 3)]
        return torch.nn.Sequential(*parts, torch.nn.Sequential(ForecastingLSTM(3, 3)), OfOurs(3, 3))

    ours = model()
    before = rg.nn.acceleration_report(ours)
    assert [type(m) for m in ours.modules()] == [type(m) for m in model().modules()]  # it only looks
    with pytest.warns(UserWarning, match=r"skipped 2 \(OwnForward\)"):
        rg.nn.accelerate_(ours)
    after = rg.nn.acceleration_report(ours)
    names = ["0", "1", "2", "3", "5.0", "6"]
    assert [layer.name for layer in before.layers] == [layer.name for layer in after.layers] == names
    assert [r.status for r in before.layers] == ["eligible", "native", "skipped", "skipped", "eligible", "native"]
    assert [r.status for r in after.layers] == ["accelerated", "native", "skipped", "skipped", "accelerated", "native"]
    assert [r.type for r in after.layers] == ["GRU", "LSTM", "OwnForward", "LSTMCell", "ForecastingLSTM", "OfOurs"]
    assert [r.name for r in after.accelerated] == ["0", "5.0"]
    assert [bool(r.reason) for r in after.layers] == [False, False, True, True, False, False]
    assert "2 (OwnForward): skipped: OwnForward has its own forward" in repr(after)
    assert repr(rg.nn.acceleration_report(torch.nn.Linear(3, 3))) == "no recurrent layer"
    with pytest.raises(OptionError, match="not list"):
        rg.nn.acceleration_report([])


def test_a_layer_under_two_names_is_one():
    layer = torch.nn.GRU(3, 3)
    model = torch.nn.ModuleDict({"first": layer, "second": layer})
    assert [r.name for r in rg.nn.acceleration_report(model).layers] == ["first"]
    rg.nn.accelerate_(model)
    assert model["first"] is model["second"] is layer and type(layer) is rg.nn.GRU


def test_restoring_touches_only_what_was_accelerated():
    model = Tagger()
    twin = copy.deepcopy(model)
    native = rg.nn.GRU(4, 4)
    whole = torch.nn.Sequential(model, native)
    with torch.no_grad():
        rg.nn.accelerate_(whole)[0].stack[0].weight_hh_l0.mul_(0.5)
        model.stack[1].weight_ih_l0 = torch.nn.Parameter(torch.zeros(12, 4))
        twin.load_state_dict(model.state_dict())
    whole = copy.deepcopy(whole)  # which layers were accelerated survives a copy
    assert rg.nn.restore_(whole) is whole
    assert type(whole[1]) is rg.nn.GRU
    assert [type(m) for m in whole[0].modules()] == [type(m) for m in twin.modules()]
    for restored, untouched in zip(whole[0].modules(), twin.modules(), strict=True):
        assert vars(restored).keys() == vars(untouched).keys()
    tokens = torch.randint(11, (6, 3))
    torch.testing.assert_close(whole[0](tokens), twin(tokens), rtol=0, atol=0)  # torch's own operators, all of them
    rg.nn.restore_(whole)  # again: nothing to do
    assert type(rg.nn.restore_(whole, native=True)[1]) is torch.nn.GRU


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch's, where there is no engine
def test_a_layer_of_ours_becomes_torchs_if_asked_for():
    layer, x = rg.nn.LSTM(3, 4, proj_size=2, recompute=True), torch.randn(5, 2, 3)
    expected = layer(x)
    assert type(rg.nn.restore_(layer)) is rg.nn.LSTM
    assert type(rg.nn.restore_(layer, native=True)) is torch.nn.LSTM
    assert vars(layer).keys() == vars(torch.nn.LSTM(3, 4, proj_size=2)).keys()
    torch.testing.assert_close(layer(x), expected)
    with pytest.warns(UserWarning, match=r"restore_ left 0 \(OfOurs\)"):
        assert type(rg.nn.restore_(torch.nn.Sequential(OfOurs(3, 4)), native=True)[0]) is OfOurs


def test_pruned_and_dropped_weights_survive_both_ways():
    layer, x = torch.nn.GRU(3, 6), torch.randn(4, 2, 3)
    prune.random_unstructured(layer, "weight_hh_l0", 0.5)
    expected = layer(x)
    torch.testing.assert_close(rg.nn.accelerate_(layer)(x), expected)
    torch.testing.assert_close(rg.nn.restore_(layer)(x), expected)
    spectral = torch.nn.RNN(3, 6)
    parametrizations.spectral_norm(spectral, "weight_hh_l0")
    state = copy.deepcopy(spectral.state_dict())
    rg.nn.restore_(rg.nn.accelerate_(spectral))
    torch.testing.assert_close(spectral.state_dict(), state, rtol=0, atol=0)  # no power iteration on the way

"""Programs that leave the process run without this package; torch's tools treat our layers as they treat torch.nn's."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import retrograde as rg

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]
KINDS = ["RNN", "GRU", "LSTM"]

TELLS = pytest.mark.skipif(
    not hasattr(torch.compiler, "is_exporting"), reason="torch 2.6 does not tell a layer that it is exported"
)


class Model(torch.nn.Module):
    """Two layers of ours: one that was accelerated, one that was built as ours."""

    def __init__(self, kind):
        super().__init__()
        self.lower = rg.nn.accelerate_(getattr(torch.nn, kind)(3, 5, batch_first=True, bidirectional=True))
        self.upper = getattr(rg.nn, kind)(10, 4, 2, batch_first=True)
        self.head = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.upper(self.lower(x)[0])[0])


def plain(model):
    """The same model of torch.nn's layers."""
    return rg.nn.restore_(copy.deepcopy(model), native=True)


def classes(model):
    return [type(module) for module in model.modules()]


def attributes(model):
    """Every module's attributes by identity, without what scripting itself leaves in each module."""
    return {
        name: {key: id(value) for key, value in vars(module).items() if key != "__overloads__"}
        for name, module in model.named_modules()
    }


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


RUN = """
import json, sys
sys.modules["retrograde"] = None  # as where it is not installed
import onnxruntime, torch
folder = sys.argv[1]
x = torch.load(folder + "/x.pt")
found = {}
for name in sys.argv[2:]:
    path = folder + "/" + name
    if name.endswith(".pt2"):
        found[name] = torch.export.load(path).module()(x)
    elif name.endswith(".onnx"):
        session = onnxruntime.InferenceSession(path)
        found[name] = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    elif name.endswith(".whole"):
        found[name] = torch.load(path, weights_only=False)(x)[0]
    else:
        found[name] = torch.jit.load(path)(x)
torch.save({name: t.detach() for name, t in found.items()}, folder + "/found.pt")
assert not any(name.startswith("retrograde.") for name in sys.modules)
"""


@TELLS
def test_exported_programs_run_without_this_package(tmp_path):
    x, expected = torch.randn(2, 7, 3), {}
    torch.save(x, tmp_path / "x.pt")
    for kind in KINDS:
        model = Model(kind).eval()
        before = classes(model)

        def written(name, model=model, kind=kind):
            expected[f"{kind}-{name}"] = model(x).detach()
            return str(tmp_path / f"{kind}-{name}")

        torch.export.save(torch.export.export(model, (x,)), written("export.pt2"))
        torch.jit.script(model).save(written("script.pt"))
        torch.jit.trace(model, x).save(written("trace.pt"))
        torch.onnx.export(model, (x,), written("old.onnx"), dynamo=False)
        if kind == "LSTM":  # the slow ones; their graphs come from the same export
            torch.export.save(torch.export.export(model, (x,), strict=True), written("strict.pt2"))
            options = {"dynamo": True, "external_data": False, "verbose": False, "optimize": False}
            torch.onnx.export(model, (x,), written("new.onnx"), **options)
        assert classes(model) == before
        restored = rg.nn.restore_(getattr(rg.nn, kind)(3, 4, batch_first=True), native=True)
        torch.save(restored, tmp_path / f"{kind}.whole")
        expected[f"{kind}.whole"] = restored(x)[0].detach()
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(tmp_path), *expected]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    found = torch.load(tmp_path / "found.pt")
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected)


def operators_of(program):
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


@TELLS
@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_graph_is_torchs_own_also_for_any_batch(kind):
    model = Model(kind).eval()
    shapes = {"x": {0: torch.export.Dim("B", min=2)}}  # torch's operators fix the number of steps
    ours, theirs = (
        torch.export.export(m, (torch.randn(2, 4, 3),), dynamic_shapes=shapes) for m in (model, plain(model))
    )
    assert operators_of(ours) == operators_of(theirs)
    x = torch.randn(5, 4, 3)
    torch.testing.assert_close(ours.module()(x), model(x))


class Packed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = rg.nn.LSTM(3, 4, bidirectional=True)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        return pad_packed_sequence(self.layer(packed)[0], total_length=x.shape[0])[0]


def test_packed_sequences_traced():
    model, x = Packed(), torch.randn(6, 3, 3)
    traced = torch.jit.trace(model, (x, torch.tensor([6, 2, 4])))
    for lengths in (torch.tensor([6, 2, 4]), torch.tensor([1, 6, 3])):
        torch.testing.assert_close(traced(x, lengths), model(x, lengths))
    more = torch.randn(6, 5, 3)  # another batch than the traced one
    lengths = torch.tensor([6, 2, 4, 1, 3])
    torch.testing.assert_close(traced(more, lengths), model(more, lengths))


@pytest.mark.parametrize("kind", KINDS)
def test_scripting_shares_the_weights_and_leaves_the_model(kind):
    model, x = Model(kind), torch.randn(2, 4, 3)
    before = attributes(model)
    scripted = torch.jit.script(model)
    assert attributes(model) == before
    with torch.no_grad():
        model.upper.weight_hh_l0.zero_()
    torch.testing.assert_close(scripted(x), model(x))
    assert isinstance(model.lower, getattr(rg.nn, kind)) and isinstance(model.upper, getattr(rg.nn, kind))


class Unscriptable(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = rg.nn.LSTM(3, 4, recompute=True)

    def forward(self, *args, **kwargs):
        return self.layer(*args, **kwargs)


def test_a_tool_that_fails_leaves_the_model():
    model = Unscriptable()
    before = attributes(model)
    with pytest.raises(Exception, match="variable number of arguments"):
        torch.jit.script(model)
    assert type(model.layer) is rg.nn.LSTM and attributes(model) == before


def test_symbolic_tracing_takes_a_layer_whole():
    model, x = Model("GRU"), torch.randn(2, 4, 3)
    traced = torch.fx.symbolic_trace(model)
    assert [n.target for n in traced.graph.nodes if n.op == "call_module"] == ["lower", "upper", "head"]
    assert traced.upper is model.upper and type(model.upper) is rg.nn.GRU
    torch.testing.assert_close(traced(x), model(x))


# ---- quantization ----------------------------------------------------------------------------------------------

needs_quantization = pytest.mark.skipif(torch.backends.quantized.engine == "none", reason="this torch cannot quantize")


def same_as_torch(quantize, model, x):
    """Quantize `model` and its twin of torch.nn's layers; both have the same classes and numbers."""
    theirs = quantize(plain(model))
    ours = quantize(model)
    assert classes(ours) == classes(theirs)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    return ours


@needs_quantization
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", ["default", "torch's class", "our class", "name", "float16"])
def test_quantize_dynamic(kind, spec):
    model, x = Model(kind).eval(), torch.randn(2, 4, 3)
    before = classes(model)
    specs = {"torch's class": {getattr(torch.nn, kind)}, "our class": {getattr(rg.nn, kind)}, "name": {"upper"}}
    options = {"dtype": torch.float16} if spec == "float16" else {}
    quantized = torch.ao.quantization.quantize_dynamic(model, specs.get(spec), **options)
    assert classes(model) == before
    twin = specs.get(spec) if spec != "our class" else specs["torch's class"]
    theirs = torch.ao.quantization.quantize_dynamic(plain(model), twin, **options)
    dynamic = torch.ao.nn.quantized.dynamic
    if kind != "RNN":  # torch has no quantized RNN: it stays what it is
        assert isinstance(quantized.upper, getattr(dynamic, kind))
        assert isinstance(quantized.lower, getattr(dynamic, kind)) == (spec != "name")
    else:
        assert type(quantized.upper) is rg.nn.RNN
    torch.testing.assert_close(quantized(x), theirs(x), rtol=0, atol=1e-6 if kind == "RNN" or spec == "name" else 0)
    if kind == "LSTM":
        torch.ao.quantization.quantize_dynamic(model, specs.get(spec), inplace=True, **options)
        torch.testing.assert_close(model(x), quantized(x), rtol=0, atol=1e-6)


@needs_quantization
def test_static_quantization_of_an_lstm():
    from torch.ao import quantization

    x = torch.randn(2, 4, 3)
    parts = [
        quantization.QuantStub(),
        torch.nn.Sequential(rg.nn.LSTM(3, 4, batch_first=True)),
        quantization.DeQuantStub(),
    ]

    class Static(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = torch.nn.ModuleList(parts)

        def forward(self, x):
            return self.parts[2](self.parts[1](self.parts[0](x))[0])

    def quantize(model):
        model = copy.deepcopy(model)
        model.qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)
        prepared = quantization.prepare(model)
        prepared(x)
        return quantization.convert(prepared)

    quantized = same_as_torch(quantize, Static().eval(), x)
    assert type(quantized.parts[1][0]) is torch.ao.nn.quantized.LSTM


@needs_quantization
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_quantization_of_an_fx_graph(kind):
    from torch.ao.quantization import QConfigMapping, default_dynamic_qconfig, quantize_fx

    x, model = torch.randn(2, 4, 3), Model(kind).eval()
    before = classes(model)

    def quantize(model):
        prepared = quantize_fx.prepare_fx(model, QConfigMapping().set_global(default_dynamic_qconfig), (x,))
        return quantize_fx.convert_fx(prepared)

    ours, theirs = quantize(model), quantize(plain(model))
    assert type(ours.upper) is type(theirs.upper) is getattr(torch.ao.nn.quantized.dynamic, kind)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    assert classes(model) == before

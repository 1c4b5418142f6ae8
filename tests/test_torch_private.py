"""Private names of torch are used in one file, and without any of them results stay right or are refused."""

import importlib
import re
import sys
import types
import typing
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import retrograde as rg
from retrograde import _torch_private
from retrograde.errors import FlowError
from retrograde.flow.recording import torch_patches
from retrograde.kernels import operators
from retrograde.nn import compilation

SOURCE = Path(rg.__file__).parent
PRIVATE = re.compile(
    r"\b(?:torch|nn|F|forward_ad)\.(?:\w+\.)*_[a-zA-Z]\w*|from torch[\w.]* import [^#\n]*\b_[a-z]\w*|\b_VF\b"
)


def test_only_one_file_names_what_torch_does_not_document():
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if path.name != "_torch_private.py" and PRIVATE.search(line):
                found.append(f"{path.relative_to(SOURCE)}:{number}: {line.strip()}")
    assert not found
    assert all(PRIVATE.search(name) for name in _torch_private.NAMES)


def test_every_name_is_there_in_this_torch():
    assert not _torch_private._MISSING
    for module, owner, name in (_torch_private.BUILDER, *_torch_private.LOOK_AT_CLASSES):
        home = importlib.import_module(module)
        assert callable(getattr(home if owner is None else getattr(home, owner), name)), (module, name)


def test_every_private_attribute_that_is_used_is_listed_and_there():
    objects = {
        "Tensor": torch.zeros(2),
        "UntypedStorage": torch.zeros(2).untyped_storage(),
        "Module": torch.nn.Linear(1, 1),
        "RNNBase": torch.nn.LSTM(1, 1),
    }
    listed = {name for names in _torch_private.ATTRIBUTES.values() for name in names}
    for owner, names in _torch_private.ATTRIBUTES.items():
        assert all(hasattr(objects[owner], name) or hasattr(type(objects[owner]), name) for name in names), owner
    theirs = {name for thing in objects.values() for name in dir(thing) if re.match(r"_[a-z]", name)}
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    ours = set(re.findall(r"def (_\w+)|self\.(_\w+)(?:: [^=\n]+)? = |^    (_\w+)[:,]? ", source, re.M))
    used = set(re.findall(r"\.(_[a-z]\w*)", source)) - {name for group in ours for name in group}
    assert used & theirs <= listed


class _Without(types.ModuleType):
    """torch, or a module in it, without one name."""

    def __init__(self, real, name):
        super().__init__(real.__name__)
        self.__dict__["_real"], self.__dict__["_name"] = real, name

    def __getattr__(self, attribute):
        real, (first, *rest) = self._real, self._name
        if attribute != first:
            return getattr(real, attribute)
        if not rest:
            raise AttributeError(attribute)
        return _Without(getattr(real, attribute), rest)


@pytest.fixture
def without(monkeypatch):
    """Takes a name away from what `_torch_private` sees of torch."""

    def take(name):
        monkeypatch.setitem(sys.modules, "torch", _Without(torch, name.split(".")[1:]))
        importlib.reload(_torch_private)
        monkeypatch.undo()
        assert {name} == _torch_private._MISSING

    yield take
    importlib.reload(_torch_private)
    assert not _torch_private._MISSING


def layers():
    torch.manual_seed(0)
    theirs = torch.nn.GRU(3, 40)
    ours = rg.nn.GRU(3, 40)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("name", _torch_private.NAMES)
def test_without_a_name_a_layer_computes_the_same(name, without):
    theirs, ours = layers()
    x = torch.randn(60, 8, 3, requires_grad=True)
    without(name)
    expects_torch = "torch's operators" in _torch_private.NAMES[name] and "layers" in _torch_private.NAMES[name]
    explained = rg.nn.explain(ours, x)
    if rg.kernels.available():
        assert (explained.path == "torch") == expects_torch
        if expects_torch:
            assert explained.reason == f"torch {torch.__version__} has no {name}, which retrograde needs"
    for _ in range(2):  # the second time, memory is used again
        gradients = torch.autograd.grad(ours(x)[0].square().sum(), [x, *ours.parameters()])
        expected = torch.autograd.grad(theirs(x)[0].square().sum(), [x, *theirs.parameters()])
        for found, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    state = torch.zeros(1, 8, 40)
    with torch.no_grad():
        torch.testing.assert_close(ours.step(x[0], state)[0], theirs(x[:1], state)[0][0])
    second = torch.autograd.functional.hvp(lambda x: ours(x)[0].square().sum(), x[:2].detach(), x[:2].detach())[1]
    wanted = torch.autograd.functional.hvp(lambda x: theirs(x)[0].square().sum(), x[:2].detach(), x[:2].detach())[1]
    torch.testing.assert_close(second, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", _torch_private.NAMES)
def test_without_a_name_the_flow_is_the_same_or_refused(name, without):
    _, ours = layers()
    x = torch.randn(6, 2, 3)

    def measure():
        return rg.gradient_flow(ours, x, loss=lambda output: output[0].square().sum(-1)).norms

    expected = measure()
    without(name)
    if "gradient_flow refuses to measure" in _torch_private.NAMES[name]:
        with pytest.raises(FlowError, match=re.escape(f"has no {name}, which retrograde needs to measure")):
            measure()
    else:
        assert (measure() == expected).all()


def test_without_its_name_a_model_with_checkpoints_is_refused(without):
    layer, head, x = torch.nn.GRU(3, 4), torch.nn.Linear(4, 4), torch.randn(6, 2, 3)

    def inner(x):
        output = layer(x)[0]
        return head(output.cumsum(0)).tanh()

    def model(x):
        return checkpoint(inner, x, use_reentrant=False)

    def measure(model):
        return rg.gradient_flow(model, x, module=layer, loss=lambda output: output.square().sum(-1)).norms

    assert (measure(model) == measure(inner)).all()
    without(f"torch.utils.checkpoint.{_torch_private.CHECKPOINT_GENERATOR}")
    with pytest.raises(FlowError, match="checkpoint"):
        measure(model)
    assert (measure(inner) == measure(inner)).all()


def test_without_the_count_of_users_memory_is_not_used_again(without):
    storage = torch.zeros(4).untyped_storage()
    assert _torch_private.storage_users(storage) == 1
    without("torch._C._storage_Use_Count")
    assert _torch_private.storage_users(storage) == 2


def test_without_torchs_refusal_to_patch_compiling_breaks_the_graph(monkeypatch):
    builder = types.ModuleType("a builder without VariableBuilder")
    monkeypatch.setitem(sys.modules, _torch_private.BUILDER[0], builder)
    compilation.admit_to_graphs(torch.nn.Module)  # nothing to wrap, nothing raised
    assert not hasattr(builder, "VariableBuilder")


def test_operators_are_declared_as_torch_2_6_understands_them():
    for operator in (operators._layer, operators._layer_backward):
        hints = typing.get_type_hints(operator._init_fn)
        assert all(
            typing.get_origin(hint) is not list or repr(hint).startswith("typing.List") for hint in hints.values()
        )


def test_without_an_accelerator_torch_is_not_asked_for_it(monkeypatch):
    """Torch 2.6 raises then; later versions return None."""

    def raises():
        raise RuntimeError("Cannot access accelerator device when none is available.")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", raises)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch_patches._active([]) == ["cpu"]
    assert torch_patches._active([]) == []


def test_what_vmap_imports_is_imported_before_torch_functions_are_off(monkeypatch):
    """As in torch 2.6, whose compiler cannot be imported without them."""

    def vmap(function):
        from torch._dynamo import is_compiling

        return function if is_compiling() else None

    imported = []
    monkeypatch.setattr(torch.func, "vmap", vmap)
    seen = lambda name: imported.append((name, torch._C._is_torch_function_enabled()))  # noqa: E731
    monkeypatch.setattr(_torch_private, "import_module", seen)
    with _torch_private.no_torch_functions():
        assert not torch._C._is_torch_function_enabled()
    assert imported == [("torch._dynamo", True)]

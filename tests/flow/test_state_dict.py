from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn
from torch.nn.utils import prune

import retrograde as rg
from retrograde.errors import FlowError, OptionError, RunError
from retrograde.flow.drive import choose, drive, read_input
from retrograde.flow.state_dict import find_recurrent, read_state_dict
from retrograde.nn import weight_drop_

ran: list[str] = []


class Planted:
    def __reduce__(self):
        return (ran.append, ("code of the file ran",))


MODULES = {
    "rnn": lambda: nn.RNN(3, 5),
    "relu": lambda: nn.RNN(3, 5, nonlinearity="relu"),
    "gru": lambda: nn.GRU(3, 5, num_layers=2),
    "lstm": lambda: nn.LSTM(3, 5, bidirectional=True),
    "stacked": lambda: nn.LSTM(3, 5, num_layers=3, bidirectional=True),
    "projected": lambda: nn.LSTM(3, 5, num_layers=2, proj_size=2, bidirectional=True),
    "bare": lambda: nn.GRU(3, 5, bias=False),
    "one unit": lambda: nn.LSTM(1, 1),
    "double": lambda: nn.GRU(3, 5).double(),
    "four units in": lambda: nn.RNN(4, 1),
    "normalized": lambda: rg.nn.StepwiseGRU(3, 5, num_layers=2, bidirectional=True, layer_norm=True),
    "normalized cell state": lambda: rg.nn.StepwiseLSTM(3, 5, layer_norm=True),
    "normalized sum": lambda: rg.nn.StepwiseRNN(3, 5, layer_norm=True),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", MODULES)
def test_rebuilt_module_computes_what_the_original_does(name):
    torch.manual_seed(1)
    module = MODULES[name]()
    nonlinearity = "relu" if name == "relu" else None
    [found] = find_recurrent({f"encoder.rnn.{k}": v for k, v in module.state_dict().items()}, nonlinearity)
    x = torch.randn(6, 2, module.input_size, dtype=next(module.parameters()).dtype)
    assert found.name == "encoder.rnn"
    assert type(found.module) is type(module)
    torch.testing.assert_close(found.module(x), module(x), rtol=0, atol=0)


def test_gains_of_a_normalization_are_measured_not_ignored():
    torch.manual_seed(0)
    layer = rg.nn.StepwiseGRU(3, 5, layer_norm=True)
    with torch.no_grad():
        layer.gain_hh_l0.mul_(4)
    [found] = find_recurrent(layer.state_dict())
    assert str(found) == "GRU 3 → 5, layer normalization"
    x = torch.randn(6, 2, 3)
    direct = rg.gradient_flow(layer, x, loss=lambda output: output[0].sum(-1))
    read = rg.gradient_flow(found.module, x, loss=lambda output: output[0].sum(-1))
    np.testing.assert_allclose(read.norms, direct.norms, rtol=1e-6)
    flow = drive([found], steps=6)
    assert flow.layers == ["l0"] and np.isfinite(flow.by_lag()).all()
    two = find_recurrent({f"{name}.{k}": v for name in ("a", "b") for k, v in layer.state_dict().items()})
    assert drive(two, steps=6, layers=["a.l0"]).layers == ["a.l0"]


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_cells_become_layers(cell):
    cell = cell(3, 4)
    [found] = find_recurrent({f"decoder.{k}": v for k, v in cell.state_dict().items()})
    x = torch.randn(3, 2, 3)
    state = None
    for step in x:
        state = cell(step, state)
    h = state[0] if isinstance(state, tuple) else state
    torch.testing.assert_close(found.module(x)[0][-1], h)


def test_several_modules_and_choosing_among_them():
    # "forward" is a name that torch lets no module have; other makers' files do.
    modules = {"forward.": nn.LSTM(3, 4, 2), "tagger.rnn.": nn.GRU(2, 3), "head.": nn.Linear(3, 2), "": nn.RNN(2, 2)}
    found = find_recurrent({p + name: v for p, module in modules.items() for name, v in module.state_dict().items()})
    assert [(one.name, str(one)) for one in found] == [
        ("forward", "LSTM 3 → 4, 2 layers"),
        ("tagger.rnn", "GRU 2 → 3"),
        ("", "RNN 2 → 2, tanh"),
    ]
    flow = drive(found, steps=5, sequences=2)
    assert flow.layers == ["forward.l0", "forward.l1", "tagger.rnn.l0", "root.l0"]
    # Side by side, yet each carries only its own gradient: what it has alone, up to its noise.
    assert np.allclose(np.diagonal(flow.norms[2]), 1) and np.allclose(np.diagonal(flow.norms[3]), 1)
    assert choose(found, ["tagger.rnn"]) == ([found[1]], ["l0"])
    assert choose(found, ["tagger.rnn.l0", "root"]) == (found[1:], ["tagger.rnn.l0", "root.l0"])
    assert choose(found, ["l1"]) == ([found[0]], ["l1"])
    with pytest.raises(FlowError, match=r"no layer 'l2'; this checkpoint has forward\.l0"):
        choose(found, ["l2"])


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_scaled_identity_carries_exactly_that(scale):
    relu = nn.RNN(2, 6, nonlinearity="relu")
    with torch.no_grad():
        relu.weight_hh_l0.copy_(scale * torch.eye(6))
        relu.weight_ih_l0.zero_()
        relu.bias_ih_l0.fill_(1)
        relu.bias_hh_l0.zero_()
    flow = drive(find_recurrent(relu.state_dict(), "relu"), steps=12, sequences=3)
    lag = flow.lag()
    # f′ = 1 everywhere, so ‖∂E_t/∂h_k‖ = ‖scaleᵗ⁻ᵏ r‖ with ‖r‖ = 1
    assert np.allclose(flow.norms[0], np.where(lag >= 0, scale ** np.maximum(lag, 0.0), 0), rtol=1e-5)


def test_noise_is_of_the_seed_and_leaves_the_random_state_alone():
    found = find_recurrent(nn.GRU(3, 5).state_dict())
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first, again, other = (drive(found, steps=6, sequences=2, seed=seed).norms for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_given_input_drives_it():
    found = find_recurrent(nn.GRU(3, 5).state_dict())
    given = torch.randn(7, 2, 3, dtype=torch.float64)
    flow = drive(found, steps=5, sequences=2, given=given)
    assert flow.steps == [5] and flow.losses.shape == (5, 2)
    assert not np.allclose(flow.norms, drive(found, steps=5, sequences=2, given=2 * given).norms)
    with pytest.raises(FlowError, match=r"4 numbers per step.*takes 3"):
        drive(found, given=torch.randn(7, 2, 4))


# --- Files ------------------------------------------------------------------------------------------------------------


def state():
    torch.manual_seed(0)
    return {f"encoder.rnn.{k}": v for k, v in nn.LSTM(3, 4).state_dict().items()}


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "anything"])
def test_nested_state_dict_is_found_and_an_optimiser_is_not(tmp_path, wrapper):
    momenta = {k: torch.zeros_like(v) for k, v in state().items()}
    torch.save({"optimizer": {"state": momenta}, "epoch": 3, wrapper: state()}, tmp_path / "a.pt")
    read = read_state_dict(tmp_path / "a.pt")
    assert all(torch.equal(read[name], value) for name, value in state().items())


def test_formats(tmp_path):
    torch.save(state(), tmp_path / "new.pt")
    torch.save(state(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(state(), tmp_path / "weights")
    for name in ("new.pt", "old.pt", "weights"):
        read = read_state_dict(tmp_path / name)
        assert read.keys() == state().keys()
        assert all(torch.equal(read[k], v) for k, v in state().items())


def test_safetensors_whose_first_byte_is_that_of_a_pickle(tmp_path):
    for padding in range(400):
        content = save(state(), {"padding": "x" * padding})
        if content[0] == 0x80:
            break
    assert content[0] == 0x80
    (tmp_path / "a.safetensors").write_bytes(content)
    assert read_state_dict(tmp_path / "a.safetensors").keys() == state().keys()


def test_half_precision_is_measured_in_float32():
    halves = {name: value.bfloat16() for name, value in state().items()}
    [found] = find_recurrent(halves)
    assert found.module.weight_hh_l0.dtype == torch.float32
    assert torch.equal(found.module.weight_hh_l0, halves["encoder.rnn.weight_hh_l0"].float())


@pytest.mark.parametrize("kind", ["torch", "old torch", "pickle", "array"])
def test_no_pickled_code_is_run(tmp_path, kind):
    path = tmp_path / "planted"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Planted()))
    elif kind == "array":
        with path.open("wb") as file:
            np.save(file, np.array([Planted()], dtype=object), allow_pickle=True)
    else:
        torch.save({"state_dict": state(), "extra": Planted()}, path, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(FlowError, match=r"no pickled code|refused|Python objects"):
        (read_input if kind == "array" else read_state_dict)(path)
    assert ran == []


def test_what_a_refused_file_would_run_is_named(tmp_path):
    torch.save({"args": argparse.Namespace(), "model": state()}, tmp_path / "a.pt")
    with pytest.raises(FlowError, match=r"pickled code \(argparse.Namespace\), which is refused"):
        read_state_dict(tmp_path / "a.pt")


def test_every_cut_of_a_file_is_one_clear_error(tmp_path):
    torch.save(state(), tmp_path / "whole.pt")
    save_file(state(), tmp_path / "whole.safetensors")
    for whole in ("whole.pt", "whole.safetensors"):
        content = (tmp_path / whole).read_bytes()
        for end in (0, 1, 7, 9, 100, len(content) // 2, len(content) - 1):
            path = tmp_path / "cut"
            path.write_bytes(content[:end])
            with pytest.raises(FlowError, match="cut") as caught:
                find_recurrent(read_state_dict(path))
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "contains a list"), (torch.ones(3), "contains a Tensor"), ({"epoch": 3}, "without named tensors")],
)
def test_not_a_state_dict(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(FlowError, match=message):
        read_state_dict(tmp_path / "a.pt")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FlowError, match="No such file"):
        read_state_dict(tmp_path / "none.pt")
    with pytest.raises(FlowError, match="is a folder"):
        read_state_dict(tmp_path)


# --- Weights that are not whole ---------------------------------------------------------------------------------------


def test_no_recurrent_weights_lists_what_is_there():
    with pytest.raises(FlowError, match=r"the parameters are weight, bias\.$"):
        find_recurrent(nn.Linear(2, 3).state_dict())
    many = {f"layers.{i}.weight": torch.ones(2, 2) for i in range(30)}
    with pytest.raises(FlowError, match=r"layers\.7\.weight and 22 more"):
        find_recurrent(many)


class Wrapped(nn.Module):
    """Weight drop as in AWD-LSTM's code: the raw weight is stored next to the layer that it belongs to."""

    def __init__(self):
        super().__init__()
        self.module = nn.LSTM(2, 3)
        self.weight_hh_l0_raw = nn.Parameter(self.module.weight_hh_l0.detach().clone())

    def forward(self, x):
        return self.module(x)


MADE = {
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.LSTM(2, 3, 2), "weight_hh_l1"),
    "weight norm of columns": lambda: nn.utils.parametrizations.weight_norm(nn.GRU(2, 3), "weight_hh_l0", dim=1),
    "weight norm as it was": lambda: nn.utils.weight_norm(nn.GRUCell(2, 3), "weight_hh"),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.RNN(2, 3), "weight_hh_l0"),
    "spectral norm as it was": lambda: nn.utils.spectral_norm(nn.RNN(2, 3), "weight_hh_l0"),
    "pruning": lambda: prune.random_unstructured(nn.LSTMCell(2, 3), "weight_hh", 0.5),
    "dropout of weights": lambda: weight_drop_(nn.LSTM(2, 3), 0.5),
    "a wrapper": Wrapped,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.filterwarnings("ignore:.*spectral_norm. is deprecated")
@pytest.mark.parametrize("name", MADE)
def test_weights_kept_in_parts_are_put_together(name):
    torch.manual_seed(0)
    module = MADE[name]().eval()
    [found] = find_recurrent({f"rnns.0.{key}": value for key, value in module.state_dict().items()})
    x = torch.randn(4, 2, 2)
    output = found.module(x)[0][:1] if "Cell" in type(module).__name__ else found.module(x)[0]
    first = module(x[0]) if "Cell" in type(module).__name__ else module(x)[0]
    expected = (first[0] if isinstance(first, tuple) else first)[None] if output.shape[0] == 1 else first
    torch.testing.assert_close(output, expected)


def test_parts_that_do_not_fit_and_unknown_ones_are_named():
    parts = nn.utils.parametrizations.weight_norm(nn.RNN(2, 3), "weight_hh_l0").state_dict()
    parts["parametrizations.weight_hh_l0.original0"] = torch.ones(2, 1)
    with pytest.raises(FlowError, match=r"weight_hh_l0 cannot be combined from .*original0"):
        find_recurrent(parts)
    unknown = nn.utils.parametrizations.orthogonal(nn.RNN(2, 3), "weight_hh_l0").state_dict()
    with pytest.raises(FlowError, match=r"no weight_hh of layer 0.*weight_hh_l0\S* looks reparametrized"):
        find_recurrent(unknown)


def changed(module, name, tensor):
    parameters = module.state_dict()
    if tensor is None:
        del parameters[name]
    else:
        parameters[name] = tensor
    return {f"net.{k}": v for k, v in parameters.items()}


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("weight_hh_l1", None, r"net\.weight_hh_l1 is missing"),
        ("weight_ih_l0", None, r"no weight_ih of layer 0"),
        ("bias_hh_l1", None, r"net\.bias_hh_l1 is missing"),
        ("weight_ih_l1", torch.ones(16, 9), r"net\.weight_ih_l1 has shape \(16, 9\); expected \(16, 4\)"),
        ("weight_hh_l0", torch.ones(14, 4), r"net\.weight_hh_l0 has shape \(14, 4\)"),
        ("weight_hh_l0", torch.ones(16), r"net\.weight_hh_l0 has shape \(16,\); expected 2 axes"),
        ("weight_hh_l0", torch.ones(0, 4), r"net\.weight_hh_l0 has shape \(0, 4\)"),
        ("weight_ih_l1", torch.full((16, 4), torch.nan), r"net\.weight_ih_l1 is not finite: 64 of its 64 values"),
        ("bias_ih_l0", torch.tensor([1.0] * 15 + [torch.inf]), r"net\.bias_ih_l0 .*first inf at \[15\]"),
        ("weight_hh_l0", torch.ones(16, 4, dtype=torch.int8), r"net\.weight_hh_l0 has type torch\.int8"),
        (
            "weight_hh_l0",
            torch.ones(16, 4).to_sparse(),
            r"net\.weight_hh_l0 is stored as torch\.sparse_coo: save it dense",
        ),
        ("weight_hh_l9", torch.ones(16, 4), r"layers up to 9 are named"),
        ("weight_hh_l2", torch.ones(16, 4), r"net\.weight_ih_l2 is missing"),
        ("weight_hh_l9999", torch.ones(16, 4), r"layers up to 9999"),
        ("weight_hr_l0", torch.ones(2, 7), r"net\.weight_hh_l0 .* with a projection \(2, 7\)"),
    ],
)
def test_the_parameter_that_is_wrong_is_named(name, tensor, message):
    with pytest.raises(FlowError, match=message):
        find_recurrent(changed(nn.LSTM(3, 4, 2), name, tensor))


def test_nonlinearity():
    with pytest.raises(OptionError, match="'gelu'"):
        find_recurrent(nn.RNN(2, 3).state_dict(), "gelu")
    with pytest.raises(OptionError, match="has GRU weights"):
        find_recurrent(nn.GRU(2, 3).state_dict(), "relu")


def test_names_give_a_terminal_no_orders():
    names = ["a\x1b[31m,b.", "a\x1b[31m;b.", "x\n$y$."]
    found = find_recurrent({p + k: v for p in names for k, v in nn.RNN(2, 3).state_dict().items()})
    assert [one.name for one in found] == ["a__31m_b", "a__31m_b_", "x__y_"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 2, 0)), "at least one of each"),
        (np.zeros(3), r"expected \(T, B, I\)"),
        (np.array([["a"]]), "not real numbers"),
        (np.array([[1.0, np.inf]]), "inf at step 0, sequence 0, input 1"),
    ],
)
def test_input_that_cannot_drive(tmp_path, array, message):
    path = tmp_path / "in.npy"
    np.save(path, array)
    with pytest.raises(FlowError, match=message):
        read_input(path)


def test_input_of_one_sequence_and_of_other_files(tmp_path: Path):
    np.save(tmp_path / "in.npy", np.ones((4, 3), dtype=np.float16))
    assert read_input(tmp_path / "in.npy").shape == (4, 1, 3)
    np.savez(tmp_path / "in.npz", a=np.ones(2), b=np.ones(3))
    with pytest.raises(FlowError, match="several arrays"):
        read_input(tmp_path / "in.npz")
    with pytest.raises(FlowError, match="no such file"):
        read_input(tmp_path / "none.npy")
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(FlowError, match="Python objects") as caught:
        read_input(tmp_path / "text.npy")
    assert "allow_pickle" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_or_a_device_is_refused_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "flow.json"
    os.mkfifo(pipe)
    os.mkfifo(tmp_path / "flow.safetensors")
    with pytest.raises(FlowError, match="cannot be read: it is a pipe"):
        rg.GradientFlow.load(tmp_path / "flow")
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(FlowError, match=r"cannot be read: it is a (pipe|device)"):
            read_state_dict(path)
    os.mkfifo(tmp_path / "recorded.jsonl")
    (tmp_path / "run" / "flow").mkdir(parents=True)
    (tmp_path / "recorded.jsonl").rename(tmp_path / "run" / "flow" / "recorded.jsonl")
    with pytest.raises(RunError, match="cannot be read: it is a pipe"):
        rg.GradientFlowRecorder(nn.GRU(2, 3), run=tmp_path / "run", resume=True)


def test_layers_are_driven_by_8_sequences_of_100_steps():
    flow = drive(find_recurrent(nn.GRU(2, 3).state_dict()))
    assert flow.norms.shape == (1, 100, 100) and flow.losses.shape == (100, 8)

"""What is exported computes what the model computes, in onnxruntime; what does not is refused."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde import exporting
from retrograde.errors import ExportError, OptionError

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
STEPS = 300


class Model(nn.Module):
    """Two stacks, one of torch.nn and one of ours, with a head at each step, at the last, or of the mean."""

    def __init__(self, kind: str, batch_first: bool, tokens: bool, head: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4) if tokens else nn.Linear(3, 4)
        self.lower = getattr(nn, kind)(4, 5, num_layers=2, batch_first=batch_first, dropout=0.5)
        self.upper = getattr(rg.nn, kind)(5, 6, batch_first=batch_first, bias=False)
        self.out, self.head, self.time = nn.Linear(6, 2), head, 1 if batch_first else 0

    def forward(self, x):
        y = self.upper(self.lower(self.embed(x))[0])[0]
        if self.head == "mean":
            return self.out(y.mean(self.time))
        return self.out(y if self.head == "every" else y.select(self.time, -1)), y


def streamed(found, x, time):
    """The file, step by step, as somebody uses it who has only the file and the names."""
    session = onnxruntime.InferenceSession(str(found.path))
    batch = x.shape[1 - time]
    states = [
        np.zeros([batch if n == "batch" else n for n in shape], dtype=np.float32) for shape in found.states.values()
    ]
    outputs = []
    for t in range(x.shape[time]):
        step = x.narrow(time, t, 1).contiguous().numpy()
        output, *states = session.run(None, dict(zip(found.inputs, [step, *states], strict=True)))
        outputs.append(torch.from_numpy(output))
    return outputs, states


@pytest.mark.parametrize(
    ("kind", "batch_first", "tokens", "head"),
    [("RNN", False, False, "every"), ("GRU", True, True, "every"), ("LSTM", True, False, "last")],
)
def test_a_stream_in_onnxruntime_is_the_model(tmp_path, kind, batch_first, tokens, head):
    torch.manual_seed(0)
    model, time = Model(kind, batch_first, tokens, head), int(batch_first)
    found = rg.export(model, tmp_path / "m.onnx", streaming=True, steps=STEPS)
    assert found.steps == STEPS and 0 < found.difference < 1e-5 and found.drift < 1e-5 and model.training
    names = ["lower.h", "lower.c", "upper.h", "upper.c"] if kind == "LSTM" else ["lower.h", "upper.h"]
    assert found.inputs == ("x", *(f"{n}_0" for n in names)) and found.outputs == ("output", *(f"{n}_n" for n in names))
    assert found.states["lower.h_0"] == (2, "batch", 5)
    shape = (7, 9) if batch_first else (9, 7)
    x = torch.randint(0, 11, shape) if tokens else torch.randn(*shape, 3)
    outputs, _ = streamed(found, x, time)
    with torch.no_grad():
        expected = model.eval()(x)[0]
    joined = torch.cat(outputs, time) if head == "every" else outputs[-1]
    torch.testing.assert_close(joined, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.LSTM(3, 4, 2, proj_size=2), rg.nn.RNN(3, 4, nonlinearity="relu"), nn.GRU(3, 4)])
def test_a_layer_alone_with_its_final_state(tmp_path, layer):
    found = rg.export(layer, tmp_path / "m.onnx", streaming=True, steps=50)
    x = torch.randn(6, 2, 3)
    outputs, states = streamed(found, x, 0)
    with torch.no_grad():
        output, state = layer(x)
    torch.testing.assert_close(torch.cat(outputs), output, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(states, state if isinstance(state, tuple) else (state,), strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-5)


def test_whole_sequences_of_any_length_and_batch(tmp_path):
    layer = rg.nn.GRU(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    found = rg.export(layer, tmp_path / "m.onnx", steps=STEPS)
    assert not found.states and found.inputs == ("x",) and "differs by at most" in str(found)
    session = onnxruntime.InferenceSession(str(found.path))
    for shape in ((1, 5, 3), (4, 2, 3)):
        x = torch.randn(shape)
        with torch.no_grad():
            expected = layer(x)[0]
        torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), expected)


def test_tokens_of_a_table_that_is_no_embedding_stay_within_the_example(tmp_path):
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows, self.layer = nn.Parameter(torch.randn(5, 3)), rg.nn.GRU(3, 4)

        def forward(self, x):
            return self.layer(self.rows[x])[0]

    assert rg.export(Table(), tmp_path / "m.onnx", torch.tensor([[0], [4], [2]]), steps=STEPS).path.exists()


@pytest.mark.parametrize("seed", range(4))  # 8 of 40 such networks were refused, which ones depends on the processor
def test_chaos_amplifies_rounding_and_is_no_error(tmp_path, seed):
    torch.manual_seed(seed)
    layer = nn.RNN(2, 40)
    with torch.no_grad():
        layer.weight_hh_l0.normal_().mul_(3 / 40**0.5)
    found = rg.export(layer, tmp_path / "m.onnx", streaming=True, steps=STEPS)
    assert found.difference < 1e-5 < 0.1 < found.drift and "after all of them" in str(found)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("error", [1e-3, 3e-2])
def test_an_exporter_that_is_wrong_is_refused(tmp_path, monkeypatch, streaming, error):
    written = exporting._written

    def wrong(program, time):
        program = exporting.copy.deepcopy(program)
        with torch.no_grad():
            for parameter in program.module.parameters():
                parameter.mul_(1 + error)
        return written(program, time)

    monkeypatch.setattr(exporting, "_written", wrong)
    (tmp_path / "m.onnx").write_bytes(b"what was there before")
    with pytest.raises(ExportError, match="nothing was written"):
        rg.export(rg.nn.GRU(3, 4), tmp_path / "m.onnx", streaming=streaming, steps=50)
    assert (tmp_path / "m.onnx").read_bytes() == b"what was there before"


class Initial(nn.Module):
    """Begins at a state that is not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.h_0 = nn.GRU(3, 4), nn.Parameter(torch.ones(1, 1, 4))

    def forward(self, x):
        return self.layer(x, self.h_0.expand(1, x.shape[1], 4).contiguous())[0]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(3, 3)

    def forward(self, x):
        return self.layer(self.layer(x)[0])[0]


def test_what_is_no_stream_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    for model, error, text in (
        (Model("GRU", True, False, "mean"), ExportError, "see several steps"),
        (Initial(), ExportError, "nothing was written"),
        (Twice(), OptionError, "called more than once"),
        (nn.GRU(3, 4, bidirectional=True), OptionError, "bidirectional"),
        (nn.Linear(3, 4), OptionError, "has no recurrent layer"),
        (nn.GRU(3, 4).double(), OptionError, r"export model.float\(\).cpu\(\)"),
        (nn.Sequential(nn.Identity(), nn.GRU(3, 4)), OptionError, "give example="),
    ):
        with pytest.raises(error, match=text):
            rg.export(model, path, streaming=True, steps=20)
    for shape in ((3,), (0, 2, 3), (2, 0, 3)):
        with pytest.raises(OptionError, match="time and batch"):
            rg.export(nn.GRU(3, 4), path, torch.zeros(shape))
    with pytest.raises(OptionError, match="steps=0"):
        rg.export(nn.GRU(3, 4), path, steps=0)
    assert not path.exists()
    rg.export(nn.Sequential(nn.Identity(), nn.GRU(3, 4)), path, torch.zeros(5, 2, 3), streaming=True, steps=20)
    assert path.exists()

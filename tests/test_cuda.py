"""On a machine with CUDA: layers, measurements, doctor and commands give there what they give on the CPU.

Skipped where there is no such machine, as in continuous integration.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import retrograde as rg

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")

KINDS = ["RNN", "GRU", "LSTM"]
T, B, C, H = 14, 6, 3, 8


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Tagger(nn.Module):
    """Two recurrent layers with dropout between, both directions if asked, and a head at every step."""

    def __init__(self, kind: Callable[..., nn.RNNBase], bidirectional: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer = kind(C, H, 2, dropout=dropout, bidirectional=bidirectional)
        size = (self.layer.proj_size or H) * (1 + bidirectional)
        self.head = nn.Linear(size, 2)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is None:
            return self.head(self.layer(x)[0])
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        return self.head(pad_packed_sequence(self.layer(packed)[0], total_length=len(x))[0])


class Loop(nn.Module):
    """A cell in a loop."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell, self.head = getattr(nn, kind + "Cell")(C, H), nn.Linear(H, 2)

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for step in x:
            state = self.cell(step, state)
            outputs.append(self.head(state[0] if isinstance(state, tuple) else state))
        return torch.stack(outputs)


def squared(output: Tensor) -> Tensor:
    return output.square().sum(-1)


def by_step(output: Tensor, target: Tensor) -> Tensor:
    return (output[..., 0].float() - target).square()


def both(model: nn.Module, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """The same model on the CPU and on the GPU."""
    model = model.to(dtype)
    return model, copy.deepcopy(model).cuda()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_equal_torch_and_our_own_on_the_cpu(kind, packed):
    ours, there = both(Tagger(getattr(rg.nn, kind), bidirectional=True))
    torchs = Tagger(getattr(nn, kind), bidirectional=True).double().cuda()
    torchs.load_state_dict(there.state_dict())
    x, lengths = torch.randn(T, B, C, dtype=torch.float64), torch.tensor([T, 3, 9, 1, T, 7]) if packed else None
    results = []
    for model in (ours, there, torchs):
        own = x.detach().clone().to(model.head.weight.device).requires_grad_()
        model(own, lengths).square().sum().backward()
        results.append([own.grad, *(p.grad for p in model.parameters())])
    for here, gpu, peer in zip(*results, strict=True):
        assert gpu.is_cuda
        torch.testing.assert_close(gpu.cpu(), here, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(gpu, peer, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_accelerated_models_move_to_the_gpu_and_back(kind):
    model, x = Tagger(getattr(nn, kind)), torch.randn(T, B, C)
    before = model(x)
    rg.nn.accelerate_(model).cuda()
    moved = model(x.cuda())
    assert "cuda" in str(rg.nn.explain(model.layer, x.cuda()))
    torch.testing.assert_close(moved.cpu(), before, rtol=1e-3, atol=1e-4)  # TF32 may be on
    torch.testing.assert_close(model.cpu()(x), before)
    with torch.autocast("cuda", torch.bfloat16):
        assert model.cuda()(x.cuda()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_steps_streams_and_traces(kind):
    layer = getattr(rg.nn, kind)(C, H).double()
    x = torch.randn(T, 1, C, dtype=torch.float64)
    expected = layer(x)[0]
    layer.cuda()
    state, outputs, stream = None, [], layer.stream()
    for step in x.cuda():
        output, state = layer.step(step, state)
        outputs.append(output)
        torch.testing.assert_close(stream(step[0]).view(-1).cpu(), expected[len(outputs) - 1, 0])
    torch.testing.assert_close(torch.stack(outputs).cpu(), expected)
    torch.testing.assert_close(layer.trace(x.cuda()).output.cpu(), expected)


def everything(flow: rg.GradientFlow) -> dict[str, object]:
    """All that a flow knows, by name, or why it does not."""
    asked = {
        "norms": lambda label: flow.norms,
        "by_lag": lambda label: flow.by_lag(),
        "horizon": lambda label: flow.horizon(0.01),
        "share": lambda label: flow.share_by_lag(flow.weight(label)),
        "pairs": lambda label: flow.pair_contributions(flow.weight(label)).share,
        "truncation": lambda label: flow.truncation(flow.weight(label)).shortest(0.99),
        "jacobians": lambda label: flow.jacobian_norms(label),
        "radii": lambda label: flow.spectral_radii(label),
        "singular": lambda label: flow.singular_values(2, T - 1, label),
        "exponents": lambda label: flow.lyapunov_exponents(label),
        "largest": lambda label: flow.largest_exponents(label),
        "bounds": lambda label: flow.bounds(label).norm,
        "saturation": lambda label: flow.saturation(label).derivative_by_step,
        "gates": lambda label: [np.asarray(gate.mean) for gate in flow.gates(label).values()],
        "summary": lambda label: str(rg.flow.summarize(flow)),
    }
    found: dict[str, object] = {}
    for label in flow.layers:
        for name, ask in asked.items():
            try:
                found[f"{name} of {label}"] = ask(label)
            except (rg.errors.RetrogradeError, AttributeError) as error:
                found[f"{name} of {label}"] = str(error)
    return found


def assert_same(found: dict[str, object], expected: dict[str, object]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, str | int | None):
            assert found[name] == value, name
        else:
            for one, other in zip(np.atleast_1d(found[name]), np.atleast_1d(value), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-11, err_msg=name)


class Marked(nn.Module):
    """A recurrence of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.w, self.head = nn.Linear(C, H), nn.Linear(H, H), nn.Linear(H, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(x.shape[1], H), []
        for step in x:
            h = rg.mark_state(torch.sin(self.u(step) + self.w(h)))
            outputs.append(self.head(h))
        return torch.stack(outputs)


MODELS = {
    "ReLU": lambda: Tagger(partial(nn.RNN, nonlinearity="relu")),
    "GRU": lambda: Tagger(nn.GRU),
    "LSTM of ours": lambda: Tagger(rg.nn.LSTM),
    "projected": lambda: Tagger(partial(nn.LSTM, proj_size=4)),
    "both directions": lambda: Tagger(nn.GRU, bidirectional=True),
    "LSTM cells": lambda: Loop("LSTM"),
    "RNN cells": lambda: Loop("RNN"),
    "marked": Marked,
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_gradient_flow_is_the_same(name, last, tmp_path):
    here, there = both(MODELS[name]())
    x = torch.randn(T, B, C, dtype=torch.float64)

    def loss(output: Tensor) -> Tensor:
        return squared(output[-1] if last else output)

    flow = rg.gradient_flow(there, x.cuda(), loss=loss)
    assert_same(everything(flow), everything(rg.gradient_flow(here, x, loss=loss)))
    flow.save(tmp_path / "flow")
    np.testing.assert_array_equal(rg.GradientFlow.load(tmp_path / "flow").norms, flow.norms)


@pytest.mark.parametrize("kind", KINDS)
def test_both_directions_and_packed_sequences(kind):
    here, there = both(Tagger(getattr(nn, kind), bidirectional=True))
    x, lengths = torch.randn(T, B, C, dtype=torch.float64), torch.tensor([T, 3, 9, 1, T, 7])
    a = rg.gradient_flow(here, x, lengths, loss=squared, lengths=lengths)
    b = rg.gradient_flow(there, x.cuda(), lengths, loss=squared, lengths=lengths)
    np.testing.assert_allclose(b.norms, a.norms, rtol=1e-7, atol=1e-12)


def test_the_models_state_and_the_random_states_of_the_gpu_are_left_alone():
    model = Tagger(nn.LSTM, dropout=0.4).cuda().train()
    x = torch.randn(T, B, C, device="cuda")
    before, weights = torch.cuda.get_rng_state(), copy.deepcopy(model.state_dict())
    rg.gradient_flow(model, x, loss=squared)
    assert torch.equal(before, torch.cuda.get_rng_state()) and model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype):
    model, x = Tagger(nn.GRU).cuda(), torch.randn(T, B, C, device="cuda")
    full = rg.gradient_flow(model, x, loss=squared)
    with torch.autocast("cuda", dtype):
        cast = rg.gradient_flow(model, x, loss=squared)
    assert any("autocast" in note for note in cast.notes)
    np.testing.assert_allclose(cast.norms, full.norms, rtol=1e-2, atol=1e-5)
    half = rg.gradient_flow(copy.deepcopy(model).to(dtype), x.to(dtype), loss=squared)
    assert np.isfinite(half.norms[0, T - 1, T - 2])


def test_signal_need_sequences_clip_and_check():
    here, there = both(Tagger(nn.RNN))
    x = torch.randn(T, 128, C, dtype=torch.float64)
    target = x[..., 0].roll(3, 0)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output[..., 0] - target).square()

    needs = [
        rg.flow.need_of(model, [(x.to(device), target.to(device))], loss).need
        for model, device in ((here, "cpu"), (there, "cuda"))
    ]
    assert needs[0] == needs[1] == 3
    found = rg.gradient_flow(there, x.cuda(), loss=lambda output: loss(output, target.cuda())).signal_by_lag()
    assert found.need == 3
    sizes = [rg.sequence_gradients(model, x.to(d), loss=squared) for model, d in ((here, "cpu"), (there, "cuda"))]
    for name, value in sizes[0].norms.items():
        np.testing.assert_allclose(sizes[1].norms[name], value, rtol=1e-7)
    assert rg.check_gradients(there, x[:, :4].cuda()).ok
    single = rg.check_gradients(Tagger(rg.nn.LSTM).cuda(), torch.randn(T, 4, C, device="cuda"))
    assert single.ok and "TensorFloat-32" in single.notes[0]  # where it was on, the check said wrong


def test_the_recorder_while_a_network_trains_with_autocast_and_scaling(tmp_path):
    model = rg.nn.accelerate_(Tagger(nn.LSTM, dropout=0.2)).cuda()
    optimizer, scaler = torch.optim.Adam(model.parameters(), 0.01), torch.amp.GradScaler("cuda")
    recorder = rg.GradientFlowRecorder(model, by_step, run=tmp_path, every=5, budget=None)
    for _ in range(15):
        x = torch.randn(T, B, C, device="cuda")
        with torch.autocast("cuda", torch.float16):
            losses = by_step(model(x), x.sum(-1))
        scaler.scale(losses.mean()).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        recorder.step(x, target=x.sum(-1), gradient_norm=norm)
    assert len(recorder.records) == 3 and recorder.suggest_clip().value > 0
    assert any(tmp_path.iterdir())


class Classifier(nn.Module):
    """One output for a sequence, by its last state or by the mean over its steps."""

    def __init__(self, kind: str, pooled: bool = False, **options: object) -> None:
        super().__init__()
        self.layer, self.pooled = getattr(nn, kind)(C, H, **options), pooled
        self.head = nn.Linear(H * (1 + self.layer.bidirectional), 1)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is not None:
            x = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
        output = self.layer(x)[0]
        if lengths is not None:
            output, _ = pad_packed_sequence(output)
        return self.head(output.mean(0) if self.pooled else output[-1])[:, 0]


CASES = {
    "last state": lambda: Classifier("RNN"),
    "pooled": lambda: Classifier("GRU", pooled=True, bidirectional=True),
    "large": lambda: Classifier("RNN", nonlinearity="relu"),
    "LSTM": lambda: Classifier("LSTM"),
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_doctor_says_the_same(name, padded):
    here = CASES[name]().eval()
    if name == "large":
        here.layer.weight_hh_l0.data *= 4
    there = copy.deepcopy(here).cuda()
    x, lengths = torch.randn(24, 64, C), torch.randint(8, 24, (64,))
    target = x[20, :, 0]
    found = []
    for model, device in ((here, "cpu"), (there, "cuda")):
        inputs = (x.to(device), lengths.to(device)) if padded else (x.to(device),)
        diagnosis = rg.diagnose(
            model, [(*inputs, target.to(device))], loss=lambda output, target: (output - target).square()
        )
        assert not model.training and str(diagnosis)
        found.append(diagnosis)
    assert [f.kind for f in found[1].findings] == [f.kind for f in found[0].findings]
    assert [p.remedy for p in found[1].prescriptions] == [p.remedy for p in found[0].prescriptions]


def test_a_start_is_set_on_the_gpu():
    model = rg.nn.initialize(Tagger(nn.LSTM).cuda(), recurrent="orthogonal", chrono=20)
    assert 0 < model.layer.bias_hh_l0.add(model.layer.bias_ih_l0)[H : 2 * H].max() < 3


def test_export_asks_for_a_model_on_the_cpu(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    with pytest.raises(rg.errors.RetrogradeError, match=r"cuda.*export model.float\(\).cpu\(\)"):
        rg.export(rg.nn.GRU(C, H).cuda(), tmp_path / "m.onnx", streaming=True)


def test_compiled_models_train():
    model = rg.nn.accelerate_(Tagger(nn.GRU)).cuda()
    x = torch.randn(T, B, C, device="cuda")
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-3, atol=1e-4)
    compiled(x).sum().backward()


def run(*arguments: object, folder: Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "retrograde", *map(str, arguments)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_commands_train_go_on_measure_and_predict(tmp_path, precision):
    (tmp_path / "book.txt").write_text("the quick brown fox jumps over the lazy dog, again and again. " * 300)
    tiny = ["--hidden-size", 24, "--bptt", 20, "--batch-size", 8, "--no-report", "--eval-every", 20]
    tiny += ["--precision", precision]
    run("train", "book.txt", "--out", "whole", "--device", "cuda", *tiny, "--max-steps", 80, folder=tmp_path)
    run("train", "book.txt", "--out", "parts", "--device", "cuda", *tiny, "--max-steps", 40, folder=tmp_path)
    run("train", "--resume", "--out", "parts", "--max-steps", 80, folder=tmp_path)
    last = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("whole", "parts")]
    assert last[0]["step"] == last[1]["step"] == 80
    assert last[0]["validation_loss"] == pytest.approx(last[1]["validation_loss"], rel=1e-3)
    assert last[0]["validation_loss"] < 2.5
    run("train", "book.txt", "--out", "cpu", "--device", "cpu", *tiny, "--max-steps", 80, folder=tmp_path)
    there = json.loads((tmp_path / "cpu" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last[0]["validation_loss"] == pytest.approx(there["validation_loss"], rel=0.1)
    for command in (
        ["flow", "whole"],
        ["flow", "whole", "--signal"],
        ["doctor", "whole"],
        ["evaluate", "whole", "book.txt"],
    ):
        run(*command, folder=tmp_path)
    assert len(run("generate", "whole", "--length", 40, folder=tmp_path)) >= 40
    run("report", "whole", folder=tmp_path)


def test_labels_forecasts_and_doctors_of_runs(tmp_path):
    random = np.random.default_rng(0)
    X = [random.normal(size=(random.integers(8, 14), 2)) for _ in range(80)]
    y = np.array(["up" if x[:, 0].sum() > 0 else "down" for x in X])
    model = rg.Classifier(hidden_size=16, lr=0.01, max_steps=60, device="cuda").fit(X, y)
    assert model.score(X, y) > 0.8
    assert np.isfinite(model.predict_proba(X[:4])).all()
    assert str(model.diagnose()) and model.flow().layers
    series = np.sin(np.arange(300) / 5) + random.normal(size=300) / 20
    forecast = rg.Forecaster(horizon=6, max_steps=60, device="cuda").fit(series).predict()
    assert np.isfinite(np.asarray(forecast, dtype=float)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_both_directions_with_a_loss_at_every_step(kind):
    """Targets need steps 2 before and 4 after: the signal finds both on either machine."""
    here, there = both(Tagger(getattr(nn, kind), bidirectional=True))
    x = torch.randn(T, 256, C, dtype=torch.float64)
    target = x[..., 0].roll(2, 0) + x[..., 1].roll(-4, 0)
    inside = torch.arange(T) < T - 4
    inside[:2] = False

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output[..., 0] - target).square() * inside.to(output.device)[:, None]

    needs = [
        rg.flow.need_of(model, [(x.to(device), target.to(device))], loss).need
        for model, device in ((here, "cpu"), (there, "cuda"))
    ]
    assert needs[0] == needs[1] == 4


def test_flossing_and_weight_drop():
    here, there = both(nn.RNN(C, H))
    x = torch.randn(30, 4, C, dtype=torch.float64)
    one, other = (
        rg.nn.floss(model, x.to(device), exponents=3, updates=5) for model, device in ((here, "cpu"), (there, "cuda"))
    )
    assert one.after.keys() == other.after.keys()
    np.testing.assert_allclose(list(other.after.values()), list(one.after.values()), rtol=1e-5, atol=1e-8)
    dropped = rg.nn.weight_drop_(Tagger(nn.LSTM).cuda().train(), 0.5)
    dropped(x.float().cuda()).sum().backward()


def test_tags_numbers_and_text_from_python(tmp_path):
    random = np.random.default_rng(0)
    words = [[f"w{i}" for i in random.integers(0, 9, random.integers(5, 9))] for _ in range(80)]
    tags = [["first" if i == 0 else word[-1] for i, word in enumerate(sentence)] for sentence in words]
    tagger = rg.Tagger(hidden_size=16, embedding_size=8, lr=0.02, max_steps=60, device="cuda").fit(words, tags)
    assert tagger.score(words, tags) > 0.5 and str(tagger.diagnose())
    X = random.normal(size=(80, 12, 2))
    regressor = rg.Regressor(hidden_size=16, lr=0.01, max_steps=60, device="cuda").fit(X, X[:, -1, 0])
    assert np.isfinite(regressor.predict(X[:4])).all() and str(regressor.diagnose())
    regressor.save(tmp_path / "kept")
    np.testing.assert_allclose(rg.Regressor.load(tmp_path / "kept").predict(X[:4]), regressor.predict(X[:4]), rtol=1e-3)


def test_prescriptions_are_proved_and_runs_compared(tmp_path):
    random = np.random.default_rng(1)
    sequences = random.normal(size=(120, 40))
    rows = [
        f"{i},{'up' if x[0] > 0 else 'down'},{step},{value:.3f}"
        for i, x in enumerate(sequences)
        for step, value in enumerate(x)
    ]
    (tmp_path / "first.csv").write_text("\n".join(["id,label,step,value", *rows]))
    columns = ["--task", "classify", "--group", "id", "--time", "step", "--label", "label"]
    tiny = ["--hidden-size", 16, "--batch-size", 32, "--max-steps", 60, "--no-report", "--device", "cuda"]
    for name, cell in (("small", "rnn"), ("gated", "gru")):
        run("train", "first.csv", *columns, "--cell", cell, "--lr", 1e-5, "--out", name, *tiny, folder=tmp_path)
    shown = run("doctor", "small", "--prove", "--seeds", 1, "--budget", "2m", "--workers", 2, folder=tmp_path)
    assert "placebo" in shown and "Traceback" not in shown
    assert "gated" in run("compare", "small", "gated", folder=tmp_path)
    run("report", "small", folder=tmp_path)

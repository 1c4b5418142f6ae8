"""Autocast, half precision and compiled code: measured in the model's own type with a note, or refused in one line."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import retrograde as rg
from retrograde._torch_private import COMPILER

T, B, D, H = 12, 4, 3, 8
SAID = "autocast was active (bfloat16); measured in float32, without it"


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    entered = torch.autocast.__enter__
    yield
    assert torch.autocast.__enter__ is entered and not torch.is_autocast_enabled("cpu")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.rnn, self.head = nn.Linear(D, H), nn.LSTM(H, H, 2), nn.Linear(H, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.into(x))[0])


class Within(Model):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x)


class Decorated(Model):
    @torch.autocast("cpu", dtype=torch.bfloat16)
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Casting(Model):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.head(self.rnn(self.into(x).to(torch.bfloat16))[0])


def by_step(output: Any) -> Tensor:
    return (output[0] if isinstance(output, tuple) else output).square().sum(-1)


def last(output: Any) -> Tensor:
    return (output[0] if isinstance(output, tuple) else output)[-1].square().sum(-1)


@pytest.mark.parametrize("loss", [by_step, last])
@pytest.mark.parametrize("half_input", [False, True])
def test_autocast_around_a_measurement_is_switched_off_and_said(
    loss: Callable[[Any], Tensor], half_input: bool
) -> None:
    model, x = Model(), torch.randn(T, B, D).bfloat16().float()
    plain = rg.gradient_flow(model, x, loss=loss)
    sequences = rg.flow.sequence_gradients(model, x, loss=loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        flow = rg.gradient_flow(model, x.bfloat16() if half_input else x, loss=loss)
        shortest, share = flow.truncation().error, flow.share_by_lag("rnn.weight_hh_l0")
        found = rg.flow.sequence_gradients(model, x, loss=loss)
        assert torch.is_autocast_enabled("cpu") and model.into(x).dtype == torch.bfloat16
    assert flow.notes == [SAID] and found.notes == [SAID] and plain.notes == []
    np.testing.assert_array_equal(flow.norms, plain.norms)
    np.testing.assert_allclose(shortest, plain.truncation().error, atol=1e-6)
    np.testing.assert_allclose(share, plain.share_by_lag("rnn.weight_hh_l0"), atol=1e-6)
    np.testing.assert_array_equal(found.norms["rnn.weight_hh_l0"], sequences.norms["rnn.weight_hh_l0"])


@pytest.mark.parametrize("kind", [Within, Decorated])
def test_autocast_inside_the_model_is_switched_off_and_said(kind: type[Model]) -> None:
    model, x = kind(), torch.randn(T, B, D)
    plain = Model()
    plain.load_state_dict(model.state_dict())
    for _ in range(2):
        flow = rg.gradient_flow(model, x, loss=by_step)
        assert flow.notes == ["the model switches autocast on (bfloat16); measured in float32, without it"]
        np.testing.assert_array_equal(flow.norms, rg.gradient_flow(plain, x, loss=by_step).norms)
        assert model(x).dtype == torch.bfloat16  # as before, once it is measured


def test_a_model_that_works_under_autocast_only_is_refused_in_one_line() -> None:
    x = torch.randn(T, B, D)
    for measure in (rg.gradient_flow, rg.flow.sequence_gradients):
        with pytest.raises(rg.errors.FlowError, match=r"autocast \(bfloat16\).*\.to\(torch.bfloat16\)") as caught:
            measure(Casting(), x, loss=by_step)
        assert "\n" not in str(caught.value)
    recorder = rg.GradientFlowRecorder(Casting(), by_step, every=1, budget=None)
    with pytest.raises(rg.errors.FlowError, match="autocast"):
        recorder.step(x)


def test_an_error_of_the_models_own_stays_its_own() -> None:
    class Broken(Model):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("of its own")

    with pytest.raises(RuntimeError, match="of its own"), torch.autocast("cpu"):
        rg.gradient_flow(Broken(), torch.randn(T, B, D), loss=by_step)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.08), (torch.float16, 0.01)])
@pytest.mark.parametrize("loss", [by_step, last])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_model_in_half_precision_is_measured_in_it(
    kind: str, loss: Callable[[Any], Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    layer, x = getattr(nn, kind)(D, H, 2).to(dtype), torch.randn(T, B, D).to(dtype)
    flow = rg.gradient_flow(layer, x, loss=loss, reduce="none")
    exact = rg.gradient_flow(layer.double(), x.double(), loss=loss, reduce="none").norms
    large = exact > 1e-2 * exact.max()
    np.testing.assert_allclose(flow.norms[large], exact[large], rtol=tolerance)


def test_a_flow_of_bfloat16_is_saved_with_its_trajectory(tmp_path: Path) -> None:
    layer, x = nn.GRU(D, H).bfloat16(), torch.randn(T, B, D).bfloat16()
    flow = rg.gradient_flow(layer, x, loss=by_step)
    flow.save(tmp_path / "flow")
    again = rg.flow.GradientFlow.load(tmp_path / "flow")
    np.testing.assert_array_equal(again.norms, flow.norms)
    np.testing.assert_allclose(again.jacobian_norms(), flow.jacobian_norms(), rtol=1e-2)
    np.testing.assert_allclose(again.truncation().share, flow.truncation().share, atol=0.02)


def test_training_under_autocast_with_a_scaler_is_the_same_with_a_recorder() -> None:
    results = []
    for recorded in (False, True):
        torch.manual_seed(0)
        model = Model()
        optimiser = torch.optim.SGD(model.parameters(), 0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6)
        recorder = rg.GradientFlowRecorder(model, by_step, every=1, budget=None, sequences=2) if recorded else None
        for _ in range(3):
            x = torch.randn(T, B, D)
            with torch.autocast("cpu", dtype=torch.float16):
                loss = by_step(model(x)).float().mean()
                if recorder is not None:  # inside, between the forward and the backward pass
                    recorder.step(x)
            optimiser.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimiser)
            scaler.update()
        results.append([*model.state_dict().values(), torch.rand(())])
        if recorder is not None:
            assert len(recorder.records) == 3
            for record in recorder.records:
                assert record["notes"] == ["autocast was active (float16); measured in float32, without it"]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_other_threads_keep_their_autocast() -> None:
    seen: list[torch.dtype] = []

    def other() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)

    def loss(output: Tensor) -> Tensor:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return by_step(output)

    rg.gradient_flow(Model(), torch.randn(T, B, D), loss=loss)
    assert seen == [torch.bfloat16, torch.float32]


COMPILES_ITSELF = """
import sys, torch, retrograde as rg
from torch import nn


class Model(nn.Module):
    def __init__(self, compiles):
        super().__init__()
        self.rnn, self.head, self.heads = nn.GRU(3, 4), nn.Linear(4, 2), []
        self.compiles = compiles

    def forward(self, x):
        if self.compiles and not self.heads:
            self.heads = [torch.compile(self.head), torch.compile(backend="eager")(self.head)]
        states = self.rnn(x)[0]
        return sum(head(states) for head in self.heads) / 2 if self.compiles else self.head(states)


compile = torch.compile
for compiles in (False, True):
    torch.manual_seed(0)
    flow = rg.gradient_flow(Model(compiles), torch.randn(9, 4, 3), loss=lambda output: output.square().sum(-1))
    print("torch._dynamo" in sys.modules, flow.norms[0, 8].sum(), torch.compile is compile)
print(torch._dynamo.eval_frame._stance.stance)
"""


def test_torchs_compiler_is_imported_only_where_something_is_compiled():
    done = subprocess.run([sys.executable, "-c", COMPILES_ITSELF], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    plain, compiled, stance = done.stdout.splitlines()
    with_vmap = COMPILER in torch.func.vmap.__code__.co_names  # torch 2.6: a measurement imports it for its first vmap
    assert plain.split()[0] == str(with_vmap) and compiled.split()[0] == "True" and stance == "default"
    assert plain.split()[1:] == compiled.split()[1:] and float(plain.split()[1]) > 0 and plain.endswith("True")


def test_a_compiler_of_another_name_is_switched_off_before_every_measurement(monkeypatch):
    stances = []
    set_stance = torch.compiler.set_stance
    monkeypatch.setattr(torch.compiler, "set_stance", lambda stance: stances.append(stance) or set_stance(stance))
    monkeypatch.setattr("retrograde._torch_private.COMPILER", "torch.compiler_of_tomorrow")
    rg.gradient_flow(Model(), torch.randn(T, B, D), loss=by_step)
    assert stances and set(stances) == {"force_eager"}

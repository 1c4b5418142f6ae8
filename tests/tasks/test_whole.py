"""The whole of a prediction, as a module and in ONNX, is what the run predicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde import exporting
from retrograde.errors import ExportError, OptionError

onnxruntime = pytest.importorskip("onnxruntime")
RANDOM = np.random.default_rng(0)
X = 500 + 30 * RANDOM.normal(size=(60, 12)).cumsum(1)
FAST = {"max_steps": 8, "hidden_size": 8, "threads": 1}


@pytest.fixture(scope="module")
def ridge():
    """A regressor whose predictions are half of the network and half of ridge regression."""
    y = 1e-3 * (X @ RANDOM.normal(size=12)) + 7
    model = rg.Regressor(**FAST).fit(X, y)
    assert model.run_.predictor.reader.averages
    with torch.no_grad():
        model.run_.model.output.weight.normal_()
        model.run_.model.ridge_share.fill_(0.5)
    return model


def found_by(path, x):
    return onnxruntime.InferenceSession(path).run(None, {"x": x.T[:, :, None].astype(np.float32)})[0]


def test_a_run_with_a_share_of_ridge_regression_is_exported_whole(ridge, tmp_path):
    expected = ridge.predict(X)
    exported = rg.export(ridge.run_, tmp_path / "m.onnx", steps=100)
    assert (exported.inputs, exported.outputs, exported.states) == (("x",), ("output",), {})
    assert found_by(tmp_path / "m.onnx", X) == pytest.approx(expected, abs=1e-4 * expected.std())
    traced = torch.jit.trace(ridge.run_.predictor.whole().eval(), torch.from_numpy(X.T[:, :, None]).float())
    with torch.no_grad():
        assert traced(torch.from_numpy(X.T[:, :5, None]).float()).numpy() == pytest.approx(expected[:5], rel=1e-5)


@pytest.mark.parametrize("part", ["weights", "target_scale", "inputs_mean", "network.output.weight"])
def test_a_part_that_is_lost_is_noticed(ridge, tmp_path, monkeypatch, part):
    written = exporting._written

    def wrong(program, time):
        program = exporting.copy.deepcopy(program)
        tensor = dict(program.module.state_dict())[part]
        tensor.copy_(tensor * 1.01)
        return written(program, time)

    monkeypatch.setattr(exporting, "_written", wrong)
    with pytest.raises(ExportError, match="differs from the model"):
        rg.export(ridge, tmp_path / "m.onnx", steps=100)
    assert not (tmp_path / "m.onnx").exists()


def test_without_ridge_regression_any_number_of_steps_and_streams(tmp_path):
    y = 1e-6 * RANDOM.normal(size=60)
    model = rg.Regressor(**FAST, bidirectional=False, pooling="last").fit(list(X), y)
    assert not model.run_.model.part_of
    rg.export(model, tmp_path / "m.onnx", steps=100)
    for steps in (12, 5):
        expected = model.predict(list(X[:, :steps]))
        assert found_by(tmp_path / "m.onnx", X[:, :steps]) == pytest.approx(expected, abs=1e-3 * expected.std())
    stream = rg.export(model, tmp_path / "s.onnx", streaming=True, steps=60)
    session = onnxruntime.InferenceSession(tmp_path / "s.onnx")
    state = np.zeros((1, 60, 8), np.float32)
    for step in range(12):
        x = X[:, step].astype(np.float32)[None, :, None]
        output, state = session.run(None, {"x": x, stream.inputs[1]: state})
    assert output == pytest.approx(model.predict(list(X)), abs=1e-3 * expected.std())


def test_what_is_not_the_whole_is_refused(ridge, tmp_path):
    path = tmp_path / "m.onnx"
    with pytest.raises(
        OptionError, match=r"ridge regression has a share of 50% in what .* export the run, rg\.export\(rg\.load"
    ):
        rg.export(ridge.run_.model, path)
    with pytest.raises(OptionError, match="ridge regression on whole sequences has a share in"):
        rg.export(ridge, path, streaming=True)
    with pytest.raises(OptionError, match=r"a run with quantiles cannot be exported as a whole: export run\.model"):
        rg.export(rg.Regressor(**FAST, quantiles=[0.1, 0.9]).fit(X, X[:, 0]), path)
    with pytest.raises(OptionError, match="only a run of --task regress is exported as a whole"):
        rg.export(rg.Classifier(**FAST).fit(X, ["a", "b"] * 30), path)
    with pytest.raises(OptionError, match="model is a int; give a module, or a run"):
        rg.export(3, path)
    assert not path.exists()

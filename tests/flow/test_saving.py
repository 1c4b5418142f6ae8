"""``saving.py``: the files of a flow, its CSV table, its xarray arrays."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import retrograde as rg
from retrograde.errors import FlowError


def losses(output: tuple[Tensor, object]) -> Tensor:
    return output[0].square().sum(-1)


@pytest.fixture
def layer() -> nn.GRU:
    torch.manual_seed(0)
    return nn.GRU(2, 3, bidirectional=True).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 3, 2).double()


@pytest.mark.parametrize(
    ("reduce", "column"), [("mean", None), ("none", "sequence"), ([0.25, 0.75], "quantile"), ([0.5], None)]
)
def test_csv_has_a_header_and_a_line_for_every_pair_with_a_path(
    layer: nn.GRU, x: Tensor, tmp_path: Path, reduce: object, column: str | None
) -> None:
    flow = rg.gradient_flow(layer, x, loss=losses, reduce=reduce, targets=[1, 4])  # type: ignore[arg-type]
    flow.to_csv(tmp_path / "flow.csv")
    header, *rows = csv.reader((tmp_path / "flow.csv").read_text().splitlines())
    assert header == ["layer", "t", "k", "lag", *([column] if column else []), "norm"]
    assert len(rows) == np.count_nonzero(flow.norms)
    for row in rows:
        i, n, k = flow.layers.index(row[0]), flow.targets.tolist().index(int(row[1])), int(row[2])
        ends = {"sequence": range(3), "quantile": [0.25, 0.75]}.get(str(column))
        rest = () if ends is None else (list(ends).index(float(row[4])),)
        assert float(row[-1]) == flow.norms[(i, n, k, *rest)]
        assert int(row[3]) == (k - int(row[1]) if flow.reverse[i] else int(row[1]) - k)


@pytest.mark.parametrize("trajectory", [True, False])
def test_a_saved_flow_is_the_same_and_its_suffix_may_be_given(
    layer: nn.GRU, x: Tensor, tmp_path: Path, trajectory: bool
) -> None:
    flow = rg.gradient_flow(layer, x, loss=losses)
    flow.save(tmp_path / "flow.json", trajectory=trajectory)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flow.json", "flow.safetensors"]
    for name in ("flow", "flow.json", "flow.safetensors"):
        found = rg.GradientFlow.load(tmp_path / name)
        assert np.array_equal(found.norms, flow.norms) and found.layers == flow.layers
        assert np.array_equal(found.by_lag(), flow.by_lag(), equal_nan=True)
    if trajectory:
        np.testing.assert_allclose(found.jacobian_norms("l0_reverse"), flow.jacobian_norms("l0_reverse"))
        np.testing.assert_allclose(found.share_by_lag("weight_hh_l0"), flow.share_by_lag("weight_hh_l0"))
    else:
        with pytest.raises(FlowError, match="saved without its trajectory"):
            found.jacobian_norms()


def test_the_trajectory_is_saved_by_default(layer: nn.GRU, x: Tensor, tmp_path: Path) -> None:
    rg.gradient_flow(layer, x, loss=losses).save(tmp_path / "flow")
    assert rg.GradientFlow.load(tmp_path / "flow").gates("l0").keys() == {"r", "z"}


def test_a_newer_format_and_another_file_are_refused(layer: nn.GRU, x: Tensor, tmp_path: Path) -> None:
    rg.gradient_flow(layer, x, loss=losses).save(tmp_path / "flow")
    path = tmp_path / "flow.json"
    text = path.read_text()
    for before, after, words in (
        ('"format": 3', '"format": 4', "newer retrograde"),
        ('"gradient flow"', '"music"', "does not describe a gradient flow"),
        ('"kind"', '"sort"', "not a complete gradient flow"),
    ):
        assert before in text
        path.write_text(text.replace(before, after, 1))
        with pytest.raises(FlowError, match=words):
            rg.GradientFlow.load(tmp_path / "flow")
    with pytest.raises(FlowError, match=r"There is no saved gradient flow.*is missing"):
        rg.GradientFlow.load(tmp_path / "none")


def test_xarray_has_the_lag_of_every_pair(layer: nn.GRU, x: Tensor) -> None:
    pytest.importorskip("xarray")
    array = rg.gradient_flow(layer, x, loss=losses, reduce=[0.1, 0.9]).to_xarray()
    assert array.dims == ("layer", "t", "k", "quantile") and array.coords["quantile"].values.tolist() == [0.1, 0.9]
    assert array.sel(layer="l0", t=4, k=1).coords["lag"] == 3
    assert array.sel(layer="l0_reverse", t=1, k=4).coords["lag"] == 3
    assert array.coords["cell"].values.tolist() == ["gru", "gru"] and array.coords["reverse"].values.tolist() == [0, 1]


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_saved_flow_of_a_layer_over_a_layer_has_its_signal(batch_first: bool, tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = nn.LSTM(2, 5, batch_first=batch_first), nn.GRU(5, 4, batch_first=batch_first)

        def forward(self, x: Tensor) -> Tensor:
            y = self.high(self.low(x)[0])[0][..., 0]
            return y.T if batch_first else y

    torch.manual_seed(0)
    x = torch.randn(10, 40, 2)
    given = x.transpose(0, 1) if batch_first else x
    flow = rg.gradient_flow(Two(), given, loss=lambda y: (y - x.roll(3, 0)[..., 0]).square())
    flow.save(tmp_path / "flow")
    again = rg.GradientFlow.load(tmp_path / "flow")
    assert again.signal_by_lag("low.l0").need == flow.signal_by_lag("low.l0").need == 3

"""``models.py``: networks without values."""

from __future__ import annotations

import subprocess
import sys

import torch

from retrograde.options import Options
from retrograde.tasks.models import LanguageModel, without_values


def test_a_network_without_values_has_the_shapes_of_one_with_values():
    for given in ({}, {"cell": "gru", "init": "orthogonal", "chrono": 9}, {"layer_norm": True, "num_layers": 2}):
        options = Options.of({"hidden_size": 6, "embedding_size": 5, **given})
        with without_values():
            blank = LanguageModel.of(11, options)
        whole = LanguageModel.of(11, options)
        assert {k: v.shape for k, v in blank.state_dict().items()} == {
            k: v.shape for k, v in whole.state_dict().items()
        }
        assert all(parameter.is_meta for parameter in blank.parameters())
        assert not any(parameter.is_meta for parameter in whole.parameters())
        assert all(bool(torch.isfinite(parameter).all()) for parameter in whole.parameters())


def test_building_one_does_not_load_the_compiler_of_torch():
    program = """if True:
        import sys
        from retrograde.options import Options
        from retrograde.tasks.models import LanguageModel, without_values
        before = "torch._dynamo" in sys.modules
        with without_values():
            LanguageModel.of(11, Options())
        assert before or "torch._dynamo" not in sys.modules
        print(before)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "False\n"

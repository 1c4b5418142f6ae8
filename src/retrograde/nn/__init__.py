"""``RNN``, ``GRU`` and ``LSTM``: drop-in replacements for ``torch.nn``'s, computed by the fastest path there is.

The constructor, the parameters, the ``state_dict``, the shapes, the errors and the numbers are those of ``torch.nn``;
:func:`explain` says which path a call takes and why, and :func:`accelerate_` turns the recurrent layers of a finished
model into these.
"""

from __future__ import annotations

from .acceleration import AccelerationReport, LayerReport, accelerate_, accelerated, acceleration_report, restore_
from .dropout import VariationalDropout, WeightDrop, weight_drop_
from .factory import recurrent_layer
from .flossing import Flossing, floss
from .initialization import initialize
from .layers import GRU, LSTM, RNN, explain
from .marking import mark_state
from .paths import Explanation
from .stepwise import StepwiseGRU, StepwiseLSTM, StepwiseRNN
from .streaming import Stream
from .trace import Trace

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AccelerationReport",
    "Explanation",
    "Flossing",
    "LayerReport",
    "StepwiseGRU",
    "StepwiseLSTM",
    "StepwiseRNN",
    "Stream",
    "Trace",
    "VariationalDropout",
    "WeightDrop",
    "accelerate_",
    "accelerated",
    "acceleration_report",
    "explain",
    "floss",
    "initialize",
    "mark_state",
    "recurrent_layer",
    "restore_",
    "weight_drop_",
]

for _layer in (RNN, GRU, LSTM):  # where users, and pickles, find them
    _layer.__module__ = __name__
del _layer

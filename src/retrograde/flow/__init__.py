"""How the gradient travels through time, measured exactly.

``gradient_flow`` measures a model; ``sequence_gradients`` finds the sequences that explode; ``GradientFlowRecorder``
measures during training. From a file of weights alone, ``read_state_dict`` reads the tensors, ``find_recurrent``
rebuilds the layers and ``drive`` measures them.
"""

from __future__ import annotations

from .drive import drive
from .measure import gradient_flow
from .recorder import GradientFlowRecorder
from .result import GradientFlow
from .sequences import SequenceGradients, sequence_gradients
from .state_dict import Found, find_recurrent, read_state_dict
from .summary import Summary, summarize

__all__ = [
    "Found",
    "GradientFlow",
    "GradientFlowRecorder",
    "SequenceGradients",
    "Summary",
    "drive",
    "find_recurrent",
    "gradient_flow",
    "read_state_dict",
    "sequence_gradients",
    "summarize",
]

"""How the gradient travels through time, measured exactly.

``gradient_flow`` measures a model; ``sequence_gradients`` finds the sequences that explode; ``GradientFlowRecorder``
measures during training; ``need_of`` and ``signal_left`` find what the data asks a network to remember, and what it has
left to learn. From a file of weights alone, ``read_state_dict`` reads the tensors, ``find_recurrent``
rebuilds the layers and ``drive`` measures them.
"""

from __future__ import annotations

from .drive import drive
from .learning_signal.statistic import Signal
from .learning_signal.stream import NetworkSignal, need_of, signal_left
from .measure import gradient_flow
from .recorder import GradientFlowRecorder
from .recording.samples import Sample, samples_of
from .result import GradientFlow
from .sequences import SequenceGradients, sequence_gradients
from .state_dict import Found, find_recurrent, read_state_dict
from .summary import Summary, summarize

__all__ = [
    "Found",
    "GradientFlow",
    "GradientFlowRecorder",
    "NetworkSignal",
    "Sample",
    "SequenceGradients",
    "Signal",
    "Summary",
    "drive",
    "find_recurrent",
    "gradient_flow",
    "need_of",
    "read_state_dict",
    "samples_of",
    "sequence_gradients",
    "signal_left",
    "summarize",
]

"""Recurrent networks whose gradient you can see.

``rg.nn`` trains them fast, ``rg.gradient_flow`` measures how the gradient travels
through time, ``rg.reference`` is the mathematics in plain NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .extras import import_or_explain

if TYPE_CHECKING:  # what __getattr__ below imports, for type checkers and editors
    from . import doctor as doctor
    from . import errors, kernels, nn, reference
    from . import estimators as estimators
    from . import flow as flow
    from . import gradcheck as gradcheck
    from . import integrations as integrations
    from . import report as report
    from . import tasks as tasks
    from . import training as training
    from .doctor import Diagnosis, diagnose
    from .doctor.trial import trial
    from .doctor.trial_result import Trial
    from .estimators import Classifier, Forecaster, LanguageModel, Regressor, Tagger
    from .experiment import load, train
    from .exporting import Export, export
    from .flow import GradientFlow, GradientFlowRecorder, gradient_flow, sequence_gradients
    from .gradcheck import GradientCheck, check_gradients
    from .laboratory.widget import lab
    from .nn import mark_state
    from .searching import Search, search

__all__ = [
    "Classifier",
    "Diagnosis",
    "Export",
    "Forecaster",
    "GradientCheck",
    "GradientFlow",
    "GradientFlowRecorder",
    "LanguageModel",
    "Regressor",
    "Search",
    "Tagger",
    "Trial",
    "__version__",
    "check_gradients",
    "diagnose",
    "errors",
    "export",
    "gradient_flow",
    "kernels",
    "lab",
    "load",
    "mark_state",
    "nn",
    "reference",
    "search",
    "sequence_gradients",
    "train",
    "trial",
]
__version__ = "0.2.0"

# Everything is imported when it is first used, so that `retrograde --help` does not wait for torch.
_PACKAGES = frozenset(
    (
        "doctor",
        "errors",
        "estimators",
        "flow",
        "gradcheck",
        "integrations",
        "kernels",
        "nn",
        "reference",
        "report",
        "tasks",
        "training",
    )
)
_HOMES = {  # public name -> the module that defines it
    "Classifier": "estimators",
    "Diagnosis": "doctor",
    "Export": "exporting",
    "Forecaster": "estimators",
    "GradientCheck": "gradcheck",
    "GradientFlow": "flow",
    "GradientFlowRecorder": "flow",
    "LanguageModel": "estimators",
    "Regressor": "estimators",
    "Search": "searching",
    "Tagger": "estimators",
    "Trial": "doctor.trial_result",
    "check_gradients": "gradcheck",
    "diagnose": "doctor",
    "export": "exporting",
    "gradient_flow": "flow",
    "lab": "laboratory.widget",
    "load": "experiment",
    "mark_state": "nn",
    "search": "searching",
    "sequence_gradients": "flow",
    "train": "experiment",
    "trial": "doctor.trial",
}

if not TYPE_CHECKING:  # type checkers know the names from above, and find misspelled ones

    def __getattr__(name: str) -> object:
        if name in _PACKAGES:
            return import_or_explain(f"{__name__}.{name}")
        if name in _HOMES:
            return getattr(import_or_explain(f"{__name__}.{_HOMES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""scikit-learn's way to train and apply networks: estimators over `retrograde.train`, which is the only trainer.

Each takes the options of training as parameters, trains into a run folder and predicts with what `rg.load` reads
there: `save` copies that folder, and `load` makes an estimator of any run of the same task.
"""

from __future__ import annotations

from .forecaster import Forecaster
from .groups import ForecastGroups, forecast_each
from .labels import Classifier, Tagger
from .language import LanguageModel
from .regressor import Regressor

__all__ = ["Classifier", "ForecastGroups", "Forecaster", "LanguageModel", "Regressor", "Tagger", "forecast_each"]

"""`Regressor`: a number for each sequence."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin

from ..tasks.regress import RegressionPredictor
from .sequences import SequenceEstimator

__all__ = ["Regressor"]


class Regressor(RegressorMixin, SequenceEstimator, task="regress"):  # type: ignore[misc]  # scikit-learn has no types
    """Predict a number from each sequence with a recurrent network.

    Numbers are scaled by the mean and the standard deviation of the training part; the loss is the mean squared error
    of scaled numbers.

    Attributes
    ----------
    n_features_in_ : int
        Columns of an array or a frame; channels of a list of sequences or an array ``(N, T, C)``; 1 of texts.
    run_ : TrainedRun
        The run that was trained; its folder is temporary, see `save`.
    notes_ : list of str
        What training said about the data.

    Examples
    --------
    >>> import numpy as np, retrograde as rg
    >>> random = np.random.default_rng(0)
    >>> X = [random.normal(size=length) for length in random.integers(5, 15, size=60)]
    >>> y = [100 + x[-1] for x in X]
    >>> model = rg.Regressor(hidden_size=8, lr=0.02, max_steps=60, threads=1).fit(X, y)
    >>> model.predict(X).shape, model.score(X, y) > 0.9
    ((60,), True)
    """

    _target, _numbers = "target", True

    def predict(self, X: Any) -> NDArray[np.float64]:
        """The number of each sequence, ``(N,)``; for a frame with ``group=``, of each group as they come."""
        source = self._predicted(X)
        predictor = cast(RegressionPredictor, self.run_.predictor)
        return np.array([number for _, number in predictor.numbers(source)], dtype=np.float64)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R², the share of the variance that is predicted."""
        return self._score("r2", super().score, X, y, sample_weight)

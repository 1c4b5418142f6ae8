"""`Regressor`: a number for each sequence."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin

from ..tasks.quantiles import middle_of, places_of
from ..tasks.regress import RegressionPredictor
from .sequences import SequenceEstimator


class Regressor(RegressorMixin, SequenceEstimator, task="regress"):  # type: ignore[misc]  # scikit-learn has no types
    """Predict a number from each sequence with a recurrent network.

    Numbers are scaled by the mean and the standard deviation of the training part; the loss is the mean squared error
    of scaled numbers, with ``quantiles`` the pinball loss.

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
        """The number of each sequence, ``(N,)``; for a frame with ``group=``, of each group as they come.

        With ``quantiles`` it is the median, else the mean.
        """
        return self._levels(X)[:, middle_of(self._predictor.reader.levels)]

    def predict_quantiles(self, X: Any, alpha: Any = None) -> NDArray[np.float64]:
        """Quantiles of the number of each sequence, ``(N, levels)``.

        Parameters
        ----------
        X : like that of `fit`
        alpha : float or sequence of float, optional
            Levels; by default the ``quantiles`` that it was trained with.

        Raises
        ------
        OptionError
            If it was not trained with these ``quantiles``.
        """
        found = self._levels(X)
        return found[:, [place for _, place in places_of(alpha, self._predictor.reader.quantiles)]]

    @property
    def _predictor(self) -> RegressionPredictor:
        return cast(RegressionPredictor, self.run_.predictor)

    def _levels(self, X: Any) -> NDArray[np.float64]:
        source = self._predicted(X)
        found = [numbers for _, numbers in self._predictor.numbers(source)]
        return np.array(found, dtype=np.float64).reshape(-1, self._predictor.reader.outputs)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R², the share of the variance that is predicted."""
        return self._score("r2", super().score, X, y, sample_weight)

"""Estimators of labels: `Classifier`, one for each sequence, and `Tagger`, one for each step."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets

from ..tasks.labelled import LabelledPredictor
from ..training import TrainedRun
from .sequences import SequenceEstimator, in_one_line


class _Labels(SequenceEstimator):
    """What both have in common: the classes, and probabilities of them."""

    def _adopt(self, run: TrainedRun, *folder: Any) -> None:
        super()._adopt(run, *folder)
        labels = self._predictor.classes
        self._order = np.argsort(labels, kind="stable")
        self.classes_ = labels[self._order]

    @property
    def _predictor(self) -> LabelledPredictor:
        return cast(LabelledPredictor, self.run_.predictor)

    def _shares(self, X: Any) -> list[NDArray[np.float64]]:
        """Probabilities of the classes for each sequence, ``(L,)`` or ``(T, L)``."""
        source = self._predicted(X)
        return [shares[..., self._order] for _, shares in self._predictor.shares(source)]


class Classifier(ClassifierMixin, _Labels, task="classify"):  # type: ignore[misc]  # scikit-learn has no types
    """Classify sequences of numbers or words with a recurrent network.

    The options of training are its parameters; each that is not given has the default of
    ``retrograde train --task classify``. A part of the data, ``validation_fraction``, is held out: the weights kept are
    those that get the most labels right there.

    Attributes
    ----------
    classes_ : array
        The labels, sorted.
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
    >>> X = [random.normal(size=(length, 2)) for length in random.integers(5, 15, size=60)]
    >>> y = ["rising" if x[-1, 0] > 0 else "falling" for x in X]
    >>> model = rg.Classifier(hidden_size=16, pooling="last", lr=0.02, max_steps=100, threads=1).fit(X, y)
    >>> model.classes_.tolist(), model.predict_proba(X).shape, bool(model.score(X, y) > 0.9)
    (['falling', 'rising'], (60, 2), True)
    """

    def predict(self, X: Any) -> NDArray[Any]:
        """The most likely label of each sequence, ``(N,)``; for a frame with ``group=``, of each group as they come."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The probability of each class, ``(N, classes)``."""
        return np.array(self._shares(X)).reshape(-1, len(self.classes_))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of the labels that are right."""
        return self._score("accuracy", super().score, X, y, sample_weight)

    def _check_targets(self, y: Any) -> None:
        with in_one_line():
            check_classification_targets(y)


class Tagger(_Labels, task="tag"):
    """Label each step of a sequence with a recurrent network.

    Attributes
    ----------
    classes_ : array
        The labels, sorted.
    run_ : TrainedRun
        The run that was trained; its folder is temporary, see `save`.
    notes_ : list of str
        What training said about the data.
    """

    _per_step = True

    def predict(self, X: Any) -> list[NDArray[Any]]:
        """The most likely label of each step, an array ``(T,)`` for each sequence."""
        return [self.classes_[shares.argmax(axis=1)] for shares in self._shares(X)]

    def predict_proba(self, X: Any) -> list[NDArray[np.float64]]:
        """The probability of each class at each step, an array ``(T, classes)`` for each sequence."""
        return self._shares(X)

    def score(self, X: Any, y: Any) -> float:
        """Share of the labels that are right, over all steps."""
        return float(self._predictor.evaluate(self._read(X, y)[0]).metrics["accuracy"])

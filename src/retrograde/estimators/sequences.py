"""What estimators of sequences (`Classifier`, `Tagger`, `Regressor`) take: arrays, lists, texts, frames.

Tests: `tests/estimators/test_frames.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import pyarrow
from numpy.typing import NDArray
from scipy.sparse import issparse  # type: ignore[import-untyped]
from sklearn.utils import Tags, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from ..data.frames import arrow_of, as_frame, is_wide, with_column
from ..data.memory import Sequences
from ..errors import DataError, OptionError
from .base import ROLES, Estimator

NO_TARGET = "requires y to be passed, but the target y is None"  # as scikit-learn says it


class SequenceEstimator(Estimator):
    """Base class of estimators that predict something from each sequence.

    Attributes
    ----------
    n_features_in_ : int
        Columns of an array or a frame; channels of a list of sequences or an array ``(N, T, C)``; 1 of texts.
    """

    _per_step: ClassVar[bool] = False
    _target: ClassVar[str] = "label"  # the option that names the column of y
    _numbers: ClassVar[bool] = False  # whether y is numbers

    def fit(self, X: Any, y: Any) -> Any:
        """Train on sequences.

        Parameters
        ----------
        X : array, list or DataFrame
            N sequences: a list of arrays ``(T,)`` or ``(T, C)`` of any lengths T, with C channels; an array
            ``(N, T, C)``, or ``(N, T)`` for one channel (NaN at the end is padding); a list of texts or of lists of
            tokens; or a DataFrame of pandas, Polars or Arrow: a row is a sequence (numbers in columns, a list, or a
            text), or with ``group=`` a row is a step.
        y : array, list or str
            Of each sequence what is to be predicted; for a DataFrame an entry for each row or the name of a column.

        Returns
        -------
        self

        Raises
        ------
        DataError, OptionError
            If the data is not suitable, or an option is impossible or does not fit it.
        DivergedError
            If the loss becomes NaN or infinite.
        """
        if y is None:
            raise DataError(f"This {type(self).__name__} estimator {NO_TARGET}.")
        source, column = self._read(X, y, reset=True)
        self._train(source, **({} if column is None else {self._target: column}))
        return self

    def _source(self, X: Any, y: Any) -> Any:
        return self._read(X, y, reset=False)[0]

    def _read(self, X: Any, y: Any = None, reset: bool = False) -> tuple[Sequences | pyarrow.Table, str | None]:
        """Data as training and predicting take it, and the column of a table that has y."""
        frame = as_frame(X)
        roles = [name for name in ROLES if getattr(self, name, None) is not None]
        if frame is not None and (
            roles or isinstance(y, str) or self._per_step or not is_wide(frame) or (not reset and self._reads(frame))
        ):
            return self._of_frame(frame, y, reset)
        if roles and reset:
            what = f"{roles[0]}={getattr(self, roles[0])!r}"
            raise OptionError(f"{what} names a column of a DataFrame; X is a {type(X).__name__}.")
        if isinstance(y, str):
            raise DataError(f"y is {y!r}: the name of a column goes with a DataFrame; X is a {type(X).__name__}.")
        if not self._per_step and not self._numbers:
            _check_labels(y)
        if frame is None and (hasattr(X, "__array__") or _are_rows(X)) and not isinstance(X, np.ndarray):
            X = np.asarray(X)
        flat = frame is not None or issparse(X) or (isinstance(X, np.ndarray) and _is_flat(X))
        if flat and not self._per_step and (reset or getattr(self, "_flat", False)):
            X, y = self._of_table(X, y, reset)
        elif y is not None and not self._per_step:
            with in_one_line():
                y = column_or_1d(y, warn=True)
        found = Sequences.of(X, y, self._per_step, self._numbers)
        if y is not None:
            self._check_targets(y)
        if reset:
            self._flat = flat
            if not flat:
                self.n_features_in_ = next((r.values.shape[1] for r in found.records if r.values is not None), 1)
        return found, None

    def _reads(self, frame: Any) -> bool:
        """Whether the network was trained on columns of a frame, rather than on sequences in memory."""
        columns = self.run_.predictor.reader.columns  # type: ignore[attr-defined]
        names = {*columns.read, *columns.group, *filter(None, [columns.text])}
        return names not in ({"values"}, {"text"}) or names <= {*frame.columns}

    def _of_table(self, X: Any, y: Any, reset: bool) -> tuple[Any, Any]:
        """Two dimensions, as scikit-learn checks them: a row is a sequence of one channel."""
        checks: dict[str, Any] = {"reset": reset, "ensure_all_finite": "allow-nan", "dtype": "numeric"}
        checks["ensure_min_samples"] = 2 if reset else 1  # one is held out
        with in_one_line():
            if y is None:
                return validate_data(self, X, **checks), None
            found: tuple[Any, Any] = validate_data(self, X, y, y_numeric=self._numbers, **checks)
            return found

    def _of_frame(self, frame: Any, y: Any, reset: bool) -> tuple[pyarrow.Table, str | None]:
        if reset:
            self._flat = False
            self.n_features_in_ = len(frame.columns) - (isinstance(y, str) and y in frame.columns)
        if y is None or (reset and isinstance(y, str)):
            return arrow_of(frame), y
        if reset:
            return with_column(frame, "y", list(y))
        columns = self.run_.predictor.reader.columns  # type: ignore[attr-defined]
        trained = columns.label or columns.target[0]
        if y == trained if isinstance(y, str) else False:
            return arrow_of(frame), trained
        cells = frame[y].to_list() if isinstance(y, str) and y in frame.columns else y
        if isinstance(cells, str):
            raise DataError(f"X has no column {cells!r}; there are {', '.join(map(repr, frame.columns))}.")
        return with_column(frame.drop(trained, strict=False), trained, list(cells))

    def _check_targets(self, y: Any) -> None:
        """Refuse targets of a kind that this estimator does not learn."""

    def _score(self, metric: str, usual: Callable[..., float], X: Any, y: Any, weights: Any) -> float:
        """A metric as scikit-learn computes it from predictions; of a frame, whose rows may be steps, by the task."""
        source = self._source(X, y)
        if isinstance(source, Sequences):
            return float(usual(X, y, weights))
        if weights is not None:
            raise OptionError("sample_weight is not for a DataFrame: give X as a list of sequences.")
        return float(self.run_.predictor.evaluate(source).metrics[metric])

    def _predicted(self, X: Any) -> Any:
        """Data to predict for."""
        check_is_fitted(self, "run_")
        return self._read(X)[0]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.three_d_array = tags.input_tags.string = True
        return tags


@contextmanager
def in_one_line() -> Iterator[None]:
    """Raise what scikit-learn finds wrong as a DataError in one line, without the values."""
    try:
        yield
    except (TypeError, ValueError) as error:
        words = re.sub(r"\narray=.*\.\n", " ", str(error), flags=re.DOTALL)
        words = re.sub(r"\n\[.*", "", words, flags=re.DOTALL)
        raise DataError(" ".join(words.split())) from None


def _check_labels(y: Any) -> None:
    """Refuse labels of which one is missing, before NumPy turns it into a text."""
    for place, label in enumerate(y if isinstance(y, list | tuple) or hasattr(y, "tolist") else ()):
        if label is None or (isinstance(label, float) and label != label):
            raise DataError(f"y[{place}] is {label}, which is not a label.")


def _is_flat(array: NDArray[Any]) -> bool:
    """Whether an array is a table of numbers rather than one of sequences or texts."""
    return array.ndim < 3 and not (array.ndim == 1 and array.dtype.kind in "OU")


def _are_rows(X: Any) -> bool:
    """Whether these are lists of as many numbers each, which is how a table looks in plain Python."""
    lists = isinstance(X, list | tuple) and all(isinstance(one, list | tuple) for one in X)
    return lists and len(set(map(len, X))) == 1 and all(isinstance(cell, int | float) for one in X for cell in one)

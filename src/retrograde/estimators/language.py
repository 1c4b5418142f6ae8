"""`LanguageModel`: the next token of a text.

Tests: tests/estimators/test_language_model.py
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from ..data.text import Text
from ..errors import DataError
from ..tasks.generation import generate
from ..tasks.language import LanguagePredictor
from ..training import TrainedRun
from .base import Estimator


class LanguageModel(Estimator, task="language"):
    """Predict the next token of a text with a recurrent network, and write text.

    Attributes
    ----------
    classes_ : array of str
        The tokens, by their number.
    run_ : TrainedRun
        The run that was trained; its folder is temporary, see `save`.
    notes_ : list of str
        What training said about the text.

    Examples
    --------
    >>> import retrograde as rg
    >>> model = rg.LanguageModel(hidden_size=16, lr=0.02, bptt=20, max_steps=60, threads=1).fit("to be or not " * 100)
    >>> model.predict(["to b", "or no"]).tolist(), model.generate("to ", length=10, temperature=0)
    (['e', 't'], 'be or not ')
    """

    def fit(self, X: str | Sequence[str], y: Any = None) -> LanguageModel:
        """Train on a text, or on texts that are read one after the other; `y` is ignored.

        A file is read by ``rg.train("book.txt", "runs/book")``, and ``rg.LanguageModel.load("runs/book")`` takes that.
        """
        self._train(self._source(X, None))
        return self

    def _source(self, X: Any, y: Any) -> Text:
        if not isinstance(X, Iterable):
            raise DataError(f"X is {X!r:.40}; give a text, or a list of texts.")
        texts = [X] if isinstance(X, str) else list(X)
        if wrong := [place for place, text in enumerate(texts) if not isinstance(text, str)]:
            raise DataError(f"X[{wrong[0]}] is a {type(texts[wrong[0]]).__name__}; give a text, or a list of texts.")
        if not any(texts):
            raise DataError("X has no text: it is empty.")
        ended = [text if text.endswith("\n") or len(texts) == 1 else f"{text}\n" for text in texts]
        return Text(ended, "a text in memory" if len(texts) == 1 else f"{len(texts):,} texts in memory")

    def _adopt(self, run: TrainedRun, *folder: Any) -> None:
        super()._adopt(run, *folder)
        vocabulary = self._predictor.vocabulary
        self.classes_ = np.array([vocabulary.decode([number]) for number in range(len(vocabulary))])

    @property
    def _predictor(self) -> LanguagePredictor:
        return cast(LanguagePredictor, self.run_.predictor)

    def predict(self, X: Sequence[str]) -> NDArray[np.str_]:
        """The most likely token after each of some texts."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def predict_proba(self, X: Sequence[str]) -> NDArray[np.float64]:
        """The probability of each token after each of some texts, ``(N, tokens)``."""
        check_is_fitted(self, "run_")
        texts = [X] if isinstance(X, str) else X
        return np.array([self._predictor.following(text) for text in texts]).reshape(-1, len(self.classes_))

    def score(self, X: str | Sequence[str], y: Any = None) -> float:
        """Mean log-probability of a token given those before it, in nats; higher is better."""
        check_is_fitted(self, "run_")
        return -float(self._predictor.evaluate(self._source(X, y)).metrics["loss"])

    def generate(
        self,
        prompt: str = "",
        length: int = 300,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> str:
        """Continue a text by ``length`` characters, see `retrograde.tasks.generation.generate`."""
        check_is_fitted(self, "run_")
        sampling = (temperature, top_k, top_p, seed)
        return "".join(generate(self.run_.model, self._predictor.vocabulary, prompt, length, *sampling))

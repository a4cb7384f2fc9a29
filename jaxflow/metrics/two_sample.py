"""The classifier two-sample test: can a classifier tell generated from real?"""

from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxflow.metrics.features import rows, same_event
from jaxflow.types import Key

__all__ = ["TwoSample", "classifier_two_sample"]


class TwoSample(NamedTuple):
    """The balanced accuracy on held-out samples, its standard error, and a one-sided p-value.

    An accuracy of 0.5 means indistinguishable to this classifier, 1 always told apart.
    """

    accuracy: float
    standard_error: float
    p_value: float


def classifier_two_sample(
    key: Key, x: ArrayLike, y: ArrayLike, *, classifier: Any = None
) -> TwoSample:
    """Train a classifier on half of `x` and `y` and test it on the other halves.

    With hit rates `a` on `x` and `b` on `y`, the accuracy is `(a + b) / 2`. Under the hypothesis of
    equal distributions `x` is called `x` as often as `y` is, which a test of two proportions asks.

    Args:
        key: splits each set into its halves.
        x: samples, `[n, *event]`, at least four.
        y: samples of the same event, at least four; the numbers may differ.
        classifier: a scikit-learn classifier; by default a support vector machine with the radial
            kernel on standardised features, its classes weighted equally.

    Raises:
        ValueError: for fewer than four samples in a set, or events that differ.

    Under the hypothesis the accuracy has mean 0.5 exactly, since the classifier never sees what it
    is tested on; the p-value takes the two rates as normal. At 0.5 a weak classifier proves little.

    Reference: Lopez-Paz and Oquab, Revisiting Classifier Two-Sample Tests, 2017, arXiv:1610.06545,
    section 3.
    """
    a, b = np.asarray(x), np.asarray(y)
    same_event(a, b)
    a_key, b_key = jax.random.split(key)
    a_train, a_test = _halves(a_key, rows(a, at_least=4))
    b_train, b_test = _halves(b_key, rows(b, at_least=4))
    model = _support_vectors() if classifier is None else classifier
    called_a = np.repeat([True, False], [len(a_train), len(b_train)])
    model.fit(np.concatenate([a_train, b_train]), called_a)
    return _proportions(model.predict(a_test), model.predict(b_test))


def _halves(key: Key, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    order = np.asarray(jax.random.permutation(key, len(x)))
    return x[order[: len(x) // 2]], x[order[len(x) // 2 :]]


def _support_vectors() -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return make_pipeline(StandardScaler(), SVC(class_weight="balanced"))


def _proportions(x_called_x: NDArray[np.bool_], y_called_x: NDArray[np.bool_]) -> TwoSample:
    from scipy.stats import norm

    n, m = len(x_called_x), len(y_called_x)
    a, b = x_called_x.mean(), y_called_x.mean()
    pooled = (x_called_x.sum() + y_called_x.sum()) / (n + m)
    null_error = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    z = (a - b) / null_error if null_error > 0 else 0.0
    error = 0.5 * np.sqrt(a * (1 - a) / n + b * (1 - b) / m)
    return TwoSample(float((a + 1 - b) / 2), float(error), float(norm.sf(z)))

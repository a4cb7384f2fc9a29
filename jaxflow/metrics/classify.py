"""What a classifier of real data sees in samples: classes, and features to compare them by."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxflow.metrics.features import rows

__all__ = ["Accuracy", "class_accuracy", "fit_classifier", "fit_features"]

Predict = Callable[[ArrayLike], NDArray[Any]]


class Accuracy(NamedTuple):
    """The share of samples recognised, and its standard error."""

    value: float
    standard_error: float


def fit_classifier(x: ArrayLike, label: ArrayLike, *, classifier: Any = None) -> Predict:
    """A function from samples to labels, fitted to real data.

    Args:
        x: real samples, `[n, *event]`; they should not be those that the model is compared with.
        label: their classes, `[n]`.
        classifier: a scikit-learn classifier; by default a support vector machine with the radial
            kernel.

    Raises:
        ValueError: for no samples, or not one label a sample.
    """
    x, label = _labelled(x, label)
    model = _support_vectors() if classifier is None else classifier
    model.fit(x, label)
    return lambda samples: model.predict(rows(np.asarray(samples)))


def fit_features(
    x: ArrayLike, label: ArrayLike, *, width: int = 64, seed: int = 0
) -> Callable[[ArrayLike], NDArray[Any]]:
    """A function from samples to the hidden units of a network that tells real classes apart.

    For a Fréchet distance on data that no large classifier knows: `frechet(features(x),
    features(held_out))`.

    Args:
        x: real samples, `[n, *event]`; they should not be those that the model is compared with.
        label: their classes, `[n]`.
        width: how many hidden units, the size of the features.
        seed: of the network.

    Raises:
        ValueError: for no samples, not one label a sample, or a single class.

    Comparable between samples of one such function alone.
    """
    x, label = _labelled(x, label)
    if len(np.unique(label)) < 2:
        raise ValueError("features of a classifier need at least two classes; the labels hold one")
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((width,), early_stopping=True, random_state=seed).fit(x, label)
    weight, bias = model.coefs_[0], model.intercepts_[0]
    return lambda samples: np.maximum(rows(np.asarray(samples)) @ weight + bias, 0)


def class_accuracy(predict: Predict, x: ArrayLike, label: ArrayLike) -> Accuracy:
    """The share of samples whose predicted class is the one that was asked for.

    Args:
        predict: from samples to labels, as `fit_classifier` gives.
        x: generated samples, `[n, *event]`.
        label: the classes asked for, `[n]`.

    Raises:
        ValueError: for no samples, or not one label a sample.

    An unbiased estimate of the rate for this classifier, to be compared with its accuracy on
    held-out real data. The standard error is the binomial one, zero where all are right.

    Reference: Ravuri and Vinyals, Classification Accuracy Score for Conditional Generative Models,
    2019, arXiv:1905.10887, trains on generated data and tests on real; this is the reverse.
    """
    x, label = _labelled(x, label)
    share = float(np.mean(predict(x) == label))
    return Accuracy(share, float(np.sqrt(share * (1 - share) / len(label))))


def _labelled(x: ArrayLike, label: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    x, label = rows(np.asarray(x)), np.asarray(label)
    if label.shape != (len(x),):
        raise ValueError(
            f"label has shape {label.shape}: one class a sample is needed, ({len(x)},)"
        )
    return x, label


def _support_vectors() -> Any:
    from sklearn.svm import SVC

    return SVC()

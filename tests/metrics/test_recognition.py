"""What a classifier or a neighbour says, where the answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from jaxflow.metrics import (
    class_accuracy,
    classifier_two_sample,
    fit_classifier,
    fit_features,
    frechet,
    nearest,
)


def normals(key, n, m, shift=0.0):
    x, y = jax.random.split(key)
    return jax.random.normal(x, (n, 2)) + shift, jax.random.normal(y, (m, 2))


@pytest.mark.parametrize("sizes", [(400, 400), (600, 200)])
def test_two_sample_under_the_hypothesis(key, sizes):
    """Of many repetitions, z is centred with unit variance, and p is uniform in its mean."""
    even = LinearDiscriminantAnalysis(priors=[0.5, 0.5])
    keys = jax.random.split(key, 50)
    found = [classifier_two_sample(k, *normals(k, *sizes), classifier=even) for k in keys]
    accuracy, error, p = np.asarray(found).T
    z = (accuracy - 0.5) / error
    assert abs(np.mean(z)) < 4 / np.sqrt(50)
    assert abs(np.mean(z**2) - 1) < 4 * np.sqrt(2 / 50)
    assert abs(np.mean(p) - 0.5) < 4 * np.sqrt(1 / 12 / 50)


def test_two_sample_reaches_the_best_accuracy(key):
    """Two unit Gaussians a distance `s` apart are told apart at a rate of `Phi(s / 2)`."""
    x, y = normals(key, 4000, 4000, shift=jnp.array([1.2, 1.6]))
    found = classifier_two_sample(key, x, y, classifier=LinearDiscriminantAnalysis())
    assert abs(found.accuracy - ndtr(1.0)) < 4 * found.standard_error
    assert found.p_value < 1e-12


def test_two_sample_sees_more_than_means(key):
    """The default classifier tells a ring from a disc of the same mean and covariance."""
    x, y = normals(key, 400, 300)
    ring = np.sqrt(2) * x / jnp.linalg.norm(x, axis=1, keepdims=True)
    assert classifier_two_sample(key, ring, y).p_value < 1e-6


class Told:
    """A classifier whose answers to the held-out halves are given."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def fit(self, x, called_x):
        pass

    def predict(self, x):
        return np.arange(len(x)) < self.answers.pop(0)


def test_two_sample_is_the_test_of_two_proportions(key):
    """7 of 10 and 9 of 30 are called `x`."""
    found = classifier_two_sample(key, np.ones((20, 2)), np.ones((60, 2)), classifier=Told(7, 9))
    pooled = 16 / 40
    z = (0.7 - 0.3) / np.sqrt(pooled * (1 - pooled) * (1 / 10 + 1 / 30))
    error = np.sqrt(0.7 * 0.3 / 10 + 0.3 * 0.7 / 30) / 2
    np.testing.assert_allclose(found, (0.7, error, ndtr(-z)), rtol=1e-12)


def test_two_sample_of_a_constant_answer(key):
    x = np.zeros((20, 2))
    assert classifier_two_sample(key, x, x)[::2] == (0.5, 0.5)


def test_nearest_equals_all_pairs(key):
    x = 100 + jax.random.normal(key, (300, 2, 2))
    examples = 100 + jax.random.normal(jax.random.key(1), (70, 2, 2))
    found = nearest(x, examples)
    a, b = np.asarray(x, np.float64).reshape(300, 1, 4), np.asarray(examples).reshape(1, 70, 4)
    distances = np.linalg.norm(a - b, axis=2)
    np.testing.assert_array_equal(found.index, distances.argmin(1))
    np.testing.assert_allclose(found.distance, distances.min(1), rtol=1e-5)
    summary = found.summary()
    assert summary["minimum"] <= summary["median"]
    np.testing.assert_allclose(summary["mean"], distances.min(1).mean(), rtol=1e-5)


def test_a_copy_is_at_zero(key):
    examples = 1000 + jax.random.normal(key, (50, 3))
    copied = jax.random.permutation(key, 50)
    found = nearest(examples[copied], examples)
    assert not np.any(found.distance)
    np.testing.assert_array_equal(found.index, copied)


def test_class_accuracy_counts(key):
    centres = jnp.array([[-9.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    label = np.arange(90) % 3
    x = centres[label] + jax.random.normal(key, (90, 2))
    predict = fit_classifier(x, label)
    assert class_accuracy(predict, x, label) == (1.0, 0.0)
    asked = np.where(np.arange(90) < 30, (label + 1) % 3, label)
    found = class_accuracy(predict, x, asked)
    np.testing.assert_allclose(found, (2 / 3, np.sqrt(2 / 9 / 90)))


@pytest.mark.usefixtures("unchecked")
def test_wrong_inputs_are_named(key):
    x = np.ones((5, 2))
    with pytest.raises(
        ValueError, match=r"label has shape \(4,\): one class a sample is needed, \(5,\)"
    ):
        fit_classifier(x, np.ones(4))
    with pytest.raises(ValueError, match=r"samples of shape \(2,\) and \(4,\) cannot be compared"):
        nearest(jnp.ones((3, 2)), jnp.ones((3, 4)))
    with pytest.raises(ValueError, match=r"got shape \(3, 2\): at least 4 samples"):
        classifier_two_sample(key, x[:3], x)


def test_features_of_a_classifier_tell_classes_apart():
    """A function of the seed; two halves of one law are near, another class is far."""
    rng = np.random.default_rng(0)
    label = np.arange(600) % 3
    x = (4 * np.eye(3)[label] + rng.normal(size=(600, 3))).astype(np.float32)
    features = fit_features(x, label, width=16)
    assert features(x).shape == (600, 16)
    np.testing.assert_array_equal(features(x), fit_features(x, label, width=16)(x))
    y = (4 * np.eye(3)[label] + rng.normal(size=(600, 3))).astype(np.float32)
    same = frechet(features(x), features(y))
    other = frechet(features(x), features(y[label == 0]))
    assert 0 <= same < 0.05 * other
    with pytest.raises(ValueError, match="at least two classes"):
        fit_features(x, np.zeros(600, int))

"""The annotations are checked: under pytest the whole package runs under a type checker."""

import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import jaxflow
from jaxflow import (
    couplings,
    data,
    draws,
    losses,
    metrics,
    networks,
    paths,
    sampling,
    sources,
    times,
    training,
    types,
    velocities,
)

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 4)
T, X = jnp.full(4, 0.5), jnp.ones((4, 2))
PATH = paths.linear()


def velocity(t, x):
    return -x


WRONG = {
    "times of another batch": lambda: PATH(T[:3], X, X),
    "times of whole numbers": lambda: PATH(T.astype(int), X, X),
    "many keys for one": lambda: times.uniform()(KEYS, 4),
    "one key for many": lambda: sources.normal().sample(KEY, (2,)),
    "keys of the old kind": lambda: sources.normal().sample(jax.random.PRNGKey(0)[None], (2,)),
    "samples of another batch": lambda: sources.as_source(lambda *_: X[:3]).sample(KEYS, (2,)),
    "a coupling by name": lambda: couplings.optimal_transport(on_host="yes"),
    "half a leading axis": lambda: draws.times(times.uniform(), lead=0.5),
    "a path by name": lambda: losses.weights.sigma("linear"),
    "means of other weights": lambda: velocities.gaussian_mixture(
        PATH, weights=np.ones(3) / 3, means=X, covariances=np.ones(3)
    ),
    "a scale by name": lambda: velocities.classifier_free(velocity, scale="7", null={"y": 0.0}),
    "a grid in a set": lambda: sampling.fixed_step(velocity, X, {0.0, 1.0}),
    "features in halves": lambda: networks.positions(2, 2, 4.5),
    "labels in a column": lambda: networks.LabelEmbedding(3, 8).init(KEY, jnp.zeros((4, 1), int)),
    "samples of another event": lambda: metrics.energy_distance(X, jnp.ones((4, 3))),
    "a step in halves": lambda: data.on_device({"x1": X}, batch_size=2, seed=0).batch(0.5),
    "a decay by name": lambda: training.average("slow"),
    "a record of other shapes": lambda: types.LogProb(T, T[:3], jnp.zeros(4, int), T > 0),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_an_annotation_excludes_is_refused(name):
    with pytest.raises(TypeCheckError):
        WRONG[name]()


def test_every_module_is_checked():
    for module in pkgutil.walk_packages(jaxflow.__path__, "jaxflow."):
        loader = type(importlib.import_module(module.name).__spec__.loader)
        assert loader.__module__.startswith("jaxtyping."), module.name


@pytest.mark.usefixtures("unchecked")
def test_the_checker_can_be_left_out():
    """As in use, where the sentences of the code are what is raised."""
    with pytest.raises(ValueError, match="t needs one time an example"):
        PATH(T[:3], X, X)

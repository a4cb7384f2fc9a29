"""A path of several parts: each part on its own path, at its own time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import losses, paths
from jaxflow.paths.ends import interval_of
from jaxflow.records import record
from jaxflow.sampling import fixed_step, grids
from jaxflow.types import Dependent
from jaxflow.velocities import conversion_interval, convert, from_network

PARTS = {"image": paths.cosine(), "label": paths.vp()}
PATH = paths.product(PARTS)
X0 = {"image": jnp.zeros((3, 2, 2)), "label": jnp.full((3, 4), 2.0)}
X1 = {"image": jnp.ones((3, 2, 2)), "label": jnp.full((3, 4), -1.0)}
ONE = jnp.array([0.1, 0.4, 0.9])
TIMES = {"image": ONE, "label": ONE[::-1]}


@jax.jit
def point_of(path, t, x0, x1):
    return path(t, x0, x1)


@pytest.mark.parametrize("t", [ONE, TIMES], ids=["one", "own"])
def test_every_part_is_on_its_own_path(t):
    sample = point_of(PATH, t, X0, X1)
    for name, part in PARTS.items():
        expected = point_of(part, t[name] if t is TIMES else t, X0[name], X1[name])
        for field in ("x", "u", "score", "x0", "x1"):
            found = getattr(sample, field)[name]
            np.testing.assert_allclose(found, getattr(expected, field), rtol=1e-6)


def test_a_part_alone_may_have_no_score():
    sample = PATH(ONE, X0, X1, {"image": None, "label": Dependent()})
    assert sample.score["image"].shape == (3, 2, 2)
    assert sample.score["label"] is None
    assert PATH(ONE, X0, X1, Dependent()).score == {"image": None, "label": None}


@record
class Noisy:
    """A path with a latent."""

    def latent(self, key, x0):
        return jax.random.normal(key, x0.shape)


@pytest.mark.usefixtures("unchecked")
def test_latents_have_keys_of_their_own(key):
    path = paths.product({"a": Noisy(), "b": Noisy(), "c": lambda t, x0, x1, z=None: None})
    drawn = path.latent(key, dict.fromkeys("abc", jnp.zeros((2, 3))))
    assert drawn["c"] is None
    assert not jnp.any(drawn["a"] == drawn["b"])


def test_intervals_are_common():
    assert interval_of(PATH) == (0.0, PARTS["label"].schedule.interval[1])
    each = [conversion_interval(part, "noise", "data") for part in PARTS.values()]
    common = max(low for low, _ in each), min(high for _, high in each)
    assert conversion_interval(PATH, "noise", "data") == common


@pytest.mark.parametrize("t", [ONE, TIMES], ids=["one", "own"])
def test_conversions_and_losses_are_those_of_the_parts(t):
    """The error of a sample is the sum over its parts, each a mean over its own event."""
    sample = jax.tree.map(np.asarray, point_of(PATH, t, X0, X1))
    kinds = {"source": "velocity", "target": "noise"}
    found = jax.jit(lambda u, t, x: convert(u, t, x, path=PATH, **kinds))(sample.u, t, sample.x)
    for name in PARTS:
        np.testing.assert_allclose(found[name], X0[name], atol=1e-4)

    def network(params, t, x, *, key=None):
        return jax.tree.map(lambda a: params * a, x)

    batch = {"t": t, "x0": X0, "x1": X1}
    value, aux = jax.jit(losses.flow_matching(network, PATH).__call__)(0.5, None, batch)
    expected = sum(
        np.mean((0.5 * sample.x[k] - sample.u[k]) ** 2, axis=tuple(range(1, sample.x[k].ndim)))
        for k in PARTS
    )
    np.testing.assert_allclose(aux["per_example"], expected, rtol=1e-5)
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)


def test_samplers_carry_all_parts():
    """A data prediction of both parts ends on it, the last step by the posterior mean."""
    velocity = from_network(
        lambda p, t, x, key=None: jax.tree.map(lambda a: jnp.full_like(a, 3.0), x),
        None,
        path=PATH,
        prediction="data",
    )
    solution = fixed_step(velocity, X0, grids.uniform(3))
    for name in PARTS:
        np.testing.assert_allclose(solution.x[name], 3.0, rtol=1e-4)
    assert solution.nfe.tolist() == [5, 5, 5]


@pytest.mark.usefixtures("unchecked")
def test_errors():
    with pytest.raises(ValueError, match=r"^a product needs the path of at least one part$"):
        paths.product({})
    sentence = r"^the path has the parts \['image', 'label'\], but the samples are "
    with pytest.raises(ValueError, match=sentence + r"\['image'\]$"):
        PATH(ONE, {"image": X0["image"]}, {"image": X1["image"]})
    with pytest.raises(ValueError, match=sentence + "one array$"):
        PATH.latent(jax.random.key(0), X0["image"])

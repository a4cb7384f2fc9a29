"""A network of what other tokens tell, as one of the posterior."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import losses, paths, sources, velocities

LAW = np.random.default_rng(0).dirichlet(np.ones(9)).reshape(3, 3)
MASK, EVEN = sources.mask(3), sources.tokens(np.array([0.5, 0.2, 0.3]))
PATHS = {
    "uniform": lambda: paths.mixture(source=sources.uniform_tokens(3)),
    "marginal": lambda: paths.mixture(paths.kappas.cosine(), source=EVEN),
    "hybrid": lambda: paths.mixture(source=sources.tokens(np.array([0.1, 0.2, 0.1, 0.6]))),
    "gidd": lambda: paths.gidd(0.3, source=MASK),
    "mask": lambda: paths.mixture(source=MASK),
    "metric": lambda: paths.metric(abs(np.arange(3.0)[:, None] - np.arange(3.0)) ** 0.5, a=1.0),
}


def of_others(path, t, x):
    """The law of each of two tokens given the other: what a network is left to learn."""
    each = [jnp.exp(path.log_prob(t, x, jnp.full_like(x, y))) for y in range(3)]
    likely = jnp.stack(each, axis=-1)
    first = jnp.einsum("ab,nb->na", LAW, likely[:, 1])
    second = jnp.einsum("ab,na->nb", LAW, likely[:, 0])
    return jnp.log(jnp.stack([first, second], axis=1))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("t", [0.1, 0.7])
def test_it_is_the_posterior_by_bayes_rule(name, t, x64):
    path = PATHS[name]()
    symbols = 3 if name in ("uniform", "marginal", "metric") else 4
    x = jnp.array(list(itertools.product(range(symbols), repeat=2)))
    t = jnp.full(len(x), t)
    network = velocities.informed(lambda params, t, x, key=None: of_others(path, t, x), path)
    exact = velocities.token_law(path, LAW)
    found = jax.nn.softmax(network(None, t, x), axis=-1)
    open_to = ~np.asarray(path.known(x))
    np.testing.assert_allclose(found[open_to], jnp.exp(exact(t, x))[open_to], atol=1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_its_losses_are_finite_at_the_ends(name, key):
    path, x1 = PATHS[name](), jnp.zeros((4, 2), int)
    t = jnp.array([0.0, 1e-7, 0.5, 1.0])
    noise = path.latent(key, x1)
    network = velocities.informed(lambda p, t, x, key=None: p * jnp.ones((*x.shape, 3)), path)
    batch = {"t": t, "x0": path.source.sample(jax.random.split(key, 4), (2,)), "x1": x1, "z": noise}
    for loss in (losses.generalised_kl, losses.cross_entropy):
        run = jax.value_and_grad(lambda p, loss=loss: loss(network, path)(p, None, batch)[0])
        assert all(map(np.isfinite, run(jnp.float32(0.3))))


def test_refusals():
    network = lambda params, t, x, key=None: x  # noqa: E731
    with pytest.raises(ValueError, match="is no path whose tokens jump"):
        velocities.informed(network, paths.fisher(3))
    with pytest.raises(ValueError, match="build the path with its source"):
        velocities.informed(network, paths.mixture())

"""Soft tokens on the simplex: the Dirichlet laws, their velocity in closed form, and its flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import gammaln

from jaxflow import draws, losses, networks, paths, sampling, velocities
from jaxflow.paths.dirichlet import Simplex, dirichlet

V = 4
LAW = np.array([0.4, 0.3, 0.2, 0.1])

point_of = jax.jit(lambda path, t, x0, x1: path(t, x0, x1))
velocity_of = jax.jit(lambda path, t, x, logits: path.velocity(t, x, logits))
pull_of = jax.jit(lambda path, s, a: path.pull(s, a))
noise_of = jax.jit(lambda path, keys: path.source.sample(keys, ()))


def points(n, vocabulary, seed=0):
    """Of the uniform law, in float64 where that is on."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.dirichlet(np.ones(vocabulary), n))


def posterior(path, law, t, x):
    """Equation (4), of one place or of several that are independent."""
    return jnp.log(law) + path.concentration(t, x) * jnp.log(x)


def series(s, a, vocabulary):
    """C of (2), by the binomial series of F for whole numbers, in float64.

    With b = V - 1 and h_j = 1 / (1 + a) + ... + 1 / (j + a), and with (1 + a)_j the rising power,
    F is s^(1 + a) times the sum over j < b of (1 + a)_j (1 - s)^j / j!, and one less that over all
    others. Of the two slopes in a that one is taken whose terms are all positive.
    """
    b, logs = vocabulary - 1, -np.log(s)
    below = logs >= np.sum(1 / (a + np.arange(1, b + 1)))
    j = np.arange(b if below else b + int(60 / s) + 50)
    h = np.cumsum(1 / (1 + a + j)) - 1 / (1 + a + j)
    logs_of_terms = np.cumsum(np.log1p(a / (1 + j))) - np.log1p(a / (1 + j))
    last = np.sum(np.log1p(a / np.arange(1, b + 1)))
    taken = slice(0 if below else b, None)
    terms = np.exp(((j - b) * np.log1p(-s) + logs_of_terms - last)[taken])
    return s / b * abs(np.sum(terms * (logs - h[taken])))


@pytest.mark.parametrize("vocabulary", [2, 4, 30, 1000])
def test_the_pull_is_that_of_the_distribution_function(vocabulary):
    """In float32 to 3e-6 over all of the square, by the series and by differences of F."""
    a, s = np.meshgrid(
        np.float32([0, 1e-3, 0.4, 2, 6, 15]),
        np.float32([1e-30, 1e-9, 1e-5, 1e-3, 0.01, 0.07, 0.3, 0.7, 0.95, 0.9999, 1 - 6e-8]),
    )
    found = pull_of(dirichlet(vocabulary), s[..., None], a[..., None])[..., 0]
    said = np.vectorize(lambda s, a: series(float(s), float(a), vocabulary))(s, a)
    np.testing.assert_allclose(found, said, rtol=3e-6)
    share = scipy.stats.beta.cdf(s, 1 + a, vocabulary - 1)
    s, a, found = (x[(share > 0.01) & (share < 0.99)].astype(float) for x in (s, a, found))
    slope = np.subtract(
        *(scipy.stats.beta.cdf(s, 1 + a + d, vocabulary - 1) for d in (1e-5, -1e-5))
    )
    density = scipy.stats.beta.pdf(s, 1 + a, vocabulary - 1)
    assert len(s) > 5
    np.testing.assert_allclose(found, -slope / 2e-5 / density / (1 - s), rtol=1e-5)


def test_the_pull_of_two_and_of_three_tokens(x64):
    """In closed form: the density of three, 2 or more, is a polynomial by a power."""
    s, a = np.linspace(0.01, 0.98, 66).reshape(11, 6, 1), np.array([[[0.7]]])
    two, three = (pull_of(dirichlet(n), s, a) for n in (2, 3))
    np.testing.assert_allclose(two, -s * np.log(s) / (1 - s) / (1 + a), rtol=1e-9)
    tops = -np.log(s) * (2 + a - (1 + a) * s) - (1 - s)
    np.testing.assert_allclose(three, s * tops / ((1 + a) * (2 + a) * (1 - s) ** 2), rtol=1e-8)


@pytest.mark.parametrize("vocabulary", [2, 3, 5])
def test_the_density_and_the_velocity_are_of_one_flow(vocabulary, x64):
    """The continuity equation of a token, and of tokens by their posterior."""
    path = dirichlet(vocabulary, paths.kappas.cosine(), scale=1.5)
    sure, mixed = np.eye(vocabulary)[1], np.arange(1.0, vocabulary + 1) / vocabulary

    def whole(free):
        return jnp.append(free, 1 - jnp.sum(free))[None]

    def log_density(t, free, law):
        a, x = path.concentration(t[None], whole(free)), whole(free)
        of_token = jax.scipy.special.gammaln(vocabulary + a) - jax.scipy.special.gammaln(1 + a)
        return jax.nn.logsumexp(of_token + posterior(path, law, t[None], x))

    def velocity(t, free, law):
        x = whole(free)
        return path.velocity(t[None], x, posterior(path, law, t[None], x))[0, :-1]

    def residual(t, free, law):
        by_time, by_place = jax.jacfwd(log_density, (0, 1))(t, free, law)
        spread = jnp.trace(jax.jacfwd(velocity, 1)(t, free, law))
        return by_time, by_time + spread + by_place @ velocity(t, free, law)

    x, t = points(20, vocabulary)[:, :-1], np.linspace(0.05, 0.95, 20)
    of_all = jax.jit(jax.vmap(residual, (0, 0, None)))
    for law in (sure, mixed):
        by_time, rest = map(np.asarray, of_all(t, x, law))
        assert np.max(np.abs(by_time)) > 1
        np.testing.assert_allclose(rest, 0.0, atol=1e-7 * np.max(np.abs(by_time)))


@pytest.mark.parametrize("vocabulary", [2, 5])
def test_points_have_the_density_of_their_law(vocabulary, x64):
    """Exactly, by the change of variables from noise; from `x0` to the corner."""
    path = dirichlet(vocabulary)
    x0, x1 = np.asarray(points(10, vocabulary)), np.arange(10) % vocabulary
    t = np.linspace(0.0, 0.9, 10)

    def moved(free, t, y):
        return path(t[None], jnp.append(free, 1 - jnp.sum(free))[None], y[None]).x[0, :-1]

    slopes = np.asarray(jax.jit(jax.vmap(jax.jacfwd(moved)))(x0[:, :-1], t, x1))
    point = jax.tree.map(np.asarray, point_of(path, t, x0, x1))
    a = np.asarray(jax.jit(path.concentration)(t, x0))[:, 0]
    own = np.take_along_axis(point.x, x1[:, None], axis=-1)[:, 0]
    said = gammaln(vocabulary + a) - gammaln(1 + a) + a * np.log(own)
    found = (
        np.asarray(path.source.log_prob(jnp.asarray(x0[0][None]))) - np.linalg.slogdet(slopes)[1]
    )
    np.testing.assert_allclose(found, said, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.sum(point.x, axis=-1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(np.sum(point.u, axis=-1), 0.0, atol=1e-12)
    np.testing.assert_allclose(point_of(path, np.zeros(10), x0, x1).x, x0, rtol=1e-12)
    end = point_of(path, np.ones(10), x0, x1)
    corners = np.eye(vocabulary)[x1]
    np.testing.assert_array_equal(end.x, corners)
    with np.errstate(divide="ignore"):
        sure = np.log(corners)
    np.testing.assert_allclose(velocity_of(path, t, point.x, sure), point.u, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("y", [0, 2])
def test_draws_have_the_law_of_their_token(y):
    """Each coordinate by its distribution function, all by their means and covariances."""
    path, n = dirichlet(V), 20_000
    x0 = noise_of(path, jax.random.split(jax.random.key(y), n))
    x = np.asarray(point_of(path, jnp.full(n, 0.6), x0, jnp.full(n, y)).x, float)
    shape = 1 - 2 * np.log(0.4) * np.eye(V)[y]
    for coordinate, own in zip(x.T, shape, strict=True):
        law = scipy.stats.beta(own, np.sum(shape) - own)
        assert scipy.stats.kstest(coordinate, law.cdf).pvalue > 1e-4
    law = scipy.stats.dirichlet(shape)
    apart = x - law.mean()
    products = apart[:, :, None] * apart[:, None]
    for found, said in ((apart, 0.0), (products, law.cov())):
        assert np.all(abs(found.mean(0) - said) < 4 * found.std(0) / np.sqrt(n))


def test_noise_is_uniform():
    source = dirichlet(V).source
    x0 = np.asarray(source.sample(jax.random.split(jax.random.key(7), 10_000), (2,)))
    assert x0.shape == (10_000, 2, V)
    assert np.all(x0 > 0)
    np.testing.assert_allclose(np.sum(x0, -1), 1.0, rtol=1e-6)
    assert scipy.stats.kstest(x0[:, 1, 3], scipy.stats.beta(1, V - 1).cdf).pvalue > 1e-4
    said = 2 * scipy.stats.dirichlet(np.ones(V)).logpdf(np.full(V, 1 / V))
    np.testing.assert_allclose(source.log_prob(jnp.asarray(x0[:3])), said, rtol=1e-6)
    alone = source.sample(jax.random.split(jax.random.key(7), 10_000)[5:6], (2,))
    np.testing.assert_array_equal(alone[0], x0[5])


def test_the_posterior_is_that_of_bayes():
    path, t = dirichlet(V, scale=3.0), jnp.full(5, 0.7)
    x = np.asarray(points(5, V), float)
    x /= x.sum(-1, keepdims=True)
    shapes = 1 - 3 * np.log(0.3) * np.eye(V)
    joint = LAW * np.stack([np.exp(scipy.stats.dirichlet(a).logpdf(x.T)) for a in shapes], -1)
    found = jax.nn.softmax(posterior(path, LAW, t, jnp.asarray(x)))
    np.testing.assert_allclose(found, joint / joint.sum(-1, keepdims=True), rtol=1e-4)


def test_the_flow_ends_at_the_law_of_the_data():
    """In between its points have the law of the path, and at its end they are the tokens."""
    path, n = dirichlet(V), 20_000
    velocity = velocities.from_logits(
        jax.tree_util.Partial(lambda path, t, x: posterior(path, LAW, t, x), path), path
    )
    x0 = noise_of(path, jax.random.split(jax.random.key(2), n))

    def ended(t):
        run = sampling.fixed_step(velocity, x0, jnp.linspace(0.0, t, 101), method=sampling.heun())
        assert np.all(run.success)
        np.testing.assert_allclose(np.sum(run.x, -1), 1.0, atol=1e-5)
        return np.asarray(run.x, float)

    counts = np.bincount(np.argmax(ended(1.0), axis=-1), minlength=V)
    assert scipy.stats.chisquare(counts, n * LAW).pvalue > 1e-4
    x = ended(0.8)
    a = float(path.concentration(jnp.array([0.8]), x0[:1])[0, 0])
    own, other = (scipy.stats.beta(1 + a * y, V - 1 + a * (1 - y)).cdf for y in (1, 0))
    for y, share in enumerate(LAW):
        law = lambda s, share=share: share * own(s) + (1 - share) * other(s)  # noqa: E731
        assert scipy.stats.kstest(x[:, y], law).pvalue > 1e-4


def test_two_tokens_go_straight(x64):
    """The Beta law is a power of a uniform one: `u` is the slope of `x`, and both closed forms."""
    path, t = dirichlet(2), np.linspace(0.0, 0.99, 8)
    x0, x1 = np.asarray(points(8, 2)), np.arange(8) % 2
    moved = jax.jit(lambda t: jax.jvp(lambda t: path(t, x0, x1), (t,), (jnp.ones(8),)))
    point, slope = jax.tree.map(np.asarray, moved(t))
    a = -2 * np.log1p(-t)
    own = np.take_along_axis(x0, x1[:, None], -1)[:, 0] ** (1 / (1 + a))
    np.testing.assert_allclose(np.take_along_axis(point.x, x1[:, None], -1)[:, 0], own, rtol=1e-12)
    np.testing.assert_allclose(point.u, slope.x, rtol=1e-9, atol=1e-12)


def test_ends_and_corners_are_finite():
    """In value and gradient, in float32; a corner stays where it is if it is its own token's."""
    path, vocabulary = dirichlet(5), 5
    t = jnp.array([0.0, 0.5, 0.999, 1.0])
    x1 = jnp.arange(4) % vocabulary
    corner, logits = jax.nn.one_hot(x1, vocabulary), jnp.zeros((4, vocabulary))

    @jax.jit
    def of_velocity(path, t, x, logits):
        def total(*given):
            u = path.velocity(*given)
            return jnp.sum(u * jnp.arange(vocabulary)), u

        return jax.value_and_grad(total, (0, 1, 2), has_aux=True)(t, x, logits)

    @jax.jit
    def of_point(path, t, x0):
        point, slope = jax.jvp(lambda t, x0: path(t, x0, x1), (t, x0), (t + 1, x0))
        return point.x, point.u, slope.x, slope.u

    for x in (corner, jnp.roll(corner, 1, -1), jnp.zeros_like(corner), jnp.abs(corner - 1e-12)):
        for leaf in jax.tree.leaves(of_velocity(path, t, x, logits)):
            assert np.all(np.isfinite(leaf))
    x0 = path.source.sample(jax.random.split(jax.random.key(0), 4), ())
    for leaf in of_point(path, t, x0):
        assert np.all(np.isfinite(leaf))
    for x in (corner, jnp.roll(corner, 1, -1)):
        assert all(np.all(np.isfinite(leaf)) for leaf in of_point(path, t, x)[:2])
    sure = jnp.log(jax.nn.one_hot(x1, vocabulary))
    np.testing.assert_array_equal(of_velocity(path, t, corner, sure)[0][1], 0.0)


def test_a_kappa_and_a_time_for_each_place():
    """Powers of time a place, times a token, a kappa that ends early, and half precision."""
    x0 = dirichlet(3).source.sample(jax.random.split(jax.random.key(0), 2), (4,))
    x1, t = jnp.arange(8).reshape(2, 4) % 3, jnp.array([0.2, 0.7])
    path = dirichlet(3, paths.kappas.polynomial(jnp.array([1.0, 2.0, 3.0, 1.0])))
    times = t[:, None] ** jnp.array([1.0, 2.0, 3.0, 1.0])
    by_place, by_time = path.concentration(t, x0), dirichlet(3).concentration(times, x0)
    np.testing.assert_allclose(by_place, by_time, rtol=1e-5)
    early = dirichlet(3, lambda t: jnp.minimum(2 * t, 1.0))
    point, velocity = jax.jit(lambda path, t: (path(t, x0, x1), path.velocity(t, x0, jnp.log(x0))))(
        early, t
    )
    np.testing.assert_array_equal(point.x[1], jax.nn.one_hot(x1[1], 3))
    assert jnp.all(jnp.isfinite(point.u))
    assert jnp.all(velocity[0] != 0)
    assert jnp.all(velocity[1] == 0)
    half = jax.eval_shape(dirichlet(3), t, x0.astype(jnp.bfloat16), x1)
    assert half.x.dtype == half.u.dtype == jnp.bfloat16
    assert jax.eval_shape(path.velocity, t, half.x, half.x).dtype == jnp.bfloat16


def test_a_transformer_learns_soft_tokens():
    """Through the trainer's own draw and loss."""
    path = dirichlet(V)
    network = networks.linen(networks.Transformer(V, width=16, depth=1, heads=2))

    @jax.jit
    def step(path, x1):
        batch = draws.standard(path)(jax.random.key(0), {"x1": x1})
        params = network.init(jax.random.key(1), batch["t"], batch["x0"])
        loss = losses.cross_entropy(network, path)
        return jax.value_and_grad(loss, has_aux=True)(params, None, batch)

    (value, aux), slopes = step(path, jnp.arange(24).reshape(4, 6) % V)
    assert value == pytest.approx(np.log(V), rel=1e-5)
    assert aux["per_example"].shape == (4,)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(slopes))


def test_refusals():
    path = dirichlet(V)
    assert path.source == Simplex(V)
    for x0, x1, match in [
        (jnp.zeros((2, 3, V)), jnp.zeros((2, 3)), "whole numbers; got float32"),
        (jnp.zeros((2, 3)), jnp.zeros((2, 3), int), "a point of the simplex a token"),
        (jnp.zeros((2, 3, V + 1)), jnp.zeros((2, 3), int), r"\[\.\.\., 4\], as path.source draws"),
    ]:
        with pytest.raises(ValueError, match=match):
            path(jnp.zeros(2), x0, x1)
    with pytest.raises(ValueError, match="have 4 coordinates"):
        path.velocity(jnp.zeros(2), jnp.ones((2, 3)) / 3, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="2 or more; got 1"):
        dirichlet(1)
    for scale in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"positive, finite scale, such as 2\.0; got"):
            dirichlet(V, scale=scale)
    with pytest.raises(ValueError, match="kappa"):
        dirichlet(V, lambda t: 1 - t)
    with pytest.raises(TypeError, match="kappa"):
        dirichlet(V, 0.5)

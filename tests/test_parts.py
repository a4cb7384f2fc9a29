"""Samples of several parts: each noun applied to each part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxflow import couplings, draws, losses, paths, sampling, sources, times, velocities
from jaxflow.types import Dependent
from tests.problems import CURVES

PATH = paths.product({"a": CURVES["linear"].path, "b": CURVES["vp"].path})
X0, X1 = (
    {"a": jax.random.normal(jax.random.key(i), (6, 3)), "b": jnp.ones((6, 2, 2)) + i}
    for i in range(2)
)
T = jnp.linspace(0.1, 0.9, 6)


def test_each_part_walks_its_own_path():
    """At one time for all parts, or at a time each."""
    for t in (T, {"a": T, "b": 1 - T}):
        sample = jax.jit(lambda p, t: p(t, X0, X1))(PATH, t)
        for name, part in PATH.parts.items():
            own = part(t[name] if isinstance(t, dict) else t, X0[name], X1[name])
            for field in ("x", "u", "score"):
                np.testing.assert_allclose(
                    getattr(sample, field)[name], getattr(own, field), rtol=1e-6
                )


def test_draw_and_loss_of_parts(key):
    """Independent noise a part, times in every part's interval, and errors that add up."""
    own = {"a": times.uniform(), "b": times.logit_normal()}
    batch = draws.standard(PATH, times=own)(key, {"x1": X1})
    assert jax.tree.map(jnp.shape, batch["x0"]) == {"a": (6, 3), "b": (6, 2, 2)}
    assert {k: t.shape for k, t in batch["t"].items()} == {"a": (6,), "b": (6,)}
    assert batch["z"] == {"a": None, "b": None}

    def zero(params, t, x, *, key=None):
        return jax.tree.map(jnp.zeros_like, x)

    for prediction in ("velocity", "noise"):
        _, aux = losses.flow_matching(zero, PATH, prediction=prediction)(None, None, batch)
        sample = PATH(batch["t"], batch["x0"], batch["x1"])
        wanted = sample.u if prediction == "velocity" else batch["x0"]
        errors = sum(jnp.mean(a**2, axis=tuple(range(1, a.ndim))) for a in wanted.values())
        np.testing.assert_allclose(aux["per_example"], errors, rtol=1e-5)
    mixed = sources.product({"a": sources.normal(), "b": sources.uniform()})
    assert draws.standard(PATH, source=mixed)(key, {"x1": X1})["z"] == {"a": None, "b": Dependent()}


def test_transport_pairs_whole_samples(key):
    """By the distance over all parts; the parts of a sample stay together."""
    for on_host in (False, True):
        coupling = couplings.optimal_transport(on_host=on_host)
        x0, x1, _ = coupling(key, X0, X1, {})
        rows = [np.concatenate([x["a"], x["b"].reshape(6, -1)], 1) for x in (X0, X1, x0)]
        cost = ((rows[1][:, None] - rows[0][None]) ** 2).sum(-1)
        paired = ((rows[1] - rows[2]) ** 2).sum()
        assert paired == pytest.approx(cost[linear_sum_assignment(cost)].sum(), rel=1e-5)
        assert x1 is X1


def test_conversions_guidance_and_likelihood_of_parts(x64):
    """Each part's own, by one network; and log-densities add up."""
    x = jax.tree.map(lambda a: a.astype(jnp.float64), X1)
    back = velocities.convert(
        velocities.convert(x, T, X0, path=PATH, source="noise", target="velocity"),
        T, X0, path=PATH, source="velocity", target="noise",
    )  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), back, x)

    def flow(t, x, *, label):
        return {k: a * label.reshape(-1, *[1] * (a.ndim - 1)) for k, a in x.items()}

    scale = jnp.linspace(0, 2, 6)
    guided = velocities.classifier_free(flow, scale=scale, null={"label": 0.25})
    label = jnp.full(6, 0.5)
    rate = 0.25 + scale * 0.25
    v = guided(T, x, label=label)
    for name, a in x.items():
        expected = a * rate.reshape(-1, *[1] * (a.ndim - 1))
        np.testing.assert_allclose(v[name], expected, rtol=1e-12)
    source = sources.product({"a": sources.normal(), "b": sources.normal()})
    for divergence, keys in ((sampling.exact(), None), (sampling.hutchinson(2), 1)):
        keys = keys and jax.random.split(jax.random.key(0), 6)
        found = sampling.log_prob(
            flow, x, source=source, divergence=divergence, keys=keys,
            cond={"label": label}, rtol=1e-9, atol=1e-9,
        )  # fmt: skip
        start = jax.tree.map(lambda a: a * np.exp(-0.5), x)
        np.testing.assert_allclose(found.value, source.log_prob(start) - 7 * 0.5, rtol=1e-7)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: paths.product({}), "at least one part"),
        (lambda: sources.product({}), "at least one part"),
        (lambda: PATH(T, X0, {"a": X1["a"]}), "the path has the parts"),
        (lambda: PATH(T, X0["a"], X1["a"]), "but the samples are one array"),
        (
            lambda: sources.product({"a": sources.normal()}).sample(
                jax.random.split(jax.random.key(0), 2), (2,)
            ),
            "the source has the parts",
        ),
        (
            lambda: losses.flow_matching(
                lambda *a, **k: None, PATH, prediction="data", regress="noise"
            ),
            "losses.weights.sigma",
        ),
    ],
)
def test_refusals(call, told):
    with pytest.raises(ValueError, match=told):
        call()

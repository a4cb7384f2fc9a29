"""What the tests of guidance share: classes of a mixture, known to a network of every kind."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import paths, velocities
from jaxflow.arrays import expand
from jaxflow.records import record, static
from jaxflow.types import Path
from jaxflow.velocities import prediction

NONE = 2  # the label of no class
SHARES = np.array([0.6, 0.4])
MEANS = np.array([[1.0, -0.5], [-1.5, 0.3], [0.2, 2.0]])
VARIANCES = np.array([0.4, 0.2, 0.6])


def mixture(path: Path, label: int) -> Any:
    """The exact velocity of one class, or of all data for the label of none.

    Each has four components, of which some are the same, so that labels choose among arrays.
    """
    weights, chosen = {
        0: (np.full(4, 0.25), [0, 1, 0, 1]),
        1: (np.full(4, 0.25), [2, 2, 2, 2]),
        NONE: (np.array([0.3, 0.3, 0.2, 0.2]), [0, 1, 2, 2]),
    }[label]
    return velocities.gaussian_mixture(
        path, weights=weights, means=MEANS[chosen], covariances=VARIANCES[chosen]
    )


def mixtures(path: Path) -> Any:
    """Those of all labels, as one record."""
    return jax.tree.map(lambda *a: jnp.stack(a), *(mixture(path, label) for label in range(3)))


def told(mixtures, label, what, t, x):
    """What the mixture of each example's label says of it."""

    def one(mixture, t, x):
        return getattr(mixture, what)(t[None], x[None])[0]

    return jax.vmap(one)(jax.tree.map(lambda a: a[label], mixtures), t, x)


@record
class Classes:
    """A network that says the exact quantity of a kind, given the label of an example."""

    mixtures: Any
    kind: str = static()

    def __call__(self, params, t, x, *, key=None, label):
        if self.kind == "salimans_ho":
            x1, x0 = (told(self.mixtures, label, of, t, x) for of in ("posterior_mean", "noise"))
            return prediction.salimans_ho(self.mixtures.path, t, x0, x1)
        names = {"velocity": "__call__", "data": "posterior_mean"}
        return told(self.mixtures, label, names.get(self.kind, self.kind), t, x)


def exact(path: Path, kind: str = "velocity") -> Any:
    """The velocity of the classes, learned as a prediction of some kind."""
    network = Classes(mixtures(path), kind)
    return velocities.from_network(network, None, path=path, prediction=kind)


@jax.jit
def call(velocity, t, x, cond):
    return velocity(t, x, **cond)


def log_prob(weight, t, x, **cond):
    """A density of noisy points that depends on the first condition, if any."""
    shift = sum((jnp.sin(1.0 * c) for c in cond.values()), start=jnp.zeros(len(x)))
    return -weight * jnp.sum((x - expand(shift, x)) ** 2, axis=tuple(range(1, x.ndim)))


NULL = {"label": 0.0}
PATH = paths.linear()


def rule(made):
    return lambda v, s: velocities.classifier_free(v, scale=s, null=NULL, rule=made)


# Every guidance of a velocity with a condition `label`, at a strength whose neutral value is 1.
GUIDANCES = {
    "classifier_free": rule(None),
    "plain": rule(velocities.plain()),
    "rescaled": rule(velocities.rescaled(0.7)),
    "zero_star": rule(velocities.zero_star()),
    "projected": rule(velocities.projected(0.2, norm=1.5)),
    "frequency_decoupled": rule(velocities.frequency_decoupled(0.3, width=0.8)),
    "magnitude_aware": rule(velocities.magnitude_aware(0.5)),
    "tangential": rule(velocities.tangential()),
    "autoguidance": lambda v, s: velocities.autoguidance(v, Weaker(v), scale=s),
    "composed": lambda v, s: velocities.composed(v, scales={"label": s}, null=NULL),
    "guided_by": lambda v, s: velocities.guided_by(
        v, jax.tree_util.Partial(sum_of_parts, 0.3), scale=Minus(s)
    ),
    "thresholded": lambda v, s: velocities.thresholded(v, bound=50.0 if one(s) else 0.6),
    "dynamic": lambda v, s: velocities.thresholded(
        v, bound=50.0 if one(s) else 0.6, percentile=90.0
    ),
}
FACTORY = dict.fromkeys(GUIDANCES, "classifier_free") | {
    "autoguidance": "autoguidance",
    "composed": "composed",
    "guided_by": "guided_by",
    "thresholded": "thresholded",
    "dynamic": "thresholded",
}
EVALUATIONS = dict.fromkeys(GUIDANCES, 2) | {"guided_by": 1, "thresholded": 1, "dynamic": 1}
# Whose value at a place depends on the rest of the event.
PER_EVENT = {
    "rescaled", "zero_star", "projected", "frequency_decoupled", "magnitude_aware", "tangential",
    "dynamic",
}  # fmt: skip


def one(s):
    return not callable(s) and np.ndim(s) == 0 and float(s) == 1


@record
class Minus:
    """A strength less one, the neutral scale of what adds a gradient."""

    scale: Any

    def __call__(self, t):
        value = self.scale(t) if callable(self.scale) else jnp.asarray(self.scale)
        return jnp.broadcast_to(expand(value, t) if value.ndim else value, t.shape) - 1


def sum_of_parts(weight, t, x, **cond):
    return sum(log_prob(weight, t, a, **cond) for a in jax.tree.leaves(x))


@record
class Weaker:
    """Half of a velocity, with what it knows of itself."""

    velocity: Any

    @property
    def evaluations(self):
        return self.velocity.evaluations

    @property
    def interval(self):
        return self.velocity.interval

    @property
    def path(self):
        return self.velocity.path

    def __call__(self, t, x, **cond):
        return jax.tree.map(lambda a: 0.5 * a, self.velocity(t, x, **cond))

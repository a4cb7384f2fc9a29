"""What records hold in arrays enters a compiled step as an argument, and never as a constant."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import draws, losses, paths, sources
from jaxflow.records import record
from jaxflow.training import MODES, layout, program, trainer


@record
class Learned:
    """A schedule between two others, by a learned share."""

    share: jax.Array
    table: jax.Array

    interval = (0.0, 1.0)

    def alpha(self, t):
        return self.share * t + (1 - self.share) * t**2 + 0 * self.table[0]

    def sigma(self, t):
        return 1 - self.alpha(t)


def network(params, t, x, *, key=None):
    return x @ params


def compiled(rows, *, mode="jit", devices=8):
    """A step whose source holds `rows`, whose draw reads a frozen encoder and whose path learns."""
    path = paths.affine(Learned(jnp.array(0.5), jnp.zeros(rows)))

    def encode(key, batch, held):
        return {**batch, "x1": batch["x1"] @ held.frozen}

    source = sources.data(jnp.zeros((rows, 2)))
    draw = draws.chain(encode, draws.standard(path, source=source))
    axis = None if mode == "jit" else "data"
    run = trainer(losses.flow_matching(network, path), optax.sgd(0.1), draw=draw, axis_name=axis)
    made = program(run, mode=mode, layout=layout(devices=jax.devices()[:devices]))
    frozen = jnp.ones((2 * rows, 2)) / rows
    state = made.init(jnp.eye(2), jax.random.key(0), frozen=frozen)
    return made, state, {"x1": jnp.ones((8, 2 * rows))}


def test_arrays_do_not_enter_the_program():
    """12.8 MB of source, 25.6 MB of encoder and a schedule of 6.4 MB: under 100 kB of StableHLO."""
    sizes = []
    for rows in (16, 1_600_000):
        made, state, batch = compiled(rows)
        sizes.append(len(made.step.lower(state, batch).as_text()))
        stream = Ones(8, 2 * rows)
        sizes[-1] += len(made.steps.lower(state, stream, 2).as_text())
    assert abs(sizes[1] - sizes[0]) < 100_000
    assert sizes[1] < 400_000


@record
class Ones:
    n: int = dataclasses.field(metadata={"static": True})
    width: int = dataclasses.field(metadata={"static": True})

    def batch(self, step):
        return {"x1": jnp.ones((self.n, self.width))}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_on_them(mode):
    """The same step on eight devices as on one."""
    ends = []
    for devices in (8, 1):
        made, state, batch = compiled(16, mode=mode, devices=devices)
        state, metrics = made.step(state, made.place(batch))
        ends.append((np.asarray(state.params), float(metrics["loss"])))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=1e-5)
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-5)


def test_a_schedule_is_learned(x64):
    """Its arrays are leaves of the path, found anew by each step: the slope of the loss in them."""
    path = paths.affine(Learned(jnp.array(0.5), jnp.zeros(1)))
    t, x0, x1 = jnp.array([0.3, 0.8]), jnp.zeros((2, 1)), jnp.ones((2, 1))

    def point(share):
        inner = dataclasses.replace(path.schedule.schedule, share=share)
        known = dataclasses.replace(path.schedule, schedule=inner)
        return dataclasses.replace(path, schedule=known)(t, x0, x1)

    value, slope = jax.jvp(lambda s: point(s).x[:, 0], (jnp.array(0.5),), (jnp.ones(()),))
    np.testing.assert_allclose(value, 0.5 * t + 0.5 * t**2)
    np.testing.assert_allclose(slope, t - t**2)
    np.testing.assert_allclose(jax.jit(lambda s: point(s).u[:, 0])(0.25), 0.25 + 1.5 * t)
    with pytest.raises(ValueError, match="while its arrays are traced"):
        jax.jit(lambda s: paths.affine(Learned(s, jnp.zeros(1)))(t, x0, x1).x)(0.5)

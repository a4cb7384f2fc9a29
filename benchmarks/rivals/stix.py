"""stix: its training loop and its solvers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from stix.core.embedder import IdentityEmbedder
from stix.core.gen_model.factory import VelocityOneSidedGenerativeModel
from stix.core.interpolant.standard_interpolants import FlowMatchingOneSidedInterpolant
from stix.core.modality import Modality, ModalityRegistry
from stix.nn.network import Network
from stix.sampling.solver import Solver, SolverConfig
from stix.sampling.solver_manual import ManualSolver, ManualSolverConfig
from stix.training.loss_pipeline import LossPipeline
from stix.training.training_loop import TrainingLoop
from stix.typing import EmbeddedSourceTargetPair, RawSourceTargetPair
from stix.typing.data import Batch

from benchmarks import moons
from benchmarks.rivals import training as driver
from benchmarks.rivals.perceptron import Perceptron
from benchmarks.rivals.sampling import sampled
from benchmarks.task import Task

WINDOW = 200


class _Network(Network):
    """The perceptron, as a network that stix calls on one example or, in a sampler, on all."""

    def __init__(self, perceptron: Perceptron):
        self.perceptron = perceptron

    def __call__(self, z_t, t, context_data=None, context_mask=None, attention_mask=None):
        return {"x": self.perceptron(t, z_t["x"])}


def _model(weights: str | None = None) -> VelocityOneSidedGenerativeModel:
    modality = Modality(
        shape=(2,),
        is_discrete=False,
        interpolant=FlowMatchingOneSidedInterpolant(),
        embedder=IdentityEmbedder((2,)),
    )
    network = _Network(Perceptron(moons.layers(weights)))
    return VelocityOneSidedGenerativeModel(network, ModalityRegistry({"x": modality}))


def _batch(x1: jax.Array) -> Batch:
    return Batch(raw_batch={"x": RawSourceTargetPair(target=x1)})


def _on_probe(graph: Any, params: Any) -> jax.Array:
    """The model's loss at given times and noise: what its pipeline does with those it draws."""
    model, probe = nnx.merge(graph, params), moons.probe()
    interpolant = model.modality_registry.registry["x"].interpolant

    def one(t: jax.Array, x0: jax.Array, x1: jax.Array) -> jax.Array:
        pair = EmbeddedSourceTargetPair(target=x1)
        z = {"x": interpolant.interpolate(pair, t, x0)}
        out = model.get_network_output(z, t, None, None, None)
        raw, mask = {"x": RawSourceTargetPair(target=x1)}, {"x": jnp.ones(2)}
        return model.get_loss(out, t, z, {"x": x0}, {"x": pair}, raw, mask)

    return jnp.mean(jax.vmap(one)(probe["t"], probe["x0"], probe["x1"]))


def training(loop: str, data: str, guarded: bool = False) -> Task:
    """Training steps: by its `TrainingLoop` ("own"), or its loss in a bare step or a scan."""
    model, pipeline = _model(), LossPipeline()
    graph, params = nnx.split(model, nnx.Param)
    on_probe = jax.jit(lambda params: _on_probe(graph, params))
    if loop != "own":

        def loss(params: Any, key: jax.Array, x1: jax.Array) -> jax.Array:
            return pipeline(nnx.merge(graph, params), _batch(x1), key)[0]

        return driver.bare(params, loss, on_probe, loop, data, guarded=guarded)
    config = TrainingLoop.Config(
        num_steps=WINDOW,
        eval_every_n_steps=WINDOW,
        ema_decay=moons.EMA_DECAY,
        run_eval_at_start=False,
    )
    own = TrainingLoop(
        train_data=map(_batch, moons.batches(data)),
        val_data=None,
        loss_pipeline=pipeline,
        gen_model=model,
        optimizer_tx=optax.adam(moons.LEARNING_RATE),
        config=config,
    )
    facts = {"parameters": driver.parameters(params), "loss": float(on_probe(params))}

    def run(k: int) -> None:
        own.config.num_steps = int(own.training_state.num_steps) + k * WINDOW
        own.run()

    def later() -> dict[str, float]:
        run(driver.TRAINED // WINDOW)
        return {"trained loss": float(on_probe(own.training_state.params))}

    return Task(run, facts, WINDOW, later)


def sample(solver: str, weights: str, n: int = 10_000) -> Task:
    """Samples by "euler" in 50 steps, or by Tsitouras' method at 1e-5: "tsit5" a sample or shared.

    Its solvers compile nothing and take one example, so a user wraps them in `vmap` and `jit`. The
    ends of the interval are its defaults, 1e-4 from 0 and 1.
    """
    graph, state = nnx.split(_model(weights))
    if solver == "euler":
        solve = ManualSolver(ManualSolverConfig(num_steps=50))
    else:
        solve = Solver(SolverConfig(rtol=1e-5, atol=1e-5))

    def alone(state: Any, x0: jax.Array) -> jax.Array:
        return solve(nnx.merge(graph, state), {"x": x0}, jax.random.key(0))["x"]

    mapped = alone if solver == "tsit5 shared" else jax.vmap(alone, in_axes=(None, 0))
    compiled = jax.jit(mapped)
    return sampled(
        lambda state, x0: (compiled(state, x0), None),
        state, weights, n, driver.parameters(nnx.state(_model(weights), nnx.Param)),
    )  # fmt: skip

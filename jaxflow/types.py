"""The nouns: every protocol, alias and record that more than one room shares.

Shapes. `batch` leads every array; `event` is the shape of one sample. Time runs from the source
at `t = 0` to the data at `t = 1`; `t` is `[batch]`, or `[batch, *leading event axes]` where a path
and a network take a time a token or a frame. Conditions are one mapping of arrays, each
`[batch, ...]`.
Keys are typed (`jax.random.key`); `key=None` means nothing random.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from jaxflow.records import record

__all__ = [
    "Array",
    "Batch",
    "Bool",
    "Cond",
    "Coupling",
    "Data",
    "Draw",
    "Float",
    "FlowMap",
    "Held",
    "Int",
    "Interval",
    "Key",
    "Keys",
    "LogProb",
    "Loss",
    "Method",
    "Network",
    "Params",
    "Path",
    "PathSample",
    "PyTree",
    "Schedule",
    "Shaped",
    "Solution",
    "Source",
    "Time",
    "Times",
    "TrainState",
    "Trainer",
    "Velocity",
]

Data = Shaped[Array, "batch *event"]
Time = Float[Array, "batch *lead"]
Key = PRNGKeyArray
Keys = Shaped[PRNGKeyArray, "batch"]
Cond = Mapping[str, Shaped[Array, "batch ..."]]
Batch = Mapping[str, Any]
Params = PyTree
Interval = tuple[float, float]


@runtime_checkable
class Velocity(Protocol):
    """A flow: `dx/dt = v(t, x)`.

    A plain function `(t, x, **cond) -> v` is a velocity too, with `evaluations = 1`,
    `interval = (0, 1)` and no path.
    """

    @property
    def evaluations(self) -> int:
        """Calls of the network that one call of the velocity costs (two under guidance)."""
        ...

    @property
    def interval(self) -> Interval:
        """The times where the velocity is finite; beyond them it continues its value there."""
        ...

    @property
    def path(self) -> "Path | None":
        """The path it was learned on, where the posterior mean of the data is wanted."""
        ...

    def __call__(self, t: Time, x: Data, **cond: Array) -> Data: ...


class FlowMap(Protocol):
    """The solution of a flow in one call: carries `x` at time `s` to time `t`."""

    def __call__(self, s: Time, t: Time, x: Data, **cond: Array) -> Data: ...


class Network(Protocol):
    """A pure function of its parameters; `key` serves dropout alone."""

    def __call__(
        self, params: Params, t: Time, x: Data, *, key: Key | None = None, **cond: Array
    ) -> Any: ...


class Source(Protocol):
    """Where a flow starts: a distribution over `x0`."""

    def sample(self, keys: Keys, event_shape: tuple[int, ...]) -> Data:
        """One sample a key, so that a sample never depends on its batch."""
        ...

    def log_prob(self, x0: Data) -> Float[Array, "batch"]:
        """Log-density in nats."""
        ...


class Times(Protocol):
    """A distribution over training times, given by its quantile function."""

    def __call__(self, key: Key, n: int) -> Float[Array, "n"]: ...

    def quantile(self, u: Float[Array, "n"]) -> Float[Array, "n"]:
        """The time below which a share `u` of the distribution lies."""
        ...

    def log_prob(self, t: Float[Array, "n"]) -> Float[Array, "n"]:
        """Log-density in nats."""
        ...


class Coupling(Protocol):
    """Pairs source with data; conditions follow their data."""

    @property
    def needs_gaussian_source(self) -> bool: ...

    def __call__(self, key: Key, x0: Data, x1: Data, cond: Cond) -> tuple[Data, Data, Cond]: ...


class Schedule(Protocol):
    """`x_t = alpha(t) x1 + sigma(t) x0`; `interval` is where both derivatives are finite."""

    @property
    def interval(self) -> Interval: ...

    def alpha(self, t: Time) -> Time: ...

    def sigma(self, t: Time) -> Time: ...


@record
class PathSample:
    """A point of a path, with what a network can regress on.

    `u` is the conditional velocity (None for tokens) and `score` the conditional score,
    where a path knows it.
    """

    t: Time
    x: Data
    u: Data | None
    x0: Data
    x1: Data
    score: Data | None = None


class Path(Protocol):
    """Joins a pair `(x0, x1)`; deterministic given the latent `z`."""

    def latent(self, key: Key, x0: Data) -> Any:
        """The path's own randomness, or None."""
        ...

    def __call__(self, t: Time, x0: Data, x1: Data, z: Any = None) -> PathSample: ...


class Draw(Protocol):
    """Completes a batch `{"x1": ..., "cond": ...}` with everything random in an objective.

    Made once on the global batch, before microbatches and devices split it.
    """

    def __call__(self, key: Key, batch: Batch) -> Batch: ...


@record
class Held:
    """What a loss may read and never differentiates."""

    step: Int[Array, ""]
    ema: Params
    frozen: Params


class Loss(Protocol):
    """A plain mean over examples; `aux["per_example"]` keeps them apart."""

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Float[Array, ""], Mapping[str, Array]]: ...


class Method(NamedTuple):
    """One step of a fixed-step solver.

    `init(v, t, x) -> memory`, and `step(v, t, t_next, x, memory) -> (x_next, memory)`, where
    `v(t, x)` is the velocity with its conditions bound and times are `[batch]`.
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, Any]]
    calls: int
    order: int


@record
class Solution:
    """What a sampler returns.

    `x` is the end. `t [saves]` and `xs [saves, batch, *event]` are the saved times and states,
    or None. `nfe [batch]` counts calls of the velocity a sample; the network was called
    `nfe * velocity.evaluations` times. `success [batch]` is False where the solver gave up or a
    value is not finite.
    """

    x: PyTree
    t: Float[Array, "saves"] | None
    xs: PyTree
    nfe: Int[Array, "batch"]
    success: Bool[Array, "batch"]


@record
class LogProb:
    """A log-likelihood: `value [batch]` in nats, and the standard error of its estimate.

    The standard error is zero for an exact divergence and NaN for a single Hutchinson probe,
    from which no spread can be told.
    """

    value: Float[Array, "batch"]
    standard_error: Float[Array, "batch"]
    nfe: Int[Array, "batch"]
    success: Bool[Array, "batch"]


@record
class TrainState:
    """All that a run is: save it, and the run goes on as if it had never stopped.

    `key` never changes; the randomness of a step is a pure function of `(key, step)`. `step`
    counts every step taken, `skipped` those that were thrown away for a non-finite gradient.
    """

    step: Int[Array, ""]
    params: Params
    ema: Params
    frozen: Params
    opt_state: Any
    key: Key
    skipped: Int[Array, ""]


class Trainer(NamedTuple):
    """`init(params, key, frozen=None) -> TrainState`, `draw(key, batch) -> batch` and
    `step(state, batch) -> (TrainState, metrics)`, all pure; metrics are scalars.

    `step` takes a batch that `draw` completed. With an `axis_name` it is the body of one device
    under `pmap` or `shard_map`, and averages gradients over that axis.
    """

    init: Callable[..., TrainState]
    draw: Draw
    step: Callable[[TrainState, Batch], tuple[TrainState, Mapping[str, Array]]]
    axis_name: str | None = None

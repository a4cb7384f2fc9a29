"""The nouns: every protocol, alias and record that more than one room shares.

Shapes. `batch` leads every array; `event` is the shape of one sample. Time runs from the source
at `t = 0` to the data at `t = 1`; `t` is `[batch]`, or `[batch, *leading event axes]` where a path
and a network take a time a token or a frame. Conditions are one mapping of arrays, or of nested
mappings (a text and its mask), each `[batch, ...]`. A sample of several parts (an image and its
label) is a mapping of arrays.
Keys are typed (`jax.random.key`); `key=None` means nothing random.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jaxtyping
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, PyTree, Shaped

from jaxflow.records import record, static

__all__ = [
    "AnyArray",
    "Array",
    "Batch",
    "Bool",
    "Cond",
    "Coupling",
    "Data",
    "Dependent",
    "Draw",
    "Float",
    "FlowMap",
    "Held",
    "Int",
    "Interval",
    "Key",
    "Keys",
    "Labels",
    "LogProb",
    "Loss",
    "Method",
    "Network",
    "Params",
    "Path",
    "PathSample",
    "PyTree",
    "Sample",
    "Schedule",
    "Shaped",
    "Solution",
    "Source",
    "Stream",
    "Time",
    "Times",
    "TrainState",
    "Velocity",
]

AnyArray = Array | np.ndarray
Data = Shaped[AnyArray, "batch *event"]
Sample = Any  # data, or a mapping of parts, each of them data
Time = Float[AnyArray, "batch *lead"]
Key = jaxtyping.Key[Array, ""]
Keys = jaxtyping.Key[Array, "batch"]
Labels = Integer[AnyArray, "batch"]
Cond = Mapping[str, Any]  # each an array `[batch, ...]` or a mapping of such
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

    def __call__(self, t: Any, x: Sample, **cond: Any) -> Sample: ...


@runtime_checkable
class FlowMap(Protocol):
    """The solution of a flow in one call: carries `x` at time `s` to time `t`."""

    def __call__(self, s: Any, t: Any, x: Sample, **cond: Any) -> Sample: ...


@runtime_checkable
class Network(Protocol):
    """A pure function of its parameters; `key` serves dropout alone.

    One that learns a flow map takes a second time `r`, shaped as `t`, among its conditions: where
    `x` at `t` is carried to.
    """

    def __call__(
        self, params: Params, t: Any, x: Sample, *, key: Key | None = None, **cond: Any
    ) -> Any: ...


@runtime_checkable
class Source(Protocol):
    """Where a flow starts: a distribution over `x0`, with its log-density in nats.

    One sample a key, so that a sample never depends on its batch.
    """

    def sample(self, keys: Keys, event_shape: Any) -> Sample: ...

    def log_prob(self, x0: Sample) -> Float[Array, "batch"]: ...


@runtime_checkable
class Times(Protocol):
    """A distribution over training times, with its log-density in nats.

    `quantile(u)` is the time below which a share `u` of the distribution lies.
    """

    def __call__(self, key: Key, n: int) -> Float[Array, "n"]: ...

    def quantile(self, u: Shaped[AnyArray, "n"]) -> Float[Array, "n"]: ...

    def log_prob(self, t: Float[Array, "n"]) -> Float[Array, "n"]: ...


@runtime_checkable
class Coupling(Protocol):
    """Pairs source with data; conditions follow. `independent = True` where no pair is chosen."""

    def __call__(
        self, key: Key, x0: Sample, x1: Sample, cond: Cond
    ) -> tuple[Sample, Sample, Cond]: ...


@runtime_checkable
class Schedule(Protocol):
    """`x_t = alpha(t) x1 + sigma(t) x0`; `interval` is where both derivatives are finite."""

    @property
    def interval(self) -> Interval: ...

    def alpha(self, t: Time) -> Time: ...

    def sigma(self, t: Time) -> Time: ...


@record
class Dependent:
    """In the place of a latent: `x0` is no independent standard normal, so no score is known."""


@record
class PathSample:
    """A point of a path, with what a network can regress on.

    `u` is the conditional velocity (None for tokens) and `score` the conditional score,
    None where a path does not know it. Of a path over several parts all are mappings.
    """

    t: Time | Mapping[str, Time]
    x: Sample
    u: Sample | None
    x0: Sample
    x1: Sample
    score: Sample | None = None


@runtime_checkable
class Path(Protocol):
    """Joins a pair, deterministic given `z`, which `latent(key, x0)` draws where there is one."""

    def __call__(self, t: Any, x0: Sample, x1: Sample, z: Any = None) -> PathSample: ...


@runtime_checkable
class Draw(Protocol):
    """Completes a batch `{"x1": ..., "cond": ...}` with all that is random in an objective.

    Made once on the global batch, before microbatches and devices split it.
    """

    def __call__(self, key: Key, batch: Batch, held: "Held | None" = None) -> Batch: ...


@runtime_checkable
class Stream(Protocol):
    """Batches that are a pure function of the step, such as `data.on_device`."""

    def batch(self, step: Int[Array, ""] | int) -> Batch: ...


@record
class Held:
    """What draws and losses read and never differentiate; `averages` are the state's, by name."""

    step: Int[Any, ""]
    averages: Mapping[str, Params]
    frozen: Params

    @property
    def ema(self) -> Params:
        """The average called "ema"."""
        return self.averages["ema"]


@runtime_checkable
class Loss(Protocol):
    """A plain mean over examples; `aux["per_example"]` keeps them apart."""

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Float[Array, ""], Mapping[str, Array]]: ...


@record
class Method:
    """One step of a fixed-step solver.

    `init(v, t, x) -> memory`, and `step(v, t, t_next, x, memory, keys=None) -> (x_next, memory)`,
    where `v(t, x)` is the velocity with its conditions bound, times are `[batch]` (or
    `[batch, *lead]`) and `keys [batch]` are this step's, for a stochastic method, or None. A step
    costs `calls` of the velocity. `grid` is the one that a method was made for, if it has one.
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, Any]]
    calls: int = static()
    order: int = static()
    grid: Float[AnyArray, "times"] | None = None


@record
class Solution:
    """What a sampler returns.

    `x` is the end. `t [saves]`, or `[saves, batch]` for a grid a sample, and
    `xs [saves, batch, *event]` are the saved times and states, or None. `nfe [batch]` counts calls
    of the velocity a sample; the network was called `nfe * velocity.evaluations` times.
    `success [batch]` is False where the solver gave up or a value is not finite.
    """

    x: PyTree
    t: Float[Array, "saves ..."] | None
    xs: PyTree
    nfe: Int[Array, "batch"]
    success: Bool[Array, "batch"]


@record
class LogProb:
    """A log-likelihood: `value [batch]` in nats, and the standard error of its estimate.

    The latter is zero for an exact divergence and NaN for a single probe, which tells no spread.
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
    `averages` are running averages of the parameters, by name. Abstract states hold the shapes of
    arrays in their place.
    """

    step: Int[Any, ""]
    params: Params
    averages: Mapping[str, Params]
    frozen: Params
    opt_state: Any
    key: jaxtyping.Key[Any, ""]
    skipped: Int[Any, ""]

    @property
    def ema(self) -> Params:
        """The average called "ema"."""
        return self.averages["ema"]

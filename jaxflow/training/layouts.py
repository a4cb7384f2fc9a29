"""How a training state lies over devices: one mesh of three axes, four names for its sizes.

| layout | data | fsdp | tensor | where a parameter lies |
|---|---|---|---|---|
| `data` | n | 1 | 1 | whole on every device |
| `fsdp` | 1 | n | 1 | split over all devices |
| `hybrid` | n / k | k | 1 | split over groups of k devices; the groups are replicas |
| `tensor` | n / k | 1 | k | heads and hidden units split over k devices, the rest whole |

Sizes may be combined: `tensor` with `fsdp=2`, say. A batch is split over data and fsdp. Across
the slices (or nodes with GPUs) of a cluster the data axis is the outermost, since its traffic is
the least.

Optimiser state and average follow the parameters that they belong to, by their place in the tree.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxflow.sharding import AXES, cut, gathered
from jaxflow.types import PyTree, TrainState

__all__ = ["LAYOUTS", "Layout", "Placed", "layout"]

logger = logging.getLogger(__name__)

LAYOUTS = ("data", "fsdp", "hybrid", "tensor")

KeyPath = tuple[Any, ...]
TensorAxes = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Placed:
    """How one array of a state lies: `whole` says why it is not split, where it is not."""

    path: str
    shape: tuple[int, ...]
    spec: PartitionSpec
    bytes_per_device: int
    whole: str


@dataclass(frozen=True)
class Layout:
    """A mesh, and the rules that lay a state over it.

    `tensor_axes` maps the end of a parameter's path to the axis that the tensor axis of the mesh
    splits, counted from the last as -1, and the units that stay whole along it (heads, say);
    `DiT.tensor_axes` is one.
    """

    mesh: Mesh
    tensor_axes: TensorAxes = field(default_factory=dict)

    @property
    def batch(self) -> NamedSharding:
        """Of every array of a batch: its examples over data and fsdp."""
        return NamedSharding(self.mesh, PartitionSpec(("data", "fsdp")))

    @property
    def whole(self) -> NamedSharding:
        """The same on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch_parts(self) -> int:
        """How many parts a batch is split into."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def settled(self, results: PyTree) -> PyTree:
        """What a program of these devices gave: there already, where they share one CPU.

        Such devices share a pool of threads, and each waits on one of them for the others of its
        collective. Of two programs at once neither may find enough, and XLA ends the process after
        40 seconds. Devices of their own need not wait.
        """
        devices = self.mesh.devices
        simulated = devices.size > 1 and devices.flat[0].platform == "cpu"
        return jax.block_until_ready(results) if simulated else results

    @property
    def share(self) -> tuple[int, int]:
        """`(i, n)`: this process reads the `i`-th of `n` equal runs of rows of every batch.

        Processes whose devices hold the same rows read the same ones.
        """
        places: Any = self.batch.addressable_devices_indices_map((self.batch_parts,))
        parts = sorted({index[0].indices(self.batch_parts)[0] for index in places.values()})
        return parts[0] // len(parts), self.batch_parts // len(parts)

    def split(self, params: PyTree) -> PyTree:
        """The sharding of each parameter; they may be abstract.

        Raises:
            ValueError: for one that the tensor axis should split and does not divide.
        """
        specs = dict(self._specs(params))
        return jax.tree_util.tree_map_with_path(
            lambda path, _: NamedSharding(self.mesh, specs[path]), params
        )

    def gathered(self, params: PyTree) -> PyTree:
        """Parameters whole along fsdp, all of them; their gradients are cut again."""
        tensor = self._tensor_axis if self.mesh.shape["tensor"] > 1 else lambda path: None
        return jax.tree_util.tree_map_with_path(
            lambda path, a: gathered(a, tensor=tensor(path)), params
        )

    def shardings(self, state: TrainState) -> TrainState:
        """The sharding of each array of a state, which may be abstract.

        Raises:
            ValueError: for a parameter that the tensor axis should split and does not divide.
        """
        params = dict(self._specs(state.params))
        shapes = {path: leaf.shape for path, leaf in _leaves(state.params)}

        def follow(path: KeyPath, leaf: Any) -> NamedSharding:
            ends = (path[i:] for i in range(len(path) + 1))
            own = next((e for e in ends if shapes.get(e) == leaf.shape), None)
            return NamedSharding(self.mesh, PartitionSpec() if own is None else params[own])

        of_fields = {
            "step": self.whole,
            "params": self.split(state.params),
            "averages": {name: self.split(tree) for name, tree in state.averages.items()},
            "frozen": self.split(state.frozen),
            "opt_state": jax.tree_util.tree_map_with_path(follow, state.opt_state),
            "key": self.whole,
            "skipped": self.whole,
        }
        each = [of_fields[field.name] for field in dataclasses.fields(state)]
        return jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(each))

    def like(self, state: TrainState) -> TrainState:
        """A state as shapes with shardings, for `Checkpoints.restore`; it may be abstract."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            state,
            self.shardings(state),
        )

    def table(self, state: TrainState) -> list[Placed]:
        """What lies where, array by array, the largest first."""
        shardings = dict(_leaves(self.shardings(state)))
        rows = []
        for path, leaf in _leaves(state):
            sharding = shardings[path]
            itemsize = (
                8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else (leaf.dtype.itemsize)
            )
            size = math.prod(sharding.shard_shape(leaf.shape)) * itemsize
            why = "" if any(sharding.spec) else self._why_whole(leaf.shape)
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            rows.append(Placed(name, leaf.shape, sharding.spec, size, why))
        return sorted(rows, key=lambda row: -row.bytes_per_device)

    def _specs(self, tree: PyTree) -> list[tuple[KeyPath, PartitionSpec]]:
        return [(path, self._spec(path, leaf.shape)) for path, leaf in _leaves(tree)]

    def _spec(self, path: KeyPath, shape: tuple[int, ...]) -> PartitionSpec:
        tensor = self._tensor_axis(path) if self.mesh.shape["tensor"] > 1 else None
        return cut(shape, self.mesh.shape, tensor)

    def _tensor_axis(self, path: KeyPath) -> int | None:
        """The axis that the tensor axis of the mesh splits, by the network's rules."""
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        parts = self.mesh.shape["tensor"]
        for end, (axis, units) in self.tensor_axes.items():
            if name == end or name.endswith("/" + end):
                if units % parts:
                    raise ValueError(
                        f"{name} has {units} units that stay whole, which do not divide over "
                        f"tensor={parts}: choose a divisor, or a network of other sizes"
                    )
                return axis
        return None

    def _why_whole(self, shape: tuple[int, ...]) -> str:
        groups = self.mesh.shape["fsdp"]
        if groups == 1 or not shape:
            return ""
        return f"no axis divides by fsdp={groups}"


def _leaves(tree: PyTree) -> list[tuple[KeyPath, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def layout(
    name: str = "data",
    *,
    devices: Sequence[Any] | None = None,
    fsdp: int = 1,
    tensor: int = 1,
    tensor_axes: TensorAxes | None = None,
) -> Layout:
    """A layout by name; `data` takes what the other axes leave.

    Args:
        name: one of `LAYOUTS`.
        devices: all of them where None.
        fsdp: devices that share one copy of the state; for `fsdp` that is all of them.
        tensor: devices that share each layer.
        tensor_axes: of the network, as `DiT.tensor_axes`; needed where `tensor > 1`.

    Raises:
        ValueError: for an unknown name, sizes that do not fit it or the number of devices, or a
            tensor axis without rules.

    >>> layout().mesh.shape["tensor"]
    1
    """
    devices = list(jax.devices() if devices is None else devices)
    if name not in LAYOUTS:
        raise ValueError(f"layout is {name!r}, but must be one of {', '.join(LAYOUTS)}")
    n = len(devices)
    if n == 0 or fsdp < 1 or tensor < 1:
        raise ValueError(
            f"a layout needs devices, and fsdp and tensor of at least 1; got {n} devices, "
            f"fsdp={fsdp} and tensor={tensor}"
        )
    wanted = n // tensor if name == "fsdp" and fsdp == 1 else fsdp
    _check_sizes(name, n, fsdp=wanted, tensor=tensor)
    if tensor > 1 and not tensor_axes:
        raise ValueError(
            f"tensor={tensor} splits layers by the network's rules, and this network has none: "
            "use a DiT, or another layout"
        )
    sizes = n // (wanted * tensor), wanted, tensor
    return Layout(_mesh(devices, sizes), dict(tensor_axes or {}))


def _check_sizes(name: str, n: int, *, fsdp: int, tensor: int) -> None:
    if not fsdp or n % (fsdp * tensor):
        raise ValueError(
            f"fsdp={fsdp} times tensor={tensor} does not divide {n} devices: choose divisors"
        )
    fits = {
        "data": fsdp == tensor == 1,
        "fsdp": fsdp * tensor == n,
        "hybrid": fsdp > 1,
        "tensor": tensor > 1,
    }
    if not fits[name]:
        needs = {
            "data": "takes fsdp=1 and tensor=1",
            "fsdp": "splits over all devices: leave fsdp out, or use hybrid",
            "hybrid": "needs fsdp=k, the devices of a group",
            "tensor": "needs tensor=k, the devices of a layer",
        }
        raise ValueError(f"layout {name!r} {needs[name]}; got fsdp={fsdp} and tensor={tensor}")


def _mesh(devices: list[Any], sizes: tuple[int, int, int]) -> Mesh:
    """Slice by slice and process by process, so that a process holds one run of a batch's rows.

    The chips of a TPU's process, which are a block of its slice, go round: so of a group of four
    each is the next one's neighbour, and larger groups are blocks of blocks.
    """
    slices = len({_slice(device) for device in devices})
    if sizes[0] % slices:
        logger.warning(
            "fsdp=%s and tensor=%s reach across %s slices or nodes, so what each layer exchanges "
            "crosses the network between them: the layout hybrid keeps it inside",
            *(*sizes[1:], slices),
        )
    ordered = sorted(devices, key=lambda d: (_slice(d), d.process_index, *_round(d), d.id))
    grid = np.asarray(ordered).reshape(sizes)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _round(device: Any) -> tuple[int, ...]:
    """A chip's place, so sorted that rows of chips are gone through to and fro."""
    x, y, *rest = getattr(device, "coords", None) or (0, 0)
    return (*reversed(rest), y, x if y % 2 == 0 else -x)


def _slice(device: Any) -> int:
    """Of a TPU its slice, of a GPU its node."""
    return getattr(device, "slice_index", 0)

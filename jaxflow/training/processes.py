"""Several processes as one run: how they find each other, and what each can read of an array."""

import hashlib
import logging
import re
import socket
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxflow.arrays import is_concrete
from jaxflow.types import PyTree

__all__ = [
    "agree",
    "alike",
    "connect",
    "gathered",
    "is_first",
    "distribute",
    "local",
    "together",
]

logger = logging.getLogger(__name__)

JOIN_SECONDS = 300
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\s/]+):([1-9]\d{0,4})")


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_seconds: int = 30,
) -> int:
    """Join the other processes, before anything touches a device; returns how many there are.

    Without arguments it does so where `jax.distributed` finds a cluster by itself (TPU VMs, GKE,
    Kubernetes jobs, Slurm, Open MPI), and is one process alone everywhere else.

    Args:
        coordinator: `HOST:PORT` of process 0, a port that is free there and reachable by all.
        num_processes: how many.
        process_id: which of them this is, from 0.
        heartbeat_seconds: how long a process may be silent before the others give it up.

    Raises:
        ValueError: where only some of the three are given, or they do not fit together.
        ConnectionError: where the processes do not find each other, or the port is taken.
    """
    given = (coordinator, num_processes, process_id)
    if any(a is None for a in given) and any(a is not None for a in given):
        raise ValueError(
            "coordinator, num_processes and process_id belong together; got "
            f"{coordinator!r}, {num_processes} and {process_id}"
        )
    if num_processes is not None and not 0 <= (process_id or 0) < num_processes:
        raise ValueError(f"process_id {process_id} is not one of {num_processes} processes")
    if coordinator is not None and not _is_address(coordinator):
        raise ValueError(f"coordinator is {coordinator!r}, but must be HOST:PORT, as 10.0.0.1:8476")
    if heartbeat_seconds < 1:
        raise ValueError(f"heartbeat_seconds must be at least 1; it is {heartbeat_seconds}")
    if coordinator is not None:
        _check_meeting(coordinator, first=process_id == 0)
    try:
        jax.distributed.initialize(*given, heartbeat_timeout_seconds=heartbeat_seconds)
    except ValueError as error:
        if coordinator is not None or "coordinator_address" not in str(error):
            raise
    return jax.process_count()


def _is_address(text: str) -> bool:
    found = _ADDRESS.fullmatch(text)
    return found is not None and int(found[2]) < 2**16


def _check_meeting(coordinator: str, *, first: bool) -> None:
    """That the port is free, or somebody listens there: JAX ends a process that finds otherwise."""
    if not first:
        _wait_for(coordinator, seconds=JOIN_SECONDS)
        return
    try:
        socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
    except OSError as error:
        raise ConnectionError(
            f"the port of the coordinator {coordinator} cannot be had ({error.strerror}): choose "
            "one that is free on this machine, or end what has it"
        ) from error


def _wait_for(coordinator: str, seconds: float) -> None:
    end, why = time.monotonic() + seconds, _unreachable(coordinator)
    if why:
        logger.warning("waiting for process 0 at %s", coordinator)
    while why:
        if time.monotonic() > end:
            raise ConnectionError(
                f"nobody listened at {coordinator} for {seconds:.0f} s ({why}): process 0 must run "
                "there"
            )
        time.sleep(0.5)
        why = _unreachable(coordinator)


def _unreachable(address: str) -> str:
    """Why nobody answers there; empty where somebody does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        return str(error) or type(error).__name__
    return ""


def is_first() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def together(name: str) -> None:
    """Wait here until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agree(mine: bool) -> bool:
    """Whether it is true in every process; each must ask."""
    if jax.process_count() == 1:
        return mine
    return bool(np.all(multihost_utils.process_allgather(np.asarray(mine))))


def alike(text: str) -> bool:
    """Whether every process has the same text; each must ask."""
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)[None]
    return bool((gathered(digest) == digest).all())


def gathered(rows: PyTree) -> PyTree:
    """The rows of all processes, in the order of the processes; each must have as many."""
    if jax.process_count() == 1:
        return rows
    stacked = multihost_utils.process_allgather(rows)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), stacked)


def distribute(tree: PyTree, shardings: PyTree) -> PyTree:
    """Arrays that every process holds alike, laid over all devices, to each what it is to hold.

    Args:
        tree: arrays on the host, on one device, or traced.
        shardings: one for all, or a tree of them.
    """
    return jax.tree.map(_distributed, tree, jax.tree.broadcast(shardings, tree))


def _distributed(leaf: Any, sharding: jax.sharding.Sharding) -> Any:
    if jax.process_count() == 1 or not is_concrete(leaf) or not _is_local(leaf):
        return jax.device_put(leaf, sharding)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = np.asarray(jax.random.key_data(leaf))
        implementation = jax.random.key_impl(leaf)
        made = jax.make_array_from_callback(data.shape, sharding, data.__getitem__)
        return jax.random.wrap_key_data(made, impl=implementation)
    data = np.asarray(leaf)
    return jax.make_array_from_callback(data.shape, sharding, data.__getitem__)


def _is_local(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def local(tree: PyTree, whole: jax.sharding.Sharding) -> PyTree:
    """Arrays in any layout as arrays on the first device of this process; each process must ask.

    Args:
        tree: arrays over any devices.
        whole: a sharding over all devices that replicates.
    """
    spread = jax.jit(lambda tree: tree, out_shardings=whole)(tree)
    return jax.tree.map(lambda a: a.addressable_data(0), spread)

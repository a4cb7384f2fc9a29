"""Devices of TPU slices and GPU nodes that are not here, to compile for."""

import os
import re
from typing import Any, NamedTuple

from jaxflow.names import did_you_mean

__all__ = ["TPUS", "Slice", "devices_of"]

Slice = list[Any]

TPUS = ("v4", "v5e", "v5p", "v6e")

# For libtpu to look for no TPU, and to say nothing of what it does not find.
ALONE = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


class Gpu(NamedTuple):
    """What XLA wants to know of a GPU; bytes, bytes a second, and GHz."""

    name: str
    capability: int
    cores: int
    units: int
    shared: int
    block: int
    cache: int
    memory: int
    bandwidth: float
    clock: float


GPUS = {
    "a100": Gpu(
        "A100-SXM4-80GB", 8, 108, 64, 167_936, 166_912, 41_943_040, 85_100_068_864, 2.039e12, 1.41
    ),
    "h100": Gpu(
        "H100 80GB HBM3", 9, 132, 128, 233_472, 232_448, 52_428_800, 84_942_979_072, 3.352e12, 1.98
    ),
    "h200": Gpu(
        "H200 141GB HBM3e", 9, 132, 128, 233_472, 232_448, 52_428_800, 151_397_597_184, 4.8e12, 1.98
    ),
    "b200": Gpu(
        "B200", 10, 148, 128, 233_472, 232_448, 132_644_864, 191_514_411_008, 7.672e12, 1.965
    ),
}


def devices_of(topology: str, slices: int = 1) -> Slice:
    """The devices of a topology by name: "v5e:16x16" of TPUs, "h100:8" or "h100:2x8" of GPUs.

    TPUs are named by the chips along each side of their slice, GPUs by nodes and GPUs a node. TPUs
    need libtpu, GPUs the CUDA plugin of JAX; neither needs the device.

    Args:
        topology: its name.
        slices: equal slices of TPUs that a network joins.

    Raises:
        ValueError: for a kind that is not known, a slice that the compiler does not, several slices
            of GPUs, or a compiler that is not installed.
    """
    kind, _, sides = topology.partition(":")
    known = (*TPUS, *GPUS)
    if kind not in known:
        raise ValueError(
            f"--topology={topology} begins with no chip that is known{did_you_mean(kind, known)}: "
            f"one of {', '.join(known)}, as v5e:4x4 or h100:8"
        )
    if not re.fullmatch(r"\d+(x\d+)*", sides):
        raise ValueError(f"--topology={topology} has no sizes: give them as v5e:4x4 or h100:2x8")
    if kind in GPUS and slices > 1:
        raise ValueError(
            f"--slices={slices} is of TPUs: nodes of GPUs stand in the topology, as {kind}:2x8"
        )
    return _gpus(topology, kind, sides) if kind in GPUS else _tpus(topology, slices)


def _tpus(topology: str, slices: int) -> Slice:
    from jax.experimental import topologies

    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise ValueError(
            f"{topology} is compiled for by libtpu, which is not installed: pip install -e "
            "'.[plan-tpu]'"
        ) from None
    os.environ.update({name: told for name, told in ALONE.items() if name not in os.environ})
    try:
        # A v4 is one device by two cores that share its memory.
        config: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
        config |= {"chip_config_name": "megacore"} if topology.startswith("v4") else {}
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **config)
    except Exception as error:
        sentence = " ".join(str(error).split())[:200]
        raise ValueError(f"the compiler knows no slice {topology}: {sentence}") from error
    return list(found.devices)


def _gpus(topology: str, kind: str, sides: str) -> Slice:
    from jax.experimental import topologies

    try:
        import jax_cuda13_plugin  # noqa: F401
    except ImportError:
        raise ValueError(
            f"{topology} is compiled for by JAX's plugin for CUDA, which is not installed: pip "
            "install -e '.[plan-gpu]'"
        ) from None
    nodes, each = [1, *map(int, sides.split("x"))][-2:]
    found = topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        topology=f"{nodes}x1x{each}",
        target_config=_target(kind),
    )
    return list(found.devices)


def _target(kind: str) -> str:
    """XLA's description of a GPU, in the text form of its protocol buffer."""
    gpu = GPUS[kind]
    newer = "ACCELERATED_FEATURES" if gpu.capability >= 9 else "NONE"
    return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
          core_count: {gpu.cores} fpus_per_core: {gpu.units} clock_rate_ghz: {gpu.clock}
          shared_memory_per_block: 49152 shared_memory_per_core: {gpu.shared}
          shared_memory_per_block_optin: {gpu.block}
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          memory_bandwidth: {gpu.bandwidth:.0f} l2_cache_size: {gpu.cache}
          device_memory_size: {gpu.memory}
          cuda_compute_capability {{ major: {gpu.capability} feature_extension: {newer} }}
          device_vendor: "NVIDIA Corporation" device_address_bits: 64 name: "NVIDIA {gpu.name}"
          driver_version: "13.0.0" runtime_version: "13.0.0"
          compile_time_toolkit_version: "13.0.0" dnn_version: "9.10.0"
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
        device_description_str: "NVIDIA {gpu.name}"
    """

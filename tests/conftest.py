"""What every test shares: eight simulated devices, a key, float64 and the folder of real data."""

import os
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Else a program of several devices may hang when loaded again (see experiments.run.compiled); and
# a test runs what it compiles once or twice: most of its time is the compiler's, of which the
# emitters of fusions, which newer jaxlibs cannot do without, take half, and splitting for threads a
# fifth of what is left.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_cpu_enable_concurrency_optimized_scheduler=false",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else "",
    ]
)

import gc
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import jaxtyping
import pytest

jax.config.update("jax_num_cpu_devices", 8)
hypothesis.settings.register_profile("jaxflow", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("jaxflow")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--first=N`, for a second interpreter: of each file the first tests, of each a case."""
    parser.addoption("--first", type=int, metavar="N", help="of each file the first N tests alone")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of each file leave out every test after its N-th, and every case of a test but its first."""
    if (most := config.getoption("--first")) is None:
        return
    seen: dict[Path, set[str]] = {}
    kept, left = [], []
    for item in items:
        functions = seen.setdefault(item.path, set())
        function = item.nodeid.partition("[")[0]
        (left if function in functions or len(functions) >= most else kept).append(item)
        functions.add(function)
    config.hook.pytest_deselected(items=left)
    items[:] = kept


def pytest_collection_finish() -> None:
    """What was imported stays: the collector of garbage need not look at it again and again."""
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled programs beside pytest's own cache: a second run compiles little."""
    if jax.config.jax_compilation_cache_dir is None and getattr(config, "cache", None):
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


MAPS = Path("/proc/self/maps")
MOST_MAPS = 25_000  # of the 65,530 that Linux grants; the compiler dies where they run out


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Let compiled programs go, each a few maps of memory, before a process has too many."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def key() -> jax.Array:
    """A fixed key."""
    return jax.random.key(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """No type checker, as users run: what is refused is refused by the code's own sentence."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for the whole test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets that `JAXFLOW_SHARED_DATA` names."""
    folder = os.environ.get("JAXFLOW_SHARED_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set JAXFLOW_SHARED_DATA to the folder of data sets")
    return Path(folder)

"""The benchmarks run, on a machine that has none of the peers too, and count what they should."""

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from benchmarks import gpu, moons, report
from benchmarks.__main__ import chosen, main
from benchmarks.cases import cases
from benchmarks.ours.sampling import as_linen
from benchmarks.ours.two_dimensional import perceptron
from benchmarks.rivals.perceptron import Perceptron
from benchmarks.timing import Case, Effort, Setting, Side, measure
from jaxflow.data import toy
from jaxflow.training.cost import flops

ROOT = Path(__file__).parent.parent.parent
EVERY = [*cases("weights.npz"), *gpu.cases()]
SHORT = Effort(rounds=3, seconds=0.02)


def test_flops_of_products_and_scans():
    w, x = jnp.ones((12, 64, 64)), jnp.ones((8, 64))

    def layers(w, x):
        return jnp.sum(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0])

    forward = 12 * 2 * 8 * 64 * 64
    assert flops(layers, w, x) == forward
    assert flops(jax.grad(layers, (0, 1)), w, x) == 3 * forward


@pytest.mark.parametrize("stride", [1, 2])
def test_flops_of_a_convolution_and_its_gradients(stride):
    conv = nn.Conv(16, (3, 3), strides=stride, padding=1)
    x = jnp.ones((2, 8, 8, 3))
    params = conv.init(jax.random.key(0), x)
    forward = 2 * (2 * (8 // stride) ** 2 * 16) * (3 * 3 * 3)
    assert flops(conv.apply, params, x) == forward

    def total(params, x):
        return jnp.sum(jnp.square(conv.apply(params, x)))

    assert flops(jax.grad(total, (0, 1)), params, x) == pytest.approx(3 * forward, rel=0.01)


def test_flops_refuses_a_loop_of_unknown_length():
    def loop(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 1, lambda x: x @ x, x)

    with pytest.raises(ValueError, match="use a scan"):
        flops(loop, jnp.ones((2, 2)))


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.name)
def test_factories_exist(case):
    module, factory = case.ours.factory.split(":")
    assert callable(getattr(importlib.import_module(module), factory))
    module, factory = case.peer.factory.split(":")
    source = Path(importlib.util.find_spec(module).origin).read_text()
    assert f"\ndef {factory}(" in source


def test_names_are_distinct():
    names = [case.name for case in EVERY]
    assert len(set(names)) == len(names)


def test_an_unknown_case_names_the_known_ones():
    with pytest.raises(SystemExit, match="DiT training"):
        chosen(EVERY, ["no such case"])


def test_one_case_from_the_command_line(tmp_path):
    output = tmp_path / "figures" / "bench.json"
    main(["--quick", "--only", "n=128: host", f"--output={output}"])
    written = json.loads(output.read_text())
    (row,) = written["rows"]
    assert 0 < row["ours"]["seconds"]["median"] < 10
    assert row["ours"]["facts"]["n"] == 128
    assert row["ratio"] is not None or "missing" in row["peer"]
    assert written["machine"]["threads"] > 0


def _side(name: str, **options) -> Side:
    return Side(f"tests.benchmarks.sleepers:{name}", options)


def test_the_ratio_is_that_of_the_seconds():
    case = Case("sleep", "nap", _side("sleep", seconds=0.01), _side("sleep", seconds=0.03), goal=2)
    row = measure(case, Setting(threads=1), SHORT)
    assert row["ratio"]["median"] == pytest.approx(3, rel=0.3)
    assert "reached" in report.cells(row)[4]


def test_a_missing_peer_and_an_error_are_told():
    fast = _side("sleep", seconds=0.001)
    missing = measure(Case("m", "nap", fast, _side("missing")), Setting(threads=1), SHORT)
    assert "no_such_package is not installed" in report.cells(missing)
    assert missing["ours"]["seconds"]["median"] > 0
    broken = measure(Case("b", "nap", fast, _side("broken")), Setting(threads=1), SHORT)
    assert "ValueError: a reason" in report.cells(broken)
    gone = measure(Case("g", "nap", fast, _side("gone")), Setting(threads=1), SHORT)
    assert "the worker ended with exit code 7" in report.cells(gone)


def test_sides_of_different_size_are_refused():
    sides = [_side("sleep", seconds=0.001, parameters=n) for n in (10, 11)]
    with pytest.raises(ValueError, match=r"differ in parameters, \[10, 11\]"):
        measure(Case("unlike", "nap", *sides), Setting(threads=1), SHORT)


def test_sides_that_disagree_on_a_result_are_refused():
    sides = [_side("sleep", seconds=0.001, loss=loss) for loss in (1.0, 1.00002)]
    with pytest.raises(ValueError, match="differ in loss"):
        measure(Case("unlike", "nap", *sides), Setting(threads=1), SHORT)


def test_what_both_sides_tell_is_shown():
    ours = _side("sleep", seconds=0.001, loss=1.5, calls=7, points=[[0.0, 1.0]])
    peer = _side("sleep", seconds=0.001, loss=1.5, points=[[0.0, 1.001]])
    row = measure(Case("told", "nap", ours, peer), Setting(threads=1), SHORT)
    assert report.cells(row)[-1] == "loss 1.5 / 1.5, calls 7 / -, points within 0.001"


def test_a_case_beside_jax_libraries_runs_both_sides_on_theirs():
    fast = _side("sleep", seconds=0.001)
    setting = Setting("/no/such/python", "/no/such/python", sys.executable, threads=1)
    row = measure(Case("j", "nap", fast, fast, pythons=("rivals", "rivals")), setting, SHORT)
    assert row["ratio"] is not None
    assert {case.pythons for case in EVERY if ".rivals." in case.peer.factory} == {
        ("rivals", "rivals")
    }


@pytest.mark.skipif(importlib.util.find_spec("stix") is not None, reason="stix is installed")
def test_a_missing_library_says_how_to_install_it():
    peer = Side("benchmarks.rivals.stix:training", {"loop": "own", "data": "fixed"})
    case = Case("stix", "step", _side("sleep", seconds=0.001), peer)
    cell = report.cells(measure(case, Setting(threads=1), SHORT))[2]
    assert cell == "stix is not installed: make bench, or pip install -e '.[rivals]'"


def test_the_shared_moons_are_those_of_the_toy_data():
    n = 20_000
    keys = jax.random.split(jax.random.key(0), n)
    here, there = moons.draw(jax.random.key(1), n), toy.moons().sample(keys)
    x, y = (jnp.stack([a[:, 0], a[:, 1], a[:, 0] ** 2, a[:, 1] ** 2, a[:, 0] * a[:, 1]])
            for a in (here, there))  # fmt: skip
    z = (x.mean(1) - y.mean(1)) / jnp.sqrt((x.var(1) + y.var(1)) / n)
    assert jnp.all(jnp.abs(z) < 4)


def test_the_shared_perceptron_is_that_of_ours():
    layers, probe = moons.layers(), moons.probe(16)
    here = Perceptron(layers)(probe["t"][:, None], probe["x1"])
    network, _ = perceptron()
    there = network(as_linen(layers), probe["t"], probe["x1"])
    assert jnp.allclose(here, there, atol=1e-6)


def test_startup_is_a_process_from_its_start():
    side = _side("sleep", seconds=0.05)
    row = measure(Case("s", "process", side, side, startup=True), Setting(threads=1), SHORT)
    assert row["ours"]["seconds"]["median"] > 0.05


def test_the_gpu_benchmark_needs_nothing_beyond_its_libraries():
    libraries = _packages("import jax, scipy.optimize, flax.linen, flax.nnx, optax, diffrax, numpy")
    needed = _packages("import benchmarks.gpu, benchmarks.ours.steps")
    assert needed - libraries - set(sys.stdlib_module_names) <= {"benchmarks", "jaxflow"}


def _packages(code: str) -> set[str]:
    """What a fresh interpreter has loaded after `code`."""
    listing = f"{code}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(loaded.stdout.split())


@pytest.mark.slow
def test_the_gpu_benchmark_runs_here(tmp_path):
    output = tmp_path / "gpu.json"
    gpu.main(["--tiny", "--only", "DiT", "--peak=1", f"--output={output}"])
    (row,) = json.loads(output.read_text())["rows"]
    assert row["ours"]["facts"]["flops"] > 0
    assert row["utilisation"]["ours"]["tflops"] == row["utilisation"]["ours"]["share"]


@pytest.mark.slow
def test_plain_pytorch_networks_have_the_parameters_of_ours():
    pytest.importorskip("torch")
    from benchmarks.ours import steps as ours
    from benchmarks.peers import steps as peers

    for case in gpu.cases(tiny=True):
        network = case.ours.factory.split(":")[1]
        here = getattr(ours, network)(**case.ours.options)
        there = getattr(peers, network)(**{**case.peer.options, "compiled": False})
        assert here.facts["parameters"] == there.facts["parameters"]

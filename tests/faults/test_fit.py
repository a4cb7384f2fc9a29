"""`training.fit` with what a wheel holds and nothing else: killed at any moment, it goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = """
import sys, zlib
import jax, jax.numpy as jnp, numpy as np, optax
import jaxflow
from jaxflow import draws, losses, networks, paths, training
from jaxflow.data import on_device

folder, out = sys.argv[1:]
assert "site" in jaxflow.__file__ and "experiments" not in sys.modules
path = paths.linear()
network = networks.linen(networks.ConcatMLP(width=8, depth=1))
x1 = jax.random.normal(jax.random.key(0), (64, 2))
loss = losses.flow_matching(network, path)
trainer = training.trainer(loss, optax.adam(1e-2), draw=draws.standard(path), ema_decay=0.9)
program = training.program(trainer)
state = program.init(network.init(jax.random.key(1), jnp.zeros(8), x1[:8]), jax.random.key(2))
data = on_device({"x1": x1}, batch_size=8, seed=0)

def log(step, line):
    print(step, line["loss"].hex(), flush=True)

state = training.fit(
    program, state, data, 400, log=log, log_every=10, checkpoints=folder, save_every=10
)
bytes_ = b"".join(np.asarray(a).tobytes() for a in jax.tree.leaves((state.params, state.averages)))
open(out, "w").write(str(zlib.crc32(bytes_)))
"""

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "site"
    shutil.copytree(ROOT / "jaxflow", folder / "jaxflow")
    return folder


def start(site, folder, out):
    environment = {**os.environ, "PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SCRIPT, str(folder), str(out)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=site, env=environment, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    )


def test_killed_it_goes_on_bitwise(site, tmp_path):
    """Parameters, averages and every line of the log, after two kills."""
    whole = start(site, tmp_path / "whole", tmp_path / "a")
    lines = dict(line.split() for line in whole.communicate()[0].splitlines())
    assert list(lines) == [str(step) for step in range(10, 401, 10)]
    seen = {}
    for kill in (True, True, False):
        run = start(site, tmp_path / "killed", tmp_path / "b")
        for i, line in enumerate(run.stdout):
            step, loss = line.split()
            seen[step] = loss
            if kill and i == 12:
                time.sleep(0.05)
                run.send_signal(signal.SIGKILL)
                break
        rest = run.communicate()[0]
        seen |= dict(line.split() for line in rest.splitlines() if len(line.split()) == 2)
    assert run.returncode == 0
    assert seen == lines
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()

"""What `python -m experiments.plan` prints of slices that are not here, and what it refuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("libtpu", reason="libtpu compiles for TPUs: make topologies")
pytestmark = [pytest.mark.topologies, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
MOONS = "--config=configs/two_moons.py"


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    return subprocess.run(
        [sys.executable, "-m", "experiments.plan", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


def rows(printed: str) -> dict[str, str]:
    """The tables of two columns."""
    found = (re.split(r"\s*│\s*", line.strip(" │")) for line in printed.splitlines())
    return {row[0]: row[1] for row in found if len(row) == 2}


def test_a_plan_says_what_fits_what_travels_and_what_it_costs():
    told = plan(MOONS, "--topology=v5e:2x2", "--price=2", "--config.batch_size=256")
    assert told.returncode == 0, told.stderr
    found = rows(told.stdout)
    assert found["total"].endswith("of 17.18 GB: fits")
    count = int(found["parameters"].replace(",", ""))  # named twice: the last is their number
    assert count == 50_306
    gradients = re.search(r"all-reduce │ gradients │ +[\d,]+ │ +([\d.]+) MB", told.stdout)
    assert gradients is not None, told.stdout
    assert float(gradients[1]) == pytest.approx(4 * count / 1e6, abs=0.01)
    for name in ("compute", "memory", "links"):
        assert re.fullmatch(r"[\d.]+ us", found[name])
    assert "at 2 a device and hour" in found["cost"]
    assert "no device has run this" in told.stdout


def test_slices_are_joined_by_a_network():
    """The same gradients take longer over the network between two slices than within one."""
    seconds = []
    for more in (["--topology=v5e:2x4"], ["--topology=v5e:2x2", "--slices=2"]):
        told = plan(MOONS, *more, "--config.batch_size=256")
        assert told.returncode == 0, told.stderr
        assert "8 x TPU v5 lite, data" in told.stdout
        seconds.append(float(rows(told.stdout)["links"].removesuffix(" us")))
    assert seconds[0] < seconds[1]


def test_a_search_names_the_fastest_that_fits():
    told = plan(MOONS, "--topology=v5e:2x2", "--search", "--config.batch_size=256")
    assert told.returncode == 0, told.stderr
    table = told.stdout[told.stdout.index("the best first") :]
    speeds = [
        int(row.replace(",", "")) for row in re.findall(r"^│ \w[^│]*│\s*([\d,]+) │", table, re.M)
    ]
    assert len(speeds) >= 4
    assert speeds == sorted(speeds, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topology=v5e:3x5"], "the compiler knows no slice v5e:3x5"),
        (
            ["--topology=v5e:2x2", "--config.batch_size=255"],
            "a batch of 255 does not divide over 4",
        ),
        (
            [
                "--topology=v5e:2x2",
                "--config.network={'name': 'mlp', 'kwargs': {'width': 65536, 'depth': 4}}",
            ],
            "does not fit",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(arguments, words):
    told = plan(MOONS, *arguments)
    assert told.returncode == 2, told.stdout
    assert words in told.stderr
    assert "Traceback" not in told.stderr

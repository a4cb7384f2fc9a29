"""Quality against cost: what is tried, what it is worth, and which setting is named."""

import json
import math
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from experiments.output import frontier
from experiments.output.frontier import Point, Setting, cheapest, measure, quality_of, settings
from experiments.setup import build, dataset
from jaxflow import paths
from tests.commands import DIGITS, ROOT, environment


def test_every_setting_costs_what_was_asked_for():
    """In calls of the velocity, two a step of Heun's; what does not divide is left out."""
    found = list(
        settings(paths.linear(), ["euler", "heun"], ["uniform", "cosine"], [3, 4], [1.0, 2.0])
    )
    assert len(found) == 3 * 2 * 2
    assert Setting("heun", "uniform", 2, 1.0) in found
    assert not any(s.method == "heun" and s.n not in (2,) for s in found)
    with pytest.raises(ValueError, match="did you mean 'heun'"):
        list(settings(paths.linear(), ["huen"], ["uniform"], [4], [1.0]))


def test_a_setting_is_what_its_overrides_say(config):
    setting = Setting("heun", "cosine", 5, 1.5)
    changed = setting.of(config)
    given = dict(re.findall(r"--config\.([\w.]+)=(.*)", "\n".join(shlex.split(setting.overrides))))
    assert given["sampler.name"] == changed.sampler.name
    assert float(given["sampler.guidance"]) == changed.sampler.guidance
    assert eval(given["sampler.kwargs"]) == changed.sampler.kwargs.to_dict()
    assert config.sampler.guidance != 1.5
    build.sampler(changed)


def test_the_cheapest_that_is_good_enough_is_named():
    def point(calls, quality):
        return Point(Setting("euler", "uniform", calls, 1.0), calls, quality, 0.0)

    points = [point(4, 2.0), point(8, 1.04), point(8, 1.02), point(16, 1.0), point(2, math.inf)]
    assert cheapest(points, 0.05) is points[2]
    assert cheapest(points, 0.0) is points[3]
    assert cheapest(points, 1.0) is points[0]
    with pytest.raises(ValueError, match="not finite"):
        cheapest(points[-1:], 0.05)


def test_held_out_data_is_better_than_noise(config):
    name, quality = quality_of(config, 40)
    assert name == "Frechet in features"
    held = dataset.examples(config, config.evaluation.split)["x1"]
    noise = np.random.default_rng(0).uniform(-1, 1, held.shape).astype(np.float32)
    assert quality(held) < 1e-6 < 0.1 * quality(noise)


def test_a_point_has_the_mean_over_seeds_and_its_error(config, monkeypatch):
    """Of one network: calls are of the network, two a call under guidance."""
    run = build.program(config)
    params = build.initial_state(config, run).params
    setting = Setting("euler", "uniform", 2, 2.0)
    values = iter([1.0, 3.0, math.inf])
    found = measure(config, params, setting, lambda x: next(values), num=8, seeds=[0, 1])
    assert found.calls == 4
    assert found.quality == 2.0
    assert found.standard_error == pytest.approx(np.std([1.0, 3.0], ddof=1) / math.sqrt(2))
    made = frontier.generator(setting.of(config), 8)
    broken = made._replace(rows=lambda *a: made.rows(*a)._replace(x=np.full((8, 1), np.nan)))
    monkeypatch.setattr(frontier, "generator", lambda *_: broken)
    assert measure(config, params, setting, lambda x: 0.0, num=8, seeds=[0]).quality == math.inf


@pytest.mark.slow
def test_the_command(tmp_path):
    """Trains, draws the frontier, and what it names is taken by another command."""

    def run(module, *arguments):
        return subprocess.run(
            [sys.executable, "-m", f"experiments.{module}", f"--workdir={tmp_path}", *arguments],
            cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert run("train", *DIGITS, "--config.steps=20").returncode == 0
    told = run("frontier", "--calls=2,4", "--methods=euler,heun", "--seeds=2", "--num=40")
    assert told.returncode == 0, told.stderr
    points = json.loads((tmp_path / "frontier.json").read_text())["points"]
    assert len(points) == 4
    assert (tmp_path / "frontier.png").stat().st_size > 1000
    overrides = shlex.split(told.stdout[told.stdout.index("--config.sampler.name") :])
    again = run("sample", *overrides, "--num=4", f"--output={tmp_path / 's.npz'}")
    assert again.returncode == 0, again.stderr
    for wrong, words in [
        ("--calls=3.5", "--calls=3.5 must be numbers"),
        ("--methods=rk4", "no method of --methods=rk4"),
    ]:
        refused = run("frontier", "--calls=2" if "calls" not in wrong else wrong, wrong)
        assert refused.returncode == 2
        assert words in refused.stderr

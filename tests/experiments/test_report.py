"""The page of a run: what is measured, what is concluded, and that it is whole and harmless."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits, text8_mask
from experiments.output import buckets, charts, symptoms
from experiments.output.buckets import Bin, Estimate, Losses, Norms, Saturation, in_bins
from experiments.output.found import Commands, Found, seconds_spent
from experiments.output.frontier import Point, Setting
from experiments.output.maps import NAMES
from experiments.output.markup import VOID, tag
from experiments.output.remedies import REMEDIES, REMEDIES_OF_TOKENS, verdicts_of
from experiments.output.report import SECTIONS, chosen, document
from experiments.setup import build, dataset
from jaxflow import data, velocities
from tests.commands import DIGITS, ROOT, environment

ANCHORS = {
    "run", "curves", "samples", "times", "straightness", "evaluation", "frontier", "health",
    "config", "advice",
}  # fmt: skip
COMMANDS = Commands("TRAIN", "EVALUATE", "FRONTIER", "FRONTIER OF OWN", "FRONTIER GUIDED")
HEUN = Setting("heun", "uniform", 8, 1.0)
LINES = [
    {"step": 10 * i, "loss": 1 + 1 / i, "grad_norm": 0.1, "skipped": 0.0, "seconds/steps": 1.0 * i}
    for i in range(1, 13)
]


def bins(excess, error=0.01):
    """Ten bins of a Gaussian model's loss 1, and what the network is above it at both ends."""
    network = [Bin(i / 10, (i + 1) / 10, 20, 0.5, error) for i in range(10)]
    gaussian = [b._replace(mean=1.0) for b in network]
    above = [b._replace(mean=-0.5) for b in network]
    above[0], above[-1] = (above[i]._replace(mean=e) for i, e in zip((0, -1), excess, strict=True))
    return Losses(network, gaussian, above)


def norms(ratio, error=0.001):
    path = [Estimate(1.0, error)] * 3
    return Norms([0.0, 0.5, 1.0], [*path[:2], Estimate(ratio, error)], path)


def point(setting, quality, error=0.01):
    return Point(setting, 2.0 * setting.n, quality, error)


def frontier_of(own, more, error=0.01):
    return [point(HEUN, own, error), point(HEUN._replace(n=16), more, error)]


def guided(at_two, at_one, error=0.01):
    return [point(HEUN._replace(guidance=2.0), at_two, error), point(HEUN, at_one, error)]


def rows(own, held=1.0):
    return {
        "samples": {"nearest training example": own},
        "held-out data": {"nearest training example": held},
    }


def told_apart(accuracy):
    return {"samples": {"two-sample accuracy": accuracy}}


def with_map(residual, one, four):
    """A line that has a map's figures, and one after it that has none."""
    values = dict(zip((NAMES[0], NAMES[2], NAMES[-1]), (residual, one, four), strict=True))
    return [{"step": 1, "loss": 1.0, **values}, {"step": 2, "loss": 1.0}]


def with_losses(*losses, **last):
    lines = [{"step": i, "loss": loss} for i, loss in enumerate(losses)]
    return [*lines[:-1], lines[-1] | last]


ends, drift, calls = symptoms.high_at_the_ends, symptoms.drifting, symptoms.too_few_calls
strong, near = symptoms.over_guided, symptoms.memorised
spikes, under, apart = symptoms.diverging, symptoms.underfit, symptoms.disagreeing
FEW, MANY = Estimate(0.20, 0.001), Estimate(0.22, 0.001)
SEEN, NOT_SEEN, NOT_MEASURED = symptoms.SEEN, symptoms.NOT_SEEN, symptoms.NOT_MEASURED


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (lambda: ends(bins((0.06, -1)), "RUN"), SEEN),
        (lambda: ends(bins((-1, 0.06)), "RUN"), SEEN),
        (lambda: ends(bins((0.04, 0.04)), "RUN"), NOT_SEEN),
        (lambda: ends(bins((0.06, 0.06), 0.03), "RUN"), NOT_SEEN),
        (lambda: ends(bins((math.nan, -1)), "RUN"), SEEN),
        (lambda: ends(bins((0, 0))._replace(gaussian=None), ""), NOT_MEASURED),
        (lambda: ends(None, "RUN"), NOT_MEASURED),
        (lambda: drift(norms(1.06), "RUN"), SEEN),
        (lambda: drift(norms(0.94), "RUN"), SEEN),
        (lambda: drift(norms(1.04), "RUN"), NOT_SEEN),
        (lambda: drift(norms(0.94, 0.02), "RUN"), NOT_SEEN),
        (lambda: drift(norms(math.nan), "RUN"), SEEN),
        (lambda: drift(None, "RUN"), NOT_MEASURED),
        (lambda: calls(frontier_of(1.06, 1.0), HEUN, "RUN"), SEEN),
        (lambda: calls(frontier_of(math.inf, 1.0), HEUN, "RUN"), SEEN),
        (lambda: calls(frontier_of(1.0, math.inf), HEUN, "RUN"), NOT_SEEN),
        (lambda: calls(frontier_of(1.04, 1.0), HEUN, "RUN"), NOT_SEEN),
        (lambda: calls(frontier_of(1.06, 1.0, 0.03), HEUN, "RUN"), NOT_SEEN),
        (lambda: calls(frontier_of(1.06, 1.0, math.nan), HEUN, "RUN"), SEEN),
        (lambda: calls(frontier_of(2.0, 1.0), HEUN._replace(grid="cosine"), "RUN"), NOT_MEASURED),
        (lambda: calls(frontier_of(2.0, 1.0), HEUN._replace(guidance=2.0), "RUN"), NOT_MEASURED),
        (lambda: calls(frontier_of(2.0, 1.0), HEUN._replace(n=16), "RUN"), NOT_MEASURED),
        (lambda: calls(frontier_of(2.0, 1.0), None, ""), NOT_MEASURED),
        (lambda: strong(2.0, guided(1.06, 1.0), FEW, FEW, "RUN"), SEEN),
        (lambda: strong(2.0, guided(1.04, 1.0), FEW, FEW, "RUN"), NOT_SEEN),
        (lambda: strong(2.0, guided(0.5, 1.0), MANY, FEW, "RUN"), SEEN),
        (lambda: strong(2.0, guided(0.5, 1.0), FEW, MANY, "RUN"), NOT_SEEN),
        (lambda: strong(2.0, guided(0.5, 1.0), Estimate(0.22, 0.01), FEW, "RUN"), NOT_SEEN),
        (lambda: strong(2.0, [], None, None, "RUN"), NOT_MEASURED),
        (lambda: strong(2.0, guided(1.0, 1.0)[:1], FEW, FEW, "RUN"), NOT_MEASURED),
        (lambda: strong(1.0, [], MANY, FEW, "RUN"), NOT_SEEN),
        (lambda: near(rows(0.79), False, "RUN"), SEEN),
        (lambda: near(rows(0.81), False, "RUN"), NOT_SEEN),
        (lambda: near(rows(0.1), True, "RUN"), NOT_SEEN),
        (lambda: near({"samples": {}}, False, "RUN"), NOT_MEASURED),
        (lambda: near(None, False, "RUN"), NOT_MEASURED),
        (lambda: spikes(with_losses(*[1.0] * 12), False, "RUN"), NOT_SEEN),
        (lambda: spikes(with_losses(*[1.0] * 12, 1.9, 1.0), False, "RUN"), NOT_SEEN),
        (lambda: spikes(with_losses(*[1.0] * 12, 2.1, 1.0), False, "RUN"), SEEN),
        (lambda: spikes(with_losses(*[-1.0] * 12, 0.1, -1.0), False, "RUN"), SEEN),
        (lambda: spikes(with_losses(*np.linspace(1, 1.6, 40)), False, "RUN"), SEEN),
        (lambda: spikes(with_losses(*np.linspace(1, 1.4, 40)), False, "RUN"), NOT_SEEN),
        (lambda: spikes(with_losses(*np.linspace(9, 1, 40)), False, "RUN"), NOT_SEEN),
        (lambda: spikes(with_losses(1.0, None, 1.0), False, "RUN"), SEEN),
        (lambda: spikes(with_losses(None), False, "RUN"), SEEN),
        (lambda: spikes(with_losses(1.0, 1.0, skipped=1.0), False, "RUN"), SEEN),
        (lambda: spikes(with_losses(1.0), True, "RUN"), SEEN),
        (lambda: spikes([], False, "RUN"), NOT_MEASURED),
        (lambda: apart(with_map(0.11, 1.0, 1.06), True, "RUN"), SEEN),
        (lambda: apart(with_map(0.11, 1.06, 1.0), True, "RUN"), SEEN),
        (lambda: apart(with_map(0.11, 1.0, 1.04), True, "RUN"), NOT_SEEN),
        (lambda: apart(with_map(0.09, 1.0, 2.0), True, "RUN"), NOT_SEEN),
        (lambda: apart(with_map(None, None, None), True, "RUN"), SEEN),
        (lambda: apart(with_losses(1.0), True, "RUN"), NOT_MEASURED),
        (lambda: apart([], False, "RUN"), NOT_SEEN),
        (lambda: under(told_apart(0.91), "RUN"), SEEN),
        (lambda: under(told_apart(0.89), "RUN"), NOT_SEEN),
        (lambda: under(None, "RUN"), NOT_MEASURED),
    ],
)
def test_a_verdict_is_its_criterion(verdict, state):
    found = verdict()
    assert found.state == state
    assert found.told
    if state == NOT_MEASURED:
        assert found.told == "RUN" or verdict().told.startswith(("no Gaussian", "the frontier has"))


def test_bins_have_means_and_errors():
    t = np.array([0.0, 0.05, 0.1, 0.99, 1.0, 0.55])
    found = in_bins(t, [1.0, 3.0, 5.0, 2.0, 8.0, 7.0])
    assert [b.count for b in found] == [2, 1, 0, 0, 0, 1, 0, 0, 0, 2]
    assert found[0] == Bin(0.0, 0.1, 2, 2.0, 1.0)
    assert found[-1][2:] == pytest.approx((2, 5.0, 3.0))
    assert found[1].mean == 5.0
    assert math.isnan(found[1].standard_error)
    assert math.isnan(found[2].mean)


@pytest.fixture
def gaussian(config, monkeypatch):
    """A run whose data are Gaussian, independent numbers of variance 1/4, and its own velocity."""
    x1 = 0.5 * np.random.default_rng(0).standard_normal((200, 8, 8, 1)).astype(np.float32) + 0.1
    held = {"x1": x1, "label": np.arange(200) % 10}
    monkeypatch.setattr(dataset, "examples", lambda config, split: held)
    moments = {"means": x1.mean(0)[None], "covariances": x1.var(0)[None]}
    exact = velocities.gaussian_mixture(build.path(config), weights=[1.0], **moments)
    monkeypatch.setattr(build, "velocity", lambda config, params: exact)
    monkeypatch.setattr(
        build, "network", lambda config: lambda params, t, x, *, key=None, **cond: exact(t, x)
    )
    return config


def test_the_loss_by_time_is_known_of_gaussian_data(gaussian):
    """Of data of variance s^2 on the linear path, E (u - v)^2 = s^2 / (t^2 s^2 + (1 - t)^2)."""
    found = buckets.losses_by_time(gaussian, None, 2000)
    assert sum(b.count for b in found.network) == 2000
    x1 = dataset.examples(gaussian, "test")["x1"]
    for b in found.network:
        t = np.linspace(b.low, b.high, 101)[:, None]
        s2 = x1.var(0).reshape(-1)
        truth = (s2 / (t**2 * s2 + (1 - t) ** 2)).mean()
        assert abs(b.mean - truth) < 4 * b.standard_error + 0.02 * truth
    assert all(abs(b.mean) < 1e-6 for b in found.excess)
    assert symptoms.high_at_the_ends(found, "").state == NOT_SEEN


def test_a_network_that_knows_nothing_is_seen(config):
    """One that gives 0 at all times is worse than a Gaussian model at both ends."""
    params = jax.tree.map(jnp.zeros_like, build.parameters(config, jax.random.key(0)))
    found = buckets.losses_by_time(config, params, 200)
    assert symptoms.high_at_the_ends(found, "").state == SEEN
    assert symptoms.drifting(buckets.norms_by_time(config, params, 64), "").state == SEEN


def test_the_norm_of_an_exact_flow_is_that_of_its_path(gaussian):
    found = buckets.norms_by_time(gaussian, None, 100)
    assert (len(found.t), found.t[0], found.t[-1]) == (21, 0.0, 1.0)
    assert found.samples[0] == pytest.approx(found.path[0])
    assert symptoms.drifting(found, "").state == NOT_SEEN
    truth = math.sqrt(np.square(dataset.examples(gaussian, "test")["x1"]).mean())
    assert abs(found.path[-1].mean - truth) < 4 * found.path[-1].standard_error
    straight = buckets.straightness(gaussian, None, 50)
    for own, least in straight.values():
        assert own.mean > least.mean


def test_saturation_counts_the_ends_of_the_levels(config, monkeypatch):
    x = np.full((40, 8, 8, 1), 0.01, np.float32)
    x[:, 0], x[:, 1] = 0.999, -0.999
    made = type("Samples", (), {"x": x})
    monkeypatch.setattr(buckets, "generator", lambda config, num: lambda *_: made)
    found = buckets.saturation(config, None, 40)
    assert found.samples == Estimate(0.25, 0.0)
    level = data.load(data.digits("test"))["image"]
    assert abs(found.held.mean - np.isin(level, (0, 16)).mean()) < 4 * found.held.standard_error


def test_a_curve_has_the_lines_that_have_it(monkeypatch):
    """As what is measured at pictures alone, beside the loss of every line."""
    drawn = {}
    monkeypatch.setattr(charts, "draw_curves", lambda curves: drawn.update(curves) or b"")
    lines = [*LINES[:2], LINES[2] | {NAMES[0]: 0.25}, LINES[3] | {NAMES[0]: None}]
    SECTIONS[1](whole()._replace(lines=lines, learning_rate=[]))
    assert drawn["loss"] == ([10, 20, 30, 40], [line["loss"] for line in lines])
    assert list(drawn) == ["loss", "gradient norm", "map/semigroup"]
    steps, values = drawn["map/semigroup"]
    assert steps == [30, 40]
    assert values[0] == 0.25
    assert math.isnan(values[1])


def test_few_are_chosen_of_many():
    assert chosen(range(5)) == [0, 1, 2, 3, 4]
    found = chosen(range(100))
    assert (len(found), found[0], found[-1]) == (12, 0, 99)
    assert set(np.diff(found)) == {9}


def test_seconds_of_every_start_count():
    clocks = [(1.0, 2.0), (1.0, 5.0), (0.5, 1.0), (0.5, 2.0)]
    lines = [{"step": 1, "seconds/start": a, "seconds/steps": b} for a, b in clocks]
    assert seconds_spent(lines) == 6.0 + 2.5
    assert seconds_spent([]) == 0.0


def whole():
    config = digits.get_config()
    config.data.source.kwargs.data_dir = "<script>alert('x')</script>"
    evaluation = {
        "step": 120, "nfe": 50.0, "note": "<script>",
        "rows": {"samples": {"two-sample accuracy": 0.6, "<b>": "<script>"}, "held-out data": {}},
    }  # fmt: skip
    both = [Estimate(2.0, 0.1), Estimate(1.0, 0.1)]
    return Found(
        name="<script>run", config=json.loads(config.to_json()), commands=COMMANDS, step=120,
        parameters=10, lines=LINES, learning_rate=[1e-3] * 12, pictures=[(120, b"png")],
        losses=bins((0.1, 0.1)), norms=norms(1.0), straightness={"energy": both},
        saturation=Saturation(FEW, MANY), evaluation=evaluation,
        frontier={"quality": "<script>", "step": 100}, points=frontier_of(1.0, math.inf),
        frontier_picture=b"png", own=HEUN, starts={"step": 1, "starts": "<script>"},
        diagnosis={"<script>": 1}, endless=False,
    )  # fmt: skip


def bare():
    missing = dict.fromkeys(
        ("step", "parameters", "losses", "norms", "straightness", "saturation", "evaluation",
         "frontier", "frontier_picture", "starts", "diagnosis", "own"),
    )  # fmt: skip
    return whole()._replace(lines=[], learning_rate=[], pictures=[], points=[], **missing)


class Read(HTMLParser):
    """Every element's attributes, the text of each section; elements close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.names, self.attributes, self.sections = [], set(), [], {}
        self.feed(text)
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.names.add(name)
        self.attributes += [(key, value, name) for key, value in attributes]
        if name == "section":
            self.sections[dict(attributes)["id"]] = ""
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, text):
        if "section" in self.open:
            self.sections[list(self.sections)[-1]] += text


@pytest.mark.parametrize("make", [whole, bare])
def test_the_page_is_whole_and_asks_nobody(make):
    text = document(make())
    page = Read(text)
    assert page.sections.keys() == ANCHORS
    assert len(SECTIONS) == len(ANCHORS)
    links = [v for k, v, _ in page.attributes if k in ("src", "href")]
    assert {f"#{anchor}" for anchor in ANCHORS} <= set(links)
    assert all(link.startswith(("#", "data:image/")) for link in links)
    without = re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)
    assert not re.search(r"http|url\(|@import", without)
    assert not any(key.startswith("on") for key, _, _ in page.attributes)
    assert not {"script", "link", "iframe", "b"} & page.names
    assert "<script>run" in "".join(page.sections.values())
    assert "<script>alert('x')</script>" in page.sections["config"]
    assert all(v for k, v, name in page.attributes if k == "alt" and name == "img")


def test_what_is_missing_names_its_command():
    sections = Read(document(bare())).sections
    by_command = {
        "TRAIN": ("run", "curves", "samples", "times", "straightness", "health"),
        "EVALUATE": ("evaluation",),
        "FRONTIER": ("frontier",),
    }
    for command, anchors in by_command.items():
        for anchor in anchors:
            assert f"This makes it: {command}" in sections[anchor]
    assert "not measured" in sections["advice"]
    whole_page = Read(document(whole())).sections
    assert not any("This makes it" in text for text in whole_page.values())
    assert "Measured at step 100" in whole_page["frontier"]
    assert "Measured at step" not in whole_page["evaluation"]


def test_every_symptom_has_a_remedy_in_keys_that_there_are():
    assert verdicts_of(whole()).keys() == REMEDIES.keys()
    config = digits.get_config().to_dict()
    for remedy in REMEDIES.values():
        keys = re.findall(r"`config\.([\w.]+)`", remedy.attempt)
        assert keys
        for key in keys:
            found = config
            for part in key.split("."):
                found = found[part]
    page = Read(document(whole())).sections["advice"]
    assert page.count("seen") >= len(REMEDIES)


def of_text(copied, spelled):
    row = {"longest copy": 10.0, "spelled": 0.95}
    rows = {"samples": {"longest copy": copied, "spelled": spelled}, "held-out data": row}
    config = json.loads(text8_mask.get_config().to_json())
    losses = Losses(bins((0.1, 0.1)).network, None, None)
    return whole()._replace(
        config=config, of_tokens=True, losses=losses, norms=None, straightness=None,
        saturation=None, frontier=None, evaluation={"step": 120, "rows": rows},
    )  # fmt: skip


def test_a_page_of_tokens_tells_what_there_is_of_them():
    """Losses in nats by time, no ways that could be straight, and symptoms of their own."""
    page = Read(document(of_text(12.0, 0.9))).sections
    assert set(page) == ANCHORS - {"straightness", "frontier"}
    assert "nats a token" in page["times"]
    assert not any("This makes it" in text for text in page.values())
    for copied, spelled, seen in ((12.0, 0.9, set()), (16.0, 0.8, {"copies", "misspelt"})):
        verdicts = verdicts_of(of_text(copied, spelled))
        assert verdicts.keys() == REMEDIES_OF_TOKENS.keys()
        found = {n for n in ("copies", "misspelt") if verdicts[n].state == symptoms.SEEN}
        assert found == seen
    unknown = verdicts_of(of_text(12.0, None))["misspelt"]
    assert unknown.state == symptoms.NOT_MEASURED
    config = text8_mask.get_config().to_dict()
    for remedy in REMEDIES_OF_TOKENS.values():
        for key in re.findall(r"`config\.([\w.]+)`", remedy.attempt):
            found = config
            for part in key.split("."):
                found = found[part]


def test_markup_is_escaped_unless_it_is_markup():
    assert tag("p", "<b>", tag("b", 1), title='"') == '<p title="&quot;">&lt;b&gt;<b>1</b></p>'


@pytest.mark.slow
def test_the_command(tmp_path):
    """Trains, and reports before and after there is more to show."""

    def run(module, *arguments):
        return subprocess.run(
            [sys.executable, "-m", f"experiments.{module}", f"--workdir={tmp_path}", *arguments],
            cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert run("train", *DIGITS, "--config.steps=20", "--config.log.every=2").returncode == 0
    told = run("report", "--num=60")
    assert told.returncode == 0, told.stderr
    sections = Read((tmp_path / "report.html").read_text()).sections
    missing = {name for name, text in sections.items() if "This makes it" in text}
    assert missing == {"evaluation", "frontier"}
    assert run("evaluate").returncode == 0
    assert run("frontier", "--calls=4,8", "--methods=heun", "--seeds=1", "--num=40").returncode == 0
    told = run("report", "--num=60", f"--output={tmp_path / 'a' / 'page.html'}")
    assert told.returncode == 0, told.stderr
    sections = Read((tmp_path / "a" / "page.html").read_text()).sections
    assert not any("This makes it" in text for text in sections.values())
    assert "not measured" not in sections["advice"]
    (tmp_path / "frontier.json").write_text('{"points": [{}]}')
    refused = run("report", "--num=60")
    assert refused.returncode == 2
    assert "frontier.json is damaged" in refused.stderr
    assert run("report", "--output=page.txt").returncode == 2

"""A run of tokens: what is told of it, and configs that are of tokens in some sections alone."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from experiments.output import bounds, buckets, figures, movies, texts
from experiments.output.generate import generator
from experiments.setup import build
from experiments.setup.check import check_parts
from experiments.setup.tokens import check_of_numbers
from tests.experiments.conftest import shared_programs, tiny, tiny_digits
from tests.experiments.test_runs import SMALL, numbers, run

LENGTH = 64


def of_text(stored: Path, name: str = "text8_mask") -> ConfigDict:
    config = tiny(importlib.import_module(f"configs.{name}").get_config())
    config.network.kwargs.update({"width": 16, "depth": 1})
    config.data.source.kwargs.data_dir = str(stored)
    if config.data.source.name == "text":
        config.data.source.kwargs.length = LENGTH
    config.sampler.kwargs.grid.kwargs.n = 2
    return config


def test_what_is_told_of_samples(stored: Path, tmp_path: Path) -> None:
    config = of_text(stored)
    config.evaluation.likelihoods = 40
    params = build.parameters(config, jax.random.key(0))
    samples = generator(config, 12)(params, 0, 12)
    assert samples.x.shape == (12, LENGTH)
    assert samples.nfe.tolist() == [2] * 12
    rows = texts.compare(config, samples)
    assert list(rows) == ["samples", "held-out data"]
    assert rows["held-out data"]["unigram bits"] == pytest.approx(np.log2(27), abs=0.1)
    found = bounds.bound(config, params)
    # A network that says nothing yet costs log2(27) bits a token, whatever is masked.
    spread = found["bits_per_token_standard_error"]
    assert abs(found["bits_per_token"] - np.log2(27)) < 4 * spread
    assert found["bits_per_character"] == pytest.approx(found["bits_per_token"])
    shown = texts.texts_of(config, samples.x)
    assert {len(text) for text in shown} == {LENGTH}
    texts.draw_text(epath.Path(tmp_path / "text.png"), shown)
    assert (tmp_path / "text.png").stat().st_size > 1_000


@pytest.mark.parametrize(
    ("name", "kappa"),
    [("text8_mask", "cosine_squared"), ("text8_uniform", "cosine_squared"), ("text8_uniform", "")],
)
def test_the_bound_of_a_network_that_is_right_is_tight(stored: Path, name: str, kappa: str) -> None:
    """Of letters drawn evenly, as these are, nothing can be said, and nothing is at first."""
    config = of_text(stored, name)
    config.evaluation.likelihoods = 400
    if kappa:
        config.path.kwargs.kappa = {"name": kappa, "kwargs": {}}
    found = bounds.bound(config, build.parameters(config, jax.random.key(0)))
    spread = found["bits_per_token_standard_error"]
    assert spread < 0.15
    assert abs(found["bits_per_token"] - np.log2(27)) < 4 * spread


def test_pixels_that_are_tokens_are_told_as_images(stored: Path) -> None:
    config = tiny(importlib.import_module("configs.cifar10_tokens").get_config())
    config.network.kwargs.update(SMALL["cifar10_tokens"])
    config.data.source.kwargs.data_dir = str(stored)
    config.sampler.kwargs.grid.kwargs.n = 2
    config.evaluation.likelihoods = 16
    params = build.parameters(config, jax.random.key(0))
    samples = generator(config, 12)(params, 0, 12)
    assert samples.x.dtype == np.float32
    levels = (samples.x + 1) * 255 / 2
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    rows = figures.compare(config, samples)
    assert rows["held-out data"]["Frechet in pixels"] == 0
    assert rows["samples"]["Frechet in pixels"] > 0
    found = bounds.bound(config, params)
    assert abs(found["bits_per_token"] - 8) < 4 * found["bits_per_token_standard_error"]
    assert "bits_per_character" not in found


def test_levels_that_are_near_by_their_config(stored: Path) -> None:
    config = tiny(importlib.import_module("configs.cifar10_tokens").get_config())
    config.network.kwargs.update(SMALL["cifar10_tokens"])
    config.data.source.kwargs.data_dir = str(stored)
    with config.unlocked():
        levels = {"name": "levels", "kwargs": {"n": 256}}
        config.path = ConfigDict({"name": "metric", "kwargs": {"distances": levels}})
        config.sampler.kwargs.grid.kwargs.n = 2
        config.sampler.kwargs.method = ConfigDict({"name": "euler", "kwargs": {}})
    with pytest.raises(ValueError, match="take 'uniform_tokens'"):
        check_parts(config)
    with config.unlocked():
        config.source = ConfigDict({"name": "uniform_tokens", "kwargs": {"vocabulary": 256}})
    check_parts(config)
    params = build.parameters(config, jax.random.key(0))
    assert generator(config, 4)(params, 0, 4).success.all()


def of_letters(texts):
    """A reference for which every letter is one of 27."""
    counts = [len(text) for text in texts]
    return -np.log(27) * np.array(counts), counts


def test_perplexity_under_a_reference(stored: Path) -> None:
    config = of_text(stored)
    params = build.parameters(config, jax.random.key(0))
    samples = generator(config, 4)(params, 0, 4)
    named = texts.reference_of("tests.experiments.test_texts:of_letters")
    rows = texts.compare(config, samples, named)
    assert rows["samples"]["perplexity"] == pytest.approx(27)
    assert rows["held-out data"]["perplexity"] == pytest.approx(27)
    for wrong in ("tests.experiments.test_texts:of_leters", "nowhere:of_letters", "of_letters"):
        with pytest.raises(ValueError, match="it is MODULE:FUNCTION"):
            texts.reference_of(wrong)


OF_PIXELS = {"network": {"name": "dit", "kwargs": {"patch": 2}}, "vocabulary": 27}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"source": {"name": "normal", "kwargs": {}}}, r"config\.source\.name is 'normal', but"),
        (
            {"loss": {"name": "flow_matching", "kwargs": {}}},
            "take one of cross_entropy, generalised_kl",
        ),
        ({"sampler.name": "fixed_step"}, "take one of jumps, first_hitting"),
        (
            {
                "source": {"name": "uniform_tokens", "kwargs": {"vocabulary": 27}},
                "sampler.kwargs.method.name": "confident",
            },
            "names 'confident', which is of masks alone",
        ),
        (
            {
                "path": {"name": "gidd", "kwargs": {}},
                "sampler.kwargs.method.name": "tau_leaping",
            },
            "gidd has ancestral and euler",
        ),
        ({"network.name": "edit_transformer"}, "says edits, but config.path"),
        ({"sampler.name": "by_block"}, "none of blocks of tokens.*take 'jumps'"),
        (
            {
                "source": {"name": "uniform_tokens", "kwargs": {"vocabulary": 27}},
                "path": {"name": "gidd", "kwargs": {}},
            },
            "begins at masks",
        ),
        ({"path": {"name": "linear", "kwargs": {}}}, "is of real numbers"),
        ({"source.kwargs.token": 26}, r"set config\.source\.kwargs\.token=27"),
        (
            {"network.kwargs.vocabulary": 26, "source.kwargs.token": 26},
            r"the data has 27 symbols: set config\.network\.kwargs\.vocabulary=27",
        ),
        (
            {"source": {"name": "uniform_tokens", "kwargs": {"vocabulary": 26}}},
            "is of 26 tokens, but",
        ),
        (
            {"network": {"name": "mlp", "kwargs": {}}},
            "gives no logits of tokens",
        ),
        (
            {"self_condition.rate": 0.5, "network.name": "discrete", "network.kwargs": OF_PIXELS},
            "reads no estimate of tokens",
        ),
        ({"coupling.name": "optimal_transport"}, r"config\.coupling\.name='independent'"),
        ({"data.source.kwargs.split": "trian"}, "no split 'trian'"),
        ({"sampler.kwargs.method.name": "heun"}, "'heun'.*known are ancestral"),
    ],
)
def test_a_config_is_of_tokens_throughout(change: dict, match: str, stored: Path) -> None:
    config = of_text(stored)
    for name, value in change.items():
        *place, last = name.split(".")
        section = config
        for part in place:
            section = section[part]
        with config.unlocked():
            section[last] = ConfigDict(value) if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=match) as refused:
        check_parts(config)
    assert "\n" not in str(refused.value)


def test_soft_tokens_of_gaussian_noise_by_their_config(stored: Path) -> None:
    """Trained on soft ones; sampled from and measured as tokens."""
    config = of_text(stored, "text8_uniform")
    config.evaluation.likelihoods = 40
    with config.unlocked():
        config.path = ConfigDict({"name": "duo", "kwargs": {"temperature": 0.1}})
    check_parts(config)
    params = build.parameters(config, jax.random.key(0))
    assert generator(config, 4)(params, 0, 4).success.all()
    assert np.isfinite(bounds.bound(config, params)["bits_per_token"])
    assert movies.followed(config, params, 0, 2, 3)[0].shape == (3, 2, LENGTH)
    draw, loss = build.draw(config), build.loss(config)
    batch = draw(jax.random.key(1), {"x1": jax.numpy.zeros((2, LENGTH), int), "cond": {}})
    assert np.isfinite(loss(params, None, batch)[0])
    with config.unlocked():
        config.loss = ConfigDict({"name": "discrete_consistency", "kwargs": {}})
    with pytest.raises(ValueError, match=r"temperature=0\.0"):
        check_parts(config)
    config.path.kwargs.temperature = 0.0
    check_parts(config)


@pytest.mark.parametrize(("name", "source"), [("fisher", "orthant"), ("dirichlet", "simplex")])
def test_soft_tokens_by_their_config(name: str, source: str, stored: Path, tmp_path: Path) -> None:
    """They flow by a solver of real numbers, and what is written are tokens."""
    config = of_text(stored)
    size = {"vocabulary": 27}
    grid = {"name": "uniform", "kwargs": {"n": 2}}
    with config.unlocked(), config.ignore_type():
        config.path = ConfigDict({"name": name, "kwargs": size})
        config.source = ConfigDict({"name": source, "kwargs": size})
        config.loss = ConfigDict({"name": "cross_entropy", "kwargs": {}})
        config.sampler.name, config.sampler.kwargs = "fixed_step", ConfigDict({"grid": grid})
    check_parts(config)
    params = build.parameters(config, jax.random.key(0))
    samples = generator(config, 4)(params, 0, 4)
    assert samples.success.all()
    assert samples.x.shape == (4, LENGTH)
    assert samples.x.dtype == np.int32
    assert len(set(texts.texts_of(config, samples.x))) == 4
    assert bounds.bound(config, params) == {}
    assert buckets.losses_by_time(config, params, 20).gaussian is None
    if name == "fisher":
        assert np.isfinite(run(config, tmp_path).metrics["loss"])
    for wrong, match in (
        (lambda: texts.given_of(config, "the ", None), "soft tokens, which flow together"),
        (lambda: movies.followed(config, params, 0, 2, 3), "nor of soft tokens"),
    ):
        with pytest.raises(ValueError, match=match):
            wrong()
    config.source.kwargs.vocabulary = 26
    with pytest.raises(ValueError, match="give all alike"):
        check_parts(config)
    config.sampler.name = "jumps"
    with pytest.raises(ValueError, match="is of soft tokens: take one of fixed_step, adaptive"):
        check_parts(config)


def test_pieces_by_their_config(stored: Path) -> None:
    """Words by edits: padded, told as text without padding, with figures of their own."""
    config = of_text(stored, "text8_words")
    config.evaluation.likelihoods = 40
    config.sampler.kwargs.grid.kwargs.n = 8
    check_parts(config)
    params = build.parameters(config, jax.random.key(0))
    samples = generator(config, 12)(params, 0, 12)
    assert samples.x.shape == (12, 12)
    shown = texts.texts_of(config, samples.x)
    assert [len(piece) for piece in shown] == np.sum(samples.x < 27, axis=1).tolist()
    assert len({len(piece) for piece in shown}) > 1
    rows = texts.compare(config, samples)
    assert rows["held-out data"]["symbols"] > 1
    assert 0 <= rows["samples"]["known"] <= 1
    found = bounds.bound(config, params)
    assert found["bits_per_sequence"] > found["bits_per_token"] > 0
    assert buckets.losses_by_time(config, params, 20).gaussian is None
    for wrong, match in (
        (lambda: texts.given_of(config, "the", None), "is of edits: prompts are of tokens"),
        (lambda: movies.followed(config, params, 0, 2, 3), "nor of edits"),
    ):
        with pytest.raises(ValueError, match=match):
            wrong()
    config.sampler.name = "jumps"
    with pytest.raises(ValueError, match=r"config\.sampler\.name is 'jumps'.*is of edits: take"):
        check_parts(config)
    config = of_text(stored)
    config.data.source.name = "pieces"
    with pytest.raises(ValueError, match=r"take 'text' for windows|takes no 'stride'"):
        check_parts(config)


def test_a_network_that_says_nothing_trusts_what_it_sees_as_its_time_says(stored: Path) -> None:
    """From letters drawn evenly too its bound is that of even letters."""
    config = of_text(stored, "text8_uniform")
    config.evaluation.likelihoods = 200
    found = bounds.bound(config, build.parameters(config, jax.random.key(0)))
    spread = found["bits_per_token_standard_error"]
    assert abs(found["bits_per_token"] - np.log2(27)) < 4 * spread < 2


def test_tokens_that_are_read_again_by_their_config(stored: Path) -> None:
    config = of_text(stored)
    config.self_condition.rate = 0.5
    check_parts(config)
    params = build.parameters(config, jax.random.key(0))
    assert "estimate" in params
    assert generator(config, 4)(params, 0, 4).success.all()


def test_blocks_of_tokens_by_their_config(stored: Path) -> None:
    config = of_text(stored, "text8_blocks")
    config.evaluation.likelihoods = 40
    check_parts(config)
    params = build.parameters(config, jax.random.key(0))
    samples = generator(config, 4)(params, 0, 4)
    assert samples.success.all()
    assert samples.nfe.tolist() == [4 * 3] * 4
    found = bounds.bound(config, params)
    assert abs(found["bits_per_token"] - np.log2(27)) < 4 * found["bits_per_token_standard_error"]
    with pytest.raises(ValueError, match="not of blocks one after the other"):
        movies.followed(config, params, 0, 2, 3)
    config.sampler.name = "jumps"
    with pytest.raises(ValueError, match="take 'by_block'"):
        check_parts(config)


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "first_hitting", "kwargs": {}},
        {"name": "entropy_bounded", "kwargs": {"bound": 1.0}},
        {
            "name": "jumps",
            "kwargs": {
                "grid": {"name": "uniform", "kwargs": {"n": 2}},
                "method": {
                    "name": "corrected",
                    "kwargs": {"method": {"name": "euler", "kwargs": {}}, "steps": 1},
                },
            },
        },
    ],
)
def test_every_sampler_by_its_config(sampler: dict, stored: Path) -> None:
    """And what makes logits surer, one around the other."""
    config = of_text(stored)
    with config.unlocked(), config.ignore_type():
        config.sampler.update({"name": sampler["name"]})
        config.sampler.kwargs = ConfigDict(sampler["kwargs"])
        warm = {"name": "temperature", "kwargs": {"size": 0.8}}
        config.sampler.guidance = ConfigDict(
            {"name": "top_p", "kwargs": {"mass": 0.5, "logits": warm}}
        )
    check_parts(config)
    params = build.parameters(config, jax.random.key(0))
    samples = generator(config, 4)(params, 0, 4)
    assert samples.success.all()
    assert (samples.x < 27).all()


def test_losses_by_time_of_a_run_of_tokens(stored: Path) -> None:
    """Of a network that says nothing yet, for which every masked token costs log(27)."""
    config = of_text(stored)
    params = build.parameters(config, jax.random.key(0))
    found = buckets.losses_by_time(config, params, 40)
    assert sum(b.count for b in found.network) == 40
    for b in found.network:
        if b.count > 1:
            assert abs(b.mean - np.log(27)) < 5 * b.standard_error + 0.3
    assert found.gaussian is None


def test_commands_of_real_numbers_say_so(stored: Path) -> None:
    with pytest.raises(ValueError, match="frontier is of flows of real numbers"):
        check_of_numbers(of_text(stored), "frontier")


def test_a_movie_of_text_ends_at_the_samples(stored: Path) -> None:
    """Whose masks are shown as blanks, fewer at every time."""
    config = of_text(stored)
    config.sampler.kwargs.grid.kwargs.n = 4
    params = build.parameters(config, jax.random.key(0))
    xs, _ = movies.followed(config, params, 3, 5, 5)
    assert xs.shape == (5, 5, LENGTH)
    np.testing.assert_array_equal(xs[-1], generator(config, 5)(params, 3, 5).x)
    blanks = [sum(text.count("_") for text in texts.unfolding(config, x)) for x in xs]
    assert blanks[0] == 5 * LENGTH
    assert sorted(blanks, reverse=True) == blanks
    assert blanks[-1] == 0
    pages = list(movies.pages_of(config, xs))
    assert len({page.size for page in pages}) == 1


def test_a_resumed_run_is_the_uninterrupted_one(stored: Path, tmp_path: Path) -> None:
    """Windows, masks and times are functions of the step."""
    config = of_text(stored)
    config.optimizer.kwargs.learning_rate = {"name": "constant", "kwargs": {"peak": 1e-2}}
    config.log.pictures_every = 100
    with shared_programs():
        straight = run(config, tmp_path / "straight")
        config.steps = 2
        run(config, tmp_path / "resumed")
        config.steps = 4
        resumed = run(config, tmp_path / "resumed")
    assert resumed.start == 2
    for a, b in zip(numbers(straight.state), numbers(resumed.state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["text8_mask", "text8_uniform", "text8_blocks"])
def test_a_prompt_and_what_is_filled_in(name: str, stored: Path) -> None:
    config = of_text(stored, name)
    params = build.parameters(config, jax.random.key(0))
    for told in ({"prompt": "the ", "infill": None}, {"prompt": None, "infill": "the ____ of"}):
        given = texts.given_of(config, **told)
        samples = generator(config, 6, given)(params, 0, 6)
        text = told["prompt"] or told["infill"]
        for found in texts.texts_of(config, samples.x):
            assert all(b in ("_", a) for a, b in zip(found, text, strict=False))
            assert "_" not in found
    assert len(set(texts.texts_of(config, samples.x))) == 6


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ({"prompt": "a", "infill": "b_"}, "not both"),
        ({"prompt": "Ä", "infill": None}, "'Ä' at place 0 is none of the 27 symbols"),
        (
            {"prompt": "a" * (LENGTH + 1), "infill": None},
            f"{LENGTH + 1} tokens, but a sample of this run {LENGTH}",
        ),
    ],
)
def test_wrong_prompts(told: dict, match: str, stored: Path) -> None:
    with pytest.raises(ValueError, match=match):
        texts.given_of(of_text(stored), **told)


def test_a_prompt_is_of_text() -> None:
    with pytest.raises(ValueError, match="is no text to be begun"):
        texts.given_of(tiny_digits(), "a", None)

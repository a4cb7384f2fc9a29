"""Moving pictures of a flow: what they follow, and what there is none of."""

import numpy as np
import pytest
from PIL import Image

from configs.two_moons import get_config
from experiments.output import movies, pictures
from experiments.output.generate import generator
from experiments.setup import build


@pytest.fixture(scope="module")
def points():
    """Two moons, untrained, by a tiny network."""
    config = get_config()
    config.network.kwargs = {"width": 8, "depth": 1}
    config.sampler.batch_size = 24
    run = build.program(config)
    return config, build.initial_state(config, run).params


def test_the_movie_ends_at_the_samples(points, monkeypatch):
    """It starts from the noise of `generator`, and its flow ends where that ends."""
    config, params = points
    monkeypatch.setattr(movies, "TOLERANCE", 1e-6)
    xs, times = movies.followed(config, params, 3, 40, 5)
    assert xs.shape == (5, 40, 2)
    np.testing.assert_array_equal(times, [0, 0.25, 0.5, 0.75, 1])
    with config.unlocked():
        config.sampler.kwargs.rtol = config.sampler.kwargs.atol = movies.TOLERANCE
    made = generator(config, 40)(params, 3, 40)
    np.testing.assert_allclose(xs[-1], made.x, rtol=1e-4, atol=1e-4)
    assert np.abs(xs[-1] - xs[0]).max() > 0.05


def test_frames_are_pictures_of_one_size(points, tmp_path):
    config, params = points
    xs, times = movies.followed(config, params, 0, 40, 4)
    frames = list(movies.frames_of(xs, times))
    assert len({frame.size for frame in frames}) == 1
    movies.film(tmp_path / "m.gif", frames, 0.4)
    with Image.open(tmp_path / "m.gif") as film:
        assert film.n_frames == 4
        assert film.size == frames[0].size
    pictures.draw_ways(tmp_path / "m.png", xs)
    assert (tmp_path / "m.png").stat().st_size > 1000


def test_density_is_a_share_of_the_points():
    """Rows go up and columns right, as in the picture."""
    x = np.array([[0.9, -0.9]] * 3 + [[-0.9, 0.9]])
    density = movies._density(x, (-1, 1, -1, 1))
    assert density[:10, -10:].sum() == 0.75
    assert density[-10:, :10].sum() == 0.25


def test_images_unfold():
    x = np.linspace(-1, 1, 3 * 4 * 64).reshape(3, 4, 8, 8, 1)
    frames = list(movies.frames_of(x, np.linspace(0, 1, 3)))
    assert len(frames) == 3
    levels = [np.asarray(frame)[1:-1, 1:-1].mean() for frame in frames]
    assert levels == sorted(levels)


@pytest.mark.parametrize("shape", [(3,), (8, 8, 2), (4, 4, 4, 1)])
def test_other_samples_have_none(shape):
    with pytest.raises(ValueError, match="shows points in the plane"):
        movies.check_shown(shape)
    movies.check_shown((2,))
    movies.check_shown((8, 8, 3))

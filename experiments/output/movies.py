"""Moving pictures of a flow, from its source to its samples."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from experiments.output.generate import conditions, noise_keys, padded, starts
from experiments.output.pictures import grid_of, is_image
from experiments.output.texts import page_of, unfolding
from experiments.setup import build
from experiments.setup.components import component
from experiments.setup.learns import are_edited, are_soft, block_of, learns_tokens
from experiments.setup.tokens import jumped
from jaxflow import paths, sampling
from jaxflow.types import Method, Params

__all__ = ["check_shown", "film", "followed", "frames_of", "pages_of"]

TOLERANCE = 1e-4
SHOWN, TRAIL, BINS = 1_000, 8, 96


def followed(config: ConfigDict, params: Params, seed: int, num: int, frames: int) -> Any:
    """The states of samples `0` to `num - 1` at equal steps of time, `[frames, num, ...]`.

    They start as those of `generator`, and follow the flow of `sampler.guidance` to a tolerance,
    whatever the sampler; tokens jump by its leap, or Euler's, a frame a step. Also their times,
    `[frames]`.
    """
    if block_of(config) or are_soft(config) or are_edited(config):
        raise ValueError(
            "a movie of text is of whole samples whose tokens jump: not of blocks one after the "
            "other, nor of soft tokens, nor of edits"
        )
    velocity, begin = build.velocity(config, params), starts(config)
    times, path = np.linspace(0, 1, frames), jumped(build.path(config))

    def solve(velocity, index, cond):  # type: ignore[no-untyped-def]
        keys, x0 = begin(jax.random.key(seed), index)
        if learns_tokens(config):
            given = {
                "keys": noise_keys(keys),
                "path": path,
                "method": _leap(config),
            }
            return sampling.jumps(velocity, x0, times, cond=cond, save=True, **given).xs
        start = paths.start(velocity.path, x0)
        made = sampling.adaptive(velocity, start, times, rtol=TOLERANCE, atol=TOLERANCE, cond=cond)
        return made.xs

    run, cond = jax.jit(solve), conditions(config, num)
    size = min(config.sampler.batch_size, num)
    pieces = []
    for first in range(0, num, size):
        made = run(velocity, *padded(cond, first, size, num))
        pieces.append(np.asarray(made)[:, : num - first])
    return np.concatenate(pieces, axis=1), times


def _leap(config: ConfigDict) -> Method | None:
    spec = config.sampler.kwargs.get("method")
    if config.sampler.name != "jumps" or spec is None:
        return None
    return component("sampler.kwargs.method", spec, table="leap")


def pages_of(config: ConfigDict, xs: np.ndarray) -> Iterator[Image.Image]:
    """One picture a time, of texts as they unfold."""
    for x in xs:
        yield page_of(unfolding(config, x))


def check_shown(event_shape: Sequence[int]) -> None:
    """Whether there is a moving picture of such samples of real numbers.

    Raises:
        ValueError: where they are neither points in the plane nor images.
    """
    shape = tuple(event_shape)
    if shape != (2,) and not is_image(np.empty((1, *shape))):
        raise ValueError(
            "a movie shows points in the plane, [2], or images, [height, width, 1 or 3]; the "
            f"samples of this run are {list(shape)}"
        )


def frames_of(xs: np.ndarray, times: np.ndarray) -> Iterator[Image.Image]:
    """One picture a time: a grid of images, or points with their trails beside their density."""
    if is_image(xs[0]):
        for x in xs:
            yield grid_of(np.clip(x, -1, 1), 10)
        return
    limits = _limits(xs)
    for i, t in enumerate(times):
        trail = xs[max(0, i - TRAIL) : i + 1]
        yield _plane(trail, _density(xs[i], limits), limits, f"t = {t:.2f}")


def _limits(xs: np.ndarray) -> tuple[float, float, float, float]:
    """A square that holds all but a few of the points, at every time."""
    low, high = np.quantile(xs, (0.001, 0.999), axis=(0, 1))
    centre, half = (low + high) / 2, 0.55 * (high - low).max()
    (left, bottom), (right, top) = centre - half, centre + half
    return float(left), float(right), float(bottom), float(top)


def _density(x: np.ndarray, limits: tuple[float, float, float, float]) -> np.ndarray:
    """Shares of the points in cells of the square, rows from the bottom."""
    counts = np.histogram2d(*x.T, bins=BINS, range=[limits[:2], limits[2:]])[0]
    return counts.T / len(x)


def _plane(trail: np.ndarray, density: np.ndarray, limits: Any, title: str) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(trail[:, :SHOWN, 0], trail[:, :SHOWN, 1], color="0.8", linewidth=0.4, zorder=0)
    left.scatter(*trail[-1, :SHOWN].T, s=2, color="tab:blue")
    shade = {"origin": "lower", "extent": limits, "cmap": "magma"}
    right.imshow(density, vmax=max(np.quantile(density, 0.999), 1e-9), **shade)
    for axes in (left, right):
        axes.set(xlim=limits[:2], ylim=limits[2:], xticks=[], yticks=[], aspect="equal")
    figure.suptitle(title, fontsize="medium")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def film(path: epath.Path, frames: Sequence[Image.Image], seconds: float) -> None:
    """Write a GIF that starts again without end and rests at its last frame."""
    each = 1000 * seconds / len(frames)
    lasting = [each] * (len(frames) - 1) + [1500]
    with path.open("wb") as file:
        frames[0].save(
            file, "GIF", save_all=True, append_images=frames[1:], duration=lasting, loop=0
        )

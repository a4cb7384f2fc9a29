"""Digits and their labels by one model: label from image, image from label, and both from noise.

    python -m benchmarks.mixed_digits [--steps=3000] [--seed=0] [--calls=32] [--output=FILE.png]

An image of 8 x 8 goes along the linear path from normal noise, its label as one token from a mask,
with times of their own, so that one network learns every conditional. The recogniser is a support
vector machine fitted to the training scans.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from benchmarks.report import markdown
from jaxflow import (
    data,
    draws,
    losses,
    metrics,
    networks,
    paths,
    sampling,
    sources,
    times,
    velocities,
)
from jaxflow.data import datasets, transforms
from jaxflow.training import program, trainer

CLASSES, BATCH, RATE = 10, 128, 2e-3
PATH = paths.product(
    {"image": paths.linear(), "label": paths.mixture(source=sources.mask(CLASSES))}
)
TIMES = {"image": times.uniform(), "label": times.uniform()}


def together(key: Any, batch: Any) -> Any:
    """A draw: the label becomes a part of the data."""
    label = batch["cond"]["label"].astype(jnp.int32)
    return {"x1": {"image": batch["x1"], "label": label[:, None]}, "cond": {}}


def trained(steps: int, seed: int) -> Any:
    """The velocity and logits of the average of the parameters."""
    network = networks.linen(
        networks.MixedTransformer({"label": CLASSES}, patch=2, width=128, depth=4, heads=4)
    )
    loss = losses.mixed(
        network,
        PATH,
        {"image": losses.flow_matching, "label": losses.cross_entropy},
        weights={"image": 1.0, "label": 0.1},
    )
    rate = optax.warmup_cosine_decay_schedule(0, RATE, 200, steps, 0.01 * RATE)
    draw = draws.chain(together, draws.standard(PATH, times=TIMES))
    run = program(trainer(loss, optax.adamw(rate), draw=draw, ema_decay=0.998))
    arrays = datasets.load(data.digits("train"))
    stream = data.on_device(
        arrays, batch_size=BATCH, seed=seed, transforms=(transforms.scale(levels=17),)
    )
    x = {"image": jnp.zeros((1, 8, 8, 1)), "label": jnp.zeros((1, 1), jnp.int32)}
    keys = jax.random.split(jax.random.key(seed))
    state = run.init(network.init(keys[0], jnp.zeros(1), x), keys[1])
    state, _ = run.steps(state, stream, steps)
    return velocities.from_network(network, jax.block_until_ready(state.ema), path=PATH)


def scans(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images in [-1, 1], and labels."""
    arrays = datasets.load(data.digits(split))
    return arrays["image"] / 8.0 - 1, arrays["label"]


def drawn(velocity: Any, calls: int, seed: int, given: Sequence[str] = (), **known: Any) -> Any:
    """Samples, of as many as are known or of 1,000."""
    n = len(next(iter(known.values()))) if known else 1_000
    keys = jax.random.split(jax.random.key(seed), n)
    noise = sources.product({"image": sources.normal(), "label": sources.mask(CLASSES)})
    x0 = {**noise.sample(keys, {"image": (8, 8, 1), "label": (1,)}), **known}
    methods = {} if "image" in given else {"image": sampling.ab2()}
    grid = sampling.grids.uniform(calls)
    run = sampling.mixed(velocity, x0, grid, keys=keys, path=PATH, methods=methods, given=given)
    return jax.tree.map(np.asarray, run.x)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, sample three ways, and say how often image and label agree."""
    parser = argparse.ArgumentParser("python -m benchmarks.mixed_digits", description=__doc__)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=32, help="of the network, a sample")
    parser.add_argument("--output", metavar="FILE.png", help="where to draw images and labels")
    options = parser.parse_args(argv)
    start = time.perf_counter()
    velocity = trained(options.steps, options.seed)
    minutes = (time.perf_counter() - start) / 60
    recognise = partial(metrics.class_accuracy, metrics.fit_classifier(*scans("train")))
    images, labels = scans("test")
    run = partial(drawn, velocity, options.calls, options.seed)
    told = run(("image",), image=jnp.asarray(images, jnp.float32))["label"][:, 0]
    asked = np.arange(1_000) % CLASSES
    shown = run(("label",), label=jnp.asarray(asked[:, None]))["image"]
    both = run()
    right = float(np.mean(told == labels))
    rows = [
        ("label from image, held-out scans right", right, (right * (1 - right) / 360) ** 0.5),
        ("image from label, recognised", *recognise(shown, asked)),
        ("both from noise, consistent", *recognise(both["image"], both["label"][:, 0])),
        ("held-out scans, recognised", *recognise(images, labels)),
    ]
    table = [(name, f"{value:.3f}", f"{error:.3f}") for name, value, error in rows]
    Console(width=120).print(markdown(("", "share", "standard error"), table), markup=False)
    print(f"{options.steps} steps in {minutes:.1f} minutes, {options.calls} calls a sample")
    if options.output:
        draw(options.output, both)


def draw(path: str, both: Any) -> None:
    """Images drawn from noise, in rows of the label that was drawn beside each."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(CLASSES, 12, figsize=(6, 5.2))
    for label, row in enumerate(axes):
        own = both["image"][both["label"][:, 0] == label][: len(row)]
        for axis in row:
            axis.axis("off")
        for axis, image in zip(row, own, strict=False):
            axis.imshow(image[..., 0], cmap="gray_r", vmin=-1, vmax=1)
        row[0].set_title(str(label), x=-0.5, y=0.1, fontsize=9)
    figure.savefig(path, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()

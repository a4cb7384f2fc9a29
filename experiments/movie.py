"""Film the flow of a trained run, from noise to samples.

    python -m experiments.movie --workdir=DIR [--output=FILE.gif] [--num=N] [--frames=48]
                                [--seconds=4] [--seed=0] [--config.sampler.guidance=2]

Points in the plane are shown with their trails beside their density, and FILE.png has the ways of
some of them; images unfold in a grid. The flow is that of the average parameters, guided as
`config.sampler.guidance` says, solved to 1e-4 whatever `config.sampler` is.
"""

import jax
from absl import flags
from etils import epath

from experiments.output.generate import average
from experiments.output.movies import check_shown, film, followed, frames_of
from experiments.output.pictures import draw_ways, is_image
from experiments.run import command
from experiments.run.reporting import table
from experiments.setup import dataset
from experiments.setup.check import check_parts
from experiments.setup.tokens import check_of_numbers

_CONFIG = command.config_of_run()
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a trained run.")
_OUTPUT = flags.DEFINE_string("output", None, "The file to write, DIR/movie.gif where left out.")
_NUM = flags.DEFINE_integer("num", 0, "Samples; 20000 points or 60 images where 0.", lower_bound=0)
_FRAMES = flags.DEFINE_integer("frames", 48, "Pictures in it.", lower_bound=2)
_SECONDS = flags.DEFINE_float("seconds", 4.0, "How long it takes.", lower_bound=0.1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the samples.")


def main() -> None:
    """Solve, draw, and say what was written."""
    config, folder = _CONFIG.value, epath.Path(_WORKDIR.value)
    output = folder / "movie.gif" if _OUTPUT.value is None else epath.Path(_OUTPUT.value)
    if output.suffix != ".gif":
        raise ValueError(f"--output=FILE.gif is needed; got {_OUTPUT.value!r}")
    check_parts(config)
    check_of_numbers(config, "movie")
    if jax.process_count() > 1:
        raise ValueError("a movie is made by one process: start it on one machine")
    event_shape = dataset.example_batch(config)["x1"].shape[1:]
    check_shown(event_shape)
    num = _NUM.value or (20_000 if event_shape == (2,) else 60)
    read = average(folder)
    xs, times = followed(config, read.params, _SEED.value, num, _FRAMES.value)
    output.parent.mkdir(parents=True, exist_ok=True)
    film(output, list(frames_of(xs, times)), _SECONDS.value)
    rows = {"of step": read.step, "samples": f"{num}, seed {_SEED.value}", "movie": output}
    if not is_image(xs[0]):
        draw_ways(output.with_suffix(".png"), xs)
        rows["ways"] = output.with_suffix(".png")
    table("filmed", rows)


if __name__ == "__main__":
    command.run(main)

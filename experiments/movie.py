"""Film the flow of a trained run, from noise to samples.

    python -m experiments.movie --workdir=DIR [--output=FILE.gif] [--num=N] [--frames=48]
                                [--seconds=4] [--seed=0] [--config.sampler.guidance=2]

Points in the plane are shown with their trails beside their density, and FILE.png has the ways of
some of them; images unfold in a grid, and text line by line, "_" for what is masked yet. The flow
is that of the average parameters, guided as `config.sampler.guidance` says, solved to 1e-4 whatever
`config.sampler` is; tokens jump by its leap, a frame a step.
"""

import jax
from absl import flags
from etils import epath

from experiments.output.generate import average
from experiments.output.movies import check_shown, film, followed, frames_of, pages_of
from experiments.output.pictures import draw_ways
from experiments.run import command
from experiments.run.reporting import table
from experiments.setup import dataset
from experiments.setup.check import check_parts
from experiments.setup.learns import learns_tokens

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
    if jax.process_count() > 1:
        raise ValueError("a movie is made by one process: start it on one machine")
    event_shape = dataset.example_batch(config)["x1"].shape[1:]
    of_text = learns_tokens(config) and len(event_shape) == 1
    if not of_text:
        check_shown(event_shape)
    num = _NUM.value or (20_000 if event_shape == (2,) else 12 if of_text else 60)
    read = average(folder)
    xs, times = followed(config, read.params, _SEED.value, num, _FRAMES.value)
    output.parent.mkdir(parents=True, exist_ok=True)
    frames = pages_of(config, xs) if of_text else frames_of(dataset.as_pixels(config, xs), times)
    film(output, list(frames), _SECONDS.value)
    rows = {"of step": read.step, "samples": f"{num}, seed {_SEED.value}", "movie": output}
    if event_shape == (2,):
        draw_ways(output.with_suffix(".png"), xs)
        rows["ways"] = output.with_suffix(".png")
    table("filmed", rows)


if __name__ == "__main__":
    command.run(main)

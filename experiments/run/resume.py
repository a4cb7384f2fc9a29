"""A run at a moment: as it begins, as its checkpoints have it, and as it goes back to one."""

from dataclasses import dataclass, field
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from experiments.run import workdir
from experiments.run.beginning import begun
from experiments.run.health import diagnose
from experiments.run.positions import Positions
from experiments.run.reporting import console
from experiments.setup import dataset
from experiments.setup.states import abstract_state
from jaxflow.training import NotFinite, Program, Window, processes
from jaxflow.training.checkpoint import Checkpoints
from jaxflow.types import TrainState

__all__ = ["Run", "restored", "rolled_back"]


@dataclass
class Run:
    """What a run is at a moment: its state, and all else that a checkpoint keeps of it."""

    state: TrainState
    window: Window
    positions: Positions = field(default_factory=Positions)
    rollbacks: int = 0

    @property
    def meta(self) -> dict[str, Any]:
        """For the checkpoint, beside the state."""
        return {
            "window": {name: list(values) for name, values in self.window.rows().items()},
            "bad": self.window.bad,
            "left_out": [list(r) for r in self.positions.left_out],
            "rollbacks": self.rollbacks,
        }


def restored(config: ConfigDict, compiled: Program, checkpoints: Checkpoints) -> Run:
    """The run as its newest whole checkpoint has it, or at its first step."""
    if processes.agree(not checkpoints.steps()):
        return Run(begun(config, compiled), Window(config.health.abort_after))
    shapes = abstract_state(config, compiled.trainer, dataset.example_batch(config))
    found = checkpoints.restore(compiled.layout.like(shapes))
    if found is None:
        return Run(begun(config, compiled), Window(config.health.abort_after))
    console.print(f"going on from step {int(found.state.step)} in {checkpoints.directory}")
    for step, reason in found.refused.items():
        console.print(f"checkpoint {step} was refused: {reason}")
    meta = found.meta
    return Run(
        found.state,
        Window(config.health.abort_after, dict(meta["window"]), meta["bad"]),
        Positions(tuple((a, b) for a, b in meta["left_out"])),
        meta["rollbacks"],
    )


def rolled_back(
    config: ConfigDict,
    folder: epath.Path,
    compiled: Program,
    checkpoints: Checkpoints,
    run: Run,
    error: NotFinite,
) -> Run:
    """The run as its last checkpoint has it, without the data that it failed on.

    Raises:
        ArithmeticError: with the diagnosis, where it may not roll back (any more).
    """
    diagnosis = diagnose(config, compiled, run.state, run.positions, error)
    if processes.is_first():
        workdir.write_json(folder / "diagnosis.json", diagnosis.found)
    told = f"{error}; {diagnosis.sentence} ({folder / 'diagnosis.json'} has more)"
    if run.rollbacks >= config.health.rollbacks:
        raise ArithmeticError(
            f"{told}; look at the data, lower the learning rate, or set config.health.rollbacks "
            f"above {run.rollbacks} to leave that data out"
        ) from error
    saved = checkpoints.steps()
    if saved and saved[0] >= error.first and error.first > config.checkpoint.every:
        raise ArithmeticError(
            f"{told}; the checkpoints from before, which to go back to, were not kept: keep more"
        ) from error
    console.print(f"{told}; going back to the last checkpoint, without that data")
    checkpoints.wait()
    checkpoints.forget_after(error.first - 1)
    again = restored(config, compiled, checkpoints)
    again.positions = run.positions.without(error.first - 1, error.last)
    again.rollbacks = run.rollbacks + 1
    return again

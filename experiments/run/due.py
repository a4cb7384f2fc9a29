"""What is due at a step of a run, told from the step alone."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from ml_collections import ConfigDict

__all__ = ["Calendar", "Due", "calendar"]


class Due(NamedTuple):
    """What to do after a step, in this order; after `stop` the run ends, and goes on later."""

    log: bool
    save: bool
    stop: bool
    draw: bool


@dataclass(frozen=True)
class Calendar:
    """A run of `steps`, with something due at every so many of them, and everything at the last."""

    steps: int
    log: int
    save: int
    draw: int

    def at(self, step: int, *, told: bool = False) -> Due:
        """What is due at a step, where the run was `told` to stop or not.

        A run that stops saves first, and draws later, when it goes on.
        """
        ends = step == self.steps
        stop = told and not ends
        return Due(
            log=ends or step % self.log == 0,
            save=ends or told or step % self.save == 0,
            stop=stop,
            draw=not stop and (ends or step % self.draw == 0),
        )

    def stride(self, start: int, most: int) -> int:
        """The most steps a call, from `start` on, after which anything can be due."""
        return math.gcd(most, self.log, self.draw, self.save, self.steps, start)


def calendar(config: ConfigDict) -> Calendar:
    """As the config says."""
    return Calendar(
        steps=config.steps,
        log=config.log.every,
        save=config.checkpoint.every,
        draw=config.log.pictures_every,
    )

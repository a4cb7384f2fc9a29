"""What is due at a step of a run, told from the step alone."""

import math
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Calendar", "Due"]


class Due(NamedTuple):
    """What to do after a step, in this order; after `stop` the run ends, and goes on later.

    To look is to validate, or to draw samples.
    """

    log: bool
    save: bool
    stop: bool
    look: bool


@dataclass(frozen=True)
class Calendar:
    """A run of `steps`, with something due at every so many of them, and everything at the last."""

    steps: int
    log: int
    save: int
    look: int

    def at(self, step: int, *, told: bool = False) -> Due:
        """What is due at a step, where the run was `told` to stop or not.

        A run that stops saves first, and looks later, when it goes on.
        """
        ends = step == self.steps
        stop = told and not ends
        return Due(
            log=ends or step % self.log == 0,
            save=ends or told or step % self.save == 0,
            stop=stop,
            look=not stop and (ends or step % self.look == 0),
        )

    def stride(self, start: int, most: int) -> int:
        """The most steps a call, from `start` on, after which anything can be due."""
        return math.gcd(most, self.log, self.look, self.save, self.steps, start)

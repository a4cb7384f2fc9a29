r"""How long a step takes at least, by what the chip can do.

(1)  compute = operations / (devices * peak)

(2)  memory = bytes touched / bandwidth

(3)  links = sum over collectives of  times * sent / rate

where of an array of $B$ bytes over $g$ devices each sends $B (g - 1) / g$ in an all-gather, a
reduce-scatter or an all-to-all, twice that in an all-reduce, and $B$ in a permutation: the ring,
which no algorithm beats in bytes (Patarasuk & Yuan, 2009, Bandwidth optimal all-reduce algorithms
for clusters of workstations, JPDC 69(2)). The rate is that of the links, or of the network where
the devices stand in several nodes.

(4)  max(compute, memory, links) <= step <= max(compute, memory) + links

the first where everything overlaps, the second where nothing overlaps the links.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxflow.training.cost import Chip, Collective

__all__ = ["Roofline", "roofline", "sent"]


class Roofline(NamedTuple):
    """Seconds of a step by (1) to (4), and the share of the peak at the slower end of (4)."""

    compute: float
    memory: float
    links: float
    fastest: float
    slowest: float
    utilisation: float


def sent(one: Collective, devices: int) -> float:
    """Bytes that a device sends for a collective, each time; of all devices where it names none."""
    group = len(one.group) or devices
    share = {"all-reduce": 2 * (group - 1) / group, "collective-permute": 1.0}
    return one.bytes * share.get(one.kind, (group - 1) / group)


def roofline(
    chip: Chip,
    operations: int,
    touched: int,
    moved: Sequence[Collective],
    *,
    devices: int,
    node: int,
) -> Roofline:
    """The equations above.

    Args:
        chip: of `jaxflow.training.CHIPS`, with all of its figures.
        operations: of a step, over all devices.
        touched: bytes of memory, of one device.
        moved: by collectives.
        devices: how many there are.
        node: how many of them share links; collectives beyond run over the network.
    """
    assert chip.bandwidth is not None
    assert chip.links is not None
    assert chip.network is not None
    compute = operations / (devices * chip.flops)
    memory = touched / chip.bandwidth
    links = 0.0
    for one in moved:
        group = one.group or tuple(range(devices))
        within = len({device // node for device in group}) == 1
        links += one.times * sent(one, devices) / (chip.links if within else chip.network)
    fastest, slowest = max(compute, memory, links), max(compute, memory) + links
    return Roofline(compute, memory, links, fastest, slowest, compute / slowest)

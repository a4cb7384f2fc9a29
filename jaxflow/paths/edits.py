r"""The path of edits: sequences of any length, by insertions, substitutions and deletions.

A sequence is padded at its end by the token after the vocabulary, which stands for nothing, and
the empty sequence is all padding. A pair is aligned: $z_0, z_1$ are $x_0, x_1$ with blanks between
their tokens, which make them equally long. Each place of the alignment is the data's with a
probability that grows with time, and blanks are not seen,

(1) $p_t(z \mid z_0, z_1) = \prod_i \left[ \kappa_t\, \delta(z^i, z_1^i)
    + (1 - \kappa_t)\, \delta(z^i, z_0^i) \right]$ and $x_t = z_t$ without its blanks

A place that is missing, $z_t^i \ne z_1^i$, becomes the data's at the rate $\dot\tau_t$ of the clock
$\tau_t = -\log(1 - \kappa_t)$. That is an edit of $x_t$: an insertion where $z_t^i$ is blank, a
deletion where $z_1^i$ is, and else a substitution. The rate of an edit $e$ that has the marginals
of the data is the expected number of missing places whose edit it is,

(2) $u_t(e \mid x) = \dot\tau_t\, r_t(e \mid x)$ with
    $r_t(e \mid x) = E\!\left[ \#\{i: e_i = e\} \mid x_t = x \right]$

of which a network says the logarithm, place by place of $x$: that of all insertions after it, of
all substitutions of it and of its deletion, and the laws $Q$ of the token,

(3) $r(\mathrm{ins}, i, a) = \lambda^{\mathrm{ins}}_i\, Q^{\mathrm{ins}}_i(a)$,
    $r(\mathrm{sub}, i, a) = \lambda^{\mathrm{sub}}_i\, Q^{\mathrm{sub}}_i(a)$,
    $r(\mathrm{del}, i) = \lambda^{\mathrm{del}}_i$

Place 0 is before the first token: there is an insertion after it, and nothing else. From $t$ to $s$
a missing place becomes the data's with the probability

(4) $(\kappa_s - \kappa_t) / (1 - \kappa_t)$

Several edits may lead to one sequence, as an insertion of a letter before or after itself. They
stay apart in (2), and the rate of the sequence is their sum: that of the marginals (Theorem 3.1 of
Havasi et al., with the edits of $x$ for its $z$).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import at_least_float32, is_concrete
from jaxflow.checks import check_made
from jaxflow.paths.alignment import alignment, alignment_length, compacted
from jaxflow.paths.kappas import Kappa, as_kappa, linear
from jaxflow.paths.mixture import check_latent, check_tokens, uniform_numbers
from jaxflow.records import record, static
from jaxflow.sources import Mask
from jaxflow.types import (
    AnyArray,
    Array,
    Data,
    Float,
    Int,
    Interval,
    Key,
    PathSample,
    Shaped,
    Source,
    Time,
)

__all__ = ["DELETE", "INSERT", "SUBSTITUTE", "Edits", "Missing", "edits"]

INSERT, SUBSTITUTE, DELETE = range(3)

Sequences = Shaped[AnyArray, "batch length"]


@record
class Missing:
    """A point of the path, and the edit of each place of the alignment that is not the data's.

    `x [batch, places]` is the sequence. Of each place of the alignment, `kind` is INSERT,
    SUBSTITUTE or DELETE, or -1 where nothing is missing, `place` the place of `x` that it is of
    (after which, for an insertion), counted from 1, and `token` the one that comes.
    """

    x: Int[Array, "batch places"]
    kind: Int[Array, "batch places"]
    place: Int[Array, "batch places"]
    token: Int[Array, "batch places"]


@record
class Edits:
    """The path (1) of a vocabulary, with the source that it is for where that is known."""

    kappa: Kappa
    source: Source | None
    vocabulary: int = static()

    @property
    def interval(self) -> Interval:
        """Until some 1e-5 of the edits is missing."""
        return 0.0, self.kappa.last

    @property
    def from_empty(self) -> bool:
        """Whether all sequences begin empty, so that nothing needs to be aligned."""
        return isinstance(self.source, Mask) and self.source.token == self.vocabulary

    def places(self, length: int) -> int:
        """How long a sequence on the way may be between two of a length.

        As long as they from the empty sequence. Else half as long again: an alignment with the
        fewest edits holds no more places.
        """
        return length if self.from_empty else alignment_length(length)

    def padded(self, x: Sequences) -> Shaped[Array, "batch places"]:
        """The sequences with room for all that they may become on the way."""
        more = self.places(x.shape[1]) - x.shape[1]
        return jnp.pad(x, ((0, 0), (0, more)), constant_values=self.vocabulary)

    def latent(self, key: Key, x0: Data) -> Float[Array, "batch places"]:
        """A uniform number a place of the alignment: it is the data's once kappa exceeds it."""
        return uniform_numbers(key, jnp.zeros((len(x0), self.places(x0.shape[1]))))

    def __call__(self, t: Time, x0: Data, x1: Data, z: Any = None) -> PathSample:
        """The point (1), of `places(length)` places; sequences have no velocity and no score.

        Raises:
            ValueError: as `missing`.
        """
        return PathSample(at_least_float32(t), self.missing(t, x0, x1, z).x, None, x0, x1)

    def missing(self, t: Time, x0: Data, x1: Data, z: Any) -> Missing:
        """The point (1), and what it is missing.

        Raises:
            ValueError: where `t` is not `[batch]`, `z` is missing or of another shape, or a
                sequence is no tokens `[batch, length]`, has tokens outside the vocabulary or
                padding before its end, or is not empty at the source where the path begins so;
                what values are is only known outside of `jit`.
        """
        self.check_sequences(x0=x0, x1=x1)
        if jnp.shape(t) != jnp.shape(x1)[:1]:
            raise ValueError(
                f"t has shape {jnp.shape(t)} and x1 {jnp.shape(x1)}: a sequence has one time, "
                "t [batch]"
            )
        z0, z1 = self.align(x0, x1)
        check_latent(z, z1)
        nothing = self.vocabulary
        now = jnp.where(z < self.kappa(at_least_float32(t))[:, None], z1, z0)
        present = now != nothing
        kind = jnp.where(present, jnp.where(z1 == nothing, DELETE, SUBSTITUTE), INSERT)
        place = jnp.cumsum(present, axis=1, dtype=jnp.int32)
        return Missing(compacted(now, nothing), jnp.where(now == z1, -1, kind), place, z1)

    def align(self, x0: Sequences, x1: Sequences) -> tuple[Array, Array]:
        """The sequences with blanks, `vocabulary`, at which the other has a token of its own.

        The alignment has the fewest edits (`jaxflow.paths.alignment`). Places that neither uses
        stand at the end.
        """
        x0, x1 = (jnp.asarray(x, jnp.int32) for x in (x0, x1))
        return (x0, x1) if self.from_empty else alignment(x0, x1, self.vocabulary)

    def log_rates(self, x: Sequences, said: Mapping[str, Array]) -> Float[Array, "batch places 3"]:
        r"""The $\log \lambda$ of (3), minus infinity where there is no such edit.

        Args:
            x: `[batch, length]`.
            said: what a network says of them: `"log_rates" [batch, length + 1, 3]`, of insertion
                after each place, substitution and deletion, and logits of the tokens that come,
                `"insert"` and `"substitute"`, `[batch, length + 1, vocabulary]`. What it says of
                places without a token is not read.

        Raises:
            ValueError: for anything else.
        """
        self._check_said(x, said)
        token = jnp.pad(x != self.vocabulary, ((0, 0), (1, 0)))
        place = token.at[:, 0].set(True)
        possible = jnp.stack([place, token & (self.vocabulary > 1), token], axis=-1)
        return jnp.where(possible, at_least_float32(said["log_rates"]), -jnp.inf)

    def share(self, t: Time, s: Time) -> Float[Array, "batch"]:
        """The probability (4)."""
        now, then = (self.kappa(at_least_float32(time)) for time in (t, s))
        return jnp.where(now < 1, (then - now) / jnp.where(now < 1, 1 - now, 1.0), 1.0)

    def clock_rate(self, t: Time) -> Float[Array, "batch"]:
        """The slope of the clock, finite on `interval`; beyond it that of its nearer end."""
        t = jnp.clip(at_least_float32(t), *self.interval)
        kappa, slope = jax.jvp(self.kappa, (t,), (jnp.ones_like(t),))
        return slope / (1 - kappa)

    def check_sequences(self, **sequences: Any) -> None:
        """Refuse what is no sequences, by name; values where they are known.

        Raises:
            ValueError: naming what was given.
        """
        check_tokens(*sequences.values())
        for name, x in sequences.items():
            if jnp.ndim(x) != 2 or not jnp.size(x):
                raise ValueError(
                    f"{name} has shape {jnp.shape(x)}: sequences are [batch, length], padded at "
                    f"their end by {self.vocabulary}, the token after the vocabulary"
                )
            if is_concrete(x):
                self._check_values(name, np.asarray(x))

    def _check_values(self, name: str, x: np.ndarray) -> None:
        if x.min() < 0 or x.max() > self.vocabulary:
            raise ValueError(
                f"{name} has tokens from {x.min()} to {x.max()}: those of this vocabulary run from "
                f"0 to {self.vocabulary - 1}, and {self.vocabulary} is padding"
            )
        blank = x == self.vocabulary
        if np.any(blank[:, :-1] & ~blank[:, 1:]):
            row = int(np.argmax(np.any(blank[:, :-1] & ~blank[:, 1:], axis=1)))
            raise ValueError(
                f"{name}[{row}] is {x[row].tolist()}, with padding, {self.vocabulary}, before its "
                "last token: a sequence is padded at its end alone"
            )
        if name == "x0" and self.from_empty and not np.all(blank):
            raise ValueError(
                "the path begins at the empty sequence, and x0 has tokens: for pairs of sequences "
                "build it without a source, paths.edits(vocabulary)"
            )

    def _check_said(self, x: Any, said: Any) -> None:
        batch, length = jnp.shape(x)
        sizes = {"log_rates": 3, "insert": self.vocabulary, "substitute": self.vocabulary}
        wanted = {name: (batch, length + 1, size) for name, size in sizes.items()}
        found: Any = type(said).__name__
        if isinstance(said, Mapping):
            found = {name: jnp.shape(value) for name, value in said.items()}
        if found != wanted:
            raise ValueError(
                f"for sequences of shape {(batch, length)} a network of edits returns arrays of "
                f"the shapes {wanted}, a place before the first token among them; got {found}"
            )


def edits(vocabulary: int, kappa: Any = None, *, source: Source | None = None) -> Edits:
    """The path of edits (1), on the clock of kappa.

    Args:
        vocabulary: tokens run from 0 to `vocabulary - 1`, and `vocabulary` is padding.
        kappa: the share of data by time, one of `kappas` or a function that rises from 0 to 1;
            linear where None.
        source: that of `draws.standard`. From `sources.mask(vocabulary)`, the empty sequence,
            there are insertions alone, and nothing is aligned. None where it is data too.

    Raises:
        TypeError: for a kappa that is no function.
        ValueError: for an empty vocabulary, a mask beyond its padding, or a kappa whose ends are
            not 0 and 1, that falls or that differs by place.

    Havasi et al., Edit Flows: Flow Matching with Edit Operations, 2025, arXiv:2506.09018, eq. 13 to
    15 and 19 to 22; a place before the first token stands for their token at the beginning, and
    rates are by the clock, as those of `paths.mixture`, so that a network need not grow without
    bound towards the data.

    >>> path = edits(5)  # 5 is padding
    >>> x0, x1 = jnp.array([[1, 2, 3, 5]]), jnp.array([[2, 4, 3, 3]])
    >>> [z.tolist() for z in path.align(x0, x1)]
    [[[1, 2, 3, 5, 5, 5]], [[2, 4, 3, 3, 5, 5]]]
    >>> path(jnp.array([0.5]), x0, x1, jnp.array([[0.1, 0.9, 0.1, 0.1, 0.1, 0.1]])).x
    Array([[2, 2, 3, 3, 5, 5]], dtype=int32)
    """
    check_made("kappa", kappa)
    check_made("source", source)
    if not (isinstance(vocabulary, int) and vocabulary >= 1):
        raise ValueError(f"edits needs a vocabulary of at least 1 token; got {vocabulary!r}")
    if isinstance(source, Mask) and source.token > vocabulary:
        raise ValueError(
            f"the source is token {source.token}, and padding is {vocabulary}: the empty sequence "
            f"is sources.mask({vocabulary})"
        )
    kappa = linear() if kappa is None else as_kappa(kappa)
    if jnp.shape(kappa(jnp.zeros((1, 1)))) != (1, 1):
        raise ValueError(
            f"{kappa!r} differs by place, and the places of sequences shift: give one for all"
        )
    return Edits(kappa, source, vocabulary)

"""Sequences of a few letters, their edits and the path of edits over all of them, in plain Python.

A sequence is a tuple of letters, and an edit a triple of its kind, place and letter; nothing here
reads how `jaxflow` finds or makes them but for the points of the path, of which every one there is
is looked at.
"""

import itertools

import jax.numpy as jnp
import numpy as np

from jaxflow import paths, sources
from jaxflow.paths.edits import DELETE, INSERT, SUBSTITUTE


def every(letters, longest):
    """All sequences up to a length."""
    lengths = range(longest + 1)
    return [s for n in lengths for s in itertools.product(range(letters), repeat=n)]


def padded(sequences, length, nothing):
    """As an array `[batch, length]`."""
    rows = [list(s) + [nothing] * (length - len(s)) for s in sequences]
    return np.array(rows, np.int32).reshape(len(rows), length)


def unpadded(x, nothing):
    """Their tuples."""
    return [tuple(int(token) for token in row if token != nothing) for row in np.asarray(x)]


def edited(x, marks):
    """All edits of one sequence made at once; insertions at one place in their order."""
    changed = {place: (kind, token) for kind, place, token in marks if kind != INSERT}
    found = []
    for place in range(len(x) + 1):
        if place:
            kind, token = changed.get(place, (None, x[place - 1]))
            found += [] if kind == DELETE else [token]
        found += [token for kind, at, token in marks if kind == INSERT and at == place]
    return tuple(found)


def marks_of(missing, row):
    """The edits that are missing from one point of the path."""
    columns = (np.asarray(a)[row].tolist() for a in (missing.kind, missing.place, missing.token))
    return [(kind, place, token) for kind, place, token in zip(*columns, strict=True) if kind >= 0]


class Exact:
    """What the path says of every sequence on the way, for data pairs of known weights."""

    def __init__(self, path, pairs, weights, length):
        self.path, self.letters, self.length = path, path.vocabulary, length
        self.nothing, self.room = path.vocabulary, path.places(length)
        masks = np.array(list(itertools.product([0.0, 1.0], repeat=self.room)))
        self.of_pair = np.repeat(np.arange(len(pairs)), len(masks))
        x0, x1 = (padded(side, length, self.nothing) for side in zip(*pairs, strict=True))
        self.x0, self.x1 = x0[self.of_pair], x1[self.of_pair]
        self.z = np.tile(masks, (len(pairs), 1))  # 0 for a place that is the data's, 1 for not
        self.weights = np.asarray(weights)[self.of_pair]
        t = jnp.full(len(self.z), 0.5)
        self.missing = path.missing(t, self.x0, self.x1, self.z)
        x = unpadded(self.missing.x, self.nothing)
        self.states = sorted(set(x), key=lambda s: (len(s), s))
        self.number = {s: i for i, s in enumerate(self.states)}
        self.at = np.array([self.number[s] for s in x])
        self.counts = self._counts()

    def _counts(self):
        """How many missing places have each edit, `[points, places, kinds, letters]`."""
        counts = np.zeros((len(self.z), self.room + 1, 3, self.letters))
        for row in range(len(self.z)):
            for kind, place, token in marks_of(self.missing, row):
                counts[row, place, kind, 0 if kind == DELETE else token] += 1
        return counts

    def shares(self, kappa):
        """The probability of every point, and its slope by kappa."""
        source = self.z.sum(1)
        data = self.room - source
        share = kappa**data * (1 - kappa) ** source
        slope = data * kappa ** np.maximum(data - 1, 0) * (1 - kappa) ** source
        slope -= source * kappa**data * (1 - kappa) ** np.maximum(source - 1, 0)
        return self.weights * share, self.weights * slope

    def law(self, kappa):
        """Of the sequences on the way, and its slope by kappa."""
        sizes = {"minlength": len(self.states)}
        return tuple(np.bincount(self.at, share, **sizes) for share in self.shares(kappa))

    def rates(self, kappa):
        """By clock time, `[states, places, kinds, letters]`."""
        total = np.zeros((len(self.states), *self.counts.shape[1:]))
        np.add.at(total, self.at, self.shares(kappa)[0][:, None, None, None] * self.counts)
        law = self.law(kappa)[0]
        return total / np.where(law > 0, law, 1.0)[:, None, None, None]

    def said(self, rates):
        """What a network would say of every sequence that has these rates, and of what is no edit
        what it likes.
        """
        with np.errstate(divide="ignore"):
            log_rates, logits = np.log(rates.sum(-1)), np.log(rates)
        logits = np.where(np.isfinite(log_rates)[..., None], logits, 0.0)
        for i, x in enumerate(self.states):
            log_rates[i, len(x) + 1 :] = log_rates[i, 0, 1:] = 2.0
            logits[i, np.arange(1, len(x) + 1), SUBSTITUTE, list(x)] = 1.0
        insert, substitute = logits[:, :, INSERT], logits[:, :, SUBSTITUTE]
        return {"log_rates": log_rates, "insert": insert, "substitute": substitute}

    def generator(self, rates):
        """That of sequences, `[to, from]`."""
        matrix = np.zeros((len(self.states),) * 2)
        for i, place, kind, token in np.argwhere(rates > 0):
            to = edited(self.states[i], [(kind, place, token)])
            matrix[self.number[to], i] += rates[i, place, kind, token]
        return matrix - np.diag(matrix.sum(0))

    def data(self):
        """The law of the data."""
        pairs = np.unique(self.of_pair, return_index=True)[1]
        law = np.zeros(len(self.states))
        for row in pairs:
            law[self.number[unpadded(self.x1[row][None], self.nothing)[0]]] += self.weights[row]
        return law

    def network(self):
        """`(params, t, x) -> params` of the sequence, params being what is said of every one."""
        states = jnp.asarray(padded(self.states, self.room, self.nothing))

        def said(params, t, x, *, key=None):
            index = jnp.argmax(jnp.all(x[:, None] == states, axis=-1), axis=1)
            return {name: table[index] for name, table in params.items()}

        return said


LETTERS, LONGEST = 2, 3


def from_empty(kappa=None):
    """All sequences of two letters up to three of them, from the empty one."""
    data = every(LETTERS, LONGEST)
    weights = np.random.default_rng(0).dirichlet(np.full(len(data), 2.0))
    path = paths.edits(LETTERS, kappa, source=sources.mask(LETTERS))
    return Exact(path, [((), s) for s in data], weights, LONGEST)


def between(kappa=None):
    """Pairs that are inserted into, substituted, deleted from and left as they are."""
    rng, data = np.random.default_rng(1), every(LETTERS, LONGEST)
    pairs = [((0, 1, 0), (1, 0, 1)), ((1, 1, 1), ()), ((0,), (0,)), ((), (1, 1))]
    pairs += [tuple(data[i] for i in rng.integers(0, len(data), 2)) for _ in range(9)]
    return Exact(paths.edits(LETTERS, kappa), pairs, rng.dirichlet(np.ones(len(pairs))), LONGEST)


CASES = {"from_empty": from_empty, "between": between}

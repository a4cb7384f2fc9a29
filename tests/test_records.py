"""Records are pytrees whose structure knows their class."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxflow import times
from jaxflow.records import record, static

ROOT = Path(__file__).parent.parent


@record
class Plus:
    x: jax.Array
    n: int = static(default=1)


@record
class Minus:
    x: jax.Array
    n: int = static(default=1)


def test_structures_of_two_classes_differ():
    """By `register_dataclass` they are equal, and a compiled function may mistake them."""
    plus, minus = (jax.tree.structure(cls(1.0)) for cls in (Plus, Minus))
    assert plus != minus
    assert plus == jax.tree.structure(Plus(2.0))
    assert plus != jax.tree.structure(Plus(1.0, 2))
    kinds = [times.uniform(), times.cosine_map(), times.stratified(times.uniform())]
    structures = [jax.tree.structure(kind) for kind in kinds]
    assert all((a == b) == (a is b) for a in structures for b in structures)


def test_leaves_have_the_names_of_their_fields():
    ((path, leaf),), structure = jax.tree_util.tree_flatten_with_path(Plus(3.0, 4))
    assert jax.tree_util.keystr(path, simple=True) == "x"
    assert jax.tree.unflatten(structure, [leaf]) == Plus(3.0, 4)
    assert jax.tree.leaves(Plus(None)) == []


def test_new_leaves_do_not_retrace_and_new_statics_do():
    traces = []

    @jax.jit
    def power(r):
        traces.append(None)
        return r.x**r.n

    assert [float(power(Plus(jnp.float32(x), n))) for x, n in [(2, 1), (3, 1), (3, 2)]] == [2, 3, 9]
    assert len(traces) == 2


def test_they_are_frozen():
    with pytest.raises(AttributeError):
        Plus(1.0).x = 2.0


@pytest.mark.parametrize("folder", ["jaxflow", "experiments", "benchmarks", "tests"])
def test_no_other_kind_is_registered(folder):
    """By the functions whose structures do not know their class."""
    for file in (ROOT / folder).rglob("*.py"):
        if file not in (ROOT / "jaxflow" / "records.py", Path(__file__)):
            text = file.read_text()
            assert "register_dataclass" not in text, file
            assert "struct.dataclass" not in text, file

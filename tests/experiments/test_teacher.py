"""Runs that learn from another run, or start from one."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from configs import two_moons
from configs.few_step.methods import METHODS, TAUGHT, few_step
from experiments.output.generate import average, generator
from experiments.run import loop, workdir
from experiments.run.beginning import begun
from experiments.setup import build, dataset
from experiments.setup.check import check, check_parts
from experiments.setup.learns import learns_map
from experiments.setup.states import abstract_state
from experiments.setup.taught import check_teacher
from jaxflow.training.checkpoint import Checkpoints
from tests.experiments.conftest import shared_programs, tiny, tiny_digits
from tests.experiments.test_runs import numbers


def tiny_moons() -> ConfigDict:
    config = tiny(two_moons.get_config())
    config.network.kwargs.update({"width": 8, "depth": 1})
    config.optimizer.kwargs.learning_rate = {"name": "constant", "kwargs": {"peak": 1e-2}}
    config.sampler.kwargs.update({"rtol": 0.1, "atol": 0.1})
    return config


def saved(folder: Path, config: ConfigDict, step: int = 0) -> Path:
    """The folder of a run that stands at a step, with parameters and an average of no training."""
    workdir.create(epath.Path(folder), config)
    noise = np.random.default_rng(step)
    params = jax.tree.map(
        lambda a: a + noise.standard_normal(a.shape, np.float32),
        build.parameters(config, jax.random.key(0)),
    )
    state = build.trainer(config).init(params, jax.random.key(0))
    state = dataclasses.replace(state, step=jnp.int32(step))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(state)
    return folder


def student_of(folder: Path, config: ConfigDict, method: str = "lagrangian_distillation") -> Any:
    config = few_step(config, method)
    config.batch_size = 32
    config.teacher = str(folder)
    return config


def changed(config: ConfigDict, change: dict[str, Any]) -> ConfigDict:
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict(change)
    return config


def equal(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("digits"), tiny_digits())


def points() -> tuple[Any, Any, Any, dict[str, Any]]:
    rng = np.random.default_rng(1)
    t, r = np.sort(rng.uniform(size=(2, 4)).astype(np.float32), axis=0)
    x = rng.standard_normal((4, 8, 8, 1)).astype(np.float32)
    return jnp.asarray(t), jnp.asarray(r), jnp.asarray(x), {"label": jnp.arange(4)}


def guided_by(guidance: Any) -> Callable[[], ConfigDict]:
    def config() -> ConfigDict:
        return changed(tiny_digits(), {"sampler.guidance": guidance})

    return config


@pytest.mark.parametrize(
    "other",
    [
        guided_by(1.0),
        guided_by(2.5),
        guided_by({"name": "composed", "kwargs": {"scales": {"label": 2.0}}}),
        lambda: changed(tiny_digits(), {"loss.kwargs": {"prediction": "data"}}),
        lambda: few_step(tiny_digits(), "mean_flow"),
        lambda: changed(
            few_step(tiny_digits(), "mean_flow"), {"guided.most": 4.0, "sampler.guidance": 3.0}
        ),
    ],
    ids=["plain", "guided", "composed", "data", "flow map", "flow map, told"],
)
def test_a_teacher_is_the_velocity_of_its_run(other: Any, tmp_path: Path) -> None:
    """To the bit, and the flow map where the run learned one and is asked for it."""
    config = other()
    workdir.create(epath.Path(tmp_path), config)
    taught = build.teacher(student_of(tmp_path, tiny_digits()))
    assert taught is not None
    params = build.parameters(config, jax.random.key(1))
    params = jax.tree.map(lambda a: a + 0.1, params)
    t, r, x, cond = points()
    velocity = build.velocity(config, params)(t, x, **cond)
    equal(taught(params, t, x, **cond), velocity)
    told = {"guidance": np.float32([[3.0, 0.0, 1.0]] * len(t))} if config.guided.most else {}
    learned = build.network(config)
    average = learned(params, t, x, r=r, **cond, **told) if learns_map(config) else velocity
    equal(taught(params, t, x, r=r, **cond), average)
    assert np.any(average != velocity) == learns_map(config)
    arrays = sum(np.size(a) for a in jax.tree.leaves(taught))
    most = 6 if config.guided.most else 2  # the map and its velocity, both told three numbers
    assert arrays <= most, "the scale and the null; parameters come with the state"


@pytest.mark.parametrize("method", TAUGHT)
def test_every_distillation_builds(method: str, tmp_path: Path) -> None:
    """Its loss has a gradient, which differs with the parameters of the teacher."""
    config = student_of(saved(tmp_path, tiny_moons()), tiny_moons(), method)
    check(config)
    trainer = build.trainer(config)
    params = build.parameters(config, jax.random.key(0))
    frozen = average(epath.Path(tmp_path)).params
    state = trainer.init(params, jax.random.key(0), frozen)
    batch = trainer.draw(jax.random.key(0), dataset.example_batch(config, 8))

    @jax.jit
    def gradient(frozen: Any, params: Any) -> Any:
        held = build.training.held_by(state)
        held = dataclasses.replace(held, frozen=frozen)
        return jax.grad(lambda p: trainer.loss(p, None, batch, held)[0])(params)

    taught = gradient(frozen, params)
    other = gradient(jax.tree.map(lambda a: a + 0.1, frozen), params)
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(taught))
    assert jax.tree.structure(taught) == jax.tree.structure(params)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (taught, other)), strict=True))


class Distilled(NamedTuple):
    """A student that was trained at once, and one that stopped while its teacher went on."""

    config: ConfigDict
    teacher: Path
    folder: Path
    frozen: Any
    straight: Any
    resumed: Any


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    root = tmp_path_factory.mktemp("distilled")
    teacher = saved(root / "teacher", tiny_moons())
    start = saved(root / "start", tiny_moons())
    frozen = jax.device_get(average(epath.Path(teacher)).params)
    config = student_of(teacher, tiny_moons())
    config.start = str(start)
    check(config)
    states = []
    with shared_programs():
        for name, stops in (("straight", [4]), ("resumed", [2, 4])):
            for stop in stops:
                config.steps = stop
                workdir.create(epath.Path(root / name), config)
                trained = loop.train(config, epath.Path(root / name))
                if stop == 2:
                    saved(teacher, tiny_moons(), step=7)
                    shutil.rmtree(start)
            states.append(trained.state)
    assert average(epath.Path(teacher)).step == 7
    return Distilled(config, teacher, root / "resumed", frozen, *states)


def test_a_distilled_run_holds_its_teacher_frozen(distilled: Distilled) -> None:
    equal(distilled.straight.frozen, distilled.frozen)
    batch = dataset.example_batch(distilled.config)
    shapes = abstract_state(distilled.config, build.trainer(distilled.config), batch)
    assert jax.tree.structure(shapes) == jax.tree.structure(distilled.straight)
    for a, b in zip(*map(jax.tree.leaves, (shapes, distilled.straight)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_it_resumes_though_the_teacher_went_on_and_the_start_is_gone(distilled: Distilled) -> None:
    """To the bit, with the parameters that its own checkpoint holds."""
    equal(numbers(distilled.straight), numbers(distilled.resumed))


def test_a_student_is_sampled_without_its_teacher(distilled: Distilled, tmp_path: Path) -> None:
    folder = epath.Path(shutil.copytree(distilled.folder, tmp_path / "alone"))
    config = workdir.read_config(folder)
    with config.unlocked():
        config.teacher = config.start = str(tmp_path / "nowhere")
    check_parts(config)
    made = generator(config, 8).rows(average(folder).params, 0, 0, 8)
    assert np.all(np.isfinite(made.x))
    assert set(made.nfe) == {1}


def test_a_resumed_run_needs_the_teacher_as_it_was(distilled: Distilled, tmp_path: Path) -> None:
    """Wherever it lies now."""
    folder = epath.Path(shutil.copytree(distilled.folder, tmp_path / "student"))
    moved = shutil.copytree(distilled.teacher, tmp_path / "teacher")
    workdir.create(folder, changed(distilled.config, {"teacher": str(moved)}))
    before = (folder / "config.json").read_text()
    other = saved(tmp_path / "other", changed(tiny_moons(), {"network.kwargs.width": 4}))
    for name, error, told in (
        (str(other), ValueError, r"another teacher .*network\.kwargs\.width was 8 and is 4"),
        ("", ValueError, r"another teacher than config\.teacher='' \(.*guidance was 1\.0 and is N"),
        ("nowhere", FileNotFoundError, r"^config\.teacher: nowhere holds no run "),
    ):
        with pytest.raises(error, match=told):
            workdir.create(folder, changed(distilled.config, {"teacher": name}))
    assert (folder / "config.json").read_text() == before


def test_a_map_that_starts_from_a_flow_is_its_flow(
    digits_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same for every `r`, to the bit; what was read and what is fresh is said."""
    config = student_of(digits_run, tiny_digits())
    config.start = str(digits_run)
    state = begun(config, build.program(config))
    params, read = (
        jax.device_get(p) for p in (state.params, average(epath.Path(digits_run)).params)
    )
    t, r, x, cond = points()
    network = build.network(config)
    equal(network(params, t, x, r=r, **cond), network(read, t, x, **cond))
    equal(state.ema, params)
    said = " ".join(capsys.readouterr().out.split())
    count = sum(a.size for a in jax.tree.leaves(read))
    assert f"taught by step 0 of {digits_run}: {count:,} parameters, guidance 1" in said
    spans = "conditioning/span/Dense_0/kernel, conditioning/span/Dense_1/kernel"
    n = len(jax.tree.leaves(read))
    assert f"started from step 0 of {digits_run}: {n} of {n + 2} arrays; fresh: {spans}" in said
    back = changed(tiny_digits(), {"start": str(saved(digits_run.parent / "map", config))})
    begun(back, build.program(back))
    assert f"{n} of {n} arrays; not read: {spans}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"start": "nowhere"}, FileNotFoundError, r"^config\.start: .*nowhere.* no checkpoint"),
        ({"teacher": "nowhere"}, FileNotFoundError, r"^config\.teacher: .*nowhere.*no checkpoint"),
        (
            {"network.kwargs.width": 8},
            ValueError,
            r"^config\.start: .*shapes \(.*inward/bias is \(16,\) there and \(8,\) here.*: set",
        ),
        (
            {"network": {"name": "concat_mlp", "kwargs": {}}, "data.cond": (), "drop.rate": 0.0},
            ValueError,
            r"^config\.start: .* share no name .*\(block_0/.*Dense_0/.*\): set config\.network ",
        ),
    ],
)
def test_what_a_run_cannot_start_from(
    change: dict, error: type[Exception], told: str, digits_run: Path
) -> None:
    config = changed(tiny_digits(), {"start": str(digits_run), **change})
    with pytest.raises(error, match=told):
        begun(config, build.program(changed(config, {"teacher": ""})))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"teacher": None}, r"config\.loss \(lagrangian\) is to learn from .* --config\.teacher="),
        ({"loss.name": "mean_flow"}, r"\(mean_flow\) takes no teacher: name one of .*lagrangian"),
        ({"loss.name": "flow_matching"}, r"\(flow_matching\) takes no teacher"),
        ({"teacher": "nowhere"}, r"^config\.teacher: nowhere holds no run "),
        ({"path.name": "cosine"}, r"config\.path is cosine .*trained on linear .*--config\.path="),
        ({"source.name": "uniform"}, r"config\.source is uniform .*trained on normal .*: set "),
        ({"data.cond": ()}, r"config\.data\.cond is \[\], but .* trained with \['label'\]: set"),
        ({"network.kwargs.num_classes": 12}, r"num_classes is 12, .* is 10: set it to the same"),
        (
            {"drop.null": {"label": 9}},
            r"puts \{'label': 9\} .* never met .*: set config\.drop\.rate",
        ),
        ({"data.source": {"name": "moons", "kwargs": {}}}, r"shape \(2,\), .* \(8, 8, 1\): choose"),
    ],
)
def test_teachers_that_are_refused(change: dict, told: str, digits_run: Path) -> None:
    config = changed(student_of(digits_run, tiny_digits()), change)
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        check_teacher(config)


def test_more_teachers_that_are_refused(digits_run: Path, tmp_path: Path) -> None:
    both = changed(
        student_of(digits_run, tiny_digits(), "progressive"), {"loss.kwargs": {"by": "average"}}
    )
    with pytest.raises(ValueError, match=r"^config\.loss: semigroup .* by a teacher, .*got both"):
        check(both)
    guided = changed(few_step(tiny_digits(), "mean_flow"), {"sampler.guidance": 2.0})
    workdir.create(epath.Path(tmp_path), guided)
    with pytest.raises(ValueError, match=r"a flow map with sampler\.guidance 2\.0, .*set it to 1"):
        check_teacher(student_of(tmp_path, tiny_digits()))


def test_a_loss_that_needs_a_teacher(digits_run: Path) -> None:
    """Known by its signature; sampling needs none."""
    config = changed(student_of(digits_run, tiny_digits()), {"loss.name": "distribution_matching"})
    check(config)
    taught = build.teacher(config)
    assert taught is not None
    assert taught.gathers
    assert build.trainer(config).loss.teacher == taught
    config.teacher = ""
    check_parts(config)
    with pytest.raises(
        ValueError, match=r"config\.loss \(distribution_matching\) is to learn from"
    ):
        check(config)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_resumes_as_if_it_had_never_stopped(method: str, tmp_path: Path) -> None:
    """State, log and picture of four steps are those of two and two."""
    config = tiny_moons()
    teacher = saved(tmp_path / "teacher", config)
    config = few_step(config, method)
    taught = method in TAUGHT
    config.batch_size = 512
    config.teacher = config.start = str(teacher) if taught else ""
    if method == "alpha_flow":
        with config.ignore_type():
            config.loss.kwargs.alpha = 0.1  # not one that falls by the steps, which change here
    check(config)

    def run(name: str, steps: int) -> Any:
        config.steps = steps
        folder = epath.Path(tmp_path / name)
        workdir.create(folder, config)
        return loop.train(config, folder)

    straight = run("straight", 4)
    run("resumed", 2)
    resumed = run("resumed", 4)
    assert resumed.start == 2
    arrays = [
        [
            jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a
            for a in leaves
        ]
        for leaves in (jax.tree.leaves(each.state) for each in (straight, resumed))
    ]
    for a, b in zip(*arrays, strict=True):
        np.testing.assert_array_equal(a, b)
    pictures = [
        (tmp_path / name / "samples" / "step_0000004.png").read_bytes()
        for name in ("straight", "resumed")
    ]
    assert pictures[0] == pictures[1]

"""Wrong inputs end in one sentence with the remedy, and lose nothing."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from experiments.output.pictures import draw_loss
from experiments.run import exits, loop, reporting, workdir
from experiments.run.command import _told, fault_of_config_file
from experiments.setup import build, dataset
from experiments.setup.check import check, check_parts
from jaxflow import data

ROOT = Path(__file__).parents[2]
DIGITS = "--config=configs/digits.py"


def command(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        pytest.param(
            "train", [DIGITS, "--config.optimzer.clip=2.0"], ["optimizer"], marks=pytest.mark.slow
        ),
        pytest.param(
            "train",
            [DIGITS, "--workdir=gs://bucket/run"],
            ["pip install -e '.[gcs]'"],
            marks=pytest.mark.skipif(find_spec("gcsfs") is not None, reason="gcsfs is there"),
        ),
        pytest.param(
            "train",
            [DIGITS, "--config.path.kwargs.sigma_mn=0.1"],
            ["sigma_mn"],
            marks=pytest.mark.slow,
        ),
        ("train", [DIGITS, "--config.path.name=linaer"], ["did you mean 'linear'"]),
        ("train", ["--config=configs/no_such.py"], ["no_such"]),
        (
            "train",
            ["--config=configs/few_step/mean_flow.py:digit"],
            ["mean_flow.py, line", "there is no data 'digit'; known are two_moons, digits, "],
        ),
        (
            "train",
            [DIGITS, "--config.sampler.nme=x"],
            ["--config.sampler.nme=x: there is no such", "did you mean 'name'"],
        ),
        (
            "train",
            [DIGITS, "--coordinator=host", "--num_processes=2", "--process_id=0"],
            ["'host'"],
        ),
        ("sample", ["--num=4", "--output=x.npz"], ["experiments.train"]),
        ("evaluate", [], ["experiments.train"]),
    ],
)
def test_commands_end_in_a_sentence(
    module: str, arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    done = command(module, f"--workdir={tmp_path / 'run'}", *arguments)
    assert done.returncode != 0
    assert all(said in done.stderr for said in words)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = (\n", "line 1: SyntaxError: '(' was never closed"),
        ("import no_such_module", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def get_config():\n    return nmae", "line 2: NameError: name 'nmae' is not defined"),
        ("def get_config():\n    return {}['key']", "line 2: KeyError: key"),
        ("def get_config():\n    return int('x')", "line 2: ValueError: invalid literal for int"),
        ("def get_config():\n    return (1).nme", "line 2: AttributeError: 'int' object has no"),
        ("def get_config():\n\n    return 1 / 0", "line 3: ZeroDivisionError: division by zero"),
        ("config = 3", "has no get_config()"),
    ],
)
def test_faults_of_a_config_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    monkeypatch.delitem(sys.modules, "config_config", raising=False)  # of the case before
    file = tmp_path / "mine.py"
    file.write_text(text)
    known = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=known)
    argv = ["train", f"--config={file}", "--config.steps=3"]
    with pytest.raises(Exception) as raised:  # noqa: PT011
        known(argv)
    sentence = fault_of_config_file(raised.value, argv)
    assert sentence.startswith(str(file))
    assert told in sentence
    assert "\n" not in sentence


def test_other_faults_are_not_those_of_the_config_file() -> None:
    known = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=known)
    argv = ["train", DIGITS, "--config.optimzer.clip=2.0"]
    with pytest.raises(flags.Error) as raised:
        known(argv)
    assert not fault_of_config_file(raised.value, argv)


def test_a_config_file_that_raises_ends_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def get_config():\n    return nmae")
    done = command("train", f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == exits.WRONG_FLAG
    assert "mine.py, line 2: NameError" in done.stderr
    assert "Traceback" not in done.stderr


def test_data_without_the_split_of_evaluation(config: ConfigDict, tmp_path: Path) -> None:
    data.store("one", {"train": data.arrays(image=np.zeros((4, 8, 8, 1), np.uint8))}, tmp_path)
    kwargs = {"name": "one", "split": "train", "data_dir": str(tmp_path)}
    config.data.update({"cond": ()})
    config.data.source = {"name": "tfds", "kwargs": kwargs}
    remedy = r"no split 'test'.*has train; .*--config\.evaluation\.split=.*--test_share=0\.1"
    with pytest.raises(ValueError, match=remedy):
        dataset.check_held_out(config)
    with pytest.raises(ValueError, match=remedy):
        dataset.examples(config, "test")
    config.evaluation.split = "train[50%:]"
    dataset.check_held_out(config)


@pytest.mark.parametrize(
    ("module", "flag", "near"),
    [
        ("sample", "smapler.guidance=2.0", "sampler"),
        ("evaluate", "sampler.nme=x", "name"),
        pytest.param("sample", "sampler.nme=x", "name", marks=pytest.mark.slow),
        pytest.param("evaluate", "smapler.guidance=2.0", "sampler", marks=pytest.mark.slow),
    ],
)
def test_keys_that_the_config_of_a_run_lacks(
    module: str, flag: str, near: str, config: ConfigDict, tmp_path: Path
) -> None:
    workdir.create(epath.Path(tmp_path), config)
    done = command(module, f"--workdir={tmp_path}", f"--config.{flag}")
    assert done.returncode == exits.WRONG_FLAG
    assert done.stderr.startswith(f"error: --config.{flag}: there is no such key")
    assert f"did you mean '{near}'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_trace_of_steps_that_are_not_taken(config: ConfigDict, tmp_path: Path) -> None:
    for steps in [(10, 12), (3, 9)]:
        with pytest.raises(ValueError, match=rf"{steps[0]}:{steps[1]} must end .*1 to 4"):
            loop.train(config, epath.Path(tmp_path), steps)


def test_two_runs_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workdir, "HELD_SECONDS", 0.1)
    folder = epath.Path(tmp_path)
    with (
        workdir.held(folder),
        pytest.raises(BlockingIOError, match="another run is at work"),
        workdir.held(folder),
    ):
        pass
    with workdir.held(folder):
        pass


def test_errors_and_their_codes() -> None:
    for error, expected in [
        (ValueError("wrong"), ("wrong", exits.REFUSED)),
        (ChildProcessError("gone"), ("gone", exits.LOST)),
        (BlockingIOError("busy"), ("busy", exits.LOST)),
        (ConnectionError("nobody"), ("nobody", exits.LOST)),
        (TypeError("of ours"), ("", exits.WRONG_FLAG)),
    ]:
        assert _told(error) == expected


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    reporting.table("[/t]", {"folder": "runs/lr[adam]", "[b]": ":smile: [/x]"})
    said = capsys.readouterr().out
    assert all(word in said for word in ("[/t]", "runs/lr[adam]", "[b]", ":smile: [/x]"))


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = command("train", DIGITS, f"--workdir={tmp_path / 'file' / 'run'}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("coupling", {"name": "independant", "kwargs": {}}, "did you mean 'independent'"),
        ("times", {"name": "logit_normal", "kwargs": {"sd": 1.0}}, r"times.*'sd'"),
        ("times", {"name": "logit_normal", "kwargs": {"std": -1.0}}, "std > 0"),
        ("path", {"name": "vp", "kwargs": {"beta_mx": 1.0}}, "did you mean 'beta_max'"),
        ("path", "linear", "must be {'name'"),
        (
            "times",
            {"name": "stratified", "kwargs": {"times": {"name": "betta", "kwargs": {}}}},
            "times.kwargs.times.*did you mean 'beta'",
        ),
        ("sampler.kwargs.grid", {"name": "unifrom", "kwargs": {"n": 2}}, "did you mean 'uniform'"),
        ("sampler.kwargs.method", {"name": "huen", "kwargs": {}}, "did you mean 'heun'"),
        ("network", {"name": "mlp", "kwargs": {"wdth": 8}}, "did you mean 'width'"),
        ("loss", {"name": "flow_matching", "kwargs": {"prediction": "velocty"}}, "'velocity'"),
        ("optimizer.kwargs", {"learning_rat": 1e-3}, "did you mean 'learning_rate'"),
        ("parallel.layout", "datta", "datta"),
        ("parallel.mode", "pmapp", "pmap"),
        ("steps", 0, "config.steps must be .* at least 1; it is 0"),
        ("parallel.steps_per_call", 0, "config.parallel.steps_per_call must be .* at least 1"),
        ("parallel.microbatches", 0, "config.parallel.microbatches must be .* at least 1"),
        ("log.every", 0, "config.log.every must be .* at least 1"),
        ("log.pictures_every", 0, "config.log.pictures_every must be .* at least 1"),
        ("sampler.batch_size", 0, "config.sampler.batch_size must be .* at least 1"),
        ("checkpoint.keep_every", -1, "config.checkpoint.keep_every must be .* at least 0"),
        ("health.abort_after", 0, "config.health.abort_after must be .* at least 1"),
        ("health.stall_seconds", -5, "config.health.stall_seconds must be .* at least 0; it is -5"),
        ("optimizer.spike_deviations", np.nan, "config.optimizer.spike_deviations.*nan"),
        ("optimizer.clip", -1.0, "config.optimizer.clip must be .* at least 0; it is -1"),
        ("optimizer.clip", None, "config.optimizer.clip must be .*it is None"),
        ("optimizer.kwargs.learning_rate", -0.1, "learning_rate must be positive.*it is -0.1"),
        ("optimizer.kwargs.learning_rate", "fast", "it is 'fast'"),
        (
            "optimizer.kwargs.learning_rate",
            {"name": "constant", "kwargs": {"peak": -1.0}},
            "peak must be positive.*-1.0",
        ),
        ("sampler.guidance", np.nan, "config.sampler.guidance must be a finite number; it is nan"),
        ("drop.rate", 2.0, "rate"),
        ("drop.null", {"label": 99}, "label is 99, but the network has classes 0 to 9"),
        ("drop.null", {"label": "x"}, "'label' must be numbers; got 'x'"),
        ("drop.null", {"lable": 10}, r"'lable', but config.data.cond is \['label'\]"),
        ("network", {"name": "mlp", "kwargs": {"width": -4}}, "at least 1 for width; got -4"),
        ("network", {"name": "mlp", "kwargs": {"width": "64"}}, "got '64'"),
        ("network", {"name": "mlp", "kwargs": {"depth": -1}}, "at least 0 for depth; got -1"),
        ("network", {"name": "mlp", "kwargs": {"dropout": 1.5}}, "dropout; got 1.5"),
        ("network", {"name": "mlp", "kwargs": {"dtype": "float99"}}, "no dtype 'float99'"),
        ("network", {"name": "dit", "kwargs": {"patch": 0}}, "at least 1 for patch; got 0"),
        ("network", {"name": "unet", "kwargs": {"multipliers": [1, 0]}}, r"got \[1, 0\]"),
        ("optimizer.ema_decay", {"slow": 0.9}, r"has the averages \['slow'\].*drawn from 'ema'"),
        ("optimizer.ema_decay", {"ema": 1.5}, r"must lie in \[0, 1\); got 1.5"),
        (
            "loss",
            {"name": "flow_matching", "kwargs": {"prediction": "data", "regress": "velocity"}},
            r"a few examples make the loss: give weight=losses\.weights\.sigma\(path\)",
        ),
        (
            "loss",
            {"name": "contrastive", "kwargs": {"repulsion": 1.0}},
            "config.loss: contrastive needs 0 <= repulsion < 1; got 1.0",
        ),
        ("preconditioned.sigma_data", -1.0, "sigma_data must be .*positive, .*or 0 .*it is -1.0"),
        ("preconditioned.sigma_data", "half", "config.preconditioned.sigma_data must .*is 'half'"),
        ("preconditioned.sigma_data", np.nan, "config.preconditioned.sigma_data must .*is nan"),
        (
            "preconditioned.sigma_data",
            0.5,
            r"sigma_data is 0.5, .*\(flow_matching\) takes .* the velocity: .*prediction=data, or",
        ),
        ("self_condition.rate", 1.5, r"config.self_condition.rate must .*\[0, 1\], .*it is 1.5"),
        ("self_condition.rate", "often", "config.self_condition.rate must .*it is 'often'"),
        ("parallel.axes.tensor", 0, "tensor=0"),
        ("batch_size", 12, "a batch of 12 does not divide over 8 devices"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_every_part_of_a_config_is_checked_before_the_run(
    config: ConfigDict, key: str, value: object, words: str
) -> None:
    *sections, last = key.split(".")
    place = config
    for section in sections:
        place = place[section]
    with config.ignore_type():
        place[last] = value
    with pytest.raises(ValueError, match=words):
        check(config)


def test_a_score_of_dependent_pairs_is_refused(config: ConfigDict) -> None:
    """And read where pairs are independent, with the weight that the config names."""
    weight = {"name": "sigma", "kwargs": {}}
    with config.ignore_type():
        config.loss.kwargs = {"prediction": "score", "regress": "score", "weight": weight}
        config.optimizer.ema_decay = {"ema": 0.9, "target": 0.5}
    check(config)
    trainer = build.trainer(config)
    assert [name for name, _ in trainer.averages] == ["ema", "target"]
    for section, name in (("coupling", "optimal_transport"), ("source", "uniform")):
        other = config.copy_and_resolve_references()
        other[section].name = name
        with pytest.raises(ValueError, match=f"none is known where .*{name}"):
            check(other)


def test_guidance_without_a_null_value(config: ConfigDict) -> None:
    config.drop.rate, config.drop.null, config.sampler.guidance = 0.0, {}, 2.0
    with pytest.raises(ValueError, match=r"guidance is 2.0, but config.drop.null is empty"):
        check(config)


def test_guidance_may_be_a_component(config: ConfigDict) -> None:
    """Of a pair, a rule and an interval; what it refuses is said before a run begins."""
    rule = {"name": "projected", "kwargs": {"norm": 2.0}}
    kwargs = {"scale": 2.0, "interval": (0.2, 0.8), "rule": rule}
    config.sampler = {**config.sampler.to_dict(), "guidance": {}}
    config.sampler.guidance = {"name": "classifier_free", "kwargs": kwargs}
    check(config)
    guided = build.velocity(config, None)
    assert guided.evaluations == 2
    assert guided.rule.norm == 2.0
    config.sampler.guidance = {"name": "composed", "kwargs": {"scales": {"label": 3.0}}}
    check(config)
    assert build.velocity(config, None).evaluations == 2
    for guidance, told in (
        ({"name": "classifer_free", "kwargs": {}}, "did you mean 'classifier_free'"),
        ({"name": "classifier_free", "kwargs": {}}, "needs 'scale'"),
        (
            {"name": "classifier_free", "kwargs": {**kwargs, "interval": (0.2, 1.8)}},
            r"config.sampler.guidance: the interval of guidance is \(0.2, 1.8\)",
        ),
    ):
        config.sampler.guidance = guidance
        with pytest.raises(ValueError, match=told):
            check(config)


@pytest.mark.parametrize(
    ("section", "name", "words"),
    [
        ("path", "bridge", r"is 0\.7, but config\.path \(bridge\) has no schedule: .* 'edm', or"),
        ("loss", "contrastive", r"is 0\.7, so .*\(contrastive\) takes its output for the velocity"),
    ],
)
def test_what_does_not_go_with_preconditioning(
    config: ConfigDict, section: str, name: str, words: str
) -> None:
    config.preconditioned.sigma_data, config.loss.kwargs.prediction = 0.7, "data"
    check(config)
    config[section] = {"name": name, "kwargs": {"sigma": 0.5} if name == "bridge" else {}}
    with pytest.raises(ValueError, match=r"^config\.preconditioned\.sigma_data " + words):
        check(config)


def test_samples_are_drawn_on_devices_that_could_not_train(config: ConfigDict) -> None:
    config.parallel.layout, config.parallel.axes.fsdp = "hybrid", 3
    with pytest.raises(ValueError, match="8 devices"):
        check(config)
    check_parts(config)


def test_keys_that_are_missing_are_named(config: ConfigDict) -> None:
    del config["times"]
    del config.checkpoint["best"]
    with pytest.raises(ValueError, match=r"lacks times, checkpoint\.best$"):
        check(config)


def test_what_a_loss_takes_for_granted_need_not_be_said(config: ConfigDict) -> None:
    """The velocity to sample with knows what the network was trained to predict."""
    key = jax.random.key(0)
    said = build.learned(config, build.parameters(config, key))
    config.loss.kwargs = {}
    unsaid = build.learned(config, build.parameters(config, key))
    t, x = jnp.full(2, 0.5), jnp.ones((2, *dataset.example_batch(config)["x1"].shape[1:]))
    cond = {"label": jnp.zeros(2, jnp.int32)}
    np.testing.assert_array_equal(said(t, x, **cond), unsaid(t, x, **cond))


@pytest.mark.usefixtures("sharing")
def test_unknown_metric_for_the_best_checkpoint(config: ConfigDict, tmp_path: Path) -> None:
    config.checkpoint.best = "los"
    with pytest.raises(ValueError, match="'los'; known are grad_norm, loss"):
        loop.train(config, epath.Path(tmp_path))


def test_folder_of_another_run_is_left_alone(config: ConfigDict, tmp_path: Path) -> None:
    """Once it has saved; what a run may change is no other config."""
    other = ConfigDict(config)
    other.seed = 1
    workdir.create(tmp_path, other)
    workdir.create(tmp_path, config)
    before = (tmp_path / "config.json").read_text()
    (tmp_path / "checkpoints" / "10").mkdir()
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        workdir.create(tmp_path, other)
    assert (tmp_path / "config.json").read_text() == before
    config.steps, config.data.workers, config.data.source.kwargs.data_dir = 99, 1, "elsewhere"
    workdir.create(tmp_path, config)


def test_the_config_of_an_earlier_version(config: ConfigDict, tmp_path: Path) -> None:
    """Of which keys were not known yet: its run goes on, and is looked at, as it was."""
    workdir.create(tmp_path, config)
    old = json.loads((tmp_path / "config.json").read_text())
    for section in ("preconditioned", "self_condition", "teacher", "start"):
        del old[section]
    del old["parallel"]["keep_gathered"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    (tmp_path / "checkpoints" / "10").mkdir()
    found = workdir.read_config(epath.Path(tmp_path))
    check_parts(found)
    assert json.loads(found.to_json()) == json.loads(config.to_json())
    workdir.create(tmp_path, config)
    (tmp_path / "config.json").write_text(json.dumps(old))
    config.self_condition.rate = 0.5
    with pytest.raises(ValueError, match=r"self_condition.rate was 0.0 and is 0.5"):
        workdir.create(tmp_path, config)


@pytest.mark.parametrize("content", [b"[]", b"3", b'"x"', b"\xff", b"{"])
def test_a_damaged_snapshot_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config.json is damaged"):
        workdir.read_config(epath.Path(tmp_path))


def test_a_damaged_line_of_the_log_costs_no_other(tmp_path: Path) -> None:
    log = epath.Path(tmp_path / "metrics.jsonl")
    good = [b'{"step": 1, "loss": 2.0}', b'{"step": 2}', b'{"step": 3, "loss": null}']
    bad = [b"garbage", b"3", b'{"a": 1}', b'{"step": null}', b"\xff\xfe", b'{"step": 4, "lo']
    log.write_bytes(
        b"\n".join([bad[0], good[0], bad[1], bad[2], good[1], *bad[3:5], good[2], bad[5]])
    )
    assert [line["step"] for line in workdir.read_lines(log)] == [1, 2, 3]
    workdir.forget_after(log, 2)
    assert [line["step"] for line in workdir.read_lines(log)] == [1, 2]
    draw_loss(epath.Path(tmp_path / "loss.png"), workdir.read_lines(log))


def test_missing_data_set(config: ConfigDict, tmp_path: Path) -> None:
    kwargs = {"name": "no_such", "split": "train", "data_dir": str(tmp_path)}
    config.data.source = {"name": "tfds", "kwargs": kwargs}
    with pytest.raises(FileNotFoundError, match=r"experiments\.prepare"):
        loop.train(config, tmp_path)


@pytest.mark.parametrize("on_device", [True, False])
def test_data_that_is_not_finite(config: ConfigDict, tmp_path: Path, on_device: bool) -> None:
    x1 = np.zeros((16, 4), np.float32)
    x1[5, 2] = np.nan
    data.store("broken", {"train": data.arrays(x1=x1, label=np.zeros(16, np.int64))}, tmp_path)
    kwargs = {"name": "broken", "split": "train", "data_dir": str(tmp_path)}
    config.data.update({"transforms": (), "on_device": on_device})
    config.data.source = {"name": "tfds", "kwargs": kwargs}
    with pytest.raises(ValueError, match=r"not finite|NaN|nan"):
        loop.train(config, tmp_path)


@jax.tree_util.register_static
class Broken:
    """Batches made on the device, the first of them with a NaN."""

    def batch(self, step: jax.Array) -> dict[str, jax.Array]:
        return {"x1": jnp.where(step == 0, jnp.nan, jnp.ones((16, 8, 8, 1)))}


def test_the_first_batch_that_a_device_draws(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "batches", lambda *args: Broken())
    with pytest.raises(ValueError, match="x1 holds nan in example 0"):
        loop.train(config, tmp_path)


@pytest.mark.parametrize("on_device", [True, False])
def test_data_far_from_the_scale_of_the_noise_is_warned_of(
    config: ConfigDict, tmp_path: Path, on_device: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    x1 = np.full((16, 4), 255, np.float32)
    data.store("unscaled", {"train": data.arrays(x1=x1, label=np.zeros(16, np.int64))}, tmp_path)
    kwargs = {"name": "unscaled", "split": "train", "data_dir": str(tmp_path)}
    config.data.update({"transforms": (), "on_device": on_device})
    config.data.source = {"name": "tfds", "kwargs": kwargs}
    config.steps = 2
    workdir.create(tmp_path / "run", config)
    loop.train(config, tmp_path / "run")
    said = " ".join(capsys.readouterr().out.split())
    assert "x1 runs from 255 to 255" in said
    assert "scale the data" in said


def test_labels_without_a_class(config: ConfigDict, tmp_path: Path) -> None:
    config.network.kwargs.num_classes = 5
    config.drop.rate = 0.0
    with pytest.raises(ValueError, match="labels run from 0 to 9"):
        loop.train(config, tmp_path)


def test_data_that_does_not_fit_the_network(config: ConfigDict, tmp_path: Path) -> None:
    config.network = {"name": "dit", "kwargs": {"patch": 3, "width": 32, "heads": 2, "depth": 1}}
    config.data.cond = ()
    config.drop.rate = 0.0
    with pytest.raises(ValueError, match="patch"):
        loop.train(config, tmp_path)


def test_batch_that_does_not_divide(config: ConfigDict, tmp_path: Path) -> None:
    config.data.on_device = False
    config.batch_size = 12
    with pytest.raises(ValueError, match="8 devices"):
        loop.train(config, tmp_path)


def test_steps_that_are_never_finite_stop_the_run(config: ConfigDict, tmp_path: Path) -> None:
    config.optimizer.kwargs.learning_rate = {"name": "constant", "kwargs": {"peak": 1e38}}
    config.optimizer.name = "sgd"
    config.optimizer.clip = 0.0
    config.steps = 40
    config.health.abort_after = 2
    with pytest.raises(ArithmeticError, match="not finite"):
        loop.train(config, tmp_path)

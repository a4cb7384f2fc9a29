"""Two moons from a Gaussian, in seconds.

python -m experiments.train --config=configs/two_moons.py --workdir=runs/two_moons
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 5_000
    config.batch_size = 256

    config.data = {
        "source": {"name": "moons", "kwargs": {}},
        "transforms": (),
        "cond": (),
        "on_device": True,
        "workers": 0,
        "unreadable_at_most": 0,
    }
    config.pairs = ""
    config.source = {"name": "normal", "kwargs": {}}
    config.coupling = {"name": "independent", "kwargs": {}}
    config.times = {"name": "uniform", "kwargs": {}}
    config.spans = {"name": "spans", "kwargs": {"equal": 0.75}}
    config.guided = {"most": 0.0}
    config.path = {"name": "linear", "kwargs": {}}
    config.drop = {"rate": 0.0, "null": {}}
    config.network = {"name": "concat_mlp", "kwargs": {"width": 128, "depth": 4}}
    config.preconditioned = {"sigma_data": 0.0}
    config.self_condition = {"rate": 0.0}
    config.loss = {"name": "flow_matching", "kwargs": {"prediction": "velocity"}}
    config.teacher = ""
    config.start = ""
    config.optimizer = {
        "name": "adam",
        "kwargs": {"learning_rate": {"name": "cosine", "kwargs": {"peak": 2e-3, "warmup": 100}}},
        "clip": 1.0,
        "ema_decay": 0.999,
        "spike_deviations": 0.0,
    }
    config.parallel = {
        "layout": "data",
        "axes": {"fsdp": 1, "tensor": 1},
        "mode": "jit",
        "microbatches": 1,
        "reduce_dtype": "",
        "keep_gathered": False,
        "steps_per_call": 100,
    }
    config.checkpoint = {"every": 5_000, "keep": 2, "keep_every": 0, "best": ""}
    config.health = {
        "abort_after": 20,
        "rollbacks": 0,
        "stall_seconds": 1_800,
    }
    config.log = {"every": 500, "pictures_every": 2_500, "wandb_project": ""}
    config.sampler = {
        "name": "adaptive",
        "kwargs": {"rtol": 1e-4, "atol": 1e-4, "precision": "float32"},
        "guidance": 1.0,
        "batch_size": 1_000,
    }
    config.evaluation = {"split": "test", "num": 4_000, "likelihoods": 500, "dequantisations": 1}
    return config

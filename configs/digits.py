"""Class-conditional 8 x 8 digits, offline and in two minutes on two cores: what `make demo` runs.

python -m experiments.train    --config=configs/digits.py --workdir=runs/digits
python -m experiments.sample   --workdir=runs/digits --num=1000 --output=runs/digits/samples.npz
python -m experiments.evaluate --workdir=runs/digits
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 4_000
    config.batch_size = 256

    config.data = {
        "source": {"name": "digits", "kwargs": {"split": "train", "data_dir": "~/.cache/jaxflow"}},
        "transforms": ({"name": "scale", "kwargs": {"levels": 17}},),
        "cond": ("label",),
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
    config.drop = {"rate": 0.1, "null": {"label": 10}}
    config.network = {
        "name": "mlp",
        "kwargs": {"width": 256, "depth": 3, "num_classes": 10, "dropout": 0.0},
    }
    config.preconditioned = {"sigma_data": 0.0}
    config.self_condition = {"rate": 0.0}
    config.loss = {"name": "flow_matching", "kwargs": {"prediction": "velocity"}}
    config.teacher = ""
    config.start = ""
    config.optimizer = {
        "name": "adam",
        "kwargs": {"learning_rate": {"name": "cosine", "kwargs": {"peak": 1e-3, "warmup": 200}}},
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
    config.checkpoint = {"every": 2_000, "keep": 2, "keep_every": 0, "best": ""}
    config.health = {
        "abort_after": 20,
        "rollbacks": 0,
        "stall_seconds": 1_800,
    }
    config.log = {"every": 200, "pictures_every": 2_000, "wandb_project": ""}
    config.sampler = {
        "name": "fixed_step",
        "kwargs": {
            "grid": {"name": "uniform", "kwargs": {"n": 16}},
            "method": {"name": "ab2", "kwargs": {}},
            "precision": "network",
        },
        "guidance": 1.0,
        "batch_size": 1_000,
    }
    config.evaluation = {"split": "test", "num": 1_000, "likelihoods": 50, "dequantisations": 1}
    return config

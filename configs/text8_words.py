"""Words of Wikipedia by insertions from nothing: 27 symbols, up to 12 letters, two cores.

python -m experiments.prepare  --dataset=text --source=text8_prefix.gz --name=text8
python -m experiments.train    --config=configs/text8_words.py --workdir=runs/words
python -m experiments.sample   --workdir=runs/words --num=100 --output=runs/words.npz
python -m experiments.evaluate --workdir=runs/words

As published (Havasi et al., 2025, arXiv:2506.09018): code, 280M and 1.3B parameters, up to 1,024
tokens, 500,000 steps.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 6_000
    config.batch_size = 128

    text = {"name": "text8", "split": "train", "length": 12, "between": " "}
    config.data = {
        "source": {"name": "pieces", "kwargs": {**text, "data_dir": "~/tensorflow_datasets"}},
        "transforms": (),
        "cond": (),
        "on_device": False,
        "workers": 0,
        "unreadable_at_most": 0,
    }
    config.pairs = ""
    config.source = {"name": "mask", "kwargs": {"token": 27}}
    config.coupling = {"name": "independent", "kwargs": {}}
    config.times = {
        "name": "stratified",
        "kwargs": {"times": {"name": "uniform", "kwargs": {}}},
    }
    config.spans = {"name": "spans", "kwargs": {"equal": 0.75}}
    config.guided = {"most": 0.0}
    config.path = {"name": "edits", "kwargs": {"vocabulary": 27}}
    config.drop = {"rate": 0.0, "null": {}}
    config.network = {
        "name": "edit_transformer",
        "kwargs": {"vocabulary": 27, "width": 128, "depth": 4, "heads": 4},
    }
    config.preconditioned = {"sigma_data": 0.0}
    config.self_condition = {"rate": 0.0}
    config.loss = {"name": "edits", "kwargs": {}}
    config.teacher = ""
    config.start = ""
    config.optimizer = {
        "name": "adamw",
        "kwargs": {
            "learning_rate": {"name": "cosine", "kwargs": {"peak": 3e-3, "warmup": 200}},
            "b2": 0.98,
            "weight_decay": 0.01,
        },
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
        "steps_per_call": 1,
    }
    config.checkpoint = {"every": 500, "keep": 2, "keep_every": 0, "best": ""}
    config.health = {
        "abort_after": 20,
        "rollbacks": 0,
        "stall_seconds": 1_800,
    }
    config.log = {"every": 50, "pictures_every": 2_000, "wandb_project": ""}
    config.sampler = {
        "name": "edits",
        "kwargs": {
            "grid": {"name": "uniform", "kwargs": {"n": 64}},
            "precision": "network",
        },
        "guidance": 1.0,
        "batch_size": 100,
    }
    config.evaluation = {"split": "test", "num": 200, "likelihoods": 2_000, "dequantisations": 1}
    return config

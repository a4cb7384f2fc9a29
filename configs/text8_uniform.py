"""Letters of Wikipedia from letters drawn evenly: 27 symbols, sequences of 128, two cores, an hour.

python -m experiments.prepare  --dataset=text --source=text8_prefix.gz --name=text8
python -m experiments.train    --config=configs/text8_uniform.py --workdir=runs/text8_uniform
python -m experiments.sample   --workdir=runs/text8_uniform --num=20 --output=runs/uniform.npz
python -m experiments.evaluate --workdir=runs/text8_uniform

As published models on all of text8 (Austin et al., 2021, arXiv:2107.03006; Shi et al., 2024,
arXiv:2406.04329): network 92M, 256 letters, batches of 512, a million steps.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 12_000
    config.batch_size = 16

    text = {"name": "text8", "split": "train", "length": 128, "stride": 1}
    config.data = {
        "source": {"name": "text", "kwargs": {**text, "data_dir": "~/tensorflow_datasets"}},
        "transforms": (),
        "cond": (),
        "on_device": False,
        "workers": 0,
        "unreadable_at_most": 0,
    }
    config.pairs = ""
    config.source = {"name": "uniform_tokens", "kwargs": {"vocabulary": 27}}
    config.coupling = {"name": "independent", "kwargs": {}}
    config.times = {
        "name": "stratified",
        "kwargs": {"times": {"name": "beta", "kwargs": {"a": 1.0, "b": 0.5}}},
    }
    config.spans = {"name": "spans", "kwargs": {"equal": 0.75}}
    config.guided = {"most": 0.0}
    config.path = {"name": "mixture", "kwargs": {}}
    config.drop = {"rate": 0.0, "null": {}}
    config.network = {
        "name": "transformer",
        "kwargs": {"vocabulary": 27, "width": 128, "depth": 4, "heads": 4, "neighbours": 5},
    }
    config.preconditioned = {"sigma_data": 0.0}
    config.self_condition = {"rate": 0.0}
    config.loss = {"name": "cross_entropy", "kwargs": {}}
    config.teacher = ""
    config.start = ""
    config.optimizer = {
        "name": "adamw",
        "kwargs": {
            "learning_rate": {"name": "cosine", "kwargs": {"peak": 2e-3, "warmup": 200}},
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
        "name": "jumps",
        "kwargs": {
            "grid": {"name": "uniform", "kwargs": {"n": 64}},
            "method": {"name": "ancestral", "kwargs": {}},
            "precision": "network",
        },
        "guidance": 1.0,
        "batch_size": 100,
    }
    config.evaluation = {"split": "test", "num": 200, "likelihoods": 2_000, "dequantisations": 1}
    return config

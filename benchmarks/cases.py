"""The rows of the table."""

from typing import Any

from benchmarks.timing import Case, Side

__all__ = ["cases"]

DIT = {"patch": 2, "width": 256, "depth": 8, "heads": 4}
UNET = {
    "channels": 64, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention": (16,),
    "head_channels": 64,
}  # fmt: skip
TORCHCFM_UNET = {
    "num_channels": 64, "channel_mult": (1, 2, 2, 2), "num_res_blocks": 2,
    "attention_resolutions": "16", "num_heads": 4, "num_head_channels": 64,
}  # fmt: skip


def cases(weights: str, *, quick: bool = False) -> list[Case]:
    """All of them; `weights` is the file that the sampling cases share.

    `quick` makes batches small: it shows that a case runs, and its figures mean little.
    """
    return [
        *_two_dimensional(),
        *_sampling(weights, 500 if quick else 10_000),
        *_schedulers(weights, *((500,) if quick else (1_000, 10_000))),
        *_likelihood(weights, 100 if quick else 1_000),
        *_transport((128, 256) if quick else (128, 256, 512, 1024)),
        *_steps(*((2, 1) if quick else (64, 16))),
        *_rivals(weights, 500 if quick else 10_000),
        *_tokens(weights, *((8, 1) if quick else (64, 8))),
    ]


def _ours(factory: str, **options: Any) -> Side:
    return Side(f"benchmarks.ours.{factory}", options)


def _peer(factory: str, **options: Any) -> Side:
    return Side(f"benchmarks.peers.{factory}", options)


def _rival(factory: str, **options: Any) -> Side:
    return Side(f"benchmarks.rivals.{factory}", options)


def _two_dimensional() -> list[Case]:
    """The tutorial of torchcfm, with its samplers of data and with faster ones."""
    rows = [
        ("independent", "independent", "tutorial", 6.0),
        ("independent, vectorised data", "independent", "vectorised", None),
        ("exact OT", "exact", "tutorial", 2.0),
        ("exact OT, vectorised data", "exact", "vectorised", None),
        ("exact OT in jit, vectorised data", "exact", "vectorised", None),
        ("Sinkhorn to exact OT", "exact", "tutorial", 3.0),
        ("Sinkhorn to exact OT, vectorised data", "exact", "vectorised", None),
    ]
    couplings = [
        *("independent", "independent", "on_host", "on_host", "compiled", "sinkhorn", "sinkhorn")
    ]
    return [
        Case(
            f"2-D training: {name}",
            "step",
            _ours("two_dimensional:training", coupling=ours),
            _peer("two_dimensional:training", coupling=peer, samplers=samplers),
            goal,
        )
        for ours, (name, peer, samplers, goal) in zip(couplings, rows, strict=True)
    ]


def _sampling(weights: str, n: int) -> list[Case]:
    """Two moons from noise, by the same weights on both sides."""
    rows = [
        ("Euler 50", "euler", "euler", 3.0),
        ("midpoint 20", "midpoint", "midpoint", 8.0),
        ("dopri5 1e-5, shared step", "dopri5", "dopri5", 8.0),
        ("dopri5 1e-5, a step a sample", "dopri5 per sample", "dopri5", None),
        ("tsit5 1e-5, a step a sample (default)", "default", "dopri5", None),
    ]
    return [
        Case(
            f"sampling {n} points: {name}",
            "call",
            _ours("sampling:sample", sampler=ours, weights=weights, n=n),
            _peer("sampling:sample", method=peer, weights=weights, n=n),
            goal,
        )
        for name, ours, peer, goal in rows
    ]


def _schedulers(weights: str, *sizes: int) -> list[Case]:
    """The same samples by the exponential methods, 20 steps from t = 1e-3, beside diffusers."""
    rows = [("DPM-Solver++", "dpm_solver"), ("its SDE", "sde_dpm_solver"), ("UniPC", "unipc")]
    return [
        Case(
            f"sampling {n} points: {name}, 20 steps",
            "call",
            _ours("sampling:sample", sampler=method, weights=weights, n=n),
            _peer("schedulers:sample", method=method, weights=weights, n=n),
            3.0,
        )
        for n in sizes
        for name, method in rows
    ]


def _likelihood(weights: str, n: int) -> list[Case]:
    """Log-likelihoods under the perceptron's flow, with the exact divergence."""
    rows = [
        ("dopri5 1e-5, shared step", "dopri5"),
        ("tsit5 1e-5, a step a sample (default)", "default"),
    ]
    return [
        Case(
            f"likelihood of {n} points: {name}",
            "call",
            _ours("likelihood:log_prob", solver=solver, weights=weights, n=n),
            _peer("likelihood:log_prob", weights=weights, n=n),
            3.0,
        )
        for name, solver in rows
    ]


def _transport(sizes: tuple[int, ...]) -> list[Case]:
    """Exact optimal transport of one batch, on the host and compiled."""
    return [
        Case(
            f"exact OT n={n}: {name}",
            "batch",
            _ours("transport:couple", n=n, coupling=coupling),
            _peer("transport:couple", n=n),
        )
        for n in sizes
        for name, coupling in (("host", "on_host"), ("jit", "compiled"))
    ]


def _steps(dit_batch: int, unet_batch: int) -> list[Case]:
    """Networks in float32: training steps, the forward pass, and the way to the first step."""
    dit, unet = (
        (
            _ours("steps:dit", shape=(dit_batch, 16, 16, 4), fields=DIT),
            _peer("steps:dit", shape=(dit_batch, 4, 16, 16), fields=DIT),
        ),
        (
            _ours("steps:unet", shape=(unet_batch, 32, 32, 3), fields=UNET),
            _peer("steps:torchcfm_unet", shape=(unet_batch, 3, 32, 32), fields=TORCHCFM_UNET),
        ),
    )
    return [
        Case("DiT training", "step", *dit, 0.7),
        Case("DiT forward", "call", *map(_forward, dit)),
        Case("U-Net training", "step", *unet, 0.6),
        Case("U-Net forward", "call", *map(_forward, unet)),
        Case("time to first step: DiT", "process", *dit, startup=True),
        Case("time to first step: U-Net", "process", *unet, startup=True),
    ]


def _forward(side: Side) -> Side:
    return side._replace(options={**side.options, "forward": True})


def _rivals(weights: str, n: int) -> list[Case]:
    """Other JAX libraries: the same perceptron, data, optimiser and average.

    A step of ours tells its norms and leaves a step that is not finite out; so does a "guarded" one
    of a user of theirs, and no other.
    """
    steps = [
        ("stix, its TrainingLoop", "stix", "own", "step", "fixed"),
        ("stix, a bare step", "stix", "jit", "step", "fixed"),
        ("stix, a user's scan", "stix", "scan", "steps", "fixed"),
        ("stix, a bare step, guarded", "stix", "jit", "step", "fixed"),
        ("stix, a user's scan, guarded", "stix", "scan", "steps", "fixed"),
        ("hackable-diffusion, a bare step", "hackable", "jit", "step", "fixed"),
        ("hackable-diffusion, a user's scan", "hackable", "scan", "steps", "fixed"),
        ("hackable-diffusion, a bare step, guarded", "hackable", "jit", "step", "fixed"),
        ("hackable-diffusion, a user's scan, guarded", "hackable", "scan", "steps", "fixed"),
        ("ott, nnx.jit", "ott", "nnx", "step", "fixed"),
        ("ott, nnx.jit cached", "ott", "cached", "step", "fixed"),
        ("stix, its TrainingLoop, data drawn", "stix", "own", "step", "drawn"),
        ("hackable-diffusion, a bare step, data drawn", "hackable", "jit", "step", "drawn"),
        ("hackable-diffusion, a user's scan, data drawn", "hackable", "scan", "steps", "drawn"),
        ("ott, nnx.jit cached, data drawn", "ott", "cached", "step", "drawn"),
    ]
    samplers = [
        ("stix, Euler 50", "stix", "euler", "euler"),
        ("hackable-diffusion, Euler 50", "hackable", "euler", "euler"),
        ("ott, Euler 50", "ott", "euler", "euler"),
        ("ott, dopri5 1e-5, a step a sample", "ott", "dopri5", "dopri5 per sample"),
        ("stix, tsit5 1e-5, a step a sample", "stix", "tsit5", "default"),
        ("stix, tsit5 1e-5, shared step", "stix", "tsit5 shared", "tsit5 shared rms"),
        ("stix, tsit5 1e-5, shared step, our worst norm", "stix", "tsit5 shared", "tsit5 shared"),
    ]
    couplings = [("Sinkhorn's plan by default", "plan"), ("its loader", "loader")]
    both = ("rivals", "rivals")
    training = [
        Case(
            f"moons training: {name}",
            "step",
            _ours("moons:training", loop=ours, data=data),
            _rival(
                f"{module}:training",
                loop=theirs,
                data=data,
                **({"guarded": True} if name.endswith("guarded") else {}),
            ),
            pythons=both,
        )
        for name, module, theirs, ours, data in steps
    ]
    sampling = [
        Case(
            f"{n} points: {name}",
            "call",
            _ours("sampling:sample", sampler=ours, weights=weights, n=n, checked=True),
            _rival(f"{module}:sample", solver=theirs, weights=weights, n=n),
            pythons=both,
        )
        for name, module, theirs, ours in samplers
    ]
    transport = [
        Case(
            f"pairs n=256: ott, {name}",
            "batch",
            _ours("transport:couple", n=256, coupling="on_host"),
            _rival("ott:couple", n=256, by=by),
            pythons=both,
        )
        for name, by in couplings
    ]
    return [*training, *sampling, *transport]


def _tokens(weights: str, letters_batch: int, words_batch: int) -> list[Case]:
    """Tokens from masks: letters, and words of a vocabulary whose draws cost more than all else.

    One small network on all sides, its weights in a file beside `weights`.
    """
    sizes = [
        {"shape": (letters_batch, 128), "vocabulary": 27, "steps": 64, "counted": 65_536},
        {"shape": (words_batch, 64), "vocabulary": 50_257, "steps": 8, "counted": 4_096},
    ]
    others = [
        ("flow_matching, Euler", _peer, ("ours", "peer"), 3.0),
        ("hackable-diffusion, unmasking", _rival, ("rivals", "rivals"), 1.0),
    ]
    return [
        Case(
            f"tokens {'x'.join(map(str, size['shape']))} of {size['vocabulary']}: "
            f"{name} {size['steps']}",
            "call",
            *(
                side("tokens:sample", weights=_beside(weights, size["vocabulary"]), **size)
                for side in (_ours, other)
            ),
            goal,
            pythons=pythons,
        )
        for size in sizes
        for name, other, pythons, goal in others
    ]


def _beside(weights: str, vocabulary: int) -> str:
    return f"{weights}.tokens_{vocabulary}.npz"

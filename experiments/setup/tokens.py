"""Whether a config of tokens is one of tokens throughout, and what their vocabulary is."""

from functools import reduce
from operator import getitem
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments.setup.components import component
from experiments.setup.learns import are_edited, are_soft, block_of, learns_tokens
from jaxflow.types import Path

__all__ = ["check_of_numbers", "check_tokens", "hardened", "is_told", "jumped", "vocabulary_of"]

# What each section may name where tokens are learned, and may not where they are not.
NEEDED = {
    "source": ("mask", "tokens", "uniform_tokens"),
    "loss": ("cross_entropy", "generalised_kl", "discrete_consistency"),
    "sampler": ("jumps", "first_hitting", "entropy_bounded", "by_block"),
}
TOLD = ("gidd", "metric", "mixture")  # paths whose log_likelihoods are known
OF_MASKS = ("confident", "entropy_bounded", "first_hitting", "remasking")
OF_MIXTURES = ("ancestral", "by_rates", "corrected", "forth_and_back")
NEEDED_OF_SOFT = {
    "source": ("orthant", "simplex"),
    "loss": ("cross_entropy",),
    "sampler": ("fixed_step", "adaptive"),
}


NEEDED_OF_EDITS = {
    "data.source": ("pieces",),
    "source": ("mask",),
    "network": ("edit_transformer",),
    "loss": ("edits",),
    "sampler": ("edits",),
}


def vocabulary_of(config: ConfigDict) -> Any | None:
    """How the data's text is written as tokens; None for data that is no text."""
    return getattr(component("data.source", config.data.source), "vocabulary", None)


def check_tokens(config: ConfigDict) -> None:
    """Refuse a config that is of tokens in some sections alone, or of two vocabularies.

    Raises:
        ValueError: naming the section, or both numbers.
    """
    _check_sections(config)
    if config.data.source.name == "pieces" and not are_edited(config):
        raise ValueError(
            "config.data.source.name is 'pieces', sequences of different lengths, which are of "
            f"config.path.name='edits', and not {config.path.name!r}: take 'text' for windows"
        )
    if not learns_tokens(config):
        return
    if config.coupling.name != "independent":
        raise ValueError(
            "tokens are paired with noise independently: set config.coupling.name='independent'"
        )
    if config.self_condition.rate and config.network.name != "transformer":
        raise ValueError(
            f"config.self_condition.rate is {config.self_condition.rate}, but config.network "
            f"({config.network.name!r}) reads no estimate of tokens: take 'transformer', or set it "
            "to 0.0"
        )
    if config.network.name == "edit_transformer" and not are_edited(config):
        raise ValueError(
            "config.network.name is 'edit_transformer', which says edits, but config.path is "
            f"{config.path.name!r}: take 'transformer'"
        )
    size = getattr(component("network", config.network), "vocabulary", None)
    if size is None:
        raise ValueError(
            f"config.network ({config.network.name!r}) gives no logits of tokens: take "
            "'transformer', or 'discrete' for pixels"
        )
    _check_source(config, size)
    _check_blocks(config)
    _check_leap(config)
    vocabulary = vocabulary_of(config)
    if vocabulary is not None and vocabulary.size != size:
        raise ValueError(
            f"config.network.kwargs.vocabulary is {size}, but the data has {vocabulary.size} "
            f"symbols: set config.network.kwargs.vocabulary={vocabulary.size}, and the source alike"
        )


def jumped(path: Path) -> Path:
    """The path that samples follow: of soft tokens that of the tokens themselves."""
    return getattr(path, "hard", path)


def _check_sections(config: ConfigDict) -> None:
    of_tokens = learns_tokens(config)
    needed = NEEDED_OF_SOFT if are_soft(config) else NEEDED
    needed = NEEDED_OF_EDITS if are_edited(config) else needed
    for section, names in needed.items():
        name = reduce(getitem, section.split("."), config).name
        if (name in names) != of_tokens:
            kind = "of tokens" if of_tokens else "of real numbers"
            kind = "of soft tokens" if are_soft(config) else kind
            kind = "of edits" if are_edited(config) else kind
            known = ", ".join(names)
            remedy = (
                f"take one of {known}" if of_tokens else "config.path.name='mixture' is of them"
            )
            raise ValueError(
                f"config.{section}.name is {name!r}, but config.path ({config.path.name!r}) is "
                f"{kind}: {remedy}"
            )


def hardened(config: ConfigDict, x: Any) -> Any:
    """The tokens of samples: of soft ones those of the largest weight."""
    return jnp.argmax(x, axis=-1).astype(jnp.int32) if are_soft(config) else x


def is_told(config: ConfigDict) -> bool:
    """Whether a token tells of its data what is known, and masks do not: of noisy ones."""
    if config.path.name not in TOLD or block_of(config):
        return False
    return not (config.path.name == "mixture" and config.source.name == "mask")


def check_of_numbers(config: ConfigDict, command: str) -> None:
    """Refuse a run of tokens, for a command that shows a flow of real numbers.

    Raises:
        ValueError: naming the commands that there are.
    """
    if learns_tokens(config):
        raise ValueError(
            f"{command} is of flows of real numbers, and this run learned tokens: sample, evaluate "
            "and report are of both, and python -m benchmarks.text samplers compares samplers"
        )


def _check_blocks(config: ConfigDict) -> None:
    of_blocks = block_of(config) is not None
    if of_blocks != (config.sampler.name == "by_block"):
        remedy = "'by_block'" if of_blocks else "'jumps'"
        raise ValueError(
            f"config.network ({config.network.name!r}) is {'one' if of_blocks else 'none'} of "
            f"blocks of tokens, but config.sampler.name is {config.sampler.name!r}: take {remedy}"
        )


def _check_leap(config: ConfigDict) -> None:
    """Refuse a way of sampling that the path does not have, before a step is trained."""
    sampler, path = config.sampler.name, config.path.name
    leap = config.sampler.kwargs.get("method", {}).get("name", "euler")
    masks = path == "mixture" and config.source.name == "mask"
    if (sampler in OF_MASKS or leap in OF_MASKS) and not masks:
        name, of = leap if leap in OF_MASKS else sampler, "masks alone"
    elif path == "gidd" and leap not in ("ancestral", "euler"):
        name, of = leap, "paths whose rates may be held, and gidd has ancestral and euler"
    elif path == "metric" and leap in OF_MIXTURES:
        name, of = leap, "mixture paths"
    else:
        return
    raise ValueError(
        f"config.sampler names {name!r}, which is of {of}, but config.path is {path!r} and "
        f"config.source {config.source.name!r}: take another leap, as 'euler'"
    )


def _check_source(config: ConfigDict, size: int) -> None:
    source: Any = component("source", config.source)
    if are_soft(config):
        wanted: Any = component("path", config.path)
        if source != wanted.source or wanted.vocabulary != size:
            raise ValueError(
                f"config.source is {source!r}, config.path of {wanted.vocabulary} tokens from "
                f"{wanted.source!r}, and config.network.kwargs.vocabulary {size}: give all alike"
            )
        return
    if config.path.name == "metric" and config.source.name != "uniform_tokens":
        raise ValueError(
            f"config.source.name is {config.source.name!r}, but a metric path begins at tokens "
            "drawn evenly: take 'uniform_tokens'"
        )
    mask = getattr(source, "token", size)
    if mask != size:
        raise ValueError(
            f"config.source.kwargs.token is {mask}, but the mask is the token after the network's "
            f"vocabulary: set config.source.kwargs.token={size}"
        )
    weights = getattr(source, "log_weights", None)
    if weights is not None and weights.shape[-1] not in (size, size + 1):
        raise ValueError(
            f"config.source is of {weights.shape[-1]} tokens, but config.network.kwargs.vocabulary "
            f"is {size}: give both alike, or one weight more, that of the mask"
        )

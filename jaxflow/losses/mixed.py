r"""The loss of samples of several parts that are of several kinds: images beside tokens.

(1) $L(\theta) = \sum_k w_k\, L_k$, each part's own loss of what the network says of it,

with a time a part. Every conditional of the parts, and each of them alone, is then a corner of the
same times: a part that is known stands at its data, one that is not at its noise.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.checks import check_made, check_network
from jaxflow.losses.flow_matching import check_complete
from jaxflow.paths.product import check_parts, parts_of
from jaxflow.records import record, traceable
from jaxflow.sharding import gathering
from jaxflow.types import Array, Batch, Held, Key, Loss, Network, Params, Path

__all__ = ["mixed"]


@record
class Said:
    """A network that says what its parameters are: of a part, what has been said of it."""

    def __call__(
        self, params: Params, t: Any, x: Any, *, key: Key | None = None, **cond: Any
    ) -> Any:
        return params


@record
class Mixed:
    """The loss (1) of a network of parts on a product of paths."""

    network: Network
    path: Any
    losses: Mapping[str, Loss]
    weights: Mapping[str, Any]

    gathers = gathering("network")

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over examples, and `{"per_example": [batch]}`.

        Raises:
            ValueError: where the parts of the data, or of what the network returns, are not those
                of the path, the batch was not completed by a draw, or a part's own loss says so.
        """
        check_complete(batch)
        sample = self.path(batch["t"], batch["x0"], batch["x1"], batch.get("z"))
        said = self.network(params, sample.t, sample.x, key=key, **batch.get("cond", {}))
        if not isinstance(said, Mapping) or sorted(said) != sorted(self.losses):
            found = sorted(said) if isinstance(said, Mapping) else "one array"
            raise ValueError(
                f"the network returns {found} for data of the parts {sorted(self.losses)}: it "
                "returns a mapping of them"
            )
        per_example: Any = 0.0
        for name, loss in self.losses.items():
            own = {field: _of_part(batch.get(field), name) for field in ("t", "x0", "x1", "z")}
            mask = batch.get("mask")
            if mask is not None and name in mask:
                own["mask"] = mask[name]
            errors = loss(said[name], key, own)[1]["per_example"]
            per_example = per_example + self.weights[name] * errors
        return jnp.mean(per_example), {"per_example": per_example}


def _of_part(value: Any, name: str) -> Any:
    return value[name] if isinstance(value, Mapping) else value


def mixed(
    network: Network,
    path: Path,
    losses: Mapping[str, Callable[[Network, Path], Loss]],
    *,
    weights: Mapping[str, float] | None = None,
) -> Loss:
    """One loss of a mapping of parts (1), such as images and the tokens of their text.

    Args:
        network: `(params, t, x, *, key=None, **cond) -> mapping`, of a mapping of parts, with a
            time each: of tokens their logits, of others what their loss predicts. As
            `networks.MixedTransformer`.
        path: `paths.product` of a path each.
        losses: of each part, as `functools.partial(losses.flow_matching, prediction="data")` or
            `losses.generalised_kl`: called here with a network and the part's path.
        weights: of each part, 1 where None.

    Returns:
        A loss. Times are of the draw: `draws.standard(path, times={"image": ..., "label": ...})`
        draws them apart, by which one network learns every conditional. `batch["mask"]`, where
        there is one, is a mapping of the parts that have one.

    Raises:
        TypeError: for a network that is none.
        ValueError: for a path of one part, or parts that differ.

    Campbell et al., Generative Flows on Discrete State-Spaces: Enabling Multimodal Flows with
    Applications to Protein Co-Design, 2024, arXiv:2402.04997, section 4; times apart as in Bao et
    al., UniDiffuser, 2023, arXiv:2303.06555.
    """
    check_network(network)
    check_made("path", path)
    parts = parts_of(path)
    check_parts("the path", parts, losses)
    weights = dict.fromkeys(parts, 1.0) if weights is None else dict(weights)
    check_parts("the path", parts, weights)
    made = {name: loss(Said(), parts[name]) for name, loss in losses.items()}
    network, path, made = traceable((network, path, made))
    return Mixed(network, path, made, jax.tree.map(jnp.float32, weights))

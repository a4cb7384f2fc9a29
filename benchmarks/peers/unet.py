"""The U-Net of diffusion models in plain PyTorch, parameter for parameter that of jaxflow.

For machines that have torch and nothing else; elsewhere torchcfm's is the peer.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.dit import sinusoidal

__all__ = ["UNet"]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels)


def _conv(inward: int, outward: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inward, outward, 3, padding=1, **options)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Residual(nn.Module):
    """Two convolutions, told of the condition between them."""

    def __init__(self, inward: int, outward: int, features: int):
        super().__init__()
        self.first_norm, self.first = _norm(inward), _conv(inward, outward)
        self.condition = nn.Linear(features, outward)
        self.second_norm, self.second = _norm(outward), _zero(_conv(outward, outward))
        self.skip = nn.Identity() if inward == outward else nn.Conv2d(inward, outward, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = self.first(F.silu(self.first_norm(x))) + self.condition(c)[:, :, None, None]
        return self.skip(x) + self.second(F.silu(self.second_norm(h)))


class Attend(nn.Module):
    """Self-attention over all places."""

    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        self.heads = max(1, channels // head_channels)
        self.norm, self.qkv = _norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1))
        h = F.scaled_dot_product_attention(*qkv.permute(1, 0, 2, 4, 3))
        return x + self.out(h.mT.reshape(x.shape))


class Up(nn.Module):
    """Twice the height and width."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class UNet(nn.Module):
    """For images `[batch, in_channels, size, size]`."""

    def __init__(
        self,
        size: int,
        in_channels: int,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        head_channels: int,
    ):
        super().__init__()
        features, self.channels = 4 * channels, channels
        self.time = nn.Sequential(
            nn.Linear(channels, features), nn.SiLU(), nn.Linear(features, features)
        )
        width = channels * multipliers[0]
        self.inward, skips = _conv(in_channels, width), [width]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()

        def stage(inward: int, outward: int) -> nn.ModuleList:
            parts: list[nn.Module] = [Residual(inward, outward, features)]
            if size in attention:
                parts.append(Attend(outward, head_channels))
            return nn.ModuleList(parts)

        for level, multiplier in enumerate(multipliers):
            if level:
                self.down.append(nn.ModuleList([_conv(width, width, stride=2)]))
                skips.append(width)
                size //= 2
            for _ in range(blocks):
                self.down.append(stage(width, width := multiplier * channels))
                skips.append(width)
        self.middle = nn.ModuleList(
            [
                Residual(width, width, features),
                Attend(width, head_channels),
                Residual(width, width, features),
            ]
        )
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for i in range(blocks + 1):
                parts = stage(width + skips.pop(), width := multiplier * channels)
                if level and i == blocks:
                    parts.append(Up(width))
                self.up.append(parts)
            size *= 2
        self.outward_norm, self.outward = _norm(width), _zero(_conv(width, in_channels))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        c = F.silu(self.time(sinusoidal(t, self.channels)))
        h = self.inward(x)
        skips = [h]
        for parts in self.down:
            h = _apply(parts, h, c)
            skips.append(h)
        h = _apply(self.middle, h, c)
        for parts in self.up:
            h = _apply(parts, torch.cat([h, skips.pop()], dim=1), c)
        return self.outward(F.silu(self.outward_norm(h)))


def _apply(parts: nn.ModuleList, h: Tensor, c: Tensor) -> Tensor:
    for part in parts:
        h = part(h, c) if isinstance(part, Residual) else part(h)
    return h

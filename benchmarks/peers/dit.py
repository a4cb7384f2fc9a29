"""A diffusion transformer in plain PyTorch, parameter for parameter that of `jaxflow.networks`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DiT", "sinusoidal"]


def sinusoidal(t: Tensor, features: int) -> Tensor:
    """Cosines and sines of `1000 t` at frequencies from 1 to 1/10000."""
    half = features // 2
    steps = torch.arange(half, device=t.device, dtype=torch.float32)
    angles = 1000.0 * t[:, None] * torch.exp(-math.log(10000.0) / half * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """Attention and a perceptron, each modulated by the condition and gated."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = _zero(nn.Linear(width, 6 * width))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(*qkv)
        return self.out(h.transpose(1, 2).flatten(2))

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(c).chunk(6, dim=1)
        h = h + gate_1[:, None] * self.attend(_modulate(self.norm(h), shift_1, scale_1))
        y = self.expand(_modulate(self.norm(h), shift_2, scale_2))
        return h + gate_2[:, None] * self.contract(F.gelu(y, approximate="tanh"))


class DiT(nn.Module):
    """For images `[batch, channels, size, size]`; zero at initialisation."""

    def __init__(self, size: int, channels: int, patch: int, width: int, depth: int, heads: int):
        super().__init__()
        self.patch, tokens = patch, (size // patch) ** 2
        features = channels * patch**2
        self.register_buffer("positions", torch.randn(tokens, width))
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.inward = nn.Linear(features, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = _zero(nn.Linear(width, 2 * width))
        self.outward = _zero(nn.Linear(width, features))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        c = F.silu(self.time(sinusoidal(t, 256)))
        h = self.inward(F.pixel_unshuffle(x, self.patch).flatten(2).mT) + self.positions
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.modulation(c).chunk(2, dim=1)
        h = self.outward(_modulate(self.norm(h), shift, scale)).mT
        side = x.shape[-1] // self.patch
        return F.pixel_shuffle(h.unflatten(2, (side, side)), self.patch)

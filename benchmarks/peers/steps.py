"""Training steps of image networks: loss, gradient and Adam, on a batch that lies on the device."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.dit import DiT
from benchmarks.peers.unet import UNet
from benchmarks.task import Task

LEARNING_RATE = 1e-4


def dit(shape: Sequence[int], fields: Mapping[str, Any], **options: Any) -> Task:
    """A diffusion transformer on images `shape`, `[batch, channels, size, size]`."""
    return _task(DiT(shape[2], shape[1], **fields), shape, **options)


def unet(shape: Sequence[int], fields: Mapping[str, Any], **options: Any) -> Task:
    """A plain U-Net on images `shape`."""
    return _task(UNet(shape[2], shape[1], **fields), shape, **options)


def torchcfm_unet(shape: Sequence[int], fields: Mapping[str, Any], **options: Any) -> Task:
    """The U-Net of torchcfm on images `shape`."""
    from torchcfm.models.unet.unet import UNetModelWrapper

    return _task(UNetModelWrapper(dim=tuple(shape[1:]), **fields), shape, **options)


def _task(
    network: nn.Module,
    shape: Sequence[int],
    forward: bool = False,
    compiled: bool = False,
    half: bool = False,
    channels_last: bool = False,
) -> Task:
    """Training steps, or the forward pass.

    `compiled` passes the network through `torch.compile`, `half` computes in bfloat16.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(device, memory_format=layout)
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
    t = torch.rand(shape[0], device=device)
    x0, x1 = (torch.randn(*shape, device=device).to(memory_format=layout) for _ in range(2))
    module = torch.compile(network) if compiled else network

    def call(t: Tensor, x: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return module(t, x)

    def train(k: int) -> None:
        for _ in range(k):
            optimizer.zero_grad()
            s = t[:, None, None, None]
            v = call(t, s * x1 + (1 - s) * x0)
            torch.mean((v.float() - (x1 - x0)) ** 2).backward()
            optimizer.step()
        _wait(device)

    @torch.no_grad()
    def infer(k: int) -> None:
        for _ in range(k):
            call(t, x1)
        _wait(device)

    facts = {"parameters": sum(p.numel() for p in parameters), "device": _name(device)}
    return Task(infer if forward else train, facts)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

"""Modules that several families share and timm does not have."""

import torch
from torch import Tensor, nn


class MapConv2d(nn.Conv2d):
    """A convolution of maps (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def drop_path_rates(last: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Stochastic depth's rate of every block, stage by stage: from 0, growing linearly to `last`."""
    return [stage.tolist() for stage in torch.linspace(0, last, sum(depths), device="cpu").split(list(depths))]

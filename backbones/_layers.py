"""Modules that several families share and timm does not have."""

from torch import Tensor, nn


class MapConv2d(nn.Conv2d):
    """A convolution of maps (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

"""CCNet: a dilated ResNet, and on its last map attention of every pixel to its row and column, repeated.

Paper: CCNet: Criss-Cross Attention for Semantic Segmentation, https://arxiv.org/abs/1811.11721.
Official code: https://github.com/speedinghzl/CCNet @ 1fae6c6, MIT. `Segmenter` is its network, the models here are what
is below its dense head. As there, max pooling rounds sizes up: of an even map it makes one row and column more.
"""

import torch
from timm.layers import DropPath
from timm.models import resnet
from torch import Tensor, nn

from . import ops
from ._backbone import Backbone, Stage, register_family, rename_keys
from ._layers import drop_path_rates


class Bottleneck(resnet.Bottleneck):
    """timm's, on maps (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvNormAct(nn.Sequential):
    """A 3 x 3 convolution, batch norm and leaky ReLU."""

    def __init__(self, in_dim: int, dim: int, bias: bool = False):
        super().__init__(
            nn.Conv2d(in_dim, dim, 3, padding=1, bias=bias), nn.BatchNorm2d(dim), nn.LeakyReLU(0.01, inplace=True)
        )


class MapConvNormAct(ConvNormAct):
    """On maps (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class RecurrentCrissCrossAttention(nn.Module):
    """Criss-cross attention `recurrence` times with the same weights: after two, every pixel has seen all others."""

    def __init__(self, dim: int, recurrence: int, ratio: int = 8):
        super().__init__()
        if recurrence < 1:
            raise ValueError(f"recurrence {recurrence} must be at least 1")
        self.recurrence = recurrence
        self.q = nn.Linear(dim, dim // ratio)
        self.k = nn.Linear(dim, dim // ratio)
        self.v = nn.Linear(dim, dim)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.recurrence):
            q, k, v = (proj(x)[:, :, :, None] for proj in (self.q, self.k, self.v))  # one head
            x = x + self.gamma * ops.criss_cross_attention(q, k, v, scale=1.0)[:, :, :, 0]
        return x


class CCNet(Backbone):
    """The trunk's four stages (strides 4, 8, 8, 8), then the attended map, a fifth of stride 8."""

    def __init__(
        self,
        depths: tuple[int, ...] = (3, 4, 6, 3),
        width: int = 64,
        recurrence: int = 2,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head,  # num_classes, global_pool, drop_rate
    ):
        stages, dim = [], 2 * width
        for i, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            planes, stride = width * 2**i, 2 if i == 1 else 1
            short = resnet.downsample_conv(dim, 4 * planes, 1, stride)
            blocks = []
            for rate in rates:
                drop_path = DropPath(rate)
                blocks.append(Bottleneck(dim, planes, stride, short, dilation=(1, 1, 2, 4)[i], drop_path=drop_path))
                dim, stride, short = 4 * planes, 1, None
            stages.append(Stage(nn.Identity(), blocks))
        attended = dim // 4
        blocks = [RecurrentCrissCrossAttention(attended, recurrence), MapConvNormAct(attended, attended)]
        stages.append(Stage(ConvNormAct(dim, attended), blocks))
        dims = *(4 * width * 2**i for i in range(len(depths))), attended
        super().__init__(
            _stem(in_chans, width), stages, nn.Identity(), dims, in_chans=in_chans, reductions=(4, 8, 8, 8, 8), **head
        )


def _stem(in_chans: int, width: int) -> nn.Sequential:
    layers = []
    for i, (a, b) in enumerate(((in_chans, width), (width, width), (width, 2 * width))):
        layers += [nn.Conv2d(a, b, 3, 2 if i == 0 else 1, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.MaxPool2d(3, 2, 1, ceil_mode=True))


class Segmenter(nn.Module):
    """The official segmentation network (section 3.1): per-pixel logits of `num_classes`, and auxiliary ones.

    `backbone` is a CCNet, as timm creates it. Images (B, 3, H, W) give logits (B, num_classes, H / 8, W / 8), rounded
    up as the maps are: {"out": ...}, in training with those of the third stage, "aux", which the official loss weighs
    0.4. To train as published, both are up-sampled to the image with align_corners=True.
    """

    def __init__(self, backbone: CCNet, num_classes: int = 19, drop_rate: float = 0.1):
        super().__init__()
        third, fourth, attended = (info["num_chs"] for info in backbone.feature_info[2:])
        backbone.reset_classifier(0)
        self.backbone = backbone
        self.head = nn.Sequential(
            ConvNormAct(fourth + attended, attended), nn.Dropout2d(drop_rate), nn.Conv2d(attended, num_classes, 1)
        )
        self.auxiliary_head = nn.Sequential(
            ConvNormAct(third, attended, bias=True), nn.Dropout2d(drop_rate), nn.Conv2d(attended, num_classes, 1)
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        third, fourth, attended = self.backbone.forward_intermediates(x, [2, 3, 4], intermediates_only=True)
        logits = dict(out=self.head(torch.cat([fourth, attended], 1)))
        return logits | dict(aux=self.auxiliary_head(third)) if self.training else logits

    def load_official(self, state_dict: dict) -> None:
        """Loads a checkpoint of the official network, strictly; raises RuntimeError if it does not fit."""
        dense = {key: value for key, value in state_dict.items() if key.startswith(_DENSE)}
        renamed = rename_keys(
            dense,
            (r"^head\.bottleneck\.([01])\.", r"head.0.\1."),
            (r"^head\.bottleneck\.3\.", "head.2."),
            (r"^dsn\.([01])\.", r"auxiliary_head.0.\1."),
            (r"^dsn\.3\.", "auxiliary_head.2."),
        )
        renamed |= {f"backbone.{key}": value for key, value in remap(state_dict, self.backbone).items()}
        self.load_state_dict(renamed)


_DENSE = "head.bottleneck.", "dsn."


def remap(state_dict: dict, model: nn.Module) -> dict:
    """The official checkpoint's keys to ours; those of the dense head, which is above the backbone, are left out."""
    below = {key: value for key, value in state_dict.items() if not key.startswith(_DENSE)}
    renamed = rename_keys(
        below,
        (r"^conv(\d)\.", lambda m: f"stem.{3 * int(m[1]) - 3}."),
        (r"^bn(\d)\.", lambda m: f"stem.{3 * int(m[1]) - 2}."),
        (r"^layer(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
        (r"^head\.conva\.", "stages.4.downsample."),
        (r"^head\.cca\.", "stages.4.blocks.0."),
        (r"^head\.convb\.", "stages.4.blocks.1."),
        (r"\.(q|k|v)[a-z]+_conv\.", r".\1."),
    )
    linear = r".q.weight", ".k.weight", ".v.weight"
    return {key: value.reshape(value.shape[:2]) if key.endswith(linear) else value for key, value in renamed.items()}


VARIANTS = {
    "ccnet_r50": dict(depths=(3, 4, 6, 3)),
    "ccnet_r101": dict(depths=(3, 4, 23, 3)),
    "test_ccnet": dict(depths=(1, 1, 1, 1), width=8),
}
CFGS = {name: dict(pool_size=(29, 29)) for name in VARIANTS}

globals().update(register_family(CCNet, VARIANTS, CFGS, remap, {}, first_conv="stem.0", out_indices=(0, 1, 2, 3, 4)))

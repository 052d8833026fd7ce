"""NAT, DiNAT and DiNAT_s: every token attends to the window of tokens around it, which dilation spreads out.

Papers: Neighborhood Attention Transformer, https://arxiv.org/abs/2204.07143; Dilated Neighborhood Attention
Transformer, https://arxiv.org/abs/2209.15001.
Official code: https://github.com/SHI-Labs/Neighborhood-Attention-Transformer @ d334f5b, MIT.
"""

from itertools import cycle

import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d, LayerScale, Mlp, trunc_normal_
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, empty, nn

from . import ops
from ._backbone import Backbone, Stage, register_family, rename_keys
from ._layers import drop_path_rates
from .ops._maps import pad_to_multiple, tiles

HEAD_DIM = 32


class NeighborhoodAttention(nn.Module):
    """Maps that a window does not fit are padded below and to the right, with zeros that take part, as published."""

    def __init__(self, dim: int, heads: int, kernel_size: int, dilation: int):
        super().__init__()
        self.heads = heads
        self.kernel_size, self.dilation = kernel_size, dilation
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rpb = nn.Parameter(empty(heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        self.proj = nn.Linear(dim, dim)
        trunc_normal_(self.rpb, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[1:3]
        span = self.kernel_size * self.dilation
        if span > min(H, W):
            x = F.pad(x, (0, 0, 0, max(0, span - W), 0, max(0, span - H)))
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(3)
        out = ops.neighborhood_attention(q, k, v, kernel_size=self.kernel_size, dilation=self.dilation, bias=self.rpb)
        return self.proj(out[:, :H, :W].flatten(3))


class Block(nn.Module):
    def __init__(
        self,
        dim: int,
        kernel_size: int,
        dilation: int,
        mlp_ratio: float,
        layer_scale: float | None,
        drop_path: float,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = NeighborhoodAttention(dim, dim // HEAD_DIM, kernel_size, dilation)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(mlp_ratio * dim))
        self.ls1, self.ls2 = (LayerScale(dim, layer_scale) if layer_scale else nn.Identity() for _ in range(2))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class Patches(nn.Sequential):
    """The embedding of 4 x 4 pixels each; what overhangs the image is zero."""

    def __init__(self, in_chans: int, dim: int):
        super().__init__(nn.Conv2d(in_chans, dim, 4, 4), _norm(dim))

    def forward(self, x: Tensor) -> Tensor:
        # what is more than a multiple of 4, the convolution does not reach
        return super().forward(x if tiles(x.shape[2:], (4, 4)) else F.pad(x, (0, 3, 0, 3)))


class Merge(PatchMerging):
    """timm's, on maps (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        x, _ = pad_to_multiple(x.permute(0, 2, 3, 1), (2, 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x)).permute(0, 3, 1, 2)


class NAT(Backbone):
    """NAT and DiNAT; with `patches`, DiNAT_s, which embeds and merges patches as Swin Transformer does.

    `dilations` are, stage by stage, those that its blocks take in turn. `layer_scale` is its initial value, if any.
    """

    def __init__(
        self,
        dim: int = 64,
        depths: tuple[int, ...] = (3, 4, 6, 5),
        kernel_size: int = 7,
        dilations: tuple[tuple[int, ...], ...] = ((1,), (1,), (1,), (1,)),
        mlp_ratio: float = 3.0,
        layer_scale: float | None = None,
        patches: bool = False,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head,  # num_classes, global_pool, drop_rate
    ):
        dims = tuple(dim * 2**i for i in range(len(depths)))
        stages = []
        for i, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            blocks = [
                Block(dims[i], kernel_size, dilation, mlp_ratio, layer_scale, rate)
                for dilation, rate in zip(cycle(dilations[i]), rates, strict=False)
            ]
            down = nn.Identity() if i == 0 else Merge(dims[i - 1]) if patches else _downsample(dims[i - 1])
            stages.append(Stage(down, blocks))
        stem = Patches(in_chans, dim) if patches else _overlapping(in_chans, dim)
        super().__init__(stem, stages, _norm(dims[-1]), dims, in_chans=in_chans, **head)

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith(".rpb")}


def _norm(dim: int) -> LayerNorm2d:
    return LayerNorm2d(dim, eps=1e-5)


def _overlapping(in_chans: int, dim: int) -> nn.Sequential:
    convs = nn.Conv2d(in_chans, dim // 2, 3, 2, 1), nn.Conv2d(dim // 2, dim, 3, 2, 1)
    return nn.Sequential(*convs, _norm(dim))


def _downsample(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(dim, 2 * dim, 3, 2, 1, bias=False), _norm(2 * dim))


def remap(state_dict: dict, model: nn.Module) -> dict:
    """The official checkpoint's keys to ours."""
    renamed = rename_keys(
        state_dict,
        (r"^patch_embed\.proj\.(\d)\.", r"stem.\1."),
        (r"^patch_embed\.proj\.", "stem.0."),
        (r"^patch_embed\.norm\.", f"stem.{len(model.stem) - 1}."),
        (r"^(levels|layers)\.(\d)\.downsample\.", lambda m: f"stages.{int(m[2]) + 1}.downsample."),
        (r"^(levels|layers)\.", "stages."),
        (r"\.gamma(\d)$", r".ls\1.gamma"),
        (r"^head\.", "head.fc."),
    )
    if isinstance(model.stem, Patches):
        return renamed
    return rename_keys(renamed, (r"downsample\.reduction", "downsample.0"), (r"downsample\.norm", "downsample.1"))


def _dilated(*dilations: int) -> tuple[tuple[int, ...], ...]:
    return tuple((1, d) for d in dilations)


_MINI = dict(dim=64, depths=(3, 4, 6, 5))
_T = dict(dim=64, depths=(3, 4, 18, 5))
_S = dict(dim=96, depths=(3, 4, 18, 5), mlp_ratio=2.0)
_B = dict(dim=128, depths=(3, 4, 18, 5), mlp_ratio=2.0, layer_scale=1e-5)
_L = dict(dim=192, depths=(3, 4, 18, 5), mlp_ratio=2.0)
_DINAT = dict(dilations=_dilated(8, 4, 2, 1))
_DINAT_S = dict(depths=(2, 2, 18, 2), mlp_ratio=4.0, patches=True, **_DINAT)

VARIANTS = {
    "nat_mini": _MINI,
    "nat_t": _T,
    "nat_s": _S | dict(layer_scale=1e-5),
    "nat_b": _B,
    "dinat_mini": _MINI | _DINAT,
    "dinat_t": _T | _DINAT,
    "dinat_s": _S | _DINAT,
    "dinat_b": _B | _DINAT,
    "dinat_l": _L | _DINAT,
    "dinat_l_384": _L | dict(dilations=_dilated(13, 6, 3, 1)),
    "dinat_l_384_k11": _L | _DINAT | dict(kernel_size=11),
    "dinats_t": _DINAT_S | dict(dim=96, depths=(2, 2, 6, 2)),
    "dinats_s": _DINAT_S | dict(dim=96),
    "dinats_b": _DINAT_S | dict(dim=128),
    "dinats_l": _DINAT_S | dict(dim=192),
    "dinats_l_384": _DINAT_S | dict(dim=192, dilations=_dilated(13, 6, 3, 1)),
    "test_nat": dict(dim=32, depths=(1, 1, 2, 1), kernel_size=3, mlp_ratio=1.0, layer_scale=0.5),
    "test_dinat": dict(dim=32, depths=(1, 1, 2, 1), kernel_size=3, mlp_ratio=1.0, dilations=_dilated(1, 1, 2, 1)),
    "test_dinats": dict(
        dim=32, depths=(2, 1, 1, 1), kernel_size=3, mlp_ratio=1.0, dilations=_dilated(4, 1, 1, 1), patches=True
    ),
}
_SIZES = {"tiny": "t", "small": "s", "base": "b", "large": "l"}
ALIASES = {
    **{f"nat_{size}": f"nat_{s}" for size, s in _SIZES.items() if s != "l"},
    **{f"dinat_{size}": f"dinat_{s}" for size, s in _SIZES.items()},
    **{f"dinat_s_{size}": f"dinats_{s}" for size, s in _SIZES.items()},
    "dinat_large_384": "dinat_l_384",
    "dinat_large_384_11x11": "dinat_l_384_k11",
    "dinat_s_large_384": "dinats_l_384",
}


def _weights(path: str, **cfg) -> dict:
    paper = "arXiv:2204.07143" if path.startswith("nat/") else "arXiv:2209.15001"
    folder, file = path.split("/", 1)
    url = f"https://shi-labs.com/projects/{folder}/checkpoints/{file}.pth"
    return dict(url=url, license="mit", paper_ids=paper, crop_pct=0.875) | cfg


_384 = dict(input_size=(3, 384, 384), pool_size=(12, 12), crop_pct=1.0)
_22K = dict(num_classes=21841)
WEIGHTS = {
    "nat_mini.in1k": _weights("nat/CLS/nat_mini"),
    "nat_t.in1k": _weights("nat/CLS/nat_tiny"),
    "nat_s.in1k": _weights("nat/CLS/nat_small"),
    "nat_b.in1k": _weights("nat/CLS/nat_base"),
    "dinat_mini.in1k": _weights("dinat/imagenet1k/dinat_mini_in1k_224"),
    "dinat_t.in1k": _weights("dinat/imagenet1k/dinat_tiny_in1k_224"),
    "dinat_s.in1k": _weights("dinat/imagenet1k/dinat_small_in1k_224"),
    "dinat_b.in1k": _weights("dinat/imagenet1k/dinat_base_in1k_224"),
    "dinat_l.in22k_ft_in1k": _weights("dinat/imagenet1k/dinat_large_in22k_in1k_224"),
    "dinat_l.in22k": _weights("dinat/imagenet22k/dinat_large_in22k_224", **_22K),
    "dinat_l_384.in22k_ft_in1k": _weights("dinat/imagenet1k/dinat_large_in22k_in1k_384", **_384),
    "dinat_l_384_k11.in22k_ft_in1k": _weights("dinat/imagenet1k/dinat_large_in22k_in1k_384_11x11", **_384),
    "dinat_l_384_k11.in22k": _weights("dinat/imagenet22k/dinat_large_in22k_224_11x11interp", **_22K, **_384),
    "dinats_t.in1k": _weights("dinat/imagenet1k/dinat_s_tiny_in1k_224"),
    "dinats_s.in1k": _weights("dinat/imagenet1k/dinat_s_small_in1k_224"),
    "dinats_b.in1k": _weights("dinat/imagenet1k/dinat_s_base_in1k_224"),
    "dinats_l.in22k_ft_in1k": _weights("dinat/imagenet1k/dinat_s_large_in1k_224"),
    "dinats_l.in22k": _weights("dinat/imagenet22k/dinat_s_large_in22k_224", **_22K),
    "dinats_l_384.in22k_ft_in1k": _weights("dinat/imagenet1k/dinat_s_large_in1k_384", **_384),
}

globals().update(register_family(NAT, VARIANTS, WEIGHTS, remap, ALIASES, first_conv="stem.0"))

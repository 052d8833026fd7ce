"""CSWin Transformer: half of the heads attend in vertical stripes of the map, half in horizontal ones.

Paper: CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows,
https://arxiv.org/abs/2107.00652.  Official code: https://github.com/microsoft/CSWin-Transformer @ f111ae2, MIT.
Ours differs only in: stripes follow the input, and maps that they do not tile are padded with zero queries, keys and
values on both sides, as the official segmentation backbone does, so any input size runs.
"""

import torch
from timm.layers import DropPath, LayerNorm2d, Mlp
from torch import Tensor, nn

from . import ops
from ._backbone import Backbone, Stage, register_family, rename_keys
from ._layers import MapConv2d, drop_path_rates
from .ops._maps import pad_to_multiple, partition, unpartition


class StripeAttention(nn.Module):
    """Multi-head attention in stripes, plus LePE: a depth-wise convolution of the values that ends at stripe borders.

    `vertical` stripes are as high as the map and `stripe` wide, horizontal ones the reverse; with `stripe` None one
    window spans the map. LePE: eq. 8 of the paper.
    """

    def __init__(self, dim: int, heads: int, stripe: int | None, vertical: bool = True):
        super().__init__()
        self.heads, self.stripe, self.vertical = heads, stripe, vertical
        self.lepe = MapConv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, qkv: Tensor) -> Tensor:  # (B, H, W, 3, C) -> (B, H, W, C)
        H, W = qkv.shape[1:3]
        if self.stripe is None:
            window = H, W
        else:
            window = (H, self.stripe) if self.vertical else (self.stripe, W)
        qkv, inside = pad_to_multiple(qkv, window, centred=True)
        q, k, v = qkv.unflatten(-1, (self.heads, -1)).unbind(3)
        out = ops.window_attention(q, k, v, window=window).flatten(3)
        lepe = self.lepe(partition(v.flatten(3), window).unflatten(1, window)).flatten(1, 2)  # (windows, tokens, C)
        return (out + unpartition(lepe, window, q.shape[1:3]))[inside]


class CrossShapedAttention(nn.Module):
    """Vertical and horizontal stripe attention side by side, each on half of the channels; or one global window."""

    def __init__(self, dim: int, heads: int, stripe: int | None):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        if stripe is None:
            self.branches = nn.ModuleList([StripeAttention(dim, heads, None)])
        else:
            self.branches = nn.ModuleList(
                StripeAttention(dim // 2, heads // 2, stripe, vertical) for vertical in (True, False)
            )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, -1)).chunk(len(self.branches), -1)
        return self.proj(torch.cat([branch(part) for branch, part in zip(self.branches, qkv, strict=True)], -1))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, stripe: int | None, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = CrossShapedAttention(dim, heads, stripe)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Embedding(nn.Sequential):
    """A strided convolution and a layer norm over channels."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, padding: int):
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel, stride, padding)
        self.norm = LayerNorm2d(dim, eps=1e-5)


class CSWin(Backbone):
    """CSWin. `stripes` are the stripe widths per stage; None is one window over the whole map."""

    def __init__(
        self,
        dim: int = 64,
        depths: tuple[int, ...] = (1, 2, 21, 1),
        heads: tuple[int, ...] = (2, 4, 8, 16),
        stripes: tuple[int | None, ...] = (1, 2, 7, None),
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head,  # num_classes, global_pool, drop_rate
    ):
        dims = tuple(dim * 2**i for i in range(len(depths)))
        rates = drop_path_rates(drop_path_rate, depths)
        stages = [
            Stage(
                Embedding(dims[i - 1], dims[i], 3, 2, 1) if i else nn.Identity(),
                [Block(dims[i], heads[i], stripes[i], rate) for rate in rates[i]],
            )
            for i in range(len(depths))
        ]
        stem = Embedding(in_chans, dims[0], 7, 4, 2)
        super().__init__(stem, stages, LayerNorm2d(dims[-1], eps=1e-5), dims, in_chans=in_chans, **head)


def remap(state_dict: dict, model: nn.Module) -> dict:
    """The official checkpoint's keys to ours."""
    return rename_keys(
        state_dict,
        (r"^stage1_conv_embed\.0\.", "stem.conv."),
        (r"^stage1_conv_embed\.2\.", "stem.norm."),
        (r"^merge(\d)\.", r"stages.\1.downsample."),
        (r"^stage(\d)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}."),
        (r"\.(qkv|proj)\.", r".attn.\1."),
        (r"\.attns\.(\d)\.get_v\.", r".attn.branches.\1.lepe."),
        (r"^head\.", "head.fc."),
    )


_DEEP = dict(depths=(2, 4, 32, 2))
_BASE = dict(dim=96, heads=(4, 8, 16, 32), **_DEEP)
_LARGE = dict(dim=144, heads=(6, 12, 24, 24), **_DEEP)
VARIANTS = {
    "cswin_t": dict(dim=64, depths=(1, 2, 21, 1), heads=(2, 4, 8, 16)),
    "cswin_s": dict(dim=64, heads=(2, 4, 8, 16), **_DEEP),
    "cswin_b": _BASE,
    "cswin_l": _LARGE,
    "cswin_b_384": dict(stripes=(1, 2, 12, None), **_BASE),
    "cswin_l_384": dict(stripes=(1, 2, 12, None), **_LARGE),
    "test_cswin": dict(dim=16, depths=(1, 1, 2, 1), heads=(2, 2, 4, 4)),
}
ALIASES = {
    "cswin_tiny": "cswin_t",
    "cswin_small": "cswin_s",
    "cswin_base": "cswin_b",
    "cswin_large": "cswin_l",
    "CSWin_64_12211_tiny_224": "cswin_t",
    "CSWin_64_24322_small_224": "cswin_s",
    "CSWin_96_24322_base_224": "cswin_b",
    "CSWin_144_24322_large_224": "cswin_l",
    "CSWin_96_24322_base_384": "cswin_b_384",
    "CSWin_144_24322_large_384": "cswin_l_384",
}


def _weights(file: str, **cfg) -> dict:
    url = f"https://github.com/microsoft/CSWin-Transformer/releases/download/v0.1.0/{file}.pth"
    return dict(url=url, crop_pct=0.9, license="mit", paper_ids="arXiv:2107.00652", **cfg)


_384 = dict(input_size=(3, 384, 384), pool_size=(12, 12))
WEIGHTS = {
    "cswin_t.in1k": _weights("cswin_tiny_224"),
    "cswin_s.in1k": _weights("cswin_small_224"),
    "cswin_b.in1k": _weights("cswin_base_224"),
    "cswin_b_384.in1k": _weights("cswin_base_384", **_384) | dict(crop_pct=1.0),
    "cswin_l.in22k_ft_in1k": _weights("cswin_large_224"),
    "cswin_l.in22k": _weights("cswin_large_22k_224", num_classes=21841),
    "cswin_l_384.in22k_ft_in1k": _weights("cswin_large_384", **_384) | dict(crop_pct=1.0),
}

globals().update(register_family(CSWin, VARIANTS, WEIGHTS, remap, ALIASES, first_conv="stem.conv"))

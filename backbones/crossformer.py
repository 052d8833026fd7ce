"""CrossFormer and CrossFormer++: patches of several sizes make each token; groups of near and of distant tokens attend.

Papers: CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention, https://arxiv.org/abs/2108.00154;
CrossFormer++: A Versatile Vision Transformer Hinging on Cross-scale Attention, https://arxiv.org/abs/2303.06908.
Official code: https://github.com/cheerss/CrossFormer @ 7952010, MIT.
Ours differs only in: any input size runs, as in the official detection code (group size and interval stay, groups that
overhang the map hold only its tokens, a map that is no larger than a group on one side is one group), and inputs that
the patch sizes do not divide are padded with zeros below and to the right instead of refused.
"""

import torch
from timm.layers import DropPath, LayerNorm2d, Mlp
from torch import Tensor, nn

from . import ops
from ._backbone import Backbone, Stage, register_family, rename_keys
from ._layers import MapConv2d, ParameterTable, drop_path_rates
from .ops._maps import pad_to_multiple

PATCHES = 4, 8, 16, 32
MERGED = 2, 4  # patch sizes between stages


class CrossScaleEmbedding(nn.Module):
    """Convolutions of several kernel sizes and one stride (the smallest), side by side; larger kernels, fewer channels.

    Paper: section 3.1; the dimensions halve from one kernel to the next, the last two are equal.
    """

    def __init__(self, in_dim: int, dim: int, kernels: tuple[int, ...]):
        super().__init__()
        self.stride = kernels[0]
        last = len(kernels) - 1
        self.convs = nn.ModuleList(
            nn.Conv2d(in_dim, dim // 2 ** min(i + 1, last), kernel, self.stride, (kernel - self.stride) // 2)
            for i, kernel in enumerate(kernels)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(x.permute(0, 2, 3, 1), (self.stride, self.stride))[0].permute(0, 3, 1, 2)
        return torch.cat([conv(x) for conv in self.convs], 1)


class DynamicPositionBias(ParameterTable):
    """A bias for every pair of tokens of a window, (heads, h * w, h * w): an MLP of their offset (eq. 3)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        layers = [nn.Linear(2, dim)]
        for width in (dim, dim, heads):
            layers += [nn.LayerNorm(dim), nn.ReLU(inplace=True), nn.Linear(dim, width)]
        self.mlp = nn.Sequential(*layers)

    def compute(self, h: int, w: int) -> Tensor:
        like = self.mlp[0].weight
        rows, cols = (torch.arange(1 - n, n, device=like.device).to(like.dtype) for n in (h, w))
        offsets = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), -1)  # (2h - 1, 2w - 1, 2): query minus key
        table = self.mlp(offsets).permute(2, 0, 1)
        pairs = table.unfold(1, h, 1).unfold(2, w, 1).flip(3, 4)  # (heads, query y, query x, key y, key x)
        return pairs.flatten(3).flatten(1, 2)


class GroupAttention(nn.Module):
    """Attention in groups of at most `group` x `group` tokens: neighbours, or tokens `interval` apart (section 3.2)."""

    def __init__(self, dim: int, heads: int, group: int, interval: int):
        super().__init__()
        self.heads, self.group, self.interval = heads, group, interval
        self.bias = DynamicPositionBias(dim // 16, heads)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(3)
        window, interval = self._groups(*x.shape[1:3])
        out = ops.window_attention(q, k, v, window=window, interval=interval, bias=self.bias(*window))
        return self.proj(out.flatten(3))

    def _groups(self, H: int, W: int) -> tuple[tuple[int, int], int]:
        """The window and the interval for a map of H x W."""
        G, interval = self.group, self.interval
        if min(H, W) <= G < max(H, W):
            return (H, W), 1
        if interval > 1 and max(H, W) <= G:
            interval = 1
        # groups of which only a corner is on the map may as well be that small
        h, w = (G if n >= G * interval else -(-n // interval) for n in (H, W))
        return (h, w), interval


class Block(nn.Module):
    """Attention and MLP; `cooling` ends in CrossFormer++'s amplitude cooling layer, which has no residual path."""

    def __init__(self, dim: int, heads: int, group: int, interval: int, cooling: bool, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = GroupAttention(dim, heads, group, interval)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)
        self.cooling = (
            nn.Sequential(MapConv2d(dim, dim, 3, padding=1, groups=dim), nn.LayerNorm(dim)) if cooling else None
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x if self.cooling is None else self.cooling(x)


class CrossFormer(Backbone):
    """CrossFormer. `groups` are the sides of the groups per stage, `intervals` those of every second block.

    `cooling`: every third block but the last of a stage ends in an amplitude cooling layer (CrossFormer++).
    """

    def __init__(
        self,
        dim: int = 64,
        depths: tuple[int, ...] = (1, 1, 8, 6),
        heads: tuple[int, ...] = (2, 4, 8, 16),
        groups: tuple[int, ...] = (7, 7, 7, 7),
        intervals: tuple[int, ...] = (8, 4, 2, 1),
        cooling: bool = False,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head,  # num_classes, global_pool, drop_rate
    ):
        dims = tuple(dim * 2**i for i in range(len(depths)))
        stages = []
        for i, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            blocks = [
                Block(
                    dims[i],
                    heads[i],
                    groups[i],
                    interval=intervals[i] if j % 2 else 1,
                    cooling=cooling and j % 3 == 2 and j < depths[i] - 1,
                    drop_path=rate,
                )
                for j, rate in enumerate(rates)
            ]
            merge = nn.Identity()
            if i:
                embed = CrossScaleEmbedding(dims[i - 1], dims[i], MERGED)
                merge = nn.Sequential(LayerNorm2d(dims[i - 1], eps=1e-5), embed)
            stages.append(Stage(merge, blocks))
        stem = nn.Sequential(CrossScaleEmbedding(in_chans, dim, PATCHES), LayerNorm2d(dim, eps=1e-5))
        super().__init__(stem, stages, LayerNorm2d(dims[-1], eps=1e-5), dims, in_chans=in_chans, **head)


def remap(state_dict: dict, model: nn.Module) -> dict:
    """The official checkpoint's keys to ours; tables that its first releases kept as buffers are left out."""
    tables = "attn.biases", "attn.relative_position_index", "attn_mask"
    return rename_keys(
        {key: value for key, value in state_dict.items() if not key.endswith(tables)},
        (r"^patch_embed\.projs\.", "stem.0.convs."),
        (r"^patch_embed\.norm\.", "stem.1."),
        (r"^layers\.(\d)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample."),
        (r"\.downsample\.norm\.", ".downsample.0."),
        (r"\.downsample\.reductions\.", ".downsample.1.convs."),
        (r"^layers\.", "stages."),
        (r"\.pos\.pos_proj\.", ".bias.mlp.0."),
        (r"\.pos\.pos(\d)\.([02])\.", lambda m: f".bias.mlp.{3 * int(m[1]) - 2 + int(m[2])}."),
        (r"\.ex_conv\.", ".cooling.0."),
        (r"\.ex_ln\.", ".cooling.1."),
        (r"^head\.", "head.fc."),
    )


_DIM = {
    64: dict(dim=64, heads=(2, 4, 8, 16)),
    96: dict(dim=96, heads=(3, 6, 12, 24)),
    128: dict(dim=128, heads=(4, 8, 16, 32)),
}
_PP = dict(groups=(4, 4, 14, 7), intervals=(4, 2, 1, 1), cooling=True)
VARIANTS = {
    "crossformer_t": dict(depths=(1, 1, 8, 6), **_DIM[64]),
    "crossformer_s": dict(depths=(2, 2, 6, 2), **_DIM[96]),
    "crossformer_b": dict(depths=(2, 2, 18, 2), **_DIM[96]),
    "crossformer_l": dict(depths=(2, 2, 18, 2), **_DIM[128]),
    "crossformerpp_s": dict(depths=(2, 2, 18, 2), **_DIM[64], **_PP),
    "crossformerpp_b": dict(depths=(2, 2, 18, 2), **_DIM[96], **_PP),
    "crossformerpp_l": dict(depths=(2, 2, 18, 2), **_DIM[128], **_PP),
    "crossformerpp_h": dict(depths=(6, 6, 18, 2), **_DIM[128], **_PP),
    "test_crossformer": dict(dim=32, depths=(1, 1, 2, 1), heads=(1, 2, 2, 4)),
    "test_crossformerpp": dict(dim=32, depths=(2, 1, 4, 1), heads=(1, 2, 2, 4), **_PP),
}
_SIZES = {"t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge"}
ALIASES = {
    f"{family}_{_SIZES[size]}": name for name in VARIANTS for family, _, size in [name.partition("_")] if size in _SIZES
}


_DRIVE = "https://drive.google.com/file/d/{}/view?usp=sharing"
_BAIDU = "https://pan.baidu.com/s/{}?pwd=crsf"
_PAGES = {
    "crossformer_t": _DRIVE.format("1YSkU9enn-ITyrbxLH13zNcBYvWSEidfq"),
    "crossformer_s": _DRIVE.format("1RAkigsgr33va0RZ85S2Shs2BhXYcS6U8"),
    "crossformer_b": _DRIVE.format("1bK8biVCi17nz_nkt7rBfio_kywUpllSU"),
    "crossformer_l": _DRIVE.format("1zRWByVW_KIZ87NgaBkDIm60DAsGJErdG"),
    "crossformerpp_s": _BAIDU.format("1smc_kRoogd0Ig5vfqwuGTA"),
    "crossformerpp_b": _BAIDU.format("13XVP0ebtNcyRMmkl11ALYg"),
    "crossformerpp_l": _BAIDU.format("1xtPh-ndcOxRM7fPYYxIIRg"),
    "crossformerpp_h": _BAIDU.format("1xtPh-ndcOxRM7fPYYxIIRg"),
}
_CFG = dict(crop_pct=0.875, license="mit")
WEIGHTS = {
    f"{name}.in1k": dict(origin_url=page, paper_ids=f"arXiv:{'2303.06908' if 'pp' in name else '2108.00154'}", **_CFG)
    for name, page in _PAGES.items()
}

_STEM = tuple(f"stem.0.convs.{i}" for i in range(len(PATCHES)))
globals().update(register_family(CrossFormer, VARIANTS, WEIGHTS, remap, ALIASES, first_conv=_STEM))

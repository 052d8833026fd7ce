"""BiFormer: bi-level routing attention, each region of the map attending to the few regions most like it.

Paper: BiFormer: Vision Transformer with Bi-Level Routing Attention, https://arxiv.org/abs/2303.08810.
Official code: https://github.com/rayleizhu/BiFormer @ 1697bbb, MIT.
Ours differs only in: maps that the regions do not divide are padded, as the official `auto_pad=True` does, so any
input size runs; only the published configuration exists (no pooled keys, no soft or learnt routing).
"""

from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from . import ops
from ._backbone import Backbone, Stage, register_family, rename_keys
from ._layers import MapConv2d, drop_path_rates
from .ops._maps import pad_to_multiple


class RoutingAttention(nn.Module):
    """Multi-head attention to the `topk` most similar regions, plus a depth-wise convolution of the values.

    The map has `regions` x `regions` of them.
    """

    def __init__(self, dim: int, heads: int, topk: int, regions: int):
        super().__init__()
        self.heads, self.topk, self.regions, self.scale = heads, topk, regions, dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.lepe = MapConv2d(dim, dim, 5, padding=2, groups=dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        regions = self.regions, self.regions
        x, inside = pad_to_multiple(x, regions)
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, H, W, 3, heads, head_dim)
        q, k, v = qkv.unbind(3)
        index = self.route(q.detach(), k.detach())
        out = ops.routing_attention(q, k, v, index, regions=regions, scale=self.scale)
        out = out.flatten(3) + self.lepe(v.flatten(3))
        return self.proj(out[inside])

    def route(self, q: Tensor, k: Tensor) -> Tensor:
        """The regions whose mean key is most like the mean query of each region, (B, regions^2, topk) (eq. 3-4)."""

        def mean(x: Tensor) -> Tensor:
            x = x.flatten(3).unflatten(2, (self.regions, -1)).unflatten(1, (self.regions, -1))  # (B, R, h, R, w, C)
            return x.mean((2, 4)).flatten(1, 2)  # (B, R * R, C)

        return (mean(q) @ mean(k).mT).topk(self.topk).indices


class GlobalAttention(nn.Module):
    """Multi-head attention to the whole map, plus a depth-wise convolution of its input."""

    def __init__(self, dim: int, heads: int = 8):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.lepe = MapConv2d(dim, dim, 5, padding=2, groups=dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(3)
        out = ops.window_attention(q, k, v, window=x.shape[1:3])
        return self.proj(out.flatten(3) + self.lepe(x))


class Block(nn.Module):
    def __init__(self, dim: int, attn: nn.Module, mlp_ratio: int, position: bool, drop_path: float):
        super().__init__()
        self.pos_embed = MapConv2d(dim, dim, 3, padding=1, groups=dim) if position else None
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_embed is not None:
            x = x + self.pos_embed(x)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class BiFormer(Backbone):
    """BiFormer, or with `swin_layout` its Swin-T-shaped ablation: patch embeddings without overlap, no position conv.

    `topks` are the regions each region attends to, per stage; None attends to the whole map. Maps are divided into
    `regions` x `regions`: 7 in classification, 16 in the official detectors, 8 in the official segmentors.
    """

    def __init__(
        self,
        dims: tuple[int, ...] = (64, 128, 256, 512),
        depths: tuple[int, ...] = (2, 2, 8, 2),
        topks: tuple[int | None, ...] = (1, 4, 16, None),
        regions: int = 7,
        head_dim: int = 32,
        mlp_ratio: int = 3,
        swin_layout: bool = False,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head,  # num_classes, global_pool, drop_rate
    ):
        rates = drop_path_rates(drop_path_rate, depths)
        stages = []
        for i, (dim, topk) in enumerate(zip(dims, topks, strict=True)):
            blocks = [
                Block(
                    dim,
                    RoutingAttention(dim, dim // head_dim, topk, regions) if topk else GlobalAttention(dim),
                    mlp_ratio,
                    position=not swin_layout,
                    drop_path=rate,
                )
                for rate in rates[i]
            ]
            if i == 0:
                downsample = nn.Identity()
            elif swin_layout:
                downsample = nn.Sequential(nn.BatchNorm2d(dims[i - 1]), nn.Conv2d(dims[i - 1], dim, 2, 2))
            else:
                downsample = nn.Sequential(nn.Conv2d(dims[i - 1], dim, 3, 2, 1), nn.BatchNorm2d(dim))
            stages.append(Stage(downsample, blocks))
        if swin_layout:
            stem = nn.Sequential(nn.Conv2d(in_chans, dims[0], 4, 4), nn.BatchNorm2d(dims[0]))
        else:
            stem = nn.Sequential(
                nn.Conv2d(in_chans, dims[0] // 2, 3, 2, 1),
                nn.BatchNorm2d(dims[0] // 2),
                nn.GELU(),
                nn.Conv2d(dims[0] // 2, dims[0], 3, 2, 1),
                nn.BatchNorm2d(dims[0]),
            )
        super().__init__(stem, stages, nn.BatchNorm2d(dims[-1]), dims, in_chans=in_chans, **head)


def remap(state_dict: dict, model: nn.Module) -> dict:
    """The official checkpoint's keys to ours."""
    return rename_keys(
        state_dict,
        (r"^downsample_layers\.0\.", "stem."),
        (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
        (r"^stages\.(\d+)\.(?:blocks\.)?(\d+)\.", r"stages.\1.blocks.\2."),
        (r"\.attn\.qkv\.qkv\.", ".attn.qkv."),
        (r"\.attn\.wo\.", ".attn.proj."),
        (r"\.mlp\.0\.", ".mlp.fc1."),
        (r"\.mlp\.[23]\.", ".mlp.fc2."),
        (r"^head\.", "head.fc."),
    )


VARIANTS = {
    "biformer_t": dict(dims=(64, 128, 256, 512), depths=(2, 2, 8, 2)),
    "biformer_s": dict(dims=(64, 128, 256, 512), depths=(4, 4, 18, 4)),
    "biformer_b": dict(dims=(96, 192, 384, 768), depths=(4, 4, 18, 4)),
    "biformer_stl": dict(dims=(96, 192, 384, 768), depths=(2, 2, 6, 2), mlp_ratio=4, swin_layout=True),
    "test_biformer": dict(dims=(16, 32, 32, 64), depths=(1, 1, 2, 1), topks=(1, 4, 16, None), head_dim=16),
}
ALIASES = {"biformer_tiny": "biformer_t", "biformer_small": "biformer_s", "biformer_base": "biformer_b"}

_FOLDER = "https://1drv.ms/u/s!AkBbczdRlZvChGsXFqAA-PVnA-R8?e=IPlOCG"  # the authors' OneDrive
_IN1K = dict(crop_pct=0.875, origin_url=_FOLDER, license="mit", paper_ids="arXiv:2303.08810")
WEIGHTS = {f"{name}.in1k": _IN1K for name in VARIANTS if not name.startswith("test_")}

globals().update(register_family(BiFormer, VARIANTS, WEIGHTS, remap, ALIASES, first_conv="stem.0"))

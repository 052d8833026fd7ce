"""RAVLT: rank-augmented linear attention in the first two stages, softmax attention in the last two.

Paper: Breaking the Low-Rank Dilemma of Linear Attention, https://arxiv.org/abs/2411.07635.
Official code: https://github.com/qhfan/RALA @ a86314f, no licence given.
Ours differs only in: the residual path around the MLP's convolution is part of its kernel, and `forward_features` ends
before the pooling.
"""

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerScale, trunc_normal_
from torch import Tensor, nn

from . import ops
from ._backbone import Backbone, Stage, register_family, rename_keys
from ._layers import MapConv2d, drop_path_rates
from .ops.linear_attention import rotary, rotate


class GatedAttention(nn.Module):
    """Linear or softmax attention to the whole map with rotary positions, plus LePE, times a gate (section 4.1)."""

    def __init__(self, dim: int, heads: int, linear: bool):
        super().__init__()
        self.heads, self.linear = heads, linear
        self.qkvo = nn.Linear(dim, 4 * dim)
        self.lepe = MapConv2d(dim, dim, 5, padding=2, groups=dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        H, W, C = x.shape[1:]
        q, k, v, gate = self.qkvo(x).unflatten(-1, (4, C)).unbind(3)
        lepe = self.lepe(v)
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (q, k, v))
        rotation = self._rotation(H, W, q)
        if self.linear:
            out = ops.linear_attention(q, k, v, rotation)
        else:
            out = ops.window_attention(rotate(q, rotation), rotate(k, rotation), v, window=(H, W))
        return self.proj((out.flatten(3) + lepe) * gate)

    def _rotation(self, H: int, W: int, like: Tensor) -> Tensor:
        """Frequencies from 1 to 1e-4, in float32 as they were published, then in float64 where that is asked for."""
        angles = 1.0 / 10000 ** torch.linspace(0, 1, like.shape[-1] // 4, device=like.device, dtype=torch.float32)
        return rotary(H, W, angles.to(torch.promote_types(like.dtype, torch.float32)))


class ConvMlp(nn.Module):
    """Linear, GELU, x + a depth-wise convolution of x, linear."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.conv = ResidualConv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.conv(F.gelu(self.fc1(x))))


class ResidualConv2d(MapConv2d):
    """x + a depth-wise convolution of x: one more in the middle of each kernel."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        margin = self.padding[0]
        return super()._conv_forward(x, weight + F.pad(weight.new_ones(1, 1), (margin,) * 4), bias)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_ratio: float, linear: bool, layer_scale: float, drop_path: float):
        super().__init__()
        self.pos_embed = MapConv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = GatedAttention(dim, heads, linear)
        self.scale1 = LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = ConvMlp(dim, int(mlp_ratio * dim))
        self.scale2 = LayerScale(dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        x = x + self.drop_path(self.scale1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))


class RAVLT(Backbone):
    """RAVLT. `layer_scales` are the initial values per stage; the first two stages have linear attention.

    `norm`, a projection to 1024 channels with batch norm and SiLU, is what the classifier sees.
    """

    def __init__(
        self,
        dims: tuple[int, ...] = (64, 128, 256, 512),
        depths: tuple[int, ...] = (2, 2, 6, 2),
        heads: tuple[int, ...] = (1, 2, 4, 8),
        layer_scales: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
        mlp_ratio: float = 3.5,
        projection: int = 1024,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head,  # num_classes, global_pool, drop_rate
    ):
        stages = []
        for i, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            blocks = [Block(dims[i], heads[i], mlp_ratio, i < 2, layer_scales[i], rate) for rate in rates]
            stages.append(Stage(_conv(dims[i - 1], dims[i], 2) if i else nn.Identity(), blocks))
        half = dims[0] // 2
        chans = in_chans, half, half, half, dims[0]
        stem = [_conv(chans[i], chans[i + 1], stride) for i, stride in enumerate((2, 1, 1, 2))]
        stem = nn.Sequential(stem[0], nn.GELU(), stem[1], nn.GELU(), stem[2], nn.GELU(), stem[3])
        norm = nn.Sequential(nn.Conv2d(dims[-1], projection, 1), nn.BatchNorm2d(projection), nn.SiLU())
        super().__init__(stem, stages, norm, dims, in_chans=in_chans, num_features=projection, **head)
        self.apply(_init_conv)


def _conv(in_dim: int, dim: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_dim, dim, 3, stride, 1), nn.BatchNorm2d(dim))


def _init_conv(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def remap(state_dict: dict, model: nn.Module) -> dict:
    """The official checkpoint's keys to ours: 1 x 1 convolutions of maps are linear layers, tables are computed."""
    renamed = rename_keys(
        {key: value for key, value in state_dict.items() if not key.endswith(".RoPE.angle")},
        (r"^patch_embed\.proj\.(\d+)\.", lambda m: f"stem.{int(m[1]) // 3 * 2}.{int(m[1]) % 3}."),
        (r"^layers\.(\d)\.downsample\.reduction\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.0."),
        (r"^layers\.(\d)\.downsample\.norm\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.1."),
        (r"^layers\.", "stages."),
        (r"\.norm([12])\.norm\.", r".norm\1."),
        (r"\.gamma_([12])$", r".scale\1.gamma"),
        (r"\.ffn\.dwconv\.", ".mlp.conv."),
        (r"\.ffn\.", ".mlp."),
        (r"\.pos\.", ".pos_embed."),
        (r"^norm\.", "norm.1."),
        (r"^proj\.", "norm.0."),
        (r"^head\.", "head.fc."),
    )
    flat = ".gamma", ".qkvo.weight", ".proj.weight", ".fc1.weight", ".fc2.weight", "head.fc.weight"
    return {key: _flattened(value) if key.endswith(flat) else value for key, value in renamed.items()}


def _flattened(value: Tensor) -> Tensor:
    """(1, C, 1, 1) to (C,) and (out, in, 1, 1) to (out, in); anything else is left for the loader to complain about."""
    if torch.is_tensor(value) and value.ndim == 4 and value.shape[2:] == (1, 1):
        return value.flatten() if len(value) == 1 else value[:, :, 0, 0]
    return value


VARIANTS = {
    "ravlt_t": dict(),
    "ravlt_s": dict(dims=(64, 128, 320, 512), depths=(3, 5, 9, 3), heads=(1, 2, 5, 8)),
    "ravlt_b": dict(
        dims=(96, 192, 384, 512), depths=(4, 6, 12, 6), heads=(1, 2, 6, 8), layer_scales=(1.0, 1.0, 1e-6, 1e-6)
    ),
    "ravlt_l": dict(
        dims=(96, 192, 448, 640), depths=(4, 7, 19, 8), heads=(1, 2, 7, 10), layer_scales=(1e-6, 1e-6, 1e-6, 1e-6)
    ),
    "test_ravlt": dict(dims=(16, 32, 32, 48), depths=(1, 1, 1, 1), heads=(1, 2, 2, 3), projection=64),
}
ALIASES = {f"RAVLT_{size.upper()}": f"ravlt_{size}" for size in "tsbl"}


def _weights(size: str) -> dict:
    url = f"https://huggingface.co/aldjalkdf/RAVLT/resolve/main/RAVLT_{size}.pth"
    return dict(url=url, crop_pct=0.875, paper_ids="arXiv:2411.07635")


WEIGHTS = {f"ravlt_{size.lower()}.in1k": _weights(size) for size in "TSBL"}

globals().update(register_family(RAVLT, VARIANTS, WEIGHTS, remap, ALIASES, first_conv="stem.0.0"))

"""TransNeXt: every token attends to its 3 x 3 neighbours and to a pooled map at once; the last stage to the whole map.

Paper: TransNeXt: Robust Foveal Visual Perception for Vision Transformers, https://arxiv.org/abs/2311.17132.
Official code: https://github.com/DaiShiResearch/TransNeXt @ c8a9974, Apache-2.0.
Ours differs only in: the pooled size and the positions follow the input, relative to `pretrain_size`, which is what the
official code calls extrapolation (and computes when it is built for that size); cosines are computed in float32.
"""

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d
from torch import Tensor, nn

from . import ops
from ._backbone import Backbone, Stage, register_family, rename_keys
from ._layers import MapConv2d, ParameterTable, drop_path_rates, recompute
from .ops._maps import tiles

WINDOW = 3


class PositionBias(ParameterTable):
    """A table of biases, (heads, R, C): an MLP of the log-spaced distances of tokens from pooled tokens (section 3.3).

    `extent` is the side of the map in pre-training, which distances are relative to.
    """

    def __init__(self, heads: int, extent: int, hidden: int = 512):
        super().__init__()
        self.extent = extent
        self.fc1 = nn.Linear(2, hidden)
        self.fc2 = nn.Linear(hidden, heads)

    def compute(self, H: int, W: int, P: int, Q: int) -> Tensor:
        rows, cols = (self._coordinates(n, pooled) for n, pooled in ((H, P), (W, Q)))
        return recompute(self, self._table, rows, cols)

    def _table(self, rows: Tensor, cols: Tensor) -> Tensor:
        down, right = self.fc1.weight.unbind(1)
        hidden = (rows[:, None] * down + self.fc1.bias)[:, None] + cols[:, None] * right  # (R, C, hidden)
        return self.fc2(hidden.relu_()).permute(2, 0, 1)

    def _coordinates(self, n: int, pooled: int) -> Tensor:
        """Signed logarithms of all distances, in float32 as published."""
        bound, step = _distances(n, pooled)
        weight = self.fc1.weight
        x = torch.arange(-bound, bound + 1, step, dtype=torch.float32, device=weight.device) / 2
        x = x / (self.extent - 1) * 8
        x = x.sign() * torch.log2(x.abs() + 1.0) / torch.log2(x.new_full((), 8.0))
        return x.to(weight.dtype)

    @staticmethod
    def index(n: int, pooled: int, device: torch.device) -> Tensor:
        """(n, pooled): where the table has the distance from each token to each pooled token, along one axis."""
        bound, step = _distances(n, pooled)
        token, bin = torch.arange(n, device=device), torch.arange(pooled, device=device)
        first, last = bin * n // pooled, ((bin + 1) * n + pooled - 1) // pooled - 1  # of the tokens in a bin
        return (2 * token[:, None] - (first + last) + bound) // step


def _distances(n: int, pooled: int) -> tuple[int, int]:
    """Twice the distances along an axis of n tokens: the largest, and the step between them."""
    if tiles((n, n), (pooled, pooled)):
        return 2 * n - 1 - n // pooled, 2
    return 2 * n - 2, 1


class CosineAttention(nn.Module):
    """What length-scaled cosine attention learns besides its projections (section 3.4)."""

    def __init__(self, dim: int, heads: int, extent: int):
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.full((heads, 1), 1 / 0.24).expm1().log())  # softplus of it is 1 / 0.24
        self.query_embedding = nn.Parameter(torch.empty(heads, dim // heads))
        nn.init.trunc_normal_(self.query_embedding, std=0.02)
        self.position = PositionBias(heads, extent)
        self.proj = nn.Linear(dim, dim)

    def scaled(self, q: Tensor, keys: Tensor) -> Tensor:
        """Unit queries for a softmax over that many keys."""
        scale = F.softplus(self.temperature) * keys.log()
        return torch.addcmul(self.query_embedding * scale, q, scale)

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, H, W, parts * C) to maps (B, H, W, heads, D)."""
        return x.unflatten(-1, (parts, self.heads, -1)).unbind(3)


class GlobalAttention(CosineAttention):
    """Cosine attention to the whole map."""

    def __init__(self, dim: int, heads: int, extent: int):
        super().__init__(dim, heads, extent)
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[1:3]
        q, k, v = self.split(self.qkv(x), 3)
        q, k = _unit(q), _unit(k)
        rows, cols = (self.position.index(n, n, x.device) for n in (H, W))
        bias = self.position(H, W, H, W)[:, rows[:, None, :, None], cols[:, None, :]]  # (heads, H, W, H, W)
        q = self.scaled(q, q.new_full((), H * W))
        out = ops.window_attention(q, k, v.to(q.dtype), window=(H, W), bias=bias.flatten(3).flatten(1, 2), scale=1.0)
        return self.proj(out.flatten(3).to(x.dtype))


class AggregatedAttention(CosineAttention):
    """Cosine attention to the neighbours and to the map pooled by `ratio`, with learned tokens (section 3.2)."""

    def __init__(self, dim: int, heads: int, extent: int, ratio: int):
        super().__init__(dim, heads, extent)
        self.ratio = ratio
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.reduce = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.local_bias = nn.Parameter(torch.empty(heads, WINDOW**2))
        self.tokens = nn.Parameter(torch.empty(heads, dim // heads, WINDOW**2))
        self.token_bias = nn.Parameter(torch.zeros(heads, WINDOW**2))
        nn.init.trunc_normal_(self.local_bias, std=0.0004)
        nn.init.trunc_normal_(self.tokens, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[1:3]
        P, Q = (n // self.ratio if n >= self.ratio else 1 for n in (H, W))
        (q,), (k, v) = self.split(self.q(x), 1), self.split(self.kv(x), 2)
        pooled_k, pooled_v = self.split(self.kv(self.norm(_pool(F.gelu(self.reduce(x)), (P, Q)))), 2)
        q = _unit(q)
        extra = torch.einsum("bhwnd,ndo->bhwno", q, self.tokens.to(q.dtype)) + self.token_bias
        rows, cols = (self.position.index(n, pooled, x.device) for n, pooled in ((H, P), (W, Q)))
        out = ops.aggregated_attention(
            self.scaled(q, _neighbours(H, W, q)[..., None, None] + P * Q),
            _unit(k),
            v,
            _unit(pooled_k),
            pooled_v,
            extra,
            self.local_bias,
            self.position(H, W, P, Q),
            rows,
            cols,
        )
        return self.proj(out.flatten(3).to(x.dtype))


def _pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Means of (B, H, W, C) over bins, as adaptive pooling makes them."""
    P, Q = size
    if tiles(x.shape[1:3], size):  # keeps nothing for the backward pass
        return x.unflatten(1, (P, -1)).mean(2).unflatten(2, (Q, -1)).mean(3)
    return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def _neighbours(H: int, W: int, like: Tensor) -> Tensor:
    """How many tokens of a window are on the map, (H, W), in float32 as published."""
    counts = []
    for n in (H, W):
        at = torch.arange(n, device=like.device, dtype=torch.float32)
        counts.append((at + WINDOW // 2).clamp(max=n - 1) - (at - WINDOW // 2).clamp(min=0) + 1)
    return counts[0][:, None] * counts[1]


class ConvGLU(nn.Module):
    """Linear to values and gates, depth-wise convolution and GELU of values, times the gates, linear (section 3.5)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.conv = MapConv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.fc1(x).chunk(2, -1)
        return recompute(self, self._gated, self.conv(x), gate)

    def _gated(self, x: Tensor, gate: Tensor) -> Tensor:
        x = F.gelu(x)
        return self.fc2(x * gate if torch.is_grad_enabled() else x.mul_(gate))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, ratio: int, extent: int, mlp_ratio: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = AggregatedAttention(dim, heads, extent, ratio) if ratio > 1 else GlobalAttention(dim, heads, extent)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = ConvGLU(dim, mlp_ratio * dim * 2 // 3)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class TransNeXt(Backbone):
    """TransNeXt. `ratios` are how much each stage's keys are pooled; the maps are normalised after every stage.

    `pretrain_size` is the side of the images that the position biases were learned on.
    """

    def __init__(
        self,
        dim: int = 48,
        depths: tuple[int, ...] = (2, 2, 15, 2),
        ratios: tuple[int, ...] = (8, 4, 2, 1),
        mlp_ratios: tuple[int, ...] = (8, 8, 4, 4),
        head_dim: int = 24,
        pretrain_size: int = 224,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head,  # num_classes, global_pool, drop_rate
    ):
        dims = tuple(dim * 2**i for i in range(len(depths)))
        stages = []
        for i, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            heads, extent = dims[i] // head_dim, pretrain_size // 2 ** (i + 2)
            blocks = [Block(dims[i], heads, ratios[i], extent, mlp_ratios[i], rate) for rate in rates]
            embed = _embedding(dims[i - 1], dims[i], 3, 2) if i else nn.Identity()
            stages.append(Stage(embed, blocks, nn.LayerNorm(dims[i], eps=1e-6)))
        stem = _embedding(in_chans, dim, 7, 4)
        super().__init__(stem, stages, nn.Identity(), dims, in_chans=in_chans, **head)
        self.apply(_init_conv)

    def no_weight_decay(self) -> set[str]:
        kinds = "query_embedding", "local_bias", "temperature", ".position."
        return {name for name, _ in self.named_parameters() if any(kind in name for kind in kinds)}


def _embedding(in_dim: int, dim: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_dim, dim, kernel, stride, kernel // 2), LayerNorm2d(dim, eps=1e-5))


def _init_conv(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        nn.init.zeros_(module.bias)


def remap(state_dict: dict, model: nn.Module) -> dict:
    """The official checkpoint's keys to ours."""
    renamed = rename_keys(
        state_dict,
        (r"^patch_embed1\.proj\.", "stem.0."),
        (r"^patch_embed1\.norm\.", "stem.1."),
        (r"^patch_embed(\d)\.proj\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.0."),
        (r"^patch_embed(\d)\.norm\.", lambda m: f"stages.{int(m[1]) - 1}.downsample.1."),
        (r"^block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
        (r"^norm(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.norm."),
        (r"\.cpb_fc", ".position.fc"),
        (r"\.relative_pos_bias_local$", ".local_bias"),
        (r"\.learnable_tokens$", ".tokens"),
        (r"\.learnable_bias$", ".token_bias"),
        (r"\.sr\.", ".reduce."),
        (r"\.dwconv\.dwconv\.", ".conv."),
        (r"^head\.", "head.fc."),
    )
    flat = ".query_embedding", ".token_bias", ".temperature", ".reduce.weight"
    return {key: value.reshape(value.shape[0], -1) if key.endswith(flat) else value for key, value in renamed.items()}


VARIANTS = {
    "transnext_micro": dict(dim=48, depths=(2, 2, 15, 2)),
    "transnext_t": dict(dim=72, depths=(2, 2, 15, 2)),
    "transnext_s": dict(dim=72, depths=(5, 5, 22, 5)),
    "transnext_b": dict(dim=96, depths=(5, 5, 23, 5)),
    "transnext_micro_aaaa": dict(dim=48, depths=(2, 2, 15, 2), ratios=(16, 8, 4, 2), pretrain_size=256),
    "test_transnext": dict(dim=24, depths=(1, 1, 2, 1), mlp_ratios=(2, 2, 2, 2), head_dim=12),
}
ALIASES = {
    "transnext_tiny": "transnext_t",
    "transnext_small": "transnext_s",
    "transnext_base": "transnext_b",
    "transnext_micro_AAAA": "transnext_micro_aaaa",
}


def _weights(name: str, **cfg) -> dict:
    url = f"https://huggingface.co/DaiShiResearch/transnext-{name}/resolve/main/transnext_{name.replace('-', '_')}.pth"
    return dict(url=url, license="apache-2.0", paper_ids="arXiv:2311.17132") | dict(crop_pct=0.875) | cfg


_256 = dict(input_size=(3, 256, 256), pool_size=(8, 8))
_384 = dict(input_size=(3, 384, 384), pool_size=(12, 12), crop_pct=1.0, crop_mode="squash")
WEIGHTS = {
    "transnext_micro.in1k": _weights("micro-224-1k"),
    "transnext_t.in1k": _weights("tiny-224-1k"),
    "transnext_s.in1k": _weights("small-224-1k"),
    "transnext_b.in1k": _weights("base-224-1k"),
    "transnext_s.in1k_384": _weights("small-384-1k-ft-1k", **_384),
    "transnext_b.in1k_384": _weights("base-384-1k-ft-1k", **_384),
    "transnext_micro_aaaa.in1k": _weights("micro-AAAA-256-1k", **_256),
}

globals().update(register_family(TransNeXt, VARIANTS, WEIGHTS, remap, ALIASES, first_conv="stem.0"))

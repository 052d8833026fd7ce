"""DaViT: attention inside windows and attention of channels to channels, in turn.

Paper: DaViT: Dual Attention Vision Transformers, https://arxiv.org/abs/2204.03645.
Official code: https://github.com/dingmyu/davit @ fc79470, MIT. The models are timm's (Apache-2.0), whose loader takes
official checkpoints; new here are the official code's davit_large_window12_384, and blocks on our operators.
"""

import torch
import torch.nn.functional as F
from timm.models import davit as timm_davit
from torch import Tensor, nn

from . import ops
from ._accelerate import accelerate
from ._backbone import Checked, adopt, register_family
from .ops._maps import pad_to_multiple, tiles


class _Block:
    """A block of timm's, on maps (B, H, W, C) from one end to the other; `_mix` is its attention."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.cpe1(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        x = x + self.drop_path1(self._mix(self.norm1(x)))
        x = self.cpe2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if self.mlp is not None:
            x = x + self.drop_path2(self.mlp(self.norm2(x)))
        return x.permute(0, 3, 1, 2)


class SpatialBlock(_Block, timm_davit.SpatialBlock):
    """Tokens that pad the map to whole windows take part, as published."""

    def _mix(self, x: Tensor) -> Tensor:
        size = x.shape[1:3]
        x, on_map = pad_to_multiple(x, self.window_size)
        q, k, v = self.attn.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(3)
        out = ops.window_attention(q, k, v, window=self.window_size).flatten(3)
        if not tiles(size, self.window_size):
            out = out[on_map].clone(memory_format=torch.contiguous_format)
        return self.attn.proj(out)


class ChannelBlock(_Block, timm_davit.ChannelBlock):
    def _mix(self, x: Tensor) -> Tensor:
        attn = self.attn
        if isinstance(attn, timm_davit.ChannelAttentionV2):
            q, k, v = attn.qkv(x).unflatten(-1, (3, attn.groups, -1)).unbind(3)
            scale = (x.shape[1] * x.shape[2] if attn.dynamic_scale else attn.head_dim) ** -0.5
            return attn.proj(ops.channel_attention(v, q, k, scale=scale).flatten(3))
        q, k, v = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).unbind(3)
        return attn.proj(ops.channel_attention(q, k, v, scale=attn.scale).flatten(3))


class Stem(timm_davit.Stem):
    """The zeros that timm's pads with are those of the convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Downsample(timm_davit.Downsample):
    def forward(self, x: Tensor) -> Tensor:
        if self.conv.kernel_size != (2, 2):
            return super().forward(x)
        x = self.norm(x)
        # a column more than an even number is one that the convolution does not reach
        return self.conv(x if tiles(x.shape[2:], (2, 2)) else F.pad(x, (0, 1, 0, 1)))


REPLACES = {
    timm_davit.Stem: Stem,
    timm_davit.Downsample: Downsample,
    timm_davit.SpatialBlock: SpatialBlock,
    timm_davit.ChannelBlock: ChannelBlock,
}


class DaViT(Checked, timm_davit.DaVit):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        accelerate(self)


def remap(state_dict: dict, model: nn.Module) -> dict:
    """The official checkpoint's keys to timm's."""
    return timm_davit.checkpoint_filter_fn(state_dict, model)


TIMM_MODELS = (
    "davit_tiny",
    "davit_small",
    "davit_base",
    "davit_large",
    "davit_huge",
    "davit_giant",
    "davit_base_fl",
    "davit_huge_fl",
)
VARIANTS = {
    "davit_large_window12_384": dict(
        depths=(1, 1, 9, 1), embed_dims=(192, 384, 768, 1536), num_heads=(6, 12, 24, 48), window_size=12
    ),
    "test_davit": dict(depths=(1, 1, 2, 1), embed_dims=(16, 32, 48, 64), num_heads=(1, 2, 3, 4), window_size=3),
}
CFGS = {
    "davit_large_window12_384": dict(
        input_size=(3, 384, 384), pool_size=(12, 12), crop_pct=1.0, license="mit", paper_ids="arXiv:2204.03645"
    )
}

globals().update(register_family(DaViT, VARIANTS, CFGS, remap, {}, first_conv="stem.conv"))
adopt(TIMM_MODELS)

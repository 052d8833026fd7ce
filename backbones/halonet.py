"""HaloNet: ResNets whose 3 x 3 convolutions are attention of blocks to themselves and a halo around them.

Paper: Scaling Local Self-Attention for Parameter Efficient Visual Backbones, https://arxiv.org/abs/2103.12731.
The authors published no code and no weights; H0 and H2 to H7 are the paper's table 3, in the parameter layout of timm,
which has H1 and hybrids of its own (Apache-2.0). Ours differs only in: any input size, blocks overhang the map.
"""

from functools import partial

import torch
from timm.layers.halo_attn import HaloAttn
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg, LayerFn, SelfAttnBlock
from torch import Tensor, nn

from . import ops
from ._backbone import Checked, adopt, register_family


class HaloAttention(HaloAttn):
    """timm's module on our operator: the same numbers, and maps of any size."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        q = self.q(x).permute(0, 2, 3, 1).unflatten(-1, (self.num_heads, -1))
        k, v = (
            self.kv(x)
            .permute(0, 2, 3, 1)
            .unflatten(-1, (self.num_heads, -1))
            .split([self.dim_head_qk, self.dim_head_v], -1)
        )
        rel = self.scale if self.scale_pos_embed else 1
        out = ops.halo_attention(
            q,
            k,
            v,
            rel * self.pos_embed.height_rel,
            rel * self.pos_embed.width_rel,
            block_size=self.block_size,
            halo_size=self.halo_size,
            stride=self.block_stride,
            scale=self.scale,
        )
        return self.pool(out.flatten(3).permute(0, 3, 1, 2))


REPLACES = {HaloAttn: HaloAttention}


class HaloBlock(SelfAttnBlock):
    """timm's block, whose attention may make more channels than it gets."""

    def __init__(self, in_chs: int, out_chs: int, layers: LayerFn, **kwargs):
        super().__init__(in_chs, out_chs, layers=layers, **kwargs)
        values = self.self_attn.dim_out_v
        self.post_attn = layers.norm_act(values)
        self.conv3_1x1 = layers.conv_norm_act(values, out_chs, 1, apply_act=False)


class HaloNet(Checked, ByobNet):
    """HaloNet, in the terms of the paper's table 3: `value_ratio` r_v, `out_ratio` r_b, `num_features` d_f."""

    def __init__(
        self,
        block_size: int = 8,
        halo_size: int = 3,
        value_ratio: float = 1.0,
        out_ratio: float = 1.0,
        depths: tuple[int, ...] = (3, 3, 10, 3),
        num_features: int = 0,
        stem_width: int = 64,
        heads: tuple[int, ...] = (4, 8, 8, 8),
        **kwargs,  # of ByobNet: in_chans, num_classes, global_pool, drop_rate, drop_path_rate, zero_init_last
    ):
        stages = []
        for i, depth in enumerate(depths):
            width = stem_width * 2**i
            attention = dict(
                dim_out=int(value_ratio * width),
                num_heads=heads[i],
                dim_head=width // heads[i],
                block_size=block_size,
                halo_size=halo_size,
            )
            out = int(out_ratio * width)
            stages.append(
                ByoBlockCfg(
                    type=partial(HaloBlock),
                    d=depth,
                    c=out,
                    s=1 if i == 0 else 2,
                    br=width / out,
                    self_attn_layer=HaloAttention,
                    self_attn_kwargs=attention,
                )
            )
        cfg = ByoModelCfg(
            tuple(stages), stem_chs=stem_width, stem_type="7x7", stem_pool="maxpool", num_features=num_features
        )
        super().__init__(cfg, **kwargs)


def remap(state_dict: dict, model: nn.Module) -> dict:
    """timm's keys are ours."""
    return state_dict


TIMM_MODELS = ("halonet_h1",)


def _variant(block_size: int, halo_size: int, r_v: float, r_b: float, third: int, d_f: int = 0) -> dict:
    return dict(
        block_size=block_size,
        halo_size=halo_size,
        value_ratio=r_v,
        out_ratio=r_b,
        depths=(3, 3, third, 3),
        num_features=d_f,
    )


VARIANTS = {
    "halonet_h0": _variant(8, 3, 1.0, 0.5, 7),
    "halonet_h2": _variant(8, 3, 1.0, 1.25, 11),
    "halonet_h3": _variant(10, 3, 1.0, 1.5, 12, 1024),
    "halonet_h4": _variant(12, 2, 1.0, 3.0, 12, 1280),
    "halonet_h5": _variant(14, 2, 2.5, 2.0, 23, 1536),
    "halonet_h6": _variant(8, 4, 3.0, 2.75, 24, 1536),
    "halonet_h7": _variant(10, 3, 4.0, 3.5, 26, 2048),
    "test_halonet": dict(
        block_size=4,
        halo_size=1,
        value_ratio=1.5,
        out_ratio=2.0,
        depths=(1, 1, 2, 1),
        num_features=96,
        stem_width=16,
        heads=(2, 2, 2, 2),
    ),
}
SIDES = dict(
    halonet_h0=256, halonet_h2=256, halonet_h3=320, halonet_h4=384, halonet_h5=448, halonet_h6=512, halonet_h7=600
)
CFGS = {
    name: dict(input_size=(3, side, side), pool_size=(-(-side // 32),) * 2, paper_ids="arXiv:2103.12731")
    for name, side in SIDES.items()
}

globals().update(
    register_family(HaloNet, VARIANTS, CFGS, remap, {}, first_conv="stem.conv1.conv", out_indices=(0, 1, 2, 3, 4))
)
adopt(TIMM_MODELS)

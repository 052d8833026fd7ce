"""A feature pyramid for backbones whose first map is coarse."""

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.models.necks import FPN
from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class FinerFPN(FPN):
    """mmdet's FPN with `num_finer` more levels below: transposed convolutions double the finest one's resolution.

    SHViT's detectors have it (https://github.com/ysj9909/SHViT @ 6a729cc); their checkpoints' keys load. `num_outs`
    counts all levels; coarser ones than the backbone's come from convolutions of its last map.
    """

    def __init__(self, in_channels: list[int], out_channels: int, num_outs: int, num_finer: int):
        if num_outs < len(in_channels) + num_finer:
            raise ValueError(f"num_outs={num_outs} is less than {len(in_channels)} maps and num_finer={num_finer}")
        super().__init__(in_channels, out_channels, num_outs - num_finer, add_extra_convs="on_input")
        self.extra_trans_convs, self.extra_fpn_convs = nn.ModuleList(), nn.ModuleList()
        for _ in range(num_finer):
            up = nn.ConvTranspose2d(out_channels, out_channels, 2, 2)
            self.extra_trans_convs.append(nn.ModuleDict(dict(conv=up)))
            self.extra_fpn_convs.append(ConvModule(out_channels, out_channels, 3, padding=1, act_cfg=None))

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Maps (B, C_i, H_i, W_i), finest first, to `num_outs` maps of `out_channels`, finest first."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, inputs, strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=laterals[i - 1].shape[2:])
        coarse = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=False)]
        x = inputs[-1]
        for conv in self.fpn_convs[len(laterals) :]:
            x = conv(x)
            coarse.append(x)
        finer = [laterals[0]]
        for up in self.extra_trans_convs:
            finer.insert(0, up["conv"](finer[0]))
        return *(conv(x) for conv, x in zip(self.extra_fpn_convs, finer, strict=False)), *coarse

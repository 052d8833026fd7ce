"""mmseg's CCNet head with the zoo's criss-cross attention."""

import torch
from mmcv.cnn import Scale
from mmengine.registry import MODELS
from mmseg.models.decode_heads import FCNHead
from torch import Tensor, nn

from .. import ops


class CrissCrossAttention(nn.Module):
    """Every pixel attends to its row and column, and the sum is added to it; the parameters are named as mmcv's are."""

    def __init__(self, dim: int):
        super().__init__()
        self.query_conv = nn.Conv2d(dim, dim // 8, 1)
        self.key_conv = nn.Conv2d(dim, dim // 8, 1)
        self.value_conv = nn.Conv2d(dim, dim, 1)
        self.gamma = Scale(0.0)

    def forward(self, x: Tensor) -> Tensor:
        convs = self.query_conv, self.key_conv, self.value_conv
        q, k, v = (conv(x).permute(0, 2, 3, 1)[:, :, :, None] for conv in convs)  # one head
        out = ops.criss_cross_attention(q, k, v, scale=1.0)[:, :, :, 0].permute(0, 3, 1, 2)
        return self.gamma(out.contiguous()) + x


@MODELS.register_module()
class CrissCrossHead(FCNHead):
    """mmseg's CCHead, whose checkpoints load; criss-cross attention `recurrence` times with the same weights.

    Other arguments are FCNHead's.
    """

    def __init__(self, recurrence: int = 2, **kwargs):
        if recurrence < 1:
            raise ValueError(f"recurrence={recurrence} must be at least 1")
        super().__init__(num_convs=2, **kwargs)
        self.recurrence = recurrence
        self.cca = CrissCrossAttention(self.channels)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        x = self._transform_inputs(inputs)
        attended = self.convs[0](x)
        for _ in range(self.recurrence):
            attended = self.cca(attended)
        attended = self.convs[1](attended)
        if self.concat_input:
            attended = self.conv_cat(torch.cat([x, attended], 1))
        return self.cls_seg(attended)

"""What the goldens of NAT, DiNAT and DiNAT_s do not reach: maps that windows and patches do not fit."""

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import PatchMerging

from backbones import nat


@pytest.mark.parametrize("size", [(4, 9), (9, 4), (3, 3)])
def test_maps_that_a_window_does_not_fit_are_padded_below_and_to_the_right(size):
    attention = nat.NeighborhoodAttention(32, 2, kernel_size=3, dilation=2)
    torch.nn.init.normal_(attention.qkv.bias)  # what padding attends with
    x = torch.randn(2, *size, 32)
    padded = F.pad(x, (0, 0, 0, max(0, 6 - size[1]), 0, max(0, 6 - size[0])))
    torch.testing.assert_close(attention(x), attention(padded)[:, : size[0], : size[1]])


@pytest.mark.parametrize("size", [(33, 36), (38, 35)])
def test_patches_that_overhang_the_image_are_filled_with_zeros(size):
    patches = nat.Patches(3, 16)
    x = torch.randn(1, 3, *size)
    whole = F.pad(x, (0, -size[1] % 4, 0, -size[0] % 4))
    got = patches(x)
    assert got.shape[2:] == (-(-size[0] // 4), -(-size[1] // 4))
    torch.testing.assert_close(got, patches(whole))


@pytest.mark.parametrize("size", [(6, 8), (5, 8), (7, 3)])
def test_merging_is_timms(size):
    ours, theirs = nat.Merge(8), PatchMerging(8)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, *size, 8)
    torch.testing.assert_close(ours(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), theirs(x))


def test_dilations_are_taken_in_turn():
    with torch.device("meta"):
        model = timm.create_model("dinat_mini")
    got = [[block.attn.dilation for block in stage.blocks] for stage in model.stages]
    assert got == [[1, 8, 1], [1, 4, 1, 4], [1, 2, 1, 2, 1, 2], [1, 1, 1, 1, 1]]

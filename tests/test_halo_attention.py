"""What tests/test_ops.py cannot know of the op: timm's module, blocks at the border, sizes that do not fit."""

import importlib

import pytest
import torch
from test_ops import DEVICE, with_gradients
from timm.layers.halo_attn import HaloAttn

from backbones.halonet import HaloAttention
from backbones.ops import halo_attention

op = importlib.import_module("backbones.ops.halo_attention")
tiles = importlib.import_module("backbones.ops._tiles")

SETTINGS = [
    dict(block_size=4, halo_size=2, num_heads=2),
    dict(block_size=4, halo_size=1, num_heads=4, stride=2),
    dict(block_size=4, halo_size=1, num_heads=2, stride=2, avg_down=True),
    dict(block_size=3, halo_size=1, num_heads=2, stride=2),  # no whole stride: timm pools
    dict(block_size=8, halo_size=3, num_heads=2, dim_head=8, dim_out=32, qkv_bias=True),
    dict(block_size=4, halo_size=0, num_heads=2, qk_ratio=0.5, scale_pos_embed=True),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_our_module_computes_what_timms_does(settings):
    theirs = HaloAttn(16, **settings).double()
    ours = HaloAttention(16, **settings).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 16, 24, 24, dtype=torch.float64)
    grad = torch.randn_like(theirs(x))
    results = []
    for module in (theirs, ours):
        y = x.clone().requires_grad_()
        out = module(y)
        out.backward(grad)
        results.append((out, y.grad, *(p.grad for p in module.parameters())))
    for got, want in zip(*reversed(results), strict=True):
        torch.testing.assert_close(got, want)


def test_blocks_that_overhang_the_map_are_those_of_a_map_padded_with_zeros():
    q, k, v = torch.randn(3, 1, 5, 6, 2, 4, dtype=torch.float64)
    tables = torch.randn(2, 11, 4, dtype=torch.float64)
    got = halo_attention(q, k, v, *tables, block_size=4, halo_size=1)
    padded = (torch.nn.functional.pad(t, (0, 0, 0, 0, 0, 2, 0, 3)) for t in (q, k, v))
    torch.testing.assert_close(got, halo_attention(*padded, *tables, block_size=4, halo_size=1)[:, :5, :6])


@pytest.mark.parametrize("weights", [1, 10_000])
@pytest.mark.parametrize("case", op.SMALL, ids=str)
def test_chunks_of_any_size_give_the_same(case, weights, monkeypatch):
    args = op.inputs(**case, dtype=torch.float64)
    out = op.reference(*args)
    want = with_gradients(op.reference, args, torch.ones_like(out))
    monkeypatch.setitem(tiles.WEIGHTS_OF_A_CHUNK, "cpu", weights)
    for a, b in zip(with_gradients(op.tiled, args, torch.ones_like(out)), want, strict=True):
        torch.testing.assert_close(a, b)


def test_the_tables_gradients_are_sums_over_chunks_of_blocks(monkeypatch):
    kernels = importlib.import_module("backbones.ops.halo_attention_triton")
    monkeypatch.setattr(kernels, "PROGRAMS", 3)  # of eight blocks and heads, the last takes two
    q, k, v, *rest = op.inputs(**(op.SMALL[0] | dict(B=3)), device=DEVICE)
    args = q[:2], k[:2], v[:2], *rest  # whoever goes on reads the third image
    grad = torch.randn_like(op.reference(q, k, v, *rest))[:2]
    got, want = with_gradients(op.IMPLS["triton"].run, args, grad), with_gradients(op.reference, args, grad)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(stride=3), "stride 3 does not divide block_size 4"),
        (dict(halo_size=-1), "halo_size -1 is negative"),
        (dict(stride=2), r"q is \(1, 8, 8, 2, 4\), not \(1, 4, 4, 2, 4\) as for keys \(1, 8, 8, 2, 4\), stride 2"),
        (dict(halo_size=2), r"height_rel is \(11, 4\), not \(15, 4\) as for a window of 8"),
    ],
)
def test_what_does_not_fit_is_an_error(change, message):
    q, (height, width) = torch.randn(1, 8, 8, 2, 4), torch.randn(2, 11, 4)
    with pytest.raises(ValueError, match=message):
        halo_attention(q, q, q, height, width, **(dict(block_size=4, halo_size=1) | change))

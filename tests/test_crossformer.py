"""What the official detection code does at sizes that goldens do not have, by brute force."""

import itertools

import pytest
import torch

from backbones.crossformer import GroupAttention


def same_group(a: tuple[int, int], b: tuple[int, int], size: tuple[int, int], group: int, interval: int) -> bool:
    if min(size) <= group:
        return True
    block = group * interval
    return all(i // block == j // block and i % interval == j % interval for i, j in zip(a, b, strict=True))


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (9, 14), (4, 11), (3, 3), (4, 4), (13, 5), (1, 1)], ids=str)
@torch.no_grad()
def test_groups_are_those_of_the_official_code(size, interval):
    group, heads = 4, 2
    attn = GroupAttention(32, heads, group, interval).eval().double()
    x = torch.randn(1, *size, 32, dtype=torch.float64)
    q, k, v = attn.qkv(x)[0].unflatten(-1, (3, heads, -1)).unbind(2)  # (H, W, heads, D)
    apart = 1 if min(size) <= group else interval
    out = torch.empty_like(q)
    tokens = list(itertools.product(*map(range, size)))
    for a in tokens:
        keys = [b for b in tokens if same_group(a, b, size, group, interval)]
        offsets = torch.tensor([[(i - j) / apart for i, j in zip(a, b, strict=True)] for b in keys])
        logits = torch.stack([(q[a] * k[b]).sum(-1) for b in keys]) / 16**0.5 + attn.bias.mlp(offsets.double())
        out[a] = (logits.softmax(0)[..., None] * torch.stack([v[b] for b in keys])).sum(0)
    torch.testing.assert_close(attn(x)[0], attn.proj(out.flatten(2)))

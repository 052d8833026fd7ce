"""Positions at sizes that goldens do not have, as the official code tabulates them, pair by pair."""

import pytest
import torch
import torch.nn.functional as F

from backbones.transnext import PositionBias, _neighbours, _pool


def axis_distances(n: int, pooled: int, extent: int) -> torch.Tensor:
    """(n, pooled), float32: log-spaced distances of tokens from the mean positions of adaptive pooling's bins."""
    tokens = torch.arange(n, dtype=torch.float32)
    centres = F.adaptive_avg_pool1d(tokens[None], pooled)[0]
    distance = (tokens[:, None] - centres) / (extent - 1) * 8
    return distance.sign() * torch.log2(distance.abs() + 1.0) / torch.log2(torch.tensor(8, dtype=torch.float32))


@pytest.mark.parametrize(
    "size, pooled",
    [
        ((56, 56), (7, 7)),
        ((96, 96), (12, 12)),
        ((57, 41), (7, 5)),
        ((12, 9), (12, 9)),
        ((9, 1), (1, 1)),
        ((11, 8), (5, 4)),
    ],
)
@torch.no_grad()
def test_positions_follow_the_input_relative_to_pretraining(size, pooled):
    (H, W), (P, Q), extent = size, pooled, 56
    position = PositionBias(3, extent).eval().double()
    rows, cols = (position.index(n, p, torch.device("cpu")) for n, p in zip(size, pooled, strict=True))
    got = position(H, W, P, Q)[:, rows[:, None, :, None], cols[None, :, None, :]]  # (heads, H, W, P, Q)
    down, right = axis_distances(H, P, extent).double(), axis_distances(W, Q, extent).double()
    for y, x, a, b in [(0, 0, 0, 0), (H - 1, W - 1, 0, 0), (0, W - 1, P - 1, 0), (H // 2, W // 3, P // 2, Q - 1)]:
        pair = torch.stack([down[y, a], right[x, b]])
        want = position.fc2(position.fc1(pair).relu())
        torch.testing.assert_close(got[:, y, x, a, b], want, rtol=1e-12, atol=1e-12)
    assert rows.min() >= 0 and cols.min() >= 0


@pytest.mark.parametrize("size", [(5, 4), (1, 6), (2, 1)])
def test_neighbours_on_the_map_are_counted(size):
    on_map = F.unfold(torch.ones(1, 1, *size), 3, padding=1).sum(1).view(size)
    assert torch.equal(_neighbours(*size, torch.empty(0)), on_map)


@pytest.mark.parametrize("size", [(2, 4), (3, 5), (8, 12)])
def test_pooling_is_adaptive_pooling(size):
    x = torch.randn(2, 8, 12, 5, dtype=torch.float64)
    want = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
    torch.testing.assert_close(_pool(x, size), want)

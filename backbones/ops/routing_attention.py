"""Attention of each region of a map to the regions that it chose (BiFormer, https://arxiv.org/abs/2303.08810, eq. 5-6).

For a query token i of region r, with S(r) the tokens of the regions index[r]:

    out[i] = sum over j in S(r) of softmax_j(scale * q[i] . k[j]) v[j]

Shapes: B images, H x W tokens in a grid of R = rows x cols equal regions, N heads, D channels a head, K chosen regions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._fused import fused
from ._impl import Impl, choose, implementations
from ._maps import partition, unpartition


def routing_attention(
    q: Tensor,  # (B, H, W, N, D), as are k and v
    k: Tensor,
    v: Tensor,
    index: Tensor,  # (B, R, K) of int64: the regions, all different, that each region attends to
    *,
    regions: tuple[int, int],
    scale: float | None = None,
    impl: str | None = None,
) -> Tensor:
    """Attention to the K regions that the query's region chose; returns (B, H, W, N, D).

    `regions` is the grid (rows, cols); `scale` defaults to D ** -0.5. Gradients flow to q, k and v.
    Raises ValueError if the grid does not divide the map, if `index` does not fit it, or if `impl` cannot run.
    """
    B, H, W, _, D = q.shape
    rows, cols = regions
    if H % rows or W % cols:
        raise ValueError(f"a grid of {rows} x {cols} regions does not divide a map of {H} x {W}; pad the map first")
    if index.ndim != 3 or index.shape[:2] != (B, rows * cols):
        raise ValueError(f"index is {tuple(index.shape)}, not (batch {B}, regions {rows * cols}, chosen)")
    args = q, k, v, index, regions, D**-0.5 if scale is None else scale
    return choose(IMPLS, impl, *args)(*args)


def multiply_adds(q: tuple, k: tuple, v: tuple, index: tuple, regions: tuple[int, int], *_) -> int:
    """Of arguments of these shapes: every query with, and for, the tokens of the regions chosen."""
    B, H, W, N, D = q
    return 2 * B * H * W * N * D * index[2] * (H // regions[0]) * (W // regions[1])


def reference(q: Tensor, k: Tensor, v: Tensor, index: Tensor, regions: tuple[int, int], scale: float) -> Tensor:
    B, H, W, _, _ = q.shape
    window = H // regions[0], W // regions[1]
    R, K = index.shape[1:]
    batch = torch.arange(B, device=q.device)[:, None, None]
    q, k, v = (partition(t, window).unflatten(0, (B, R)) for t in (q, k, v))  # (B, R, tokens, N, D)
    k, v = (t[batch, index].flatten(2, 3) for t in (k, v))  # (B, R, K * tokens, N, D)
    q, k, v = (t.transpose(2, 3) for t in (q, k, v))
    out = (scale * q @ k.mT).softmax(-1) @ v  # (B, R, N, tokens, D)
    return unpartition(out.transpose(2, 3).flatten(0, 1), window, (H, W))


def masked(q: Tensor, k: Tensor, v: Tensor, index: Tensor, regions: tuple[int, int], scale: float) -> Tensor:
    """Attention to every token, those of other regions masked: more multiply-adds, but nothing is gathered."""
    B, H, W, _, _ = q.shape
    R = index.shape[1]
    mask = q.new_full((B, R, R), float("-inf")).scatter_(2, index, 0.0)
    region = _region_of_token((H, W), regions, q.device)
    mask = mask[:, region][:, :, region]  # (B, H * W, H * W)
    q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))  # (B, N, H * W, D)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], scale=scale)
    return out.transpose(1, 2).unflatten(1, (H, W))


def gathered(q: Tensor, k: Tensor, v: Tensor, index: Tensor, regions: tuple[int, int], scale: float) -> Tensor:
    """Copies each region's chosen tokens straight from the map, without partitioning keys or values."""
    B, H, W, N, _ = q.shape
    window = H // regions[0], W // regions[1]
    R, K = index.shape[1:]
    tokens = torch.arange(B * H * W, device=q.device).view(B, H, W)
    image = R * torch.arange(B, device=q.device)[:, None, None]
    chosen = partition(tokens, window)[index + image].flatten()  # (B * R * K * tokens,)
    k, v = (t.flatten(0, 2).index_select(0, chosen).unflatten(0, (B * R, -1)) for t in (k, v))
    q, k, v = (t.transpose(1, 2) for t in (partition(q, window), k, v))  # (B * R, N, tokens, D)
    out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return unpartition(out.transpose(1, 2), window, (H, W))


def _region_of_token(size: tuple[int, int], regions: tuple[int, int], device: torch.device) -> Tensor:
    row, col = (torch.arange(n, device=device) // (n // r) for n, r in zip(size, regions, strict=True))
    return (row[:, None] * regions[1] + col).flatten()


def _masking_is_cheaper(q: Tensor, k: Tensor, v: Tensor, index: Tensor, *args) -> bool:
    # On the CPU gathering a few tokens at a time is slow: with 16 of 49 regions chosen, masking takes 0.4 of its time
    # on a 14 x 14 or 28 x 28 map, forward, but 1.2 on 35 x 35; with 12 of 49, 1.4 on 28 x 28.
    return not q.is_cuda and 3.5 * index.shape[2] > index.shape[1] and q.shape[1] * q.shape[2] <= 900


ARGUMENTS = "Tensor q, Tensor k, Tensor v, Tensor index, SymInt[2] regions, float scale"

IMPLS = implementations(
    triton=fused("routing_attention", ARGUMENTS, gradients=3),
    masked=Impl(masked, suits=_masking_is_cheaper),
    gathered=Impl(gathered),
    reference=Impl(reference),
)

SMALL = [
    dict(B=2, H=6, W=8, N=2, D=16, K=3, regions=(3, 2)),
    dict(B=1, H=6, W=6, N=1, D=24, K=9, regions=(3, 3)),
    dict(B=3, H=4, W=6, N=2, D=8, K=1, regions=(2, 3)),
    dict(B=1, H=18, W=16, N=1, D=8, K=2, regions=(2, 2)),  # a region of more than 64 tokens
]
REAL = [  # BiFormer-T at 224, batch 4: stages 1, 2, 3
    dict(B=4, H=56, W=56, N=2, D=32, K=1, regions=(7, 7)),
    dict(B=4, H=28, W=28, N=4, D=32, K=4, regions=(7, 7)),
    dict(B=4, H=14, W=14, N=8, D=32, K=16, regions=(7, 7)),
]


def inputs(B: int, H: int, W: int, N: int, D: int, K: int, regions: tuple[int, int], **kw) -> tuple:
    """Strided, and no argument at its default: an implementation that drops one must differ."""
    q, k, v = torch.randn(B, H, W, 3, N, D, **kw).unbind(3)
    R = regions[0] * regions[1]
    device = kw.get("device")
    index = torch.rand(B, R, R, device=device).topk(K).indices
    return q, k, v, index, regions, 0.3

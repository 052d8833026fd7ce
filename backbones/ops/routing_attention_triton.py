"""Kernels of routing_attention: a program takes a block of one region's queries (or keys) and one head.

Keys are read through the index, where they lie on the map: nothing is gathered first. For dk and dv the index is turned
round, once for all heads, into the list of regions that chose a region; so nothing is added atomically.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._softmax_triton import (
    LOG2E,
    lanes,
    load_queries,
    load_rows,
    precision,
    row_dots,
    softmax_end,
    softmax_gradient,
    softmax_step,
    store_rows,
    store_scalars,
)


@triton.jit
def _tokens(LIST, start, count, geometry, BLOCK: tl.constexpr):
    """A block of the tokens of a list of regions, from token `start` on: rows, columns, and whether there is one."""
    h, w, across = geometry
    t = start + tl.arange(0, BLOCK)
    inside = t < count * h * w
    region = tl.load(LIST + t // (h * w), inside, 0).to(tl.int32)
    t = t % (h * w)
    return region // across * h + t // w, region % across * w + t % w, inside


@triton.jit
def _own_tokens(region, start, geometry, BLOCK: tl.constexpr):
    """The same of one region."""
    h, w, across = geometry
    t = start + tl.arange(0, BLOCK)
    return region // across * h + t // w, region % across * w + t % w, t < h * w


@triton.jit
def _logits(q, k, on_q, on_k, scale, PRECISION: tl.constexpr):
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E)
    return tl.where(on_q[:, None] & on_k[None, :], s, float("-inf"))


@triton.jit
def _forward(
    Q, K, V, INDEX, OUT, LSE, sq, sk, sv, so, sl, geometry, N, regions, chosen, scale,
    D: tl.constexpr, PRECISION: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    n, row = tl.program_id(0) % N, tl.program_id(0) // N
    b, region = row // regions, row % regions
    INDEX += row.to(tl.int64) * chosen
    yq, xq, on_q = _own_tokens(region, tl.program_id(1) * BQ, geometry, BQ)
    q = load_rows(Q, sq, b, yq, xq, n, on_q, D, BD)
    peak = tl.full([BQ], float("-inf"), tl.float32)
    total, acc = tl.zeros([BQ], tl.float32), tl.zeros([BQ, BD], tl.float32)
    for start in range(0, BK if WHOLE else chosen * geometry[0] * geometry[1], BK):
        yk, xk, on_k = _tokens(INDEX, start, chosen, geometry, BK)
        k = load_rows(K, sk, b, yk, xk, n, on_k, D, BD)
        v = load_rows(V, sv, b, yk, xk, n, on_k, D, BD)
        s = _logits(q, k, on_q, on_k, scale, PRECISION)
        peak, total, acc = softmax_step(s, v, peak, total, acc, PRECISION)
    out, lse = softmax_end(peak, total, acc)
    store_rows(OUT, so, b, yq, xq, n, out, on_q, D, BD)
    store_scalars(LSE, sl, b, yq, xq, n, lse, on_q)


@triton.jit
def _backward_of_queries(
    Q, K, V, INDEX, GRAD, LSE, DELTA, DQ, sq, sk, sv, sg, sl, so, geometry, N, regions, chosen, scale,
    D: tl.constexpr, PRECISION: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    n, row = tl.program_id(0) % N, tl.program_id(0) // N
    b, region = row // regions, row % regions
    INDEX += row.to(tl.int64) * chosen
    yq, xq, on_q = _own_tokens(region, tl.program_id(1) * BQ, geometry, BQ)
    q, grad, lse, delta = load_queries(Q, GRAD, LSE, DELTA, sq, sg, sl, b, yq, xq, n, on_q, D, D, BD, BD)
    dq = tl.zeros([BQ, BD], tl.float32)
    for start in range(0, BK if WHOLE else chosen * geometry[0] * geometry[1], BK):
        yk, xk, on_k = _tokens(INDEX, start, chosen, geometry, BK)
        k = load_rows(K, sk, b, yk, xk, n, on_k, D, BD)
        v = load_rows(V, sv, b, yk, xk, n, on_k, D, BD)
        s = _logits(q, k, on_q, on_k, scale, PRECISION)
        _, ds = softmax_gradient(s, lse, delta, grad, v, PRECISION)
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    store_rows(DQ, so, b, yq, xq, n, dq * scale, on_q, D, BD)


@triton.jit
def _backward_of_keys(
    Q, K, V, CHOOSERS, FIRST, GRAD, LSE, DELTA, DK, DV, sq, sk, sv, sg, sl, so, geometry, N, regions, chosen, scale,
    D: tl.constexpr, PRECISION: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """CHOOSERS (B, regions * chosen): who chose the first region, then who chose the second, ...; FIRST where."""
    n, row = tl.program_id(0) % N, tl.program_id(0) // N
    b, region = row // regions, row % regions
    FIRST += b.to(tl.int64) * (regions + 1) + region
    first = tl.load(FIRST)
    choosers = (tl.load(FIRST + 1) - first).to(tl.int32)
    CHOOSERS += b.to(tl.int64) * regions * chosen + first
    yk, xk, on_k = _own_tokens(region, tl.program_id(1) * BK, geometry, BK)
    k = load_rows(K, sk, b, yk, xk, n, on_k, D, BD)
    v = load_rows(V, sv, b, yk, xk, n, on_k, D, BD)
    dk, dv = tl.zeros([BK, BD], tl.float32), tl.zeros([BK, BD], tl.float32)
    for start in range(0, choosers * geometry[0] * geometry[1], BQ):
        yq, xq, on_q = _tokens(CHOOSERS, start, choosers, geometry, BQ)
        q, grad, lse, delta = load_queries(Q, GRAD, LSE, DELTA, sq, sg, sl, b, yq, xq, n, on_q, D, D, BD, BD)
        s = _logits(q, k, on_q, on_k, scale, PRECISION)
        p, ds = softmax_gradient(s, lse, delta, grad, v, PRECISION)
        dv = tl.dot(tl.trans(p.to(v.dtype)), grad, dv, input_precision=PRECISION)
        dk = tl.dot(tl.trans(ds.to(k.dtype)), q, dk, input_precision=PRECISION)
    store_rows(DK, so, b, yk, xk, n, dk * scale, on_k, D, BD)
    store_rows(DV, so, b, yk, xk, n, dv, on_k, D, BD)


def forward(
    q: Tensor, k: Tensor, v: Tensor, index: Tensor, regions: tuple[int, int], scale: float
) -> tuple[Tensor, Tensor]:
    out, lse = q.new_empty(q.shape), q.new_empty(q.shape[:-1], dtype=torch.float32)
    grid, sizes, queries, _ = _launch(q, index, regions)
    strides = (t.stride() for t in (q, k, v, out, lse))
    _forward[grid](q, k, v, index.contiguous(), out, lse, *strides, *sizes, scale, **queries)
    return out, lse


def backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    regions: tuple[int, int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (q.new_empty(q.shape) for _ in range(3))
    delta = row_dots(grad, out)
    strides = *(t.stride() for t in (q, k, v, grad, lse)), dq.stride()
    grid, sizes, queries, keys = _launch(q, index, regions)
    _backward_of_queries[grid](q, k, v, index.contiguous(), grad, lse, delta, dq, *strides, *sizes, scale, **queries)
    chosen, order = index.flatten(1).sort(stable=True)
    choosers = order // index.shape[2]
    first = torch.searchsorted(
        chosen, torch.arange(index.shape[1] + 1, device=q.device).expand(len(q), -1).contiguous()
    )
    _backward_of_keys[grid](q, k, v, choosers, first, grad, lse, delta, dk, dv, *strides, *sizes, scale, **keys)
    return dq, dk, dv


def _launch(q: Tensor, index: Tensor, regions: tuple[int, int]) -> tuple:
    """Grid, sizes, and the constants of programs of queries and of keys.

    Regions have 64, 16 and 4 tokens in BiFormer's stages at 224, the regions that they choose 64 together: one block.
    Exact products of float32 keep their operands in registers: smaller blocks, more warps.
    """
    B, H, W, N, D = q.shape
    R, K = index.shape[1:]
    h, w = H // regions[0], W // regions[1]
    exact = q.dtype == torch.float32
    largest = (16 if D > 64 else 32) if exact else 64
    own, others = (min(largest, lanes(tokens)) for tokens in (h * w, K * h * w))
    constants = dict(D=D, PRECISION=precision(q), BD=lanes(D), num_stages=1 if exact else 2)
    constants |= dict(num_warps=8 if exact or D > 64 else max(1, own // 16))
    queries = constants | dict(BQ=own, BK=others, WHOLE=K * h * w <= others)
    keys = constants | dict(BQ=others, BK=own)
    return (B * R * N, triton.cdiv(h * w, own)), ((h, w, regions[1]), N, R, K), queries, keys

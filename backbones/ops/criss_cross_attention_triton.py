"""Kernels of criss_cross_attention: attention inside rows, then inside columns, which starts from what rows gave.

A program takes a block of one line's queries (or keys), for which the line's keys are dense products. Kernels know only
rows: columns are the rows of maps whose strides are swapped. Between the passes sums are kept in float32: a rounding to
half there would be as large as that of the result. An online softmax that has seen the row is in the state (logarithm
of its denominator, 1, its output), so the pass over columns needs no merge. With the common denominator known, the
gradients of both passes add. Values are wider than queries: a program sums a chunk of their channels, and computes the
logits again for each. Nothing is added atomically: gradients do not depend on the order in which programs run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._softmax_triton import (
    LOG2E,
    lanes,
    load_rows,
    load_scalars,
    precision,
    row_dots,
    softmax_end,
    softmax_step,
    store_rows,
    store_scalars,
)


@triton.jit
def _place(size, N, blocks, chunks):
    """Image, line, head, block of the line's tokens, and chunk of the values' channels, of a program."""
    i = tl.program_id(0)
    block, chunk, line = i % blocks, i // blocks % chunks, i // (blocks * chunks)
    return line // (N * size[0]), line // N % size[0], line % N, block, chunk


@triton.jit
def _logits(q, k, xq, xk, W, scale, COLUMNS: tl.constexpr, PRECISION: tl.constexpr):
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E)
    both = (xq < W)[:, None] & (xk < W)[None, :]
    if COLUMNS:  # the row has a token's own pixel
        both = both & (xq[:, None] != xk[None, :])
    return tl.where(both, s, float("-inf"))


@triton.jit
def _forward(
    Q, K, V, PART, OUT, LSE_OF_ROWS, LSE, sq, sk, sv, so, sl, size, N, E, blocks, chunks, scale,
    COLUMNS: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    b, y, n, block, chunk = _place(size, N, blocks, chunks)
    W, e, left = size[1], chunk * BE, E - chunk * BE
    xq = block * BLOCK + tl.arange(0, BLOCK)
    q = load_rows(Q, sq, b, y, xq, n, xq < W, D, BD)
    if COLUMNS:
        peak = load_scalars(LSE_OF_ROWS, sl, b, y, xq, n, xq < W)
        total = tl.full([BLOCK], 1.0, tl.float32)
        acc = load_rows(PART + e, so, b, y, xq, n, xq < W, left, BE)
    else:
        peak = tl.full([BLOCK], float("-inf"), tl.float32)
        total, acc = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK, BE], tl.float32)
    for start in range(0, W, BLOCK):
        xk = start + tl.arange(0, BLOCK)
        k = load_rows(K, sk, b, y, xk, n, xk < W, D, BD)
        v = load_rows(V + e, sv, b, y, xk, n, xk < W, left, BE)
        s = _logits(q, k, xq, xk, W, scale, COLUMNS, PRECISION)
        peak, total, acc = softmax_step(s, v, peak, total, acc, PRECISION)
    out, lse = softmax_end(peak, total, acc)
    store_rows(OUT + e, so, b, y, xq, n, out, xq < W, left, BE)
    if chunk == 0:
        store_scalars(LSE, sl, b, y, xq, n, lse, xq < W)


@triton.jit
def _weights(
    Q, LSE, sq, sl, k, b, y, n, xq, xk, W, scale,
    COLUMNS: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """A block of queries, and its weights of the keys, (queries, keys)."""
    q = load_rows(Q, sq, b, y, xq, n, xq < W, D, BD)
    lse = load_scalars(LSE, sl, b, y, xq, n, xq < W)
    return q, tl.exp2(_logits(q, k, xq, xk, W, scale, COLUMNS, PRECISION) - lse[:, None])


@triton.jit
def _through_softmax(
    p, V, GRAD, DELTA, sv, sg, sl, b, y, n, xq, xk, W, E, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BE: tl.constexpr
):
    """The gradient of natural logits, (queries, keys)."""
    dp = tl.zeros([BLOCK, BLOCK], tl.float32)
    for e in range(0, E, BE):
        grad = load_rows(GRAD + e, sg, b, y, xq, n, xq < W, E - e, BE)
        v = load_rows(V + e, sv, b, y, xk, n, xk < W, E - e, BE)
        dp = tl.dot(grad, tl.trans(v), dp, input_precision=PRECISION)
    return p * (dp - load_scalars(DELTA, sl, b, y, xq, n, xq < W)[:, None])


@triton.jit
def _add_to(X, PART, strides, b, y, x, n, values, W, COLUMNS: tl.constexpr, D, BD: tl.constexpr):
    if COLUMNS:
        values += load_rows(PART, strides, b, y, x, n, x < W, D, BD)
    store_rows(X, strides, b, y, x, n, values, x < W, D, BD)


@triton.jit
def _backward_of_keys(
    Q, K, V, GRAD, LSE, DELTA, DQ_PART, DK_PART, DQ, DK, sq, sk, sv, sg, sl, so, size, N, E, blocks, scale,
    COLUMNS: tl.constexpr, WHOLE: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Of q too if a block holds a WHOLE line."""
    b, y, n, block, chunk = _place(size, N, blocks, 1)
    W = size[1]
    xk = block * BLOCK + tl.arange(0, BLOCK)
    k = load_rows(K, sk, b, y, xk, n, xk < W, D, BD)
    dk = tl.zeros([BLOCK, BD], tl.float32)
    for start in range(0, BLOCK if WHOLE else W, BLOCK):
        xq = start + tl.arange(0, BLOCK)
        q, p = _weights(Q, LSE, sq, sl, k, b, y, n, xq, xk, W, scale, COLUMNS, D, PRECISION, BD)
        ds = _through_softmax(p, V, GRAD, DELTA, sv, sg, sl, b, y, n, xq, xk, W, E, PRECISION, BLOCK, BE).to(k.dtype)
        dk = tl.dot(tl.trans(ds), q, dk, input_precision=PRECISION)
        if WHOLE:
            dq = tl.dot(ds, k, input_precision=PRECISION) * scale
            _add_to(DQ, DQ_PART, so, b, y, xq, n, dq, W, COLUMNS, D, BD)
    _add_to(DK, DK_PART, so, b, y, xk, n, dk * scale, W, COLUMNS, D, BD)


@triton.jit
def _backward_of_queries(
    Q, K, V, GRAD, LSE, DELTA, DQ_PART, DQ, sq, sk, sv, sg, sl, so, size, N, E, blocks, scale,
    COLUMNS: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    b, y, n, block, chunk = _place(size, N, blocks, 1)
    W = size[1]
    xq = block * BLOCK + tl.arange(0, BLOCK)
    dq = tl.zeros([BLOCK, BD], tl.float32)
    for start in range(0, W, BLOCK):
        xk = start + tl.arange(0, BLOCK)
        k = load_rows(K, sk, b, y, xk, n, xk < W, D, BD)
        q, p = _weights(Q, LSE, sq, sl, k, b, y, n, xq, xk, W, scale, COLUMNS, D, PRECISION, BD)
        ds = _through_softmax(p, V, GRAD, DELTA, sv, sg, sl, b, y, n, xq, xk, W, E, PRECISION, BLOCK, BE)
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    _add_to(DQ, DQ_PART, so, b, y, xq, n, dq * scale, W, COLUMNS, D, BD)


@triton.jit
def _backward_of_values(
    Q, K, GRAD, LSE, PART, DV, sq, sk, sg, sl, so, size, N, E, blocks, chunks, scale,
    COLUMNS: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    b, y, n, block, chunk = _place(size, N, blocks, chunks)
    W, e, left = size[1], chunk * BE, E - chunk * BE
    xk = block * BLOCK + tl.arange(0, BLOCK)
    k = load_rows(K, sk, b, y, xk, n, xk < W, D, BD)
    dv = tl.zeros([BLOCK, BE], tl.float32)
    for start in range(0, W, BLOCK):
        xq = start + tl.arange(0, BLOCK)
        q, p = _weights(Q, LSE, sq, sl, k, b, y, n, xq, xk, W, scale, COLUMNS, D, PRECISION, BD)
        grad = load_rows(GRAD + e, sg, b, y, xq, n, xq < W, left, BE)
        dv = tl.dot(tl.trans(p.to(k.dtype)), grad, dv, input_precision=PRECISION)
    _add_to(DV + e, PART + e, so, b, y, xk, n, dv, W, COLUMNS, left, BE)


def _settings(q: Tensor, E: int, length: int) -> dict:
    """The kernels' constants for lines of that length.

    64 queries by 64 keys by 128 channels fill the registers of 4 warps, and 512 channels cost a third more products
    than logits computed once would. Exact products of float32 keep their operands in registers: smaller blocks, more
    warps.
    """
    D = q.shape[-1]
    exact = q.dtype == torch.float32
    block = min((16 if D > 64 else 32) if exact else 64, lanes(length))
    constants = dict(D=D, PRECISION=precision(q), BLOCK=block, BD=lanes(D), BE=min(64 if exact else 128, lanes(E)))
    return constants | dict(num_warps=8 if exact or D > 64 else 4, num_stages=1 if exact else 2)


def _turned(*tensors: Tensor) -> tuple:
    """Strides of maps whose rows are the columns of these."""
    return tuple((s[0], s[2], s[1], *s[3:]) for s in (t.stride() for t in tensors))


def _passes(*tensors: Tensor) -> list[tuple[bool, tuple, tuple[int, int]]]:
    """Whether lines are columns, strides, and the map's size, of each pass. A map of one row has no second."""
    H, W = tensors[0].shape[1:3]
    rows = False, tuple(t.stride() for t in tensors), (H, W)
    return [rows, (True, _turned(*tensors), (W, H))][: 1 + (H > 1)]


def _partial(x: Tensor) -> Tensor:
    """Where the pass over rows leaves in float32 what is to become `x`."""
    return x if x.dtype == torch.float32 else x.new_empty(x.shape, dtype=torch.float32)


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    B, H, W, N, E = v.shape
    out, lse = v.new_empty(v.shape), v.new_empty(v.shape[:-1], dtype=torch.float32)
    part, lse_of_rows = (_partial(out), torch.empty_like(lse)) if H > 1 else (out, lse)
    for columns, strides, size in _passes(q, k, v, out, lse):
        constants = _settings(q, E, size[1])
        blocks, chunks = triton.cdiv(size[1], constants["BLOCK"]), triton.cdiv(E, constants["BE"])
        results = (part, out, lse_of_rows, lse) if columns else (part, part, lse_of_rows, lse_of_rows)
        grid = (B * size[0] * N * blocks * chunks,)
        _forward[grid](q, k, v, *results, *strides, size, N, E, blocks, chunks, scale, columns, **constants)
    return out, lse


def backward(
    grad: Tensor, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    B, H, W, N, E = v.shape
    results = [x.new_empty(x.shape) for x in (q, k, v)]
    parts = [_partial(x) for x in results] if H > 1 else results
    delta = row_dots(grad, out)
    inputs = q, k, v, grad, lse, delta
    for columns, strides, size in _passes(q, k, v, grad, lse, results[0], results[2]):
        constants = _settings(q, E, size[1])
        blocks, chunks = triton.cdiv(size[1], constants["BLOCK"]), triton.cdiv(E, constants["BE"])
        dq, dk, dv = results if columns else parts
        *of_maps, of_dv = strides
        sq, sk, _, sg, sl, _ = of_maps
        grid = (B * size[0] * N * blocks,)
        rest = *of_maps, size, N, E, blocks, scale, columns
        _backward_of_keys[grid](*inputs, *parts[:2], dq, dk, *rest, blocks == 1, **constants)
        if blocks > 1:
            _backward_of_queries[grid](*inputs, parts[0], dq, *rest, **constants)
        rest = sq, sk, sg, sl, of_dv, size, N, E, blocks, chunks, scale, columns
        _backward_of_values[(grid[0] * chunks,)](q, k, grad, lse, parts[2], dv, *rest, **constants)
    return tuple(results)

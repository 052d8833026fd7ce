"""Kernels of window_attention: a program takes a block of queries (or keys) of one window and one head.

Tokens are read where they lie on the map, so stripes, intervals and windows that overhang cost no copy. Nothing is
added atomically: gradients do not depend on the order in which programs run.
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
def _corner(window, geometry):
    """Image, and the map's row and column of the first token, of a window."""
    H, W, h, w, interval, across, per_image = geometry
    b = window // per_image
    inside = window % per_image
    shift, block = inside % (interval * interval), inside // (interval * interval)
    y = block // across * h * interval + shift // interval
    x = block % across * w * interval + shift % interval
    return b, y, x


@triton.jit
def _tokens(start, y0, x0, geometry, BLOCK: tl.constexpr):
    """A block of a window's tokens: numbers, rows, columns, and which are on the map."""
    H, W, h, w, interval, across, per_image = geometry
    t = start + tl.arange(0, BLOCK)
    y, x = y0 + t // w * interval, x0 + t % w * interval
    return t, y, x, (t < h * w) & (y < H) & (x < W)


@triton.jit
def _logits(q, k, BIAS, n, tq, tk, on_q, on_k, scale, tokens, BIASED: tl.constexpr, PRECISION: tl.constexpr):
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E)
    both = on_q[:, None] & on_k[None, :]
    if BIASED:
        cell = tq[:, None] * tokens + tk[None, :]
        s += tl.load(BIAS + n * tokens * tokens + cell, both, 0.0).to(tl.float32) * LOG2E
    return tl.where(both, s, float("-inf"))


@triton.jit
def _forward(
    Q, K, V, BIAS, OUT, LSE, sq, sk, sv, so, sl, geometry, N, scale,
    D: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    n, tokens = tl.program_id(0) % N, geometry[2] * geometry[3]
    b, y0, x0 = _corner(tl.program_id(0) // N, geometry)
    tq, yq, xq, on_q = _tokens(tl.program_id(1) * BLOCK, y0, x0, geometry, BLOCK)
    q = load_rows(Q, sq, b, yq, xq, n, on_q, D, BD)
    peak = tl.full([BLOCK], float("-inf"), tl.float32)
    total, acc = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK, BD], tl.float32)
    for start in range(0, BLOCK if WHOLE else tokens, BLOCK):
        tk, yk, xk, on_k = _tokens(start, y0, x0, geometry, BLOCK)
        k = load_rows(K, sk, b, yk, xk, n, on_k, D, BD)
        v = load_rows(V, sv, b, yk, xk, n, on_k, D, BD)
        s = _logits(q, k, BIAS, n, tq, tk, on_q, on_k, scale, tokens, BIASED, PRECISION)
        peak, total, acc = softmax_step(s, v, peak, total, acc, PRECISION)
    out, lse = softmax_end(peak, total, acc)
    store_rows(OUT, so, b, yq, xq, n, out, on_q, D, BD)
    store_scalars(LSE, sl, b, yq, xq, n, lse, on_q)


@triton.jit
def _backward_of_keys(
    Q, K, V, BIAS, GRAD, LSE, DELTA, DQ, DK, DV, sq, sk, sv, sg, sl, so, geometry, N, scale,
    D: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """Of k and v; of q too if a block holds a WHOLE window."""
    n, tokens = tl.program_id(0) % N, geometry[2] * geometry[3]
    b, y0, x0 = _corner(tl.program_id(0) // N, geometry)
    tk, yk, xk, on_k = _tokens(tl.program_id(1) * BLOCK, y0, x0, geometry, BLOCK)
    k = load_rows(K, sk, b, yk, xk, n, on_k, D, BD)
    v = load_rows(V, sv, b, yk, xk, n, on_k, D, BD)
    dk, dv = tl.zeros([BLOCK, BD], tl.float32), tl.zeros([BLOCK, BD], tl.float32)
    for start in range(0, BLOCK if WHOLE else tokens, BLOCK):
        tq, yq, xq, on_q = _tokens(start, y0, x0, geometry, BLOCK)
        q, grad, lse, delta = load_queries(Q, GRAD, LSE, DELTA, sq, sg, sl, b, yq, xq, n, on_q, D, D, BD, BD)
        s = _logits(q, k, BIAS, n, tq, tk, on_q, on_k, scale, tokens, BIASED, PRECISION)
        p, ds = softmax_gradient(s, lse, delta, grad, v, PRECISION)
        dv = tl.dot(tl.trans(p.to(v.dtype)), grad, dv, input_precision=PRECISION)
        ds = ds.to(k.dtype)
        dk = tl.dot(tl.trans(ds), q, dk, input_precision=PRECISION)
        if WHOLE:
            dq = tl.dot(ds, k, input_precision=PRECISION) * scale
            store_rows(DQ, so, b, yq, xq, n, dq, on_q, D, BD)
    store_rows(DK, so, b, yk, xk, n, dk * scale, on_k, D, BD)
    store_rows(DV, so, b, yk, xk, n, dv, on_k, D, BD)


@triton.jit
def _backward_of_queries(
    Q, K, V, BIAS, GRAD, LSE, DELTA, DQ, sq, sk, sv, sg, sl, so, geometry, N, scale,
    D: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    n, tokens = tl.program_id(0) % N, geometry[2] * geometry[3]
    b, y0, x0 = _corner(tl.program_id(0) // N, geometry)
    tq, yq, xq, on_q = _tokens(tl.program_id(1) * BLOCK, y0, x0, geometry, BLOCK)
    q, grad, lse, delta = load_queries(Q, GRAD, LSE, DELTA, sq, sg, sl, b, yq, xq, n, on_q, D, D, BD, BD)
    dq = tl.zeros([BLOCK, BD], tl.float32)
    for start in range(0, BLOCK if WHOLE else tokens, BLOCK):
        tk, yk, xk, on_k = _tokens(start, y0, x0, geometry, BLOCK)
        k = load_rows(K, sk, b, yk, xk, n, on_k, D, BD)
        v = load_rows(V, sv, b, yk, xk, n, on_k, D, BD)
        s = _logits(q, k, BIAS, n, tq, tk, on_q, on_k, scale, tokens, BIASED, PRECISION)
        _, ds = softmax_gradient(s, lse, delta, grad, v, PRECISION)
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    store_rows(DQ, so, b, yq, xq, n, dq * scale, on_q, D, BD)


@triton.jit
def _backward_of_bias(
    Q, K, V, BIAS, GRAD, LSE, DELTA, PARTS, sq, sk, sv, sg, sl, geometry, N, scale, windows, chunk,
    D: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """A block of one head's bias, summed over a chunk of all windows: PARTS is (chunks, N, tokens, tokens)."""
    n, part, tokens = tl.program_id(0) % N, tl.program_id(0) // N, geometry[2] * geometry[3]
    total = tl.zeros([BLOCK, BLOCK], tl.float32)
    blocks = tl.cdiv(tokens, BLOCK)
    row, col = tl.program_id(1) // blocks * BLOCK, tl.program_id(1) % blocks * BLOCK
    for window in range(part * chunk, tl.minimum((part + 1) * chunk, windows)):
        b, y0, x0 = _corner(window, geometry)
        tq, yq, xq, on_q = _tokens(row, y0, x0, geometry, BLOCK)
        tk, yk, xk, on_k = _tokens(col, y0, x0, geometry, BLOCK)
        k = load_rows(K, sk, b, yk, xk, n, on_k, D, BD)
        v = load_rows(V, sv, b, yk, xk, n, on_k, D, BD)
        q, grad, lse, delta = load_queries(Q, GRAD, LSE, DELTA, sq, sg, sl, b, yq, xq, n, on_q, D, D, BD, BD)
        s = _logits(q, k, BIAS, n, tq, tk, on_q, on_k, scale, tokens, True, PRECISION)
        _, ds = softmax_gradient(s, lse, delta, grad, v, PRECISION)
        total += ds
    tq, tk = row + tl.arange(0, BLOCK), col + tl.arange(0, BLOCK)
    cell = ((part * N + n) * tokens + tq[:, None]).to(tl.int64) * tokens + tk[None, :]
    tl.store(PARTS + cell, total, (tq < tokens)[:, None] & (tk < tokens)[None, :])


PROGRAMS = 1024  # to sum a bias: a few for each of the 108 to 132 multiprocessors, and few enough parts to add up


def _settings(q: Tensor, bias: Tensor | None, window: tuple[int, int], interval: int) -> tuple:
    """The kernels' geometry, number of windows, and constants.

    A block of 64 holds most windows (49 to 64 tokens) whole, and then nothing loops. Exact products of float32 keep
    their operands in registers: smaller blocks, more warps.
    """
    B, H, W, N, D = q.shape
    h, w = window
    down, across = triton.cdiv(H, h * interval), triton.cdiv(W, w * interval)
    per_image = down * across * interval * interval
    exact = q.dtype == torch.float32
    block = min((16 if D > 64 else 32) if exact else 64, lanes(h * w))
    whole = h * w <= block
    if D > 64 or (bias is not None and not whole and not exact):
        warps = 8
    else:
        warps = 4 if exact else max(1, block // 16)
    constants = dict(D=D, BIASED=bias is not None, PRECISION=precision(q), BLOCK=block, BD=lanes(D), WHOLE=whole)
    constants |= dict(num_warps=warps, num_stages=1 if exact else 2)
    return (H, W, h, w, interval, across, per_image), B * per_image, constants


def forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, window: tuple[int, int], interval: int, scale: float
) -> tuple[Tensor, Tensor]:
    N = q.shape[3]
    geometry, windows, constants = _settings(q, bias, window, interval)
    bias = None if bias is None else bias.contiguous()
    out, lse = q.new_empty(q.shape), q.new_empty(q.shape[:-1], dtype=torch.float32)
    strides = *(t.stride() for t in (q, k, v, out, lse)), geometry
    grid = windows * N, triton.cdiv(window[0] * window[1], constants["BLOCK"])
    _forward[grid](q, k, v, bias, out, lse, *strides, N, scale, **constants)
    return out, lse


def backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    window: tuple[int, int],
    interval: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    N = q.shape[3]
    geometry, windows, constants = _settings(q, bias, window, interval)
    bias = None if bias is None else bias.contiguous()
    dq, dk, dv = (q.new_empty(q.shape) for _ in range(3))
    delta = row_dots(grad, out)
    inputs = q, k, v, bias, grad, lse, delta
    strides = tuple(t.stride() for t in (q, k, v, grad, lse))
    tokens, block = window[0] * window[1], constants["BLOCK"]
    blocks = triton.cdiv(tokens, block)
    grid, rest = (windows * N, blocks), (*strides, dq.stride(), geometry, N, scale)
    _backward_of_keys[grid](*inputs, dq, dk, dv, *rest, **constants)
    if blocks > 1:
        _backward_of_queries[grid](*inputs, dq, *rest, **constants)
    if bias is None:
        return dq, dk, dv, q.new_empty(0)
    chunk = triton.cdiv(windows, max(1, PROGRAMS // (N * blocks**2)))
    parts = q.new_empty(triton.cdiv(windows, chunk), N, tokens, tokens, dtype=torch.float32)
    constants = {name: value for name, value in constants.items() if name not in ("BIASED", "WHOLE")}
    grid = len(parts) * N, blocks**2
    _backward_of_bias[grid](*inputs, parts, *strides, geometry, N, scale, windows, chunk, **constants)
    return dq, dk, dv, parts.sum(0).to(bias.dtype)

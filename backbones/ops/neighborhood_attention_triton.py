"""Kernels of neighborhood_attention: a program takes a tile of queries (or keys) of one head.

With dilations, tokens of the same residue form a map of their own, where a token has a place (row, column). The windows
of a tile of places cover a rectangle of keys; the queries that see a tile of keys lie in a rectangle too. A program
walks through that rectangle, block by block, and masks what is in no window. Nothing is added atomically: gradients do
not depend on the order in which programs run.
"""

import math

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
def _corner(tile, geometry):
    """Image, residues, the number of rows and columns of places of these, and the first place of a tile."""
    H, W, kh, kw, dh, dw, th, tw, down, across = geometry
    x0 = tile % across * tw
    y0 = tile // across % down * th
    residue = tile // (across * down)
    ry, rx = residue // dw % dh, residue % dw
    return residue // (dw * dh), ry, rx, (H - ry + dh - 1) // dh, (W - rx + dw - 1) // dw, y0, x0


@triton.jit
def _places(y0, x0, rows, cols, geometry, BLOCK: tl.constexpr):
    """Of a tile, row by row: rows, columns, and which exist."""
    th, tw = geometry[6], geometry[7]
    t = tl.arange(0, BLOCK)
    y, x = y0 + t // tw, x0 + t % tw
    return y, x, (t < th * tw) & (y < rows) & (x < cols)


@triton.jit
def _block(start, top, left, height, width, rows, cols, STEP: tl.constexpr):
    """Of a rectangle (height, width >= 2), the places from the start-th on: rows, columns, and which exist."""
    t = start + tl.arange(0, STEP)
    reciprocal = tl.full([], 0xFFFFFFFF, tl.uint32) // width.to(tl.uint32) + 1
    row = tl.umulhi(t.to(tl.uint32), reciprocal).to(tl.int32)  # t // width, as t * width < 2 ** 32
    y, x = top + row, left + t - row * width
    return y, x, (row < height) & (y < rows) & (x < cols)


@triton.jit
def _first(place, count, kernel):
    """The first key of a window."""
    return tl.minimum(tl.maximum(place - kernel // 2, 0), count - kernel)


@triton.jit
def _keys_of(place, size, count, kernel):
    """Of `size` queries from `place` on, on one axis: the first key, and the number of keys, at least 2 for _block."""
    first = _first(place, count, kernel)
    last = _first(tl.minimum(place + size, count) - 1, count, kernel) + kernel
    return first, tl.maximum(last - first, 2)


@triton.jit
def _queries_of(place, size, count, kernel):
    """Of `size` keys from `place` on, on one axis: the first query that sees one, and the number, at least 2."""
    last = tl.minimum(place + size, count) - 1
    first = tl.where(place < kernel, 0, place - kernel // 2)
    end = tl.where(last >= count - kernel, count, last + kernel // 2 + 1)
    return first, tl.maximum(end - first, 2)


@triton.jit
def _logits(q, k, BIAS, n, yq, xq, yk, xk, rows, cols, geometry, scale, BIASED: tl.constexpr, PRECISION: tl.constexpr):
    kh, kw = geometry[2], geometry[3]
    y = yk[None, :] - _first(yq, rows, kh)[:, None]
    x = xk[None, :] - _first(xq, cols, kw)[:, None]
    sees = (y >= 0) & (y < kh) & (x >= 0) & (x < kw)
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E)
    if BIASED:
        side = 2 * kw - 1
        cell = (yk * side + xk)[None, :] - ((yq - kh + 1) * side + xq - kw + 1)[:, None]
        cell = tl.minimum(tl.maximum(cell, 0), (2 * kh - 1) * side - 1)  # a mask would take more registers
        s += tl.load(BIAS + n * (2 * kh - 1) * side + cell).to(tl.float32) * LOG2E
    return tl.where(sees, s, float("-inf"))


@triton.jit
def _load_queries(Q, GRAD, LSE, DELTA, sq, sg, sl, b, y, x, n, inside, D: tl.constexpr, BD: tl.constexpr):
    """What the backward pass needs of queries; the weights of those that do not exist become 0."""
    q, grad, lse, delta = load_queries(Q, GRAD, LSE, DELTA, sq, sg, sl, b, y, x, n, inside, D, D, BD, BD)
    return q, grad, tl.where(inside, lse, float("inf")), delta


@triton.jit
def _forward(
    Q, K, V, BIAS, OUT, LSE, sq, sk, sv, so, sl, geometry, N, scale,
    D: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
    BD: tl.constexpr,
):  # fmt: skip
    H, W, kh, kw, dh, dw, th, tw, down, across = geometry
    n = tl.program_id(0) % N
    b, ry, rx, rows, cols, y0, x0 = _corner(tl.program_id(0) // N, geometry)
    yq, xq, on_q = _places(y0, x0, rows, cols, geometry, BLOCK)
    q = load_rows(Q, sq, b, yq * dh + ry, xq * dw + rx, n, on_q, D, BD)
    top, height = _keys_of(y0, th, rows, kh)
    left, width = _keys_of(x0, tw, cols, kw)
    peak = tl.full([BLOCK], float("-inf"), tl.float32)
    total, acc = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK, BD], tl.float32)
    for start in range(0, height * width, STEP):
        yk, xk, on_k = _block(start, top, left, height, width, rows, cols, STEP)
        k = load_rows(K, sk, b, yk * dh + ry, xk * dw + rx, n, on_k, D, BD)
        v = load_rows(V, sv, b, yk * dh + ry, xk * dw + rx, n, on_k, D, BD)
        s = _logits(q, k, BIAS, n, yq, xq, yk, xk, rows, cols, geometry, scale, BIASED, PRECISION)
        peak, total, acc = softmax_step(s, v, peak, total, acc, PRECISION)
    out, lse = softmax_end(peak, total, acc)
    store_rows(OUT, so, b, yq * dh + ry, xq * dw + rx, n, out, on_q, D, BD)
    store_scalars(LSE, sl, b, yq * dh + ry, xq * dw + rx, n, lse, on_q)


@triton.jit
def _backward_of_queries(
    Q, K, V, BIAS, GRAD, LSE, DELTA, DQ, sq, sk, sv, sg, sl, so, geometry, N, scale,
    D: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
    BD: tl.constexpr,
):  # fmt: skip
    H, W, kh, kw, dh, dw, th, tw, down, across = geometry
    n = tl.program_id(0) % N
    b, ry, rx, rows, cols, y0, x0 = _corner(tl.program_id(0) // N, geometry)
    yq, xq, on_q = _places(y0, x0, rows, cols, geometry, BLOCK)
    q, grad, lse, delta = _load_queries(Q, GRAD, LSE, DELTA, sq, sg, sl, b, yq * dh + ry, xq * dw + rx, n, on_q, D, BD)
    top, height = _keys_of(y0, th, rows, kh)
    left, width = _keys_of(x0, tw, cols, kw)
    dq = tl.zeros([BLOCK, BD], tl.float32)
    for start in range(0, height * width, STEP):
        yk, xk, on_k = _block(start, top, left, height, width, rows, cols, STEP)
        k = load_rows(K, sk, b, yk * dh + ry, xk * dw + rx, n, on_k, D, BD)
        v = load_rows(V, sv, b, yk * dh + ry, xk * dw + rx, n, on_k, D, BD)
        s = _logits(q, k, BIAS, n, yq, xq, yk, xk, rows, cols, geometry, scale, BIASED, PRECISION)
        _, ds = softmax_gradient(s, lse, delta, grad, v, PRECISION)
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    store_rows(DQ, so, b, yq * dh + ry, xq * dw + rx, n, dq * scale, on_q, D, BD)


@triton.jit
def _backward_of_keys(
    Q, K, V, BIAS, GRAD, LSE, DELTA, DK, DV, sq, sk, sv, sg, sl, so, geometry, N, scale,
    D: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
    BD: tl.constexpr,
):  # fmt: skip
    H, W, kh, kw, dh, dw, th, tw, down, across = geometry
    n = tl.program_id(0) % N
    b, ry, rx, rows, cols, y0, x0 = _corner(tl.program_id(0) // N, geometry)
    yk, xk, on_k = _places(y0, x0, rows, cols, geometry, BLOCK)
    k = load_rows(K, sk, b, yk * dh + ry, xk * dw + rx, n, on_k, D, BD)
    v = load_rows(V, sv, b, yk * dh + ry, xk * dw + rx, n, on_k, D, BD)
    top, height = _queries_of(y0, th, rows, kh)
    left, width = _queries_of(x0, tw, cols, kw)
    dk, dv = tl.zeros([BLOCK, BD], tl.float32), tl.zeros([BLOCK, BD], tl.float32)
    for start in range(0, height * width, STEP):
        yq, xq, on_q = _block(start, top, left, height, width, rows, cols, STEP)
        q, grad, lse, delta = _load_queries(
            Q, GRAD, LSE, DELTA, sq, sg, sl, b, yq * dh + ry, xq * dw + rx, n, on_q, D, BD
        )
        s = _logits(q, k, BIAS, n, yq, xq, yk, xk, rows, cols, geometry, scale, BIASED, PRECISION)
        p, ds = softmax_gradient(s, lse, delta, grad, v, PRECISION)
        dv = tl.dot(tl.trans(p.to(v.dtype)), grad, dv, input_precision=PRECISION)
        dk = tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision=PRECISION)
    store_rows(DK, so, b, yk * dh + ry, xk * dw + rx, n, dk * scale, on_k, D, BD)
    store_rows(DV, so, b, yk * dh + ry, xk * dw + rx, n, dv, on_k, D, BD)


@triton.jit
def _backward_of_bias(
    Q, K, V, BIAS, GRAD, LSE, DELTA, PARTS, sq, sk, sv, sg, sl, geometry, N, scale, tiles, chunk,
    D: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """One head's table, summed over a chunk of the tiles of queries: PARTS is (chunks, N, 2 kh - 1, 2 kw - 1).

    One offset of keys from queries at a time, among those that occur in the tile: each query has one key then, and
    products over channels are all there is to compute.
    """
    H, W, kh, kw, dh, dw, th, tw, down, across = geometry
    n, part = tl.program_id(0) % N, tl.program_id(0) // N
    cells = (2 * kh - 1) * (2 * kw - 1)
    table, total = tl.arange(0, CELLS), tl.zeros([CELLS], tl.float32)
    for tile in range(part * chunk, tl.minimum((part + 1) * chunk, tiles)):
        b, ry, rx, rows, cols, y0, x0 = _corner(tile, geometry)
        y, x, inside = _places(y0, x0, rows, cols, geometry, BLOCK)
        q, grad, lse, delta = _load_queries(
            Q, GRAD, LSE, DELTA, sq, sg, sl, b, y * dh + ry, x * dw + rx, n, inside, D, BD
        )
        q, grad = q.to(tl.float32), grad.to(tl.float32)
        first_y, first_x = _first(y, rows, kh) - y, _first(x, cols, kw) - x  # offsets fall along an axis
        y1, x1 = tl.minimum(y0 + th, rows) - 1, tl.minimum(x0 + tw, cols) - 1
        for dy in range(_first(y1, rows, kh) - y1, _first(y0, rows, kh) - y0 + kh):
            for dx in range(_first(x1, cols, kw) - x1, _first(x0, cols, kw) - x0 + kw):
                sees = inside & (dy >= first_y) & (dy < first_y + kh) & (dx >= first_x) & (dx < first_x + kw)
                yk, xk = (y + dy) * dh + ry, (x + dx) * dw + rx
                k = load_rows(K, sk, b, yk, xk, n, sees, D, BD).to(tl.float32)
                v = load_rows(V, sv, b, yk, xk, n, sees, D, BD).to(tl.float32)
                cell = (dy + kh - 1) * (2 * kw - 1) + dx + kw - 1
                s = tl.sum(q * k, 1) * scale + tl.load(BIAS + n * cells + cell).to(tl.float32)
                p = tl.exp2(tl.where(sees, s * LOG2E, float("-inf")) - lse)
                total += tl.where(table == cell, tl.sum(p * (tl.sum(grad * v, 1) - delta), 0), 0.0)
    tl.store(PARTS + (part * N + n) * cells + table, total, table < cells)


PROGRAMS = 4096  # to sum a bias, of one warp each: about 32 for each of the 108 to 132 multiprocessors


def _geometry(q: Tensor, kernel_size: tuple[int, int], dilation: tuple[int, int], block: int) -> tuple[tuple, int]:
    """What kernels know of maps, windows and tiles of at most `block` places, and the number of tiles.

    Tiles are about square, for the smallest rectangles of keys, and of about one size.
    """
    B, H, W = q.shape[:3]
    dilation = [1 if kernel == 1 else step for kernel, step in zip(kernel_size, dilation, strict=True)]
    rows, cols = triton.cdiv(H, dilation[0]), triton.cdiv(W, dilation[1])
    height = _even(rows, math.isqrt(block))
    width = _even(cols, block // height)
    height = _even(rows, block // width)
    down, across = triton.cdiv(rows, height), triton.cdiv(cols, width)
    geometry = H, W, *kernel_size, *dilation, height, width, down, across
    return geometry, B * dilation[0] * dilation[1] * down * across


def _even(count: int, most: int) -> int:
    """The size of parts of at most `most`, as few and as equal as they can be."""
    return triton.cdiv(count, triton.cdiv(count, most))


def _settings(q: Tensor, bias: Tensor | None, kernel_size: tuple[int, int], dilation: tuple[int, int]) -> tuple:
    """The kernels' geometry, number of tiles, and constants.

    Tiles of 64 cover 7 x 7 or 8 x 8 places. Rectangles are walked in steps of 32, which leave less of a step empty than
    64 do and take half the registers or less. Exact products of float32 keep their operands in registers: smaller
    tiles, more warps.
    """
    D = q.shape[-1]
    exact = q.dtype == torch.float32
    block = (16 if D > 64 else 32) if exact else 64
    geometry, tiles = _geometry(q, kernel_size, dilation, block)
    constants = dict(
        D=D, BIASED=bias is not None, PRECISION=precision(q), BLOCK=block, STEP=min(block, 32), BD=lanes(D)
    )
    constants |= dict(num_warps=8 if exact or D > 64 else 4, num_stages=1 if exact else 2)
    return geometry, tiles, constants


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    N = q.shape[3]
    geometry, tiles, constants = _settings(q, bias, kernel_size, dilation)
    bias = None if bias is None else bias.contiguous()
    out, lse = q.new_empty(q.shape), q.new_empty(q.shape[:-1], dtype=torch.float32)
    strides = *(t.stride() for t in (q, k, v, out, lse)), geometry
    _forward[(tiles * N,)](q, k, v, bias, out, lse, *strides, N, scale, **constants)
    return out, lse


def backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    N, D = q.shape[3:]
    geometry, tiles, constants = _settings(q, bias, kernel_size, dilation)
    bias = None if bias is None else bias.contiguous()
    dq, dk, dv = (q.new_empty(q.shape) for _ in range(3))
    delta = row_dots(grad, out)
    inputs = q, k, v, bias, grad, lse, delta
    strides = tuple(t.stride() for t in (q, k, v, grad, lse))
    rest = *strides, dq.stride(), geometry, N, scale
    _backward_of_queries[(tiles * N,)](*inputs, dq, *rest, **constants)
    _backward_of_keys[(tiles * N,)](*inputs, dk, dv, *rest, **constants)
    if bias is None:
        return dq, dk, dv, q.new_empty(0)
    block = max(8, 1024 // lanes(D))  # 32 numbers of each of q, k, v, grad a thread
    geometry, tiles = _geometry(q, kernel_size, dilation, block)
    chunk = triton.cdiv(tiles, max(1, PROGRAMS // N))
    parts = q.new_empty(triton.cdiv(tiles, chunk), *bias.shape, dtype=torch.float32)
    constants = dict(D=D, BLOCK=block, BD=lanes(D), CELLS=triton.next_power_of_2(bias[0].numel()), num_warps=1)
    _backward_of_bias[(len(parts) * N,)](*inputs, parts, *strides, geometry, N, scale, tiles, chunk, **constants)
    return dq, dk, dv, parts.sum(0).to(bias.dtype)

"""Kernels of halo_attention: a program takes queries of one block, or a tile of keys, and one head.

Keys are taken by rectangles of HEIGHT x WIDTH, both powers of two. Their relative logits are the sum of one number a
row and one a column: of products of queries with a whole table, (queries, 2 w - 1), each query picks those from its own
place on (tl.gather). Gradients go the way back. Keys that are not on the map are zeros, which costs no padded copy.
Nothing is added atomically: gradients do not depend on the order in which programs run.
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
def _queries(block, start, geometry, BLOCK: tl.constexpr):
    """Of a block (row, column), queries from the start-th on: places in it, rows and columns, and which exist."""
    Hq, Wq, side = geometry[2], geometry[3], geometry[6]
    t = start + tl.arange(0, BLOCK)
    iy, ix = t // side, t % side
    y, x = block[0] * side + iy, block[1] * side + ix
    return iy, ix, y, x, (iy < side) & (y < Hq) & (x < Wq)


@triton.jit
def _rectangle(y0, x0, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Rows and columns of keys."""
    t = tl.arange(0, HEIGHT * WIDTH)
    return y0 + t // WIDTH, x0 + t % WIDTH


@triton.jit
def _on_map(y, x, geometry):
    return (y >= 0) & (y < geometry[0]) & (x >= 0) & (x < geometry[1])


@triton.jit
def _load_table(TABLE, window, like, D: tl.constexpr, BD: tl.constexpr, CELLS: tl.constexpr):
    """(CELLS, BD)"""
    r, d = tl.arange(0, CELLS), tl.arange(0, BD)
    rows = tl.load(TABLE + (r[:, None] * D + d), (r < 2 * window - 1)[:, None] & (d < D), 0.0)
    return rows.to(like.dtype)


@triton.jit
def _relative(by_cell, i, j0, window, COUNT: tl.constexpr):
    """Of products with a table, those of queries at places i with COUNT keys from j0 on: (queries, COUNT)."""
    cell = (j0 + tl.arange(0, COUNT))[None, :] - i[:, None] + window - 1
    return tl.gather(by_cell, tl.minimum(tl.maximum(cell, 0), 2 * window - 2), 1)


@triton.jit
def _by_cell(relative, i, window, COUNT: tl.constexpr, CELLS: tl.constexpr):
    """The way back: (queries, CELLS), of queries at places i and a window's COUNT keys, zeros elsewhere."""
    j = tl.arange(0, CELLS)[None, :] + i[:, None] - (window - 1)
    found = tl.gather(relative, tl.minimum(tl.maximum(j, 0), COUNT - 1), 1)
    return tl.where((j >= 0) & (j < COUNT), found, 0.0)


@triton.jit
def _logits(q, k, by_row, by_col, jy, jx, window, scale, PRECISION: tl.constexpr):
    """by_row and by_col have the relative logits, base 2, of the rows and columns of a rectangle of keys."""
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E)
    relative = by_row[:, :, None] + by_col[:, None, :]
    s += tl.reshape(relative, s.shape)
    return tl.where(((jy >= 0) & (jy < window) & (jx >= 0) & (jx < window))[None, :], s, float("-inf"))


@triton.jit
def _item(item, geometry, N, BLOCK: tl.constexpr):
    """Image, block (row, column), which BLOCK of its queries, and head."""
    side, down, across = geometry[6], geometry[7], geometry[8]
    parts = tl.cdiv(side * side, BLOCK)
    n, rest = item % N, item // N
    part, rest = rest % parts, rest // parts
    return rest // (down * across), (rest // across % down, rest % across), part, n


@triton.jit
def _forward(
    Q, K, V, HEIGHT_REL, WIDTH_REL, OUT, LSE, sq, sk, sv, so, sl, geometry, N, scale,
    D: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr,
    BE: tl.constexpr, CELLS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    size, window, halo = geometry[4], geometry[5], (geometry[5] - geometry[4]) // 2
    b, block, part, n = _item(tl.program_id(0), geometry, N, BLOCK)
    iy, ix, yq, xq, on_q = _queries(block, part * BLOCK, geometry, BLOCK)
    q = load_rows(Q, sq, b, yq, xq, n, on_q, D, BD)
    heights = _load_table(HEIGHT_REL, window, q, D, BD, CELLS)
    widths = _load_table(WIDTH_REL, window, q, D, BD, CELLS)
    heights = tl.dot(q, tl.trans(heights), input_precision=PRECISION) * LOG2E
    widths = tl.dot(q, tl.trans(widths), input_precision=PRECISION) * LOG2E
    by_col = _relative(widths, ix, 0, window, WIDTH)
    peak = tl.full([BLOCK], float("-inf"), tl.float32)
    total, acc = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK, BE], tl.float32)
    for j0 in range(0, window, HEIGHT):
        jy, jx = _rectangle(j0, 0, HEIGHT, WIDTH)
        yk, xk = block[0] * size - halo + jy, block[1] * size - halo + jx
        on_k = _on_map(yk, xk, geometry)
        k = load_rows(K, sk, b, yk, xk, n, on_k, D, BD)
        v = load_rows(V, sv, b, yk, xk, n, on_k, E, BE)
        by_row = _relative(heights, iy, j0, window, HEIGHT)
        s = _logits(q, k, by_row, by_col, jy, jx, window, scale, PRECISION)
        peak, total, acc = softmax_step(s, v, peak, total, acc, PRECISION)
    out, lse = softmax_end(peak, total, acc)
    store_rows(OUT, so, b, yq, xq, n, out, on_q, E, BE)
    store_scalars(LSE, sl, b, yq, xq, n, lse, on_q)


@triton.jit
def _backward_of_queries(
    Q, K, V, HEIGHT_REL, WIDTH_REL, GRAD, LSE, DELTA, DQ, PARTS, sq, sk, sv, sg, sl, so, geometry, N, scale,
    items, chunk,
    D: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr,
    BE: tl.constexpr, CELLS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Of q, and of both tables, summed over a chunk of all blocks and heads: PARTS is (chunks, 2, 2 w - 1, D)."""
    size, window, halo = geometry[4], geometry[5], (geometry[5] - geometry[4]) // 2
    d_heights, d_widths = tl.zeros([CELLS, BD], tl.float32), tl.zeros([CELLS, BD], tl.float32)
    steps = tl.arange(0, WIDTH // HEIGHT)[None, :, None]
    for item in range(tl.program_id(0) * chunk, tl.minimum((tl.program_id(0) + 1) * chunk, items)):
        b, block, part, n = _item(item, geometry, N, BLOCK)
        iy, ix, yq, xq, on_q = _queries(block, part * BLOCK, geometry, BLOCK)
        q, grad, lse, delta = load_queries(Q, GRAD, LSE, DELTA, sq, sg, sl, b, yq, xq, n, on_q, D, E, BD, BE)
        height_rel = _load_table(HEIGHT_REL, window, q, D, BD, CELLS)
        width_rel = _load_table(WIDTH_REL, window, q, D, BD, CELLS)
        heights = tl.dot(q, tl.trans(height_rel), input_precision=PRECISION) * LOG2E
        widths = tl.dot(q, tl.trans(width_rel), input_precision=PRECISION) * LOG2E
        by_col = _relative(widths, ix, 0, window, WIDTH)
        dq = tl.zeros([BLOCK, BD], tl.float32)
        ds_rows = tl.zeros([BLOCK, WIDTH // HEIGHT, HEIGHT], tl.float32)
        ds_cols = tl.zeros([BLOCK, WIDTH], tl.float32)
        for j0 in range(0, window, HEIGHT):
            jy, jx = _rectangle(j0, 0, HEIGHT, WIDTH)
            yk, xk = block[0] * size - halo + jy, block[1] * size - halo + jx
            on_k = _on_map(yk, xk, geometry)
            k = load_rows(K, sk, b, yk, xk, n, on_k, D, BD)
            v = load_rows(V, sv, b, yk, xk, n, on_k, E, BE)
            by_row = _relative(heights, iy, j0, window, HEIGHT)
            s = _logits(q, k, by_row, by_col, jy, jx, window, scale, PRECISION)
            _, ds = softmax_gradient(s, lse, delta, grad, v, PRECISION)
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
            ds = tl.reshape(ds, [BLOCK, HEIGHT, WIDTH])
            ds_rows += tl.where(steps == j0 // HEIGHT, tl.sum(ds, 2)[:, None, :], 0.0)
            ds_cols += tl.sum(ds, 1)
        ds_rows = _by_cell(tl.reshape(ds_rows, [BLOCK, WIDTH]), iy, window, WIDTH, CELLS).to(q.dtype)
        ds_cols = _by_cell(ds_cols, ix, window, WIDTH, CELLS).to(q.dtype)
        dq = tl.dot(ds_rows, height_rel, dq * scale, input_precision=PRECISION)
        dq = tl.dot(ds_cols, width_rel, dq, input_precision=PRECISION)
        store_rows(DQ, so, b, yq, xq, n, dq, on_q, D, BD)
        d_heights = tl.dot(tl.trans(ds_rows), q, d_heights, input_precision=PRECISION)
        d_widths = tl.dot(tl.trans(ds_cols), q, d_widths, input_precision=PRECISION)
    r, d = tl.arange(0, CELLS), tl.arange(0, BD)
    inside, cell = (r < 2 * window - 1)[:, None] & (d < D), r[:, None] * D + d
    PARTS += tl.program_id(0) * 2 * (2 * window - 1) * D
    tl.store(PARTS + cell, d_heights, inside)
    tl.store(PARTS + (2 * window - 1) * D + cell, d_widths, inside)


@triton.jit
def _backward_of_keys(
    Q, K, V, HEIGHT_REL, WIDTH_REL, GRAD, LSE, DELTA, DK, DV, sq, sk, sv, sg, sl, so, se, geometry, N, scale,
    rows, cols,
    D: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr,
    BE: tl.constexpr, CELLS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Of k and v, by tiles of (rows, cols) a map; the first begin half a tile before the map.

    Tiles across the borders of blocks lie in the windows of fewer blocks than a block of keys would: of 4, not 9.
    """
    size, window, halo = geometry[4], geometry[5], (geometry[5] - geometry[4]) // 2
    n, tile = tl.program_id(0) % N, tl.program_id(0) // N
    b = tile // (rows * cols)
    y0 = tile // cols % rows * HEIGHT - HEIGHT // 2
    x0 = tile % cols * WIDTH - WIDTH // 2
    yk, xk = _rectangle(y0, x0, HEIGHT, WIDTH)
    on_k = _on_map(yk, xk, geometry)
    k = load_rows(K, sk, b, yk, xk, n, on_k, D, BD)
    v = load_rows(V, sv, b, yk, xk, n, on_k, E, BE)
    height_rel = _load_table(HEIGHT_REL, window, k, D, BD, CELLS)
    width_rel = _load_table(WIDTH_REL, window, k, D, BD, CELLS)
    dk, dv = tl.zeros([HEIGHT * WIDTH, BD], tl.float32), tl.zeros([HEIGHT * WIDTH, BE], tl.float32)
    top, left = tl.maximum(y0 - halo, 0) // size, tl.maximum(x0 - halo, 0) // size
    height = tl.minimum((y0 + HEIGHT - 1 + halo) // size + 1, geometry[7]) - top
    width = tl.minimum((x0 + WIDTH - 1 + halo) // size + 1, geometry[8]) - left
    parts = tl.cdiv(geometry[6] * geometry[6], BLOCK)
    for item in range(height * width * parts):
        block = top + item // parts // width, left + item // parts % width
        iy, ix, yq, xq, on_q = _queries(block, item % parts * BLOCK, geometry, BLOCK)
        q, grad, lse, delta = load_queries(Q, GRAD, LSE, DELTA, sq, sg, sl, b, yq, xq, n, on_q, D, E, BD, BE)
        heights = tl.dot(q, tl.trans(height_rel), input_precision=PRECISION) * LOG2E
        widths = tl.dot(q, tl.trans(width_rel), input_precision=PRECISION) * LOG2E
        jy0, jx0 = y0 - block[0] * size + halo, x0 - block[1] * size + halo
        jy, jx = _rectangle(jy0, jx0, HEIGHT, WIDTH)
        by_row = _relative(heights, iy, jy0, window, HEIGHT)
        by_col = _relative(widths, ix, jx0, window, WIDTH)
        s = _logits(q, k, by_row, by_col, jy, jx, window, scale, PRECISION)
        p, ds = softmax_gradient(s, lse, delta, grad, v, PRECISION)
        dv = tl.dot(tl.trans(p.to(v.dtype)), grad, dv, input_precision=PRECISION)
        dk = tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision=PRECISION)
    store_rows(DK, so, b, yk, xk, n, dk * scale, on_k, D, BD)
    store_rows(DV, se, b, yk, xk, n, dv, on_k, E, BE)


PROGRAMS = 2048  # that sum the tables' gradients: some 16 for each of the 108 to 132 multiprocessors


def _settings(q: Tensor, k: Tensor, v: Tensor, block_size: int, halo_size: int, stride: int) -> tuple:
    """The kernels' geometry, number of items of queries, constants, and those of kernels by queries and by keys.

    64 queries hold a block of 8 x 8. Against a tile, the other side comes in steps of 32, which take fewer registers
    than 64. Exact products of float32 keep their operands in registers: fewer queries, more warps.
    """
    B, Hq, Wq, N, D = q.shape
    H, W, E = k.shape[1], k.shape[2], v.shape[-1]
    side, window = block_size // stride, block_size + 2 * halo_size
    down, across = triton.cdiv(Hq, side), triton.cdiv(Wq, side)
    exact = q.dtype == torch.float32
    most = (16 if max(D, E) > 64 else 32) if exact else 64
    block = min(most, lanes(side**2))
    geometry = H, W, Hq, Wq, block_size, window, side, down, across
    constants = dict(D=D, E=E, PRECISION=precision(q), BD=lanes(D), BE=lanes(E), CELLS=lanes(2 * window - 1))
    constants |= dict(num_warps=8 if exact or max(D, E) > 64 else 4, num_stages=1 if exact else 2)
    width = lanes(window)
    of_queries = dict(BLOCK=block, HEIGHT=max(1, min(most, 32) // width), WIDTH=width)
    of_keys = dict(BLOCK=min(block, 32), HEIGHT=8 if most == 64 else 4, WIDTH=4 if most == 16 else 8)
    return geometry, B * down * across * triton.cdiv(side**2, block) * N, constants, of_queries, of_keys


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    height_rel: Tensor,
    width_rel: Tensor,
    block_size: int,
    halo_size: int,
    stride: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    geometry, items, constants, of_queries, _ = _settings(q, k, v, block_size, halo_size, stride)
    out, lse = q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(q.shape[:-1], dtype=torch.float32)
    tensors = q, k, v, height_rel.contiguous(), width_rel.contiguous(), out, lse
    strides = tuple(t.stride() for t in (q, k, v, out, lse))
    _forward[(items,)](*tensors, *strides, geometry, q.shape[3], scale, **constants, **of_queries)
    return out, lse


def backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    height_rel: Tensor,
    width_rel: Tensor,
    block_size: int,
    halo_size: int,
    stride: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, H, W, N, D = k.shape
    geometry, items, constants, of_queries, of_keys = _settings(q, k, v, block_size, halo_size, stride)
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    tensors = q, k, v, height_rel.contiguous(), width_rel.contiguous(), grad, lse, row_dots(grad, out)
    strides = tuple(t.stride() for t in (q, k, v, grad, lse))
    chunk = triton.cdiv(items, PROGRAMS)
    parts = q.new_empty(triton.cdiv(items, chunk), 2, *height_rel.shape, dtype=torch.float32)
    rest = *strides, dq.stride(), geometry, N, scale, items, chunk
    _backward_of_queries[(len(parts),)](*tensors, dq, parts, *rest, **constants, **of_queries)
    rows, cols = (triton.cdiv(n + of_keys[side] // 2, of_keys[side]) for n, side in ((H, "HEIGHT"), (W, "WIDTH")))
    rest = *strides, dk.stride(), dv.stride(), geometry, N, scale, rows, cols
    _backward_of_keys[(B * rows * cols * N,)](*tensors, dk, dv, *rest, **constants, **of_keys)
    d_height, d_width = (part.sum(0) for part in parts.unbind(1))
    return dq, dk, dv, d_height.to(height_rel.dtype), d_width.to(width_rel.dtype)

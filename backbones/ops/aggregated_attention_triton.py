"""Kernels of aggregated_attention: a program takes a block of one head's tokens, in the order of the map.

The neighbours of a block's queries are as many blocks, each the tokens shifted by one offset: products of single rows,
for which matrix units would compute ten times too much. Pooled tokens are the same for all queries: dense products.
Sums over queries (for pooled tokens, biases) are made of parts that programs sum alone; nothing is added atomically, so
gradients do not depend on the order in which programs run.
"""

import math

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
    softmax_end,
    softmax_gradient,
    softmax_step,
    store_rows,
    store_scalars,
)


@triton.jit
def _block(size, N, blocks, BLOCK: tl.constexpr):
    """Image, head, block of tokens, their rows and columns, and which there are, of a program."""
    i = tl.program_id(0)
    block = i // N % blocks
    y, x, inside = _tokens(block * BLOCK, size, BLOCK)
    return i // (N * blocks), i % N, block, y, x, inside


@triton.jit
def _tokens(start, size, BLOCK: tl.constexpr):
    t = start + tl.arange(0, BLOCK)
    return t // size[1], t % size[1], t < size[0] * size[1]


@triton.jit
def _shifted(y, x, inside, tap, size, WINDOW: tl.constexpr):
    """The neighbours at an offset, and which of them are on the map. The mirrored offset is WINDOW ** 2 - 1 - tap."""
    y, x = y + tap // WINDOW - WINDOW // 2, x + tap % WINDOW - WINDOW // 2
    return y, x, inside & (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])


@triton.jit
def _local_logits(q, k, LOCAL_BIAS, n, tap, on_map, WINDOW: tl.constexpr):
    bias = tl.load(LOCAL_BIAS + n * WINDOW * WINDOW + tap).to(tl.float32)
    return tl.where(on_map, (tl.sum(q * k, 1) + bias) * LOG2E, float("-inf"))


@triton.jit
def _pooled_tokens(start, pooled, BLOCK: tl.constexpr):
    t = start + tl.arange(0, BLOCK)
    return t // pooled[1], t % pooled[1], t < pooled[0] * pooled[1]


@triton.jit
def _pooled_logits(
    q, k, TABLE, ROWS, COLS, n, y, x, on_q, at_y, at_x, on_k, pooled, table, PRECISION: tl.constexpr
):  # fmt: skip
    both = on_q[:, None] & on_k[None, :]
    row = tl.load(ROWS + (y[:, None] * pooled[0] + at_y[None, :]), both, 0).to(tl.int32)
    col = tl.load(COLS + (x[:, None] * pooled[1] + at_x[None, :]), both, 0).to(tl.int32)
    bias = tl.load(TABLE + ((n * table[0] + row) * table[1] + col), both, 0.0).to(tl.float32)
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION) + bias
    return tl.where(both, s * LOG2E, float("-inf"))


@triton.jit
def _forward(
    Q, K, V, PK, PV, EXTRA, LOCAL_BIAS, TABLE, ROWS, COLS, OUT, LSE, sq, sk, sv, spk, spv, se, so, sl,
    size, pooled, table, N, blocks,
    D: tl.constexpr, WINDOW: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, KEYS: tl.constexpr, BD: tl.constexpr, UNIT: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    b, n, _, y, x, inside = _block(size, N, blocks, BLOCK)
    q = load_rows(Q, sq, b, y, x, n, inside, D, BD, UNIT)
    wide = q.to(tl.float32)
    peak = tl.full([BLOCK], float("-inf"), tl.float32)
    total, acc = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK, BD], tl.float32)
    added = tl.zeros([BLOCK, BD], tl.float32)
    for tap in range(WINDOW * WINDOW):
        ky, kx, on_map = _shifted(y, x, inside, tap, size, WINDOW)
        k = load_rows(K, sk, b, ky, kx, n, on_map, D, BD, UNIT).to(tl.float32)
        v = load_rows(V, sv, b, ky, kx, n, on_map, D, BD, UNIT).to(tl.float32)
        extra = load_scalars(EXTRA + tap, se, b, y, x, n, inside).to(tl.float32)
        s = _local_logits(wide, k, LOCAL_BIAS, n, tap, on_map, WINDOW)
        higher = tl.maximum(peak, s)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        p, fade = tl.exp2(s - base), tl.exp2(peak - base)
        peak, total = higher, total * fade + p
        acc = acc * fade[:, None] + p[:, None] * v
        added += extra[:, None] * v
    for start in range(0, KEYS if WHOLE else pooled[0] * pooled[1], KEYS):
        at_y, at_x, on_k = _pooled_tokens(start, pooled, KEYS)
        k = load_rows(PK, spk, b, at_y, at_x, n, on_k, D, BD, UNIT)
        v = load_rows(PV, spv, b, at_y, at_x, n, on_k, D, BD, UNIT)
        s = _pooled_logits(q, k, TABLE, ROWS, COLS, n, y, x, inside, at_y, at_x, on_k, pooled, table, PRECISION)
        peak, total, acc = softmax_step(s, v, peak, total, acc, PRECISION)
    out, lse = softmax_end(peak, total, acc)
    store_rows(OUT, so, b, y, x, n, out + added, inside, D, BD, UNIT)
    store_scalars(LSE, sl, b, y, x, n, lse, inside)


@triton.jit
def _pooled_weights(
    q, grad, lse, PK, PV, TABLE, ROWS, COLS, spk, spv, b, n, y, x, inside, start, pooled, table,
    D: tl.constexpr, PRECISION: tl.constexpr, KEYS: tl.constexpr, BD: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """A block of pooled keys, their weights, and the gradient of these, both (queries, keys)."""
    at_y, at_x, on_k = _pooled_tokens(start, pooled, KEYS)
    k = load_rows(PK, spk, b, at_y, at_x, n, on_k, D, BD, UNIT)
    v = load_rows(PV, spv, b, at_y, at_x, n, on_k, D, BD, UNIT)
    s = _pooled_logits(q, k, TABLE, ROWS, COLS, n, y, x, inside, at_y, at_x, on_k, pooled, table, PRECISION)
    return k, tl.exp2(s - lse[:, None]), tl.dot(grad, tl.trans(v), input_precision=PRECISION)


@triton.jit
def _backward_of_queries(
    Q, K, V, PK, PV, EXTRA, LOCAL_BIAS, TABLE, ROWS, COLS, GRAD, LSE, DELTA, DQ, DEXTRA, BIAS_PARTS,
    sq, sk, sv, spk, spv, se, sg, sl, so, sde, size, pooled, table, N, blocks,
    D: tl.constexpr, WINDOW: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, KEYS: tl.constexpr, BD: tl.constexpr, UNIT: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Of q, extra and, in parts (B * blocks, N, taps), the local bias; and delta, which other kernels read.

    delta is summed over keys: grad . out, of which extra has a share, would round what cancels.
    """
    b, n, block, y, x, inside = _block(size, N, blocks, BLOCK)
    q = load_rows(Q, sq, b, y, x, n, inside, D, BD, UNIT)
    grad = load_rows(GRAD, sg, b, y, x, n, inside, D, BD, UNIT)
    lse = load_scalars(LSE, sl, b, y, x, n, inside)
    wide, wide_grad = q.to(tl.float32), grad.to(tl.float32)
    delta = tl.zeros([BLOCK], tl.float32)
    if WHOLE:
        pk, pp, dpp = _pooled_weights(
            q, grad, lse, PK, PV, TABLE, ROWS, COLS, spk, spv, b, n, y, x, inside, 0, pooled, table,
            D, PRECISION, KEYS, BD, UNIT,
        )  # fmt: skip
        delta += tl.sum(pp * dpp, 1)
    else:
        for start in range(0, pooled[0] * pooled[1], KEYS):
            pk, pp, dpp = _pooled_weights(
                q, grad, lse, PK, PV, TABLE, ROWS, COLS, spk, spv, b, n, y, x, inside, start, pooled, table,
                D, PRECISION, KEYS, BD, UNIT,
            )  # fmt: skip
            delta += tl.sum(pp * dpp, 1)
    for tap in range(WINDOW * WINDOW):
        ky, kx, on_map = _shifted(y, x, inside, tap, size, WINDOW)
        k = load_rows(K, sk, b, ky, kx, n, on_map, D, BD, UNIT).to(tl.float32)
        v = load_rows(V, sv, b, ky, kx, n, on_map, D, BD, UNIT).to(tl.float32)
        dextra = tl.sum(wide_grad * v, 1)
        store_scalars(DEXTRA + tap, sde, b, y, x, n, dextra, inside)
        delta += tl.exp2(_local_logits(wide, k, LOCAL_BIAS, n, tap, on_map, WINDOW) - lse) * dextra
    store_scalars(DELTA, sl, b, y, x, n, delta, inside)
    dq = tl.zeros([BLOCK, BD], tl.float32)
    for tap in range(WINDOW * WINDOW):
        ky, kx, on_map = _shifted(y, x, inside, tap, size, WINDOW)
        k = load_rows(K, sk, b, ky, kx, n, on_map, D, BD, UNIT).to(tl.float32)
        v = load_rows(V, sv, b, ky, kx, n, on_map, D, BD, UNIT).to(tl.float32)
        p = tl.exp2(_local_logits(wide, k, LOCAL_BIAS, n, tap, on_map, WINDOW) - lse)
        ds = p * (tl.sum(wide_grad * v, 1) - delta)
        dq += ds[:, None] * k
        tl.store(BIAS_PARTS + (((b * blocks + block) * N + n) * WINDOW * WINDOW + tap), tl.sum(ds, 0))
    if WHOLE:
        dq = tl.dot((pp * (dpp - delta[:, None])).to(pk.dtype), pk, dq, input_precision=PRECISION)
    else:
        for start in range(0, pooled[0] * pooled[1], KEYS):
            pk, pp, dpp = _pooled_weights(
                q, grad, lse, PK, PV, TABLE, ROWS, COLS, spk, spv, b, n, y, x, inside, start, pooled, table,
                D, PRECISION, KEYS, BD, UNIT,
            )  # fmt: skip
            dq = tl.dot((pp * (dpp - delta[:, None])).to(pk.dtype), pk, dq, input_precision=PRECISION)
    store_rows(DQ, so, b, y, x, n, dq, inside, D, BD, UNIT)


@triton.jit
def _backward_of_keys(
    Q, K, V, EXTRA, LOCAL_BIAS, GRAD, LSE, DELTA, DK, DV, sq, sk, sv, se, sg, sl, so, size, N, blocks,
    D: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Of k and v: each offset has one query per key, at the mirrored offset from it."""
    b, n, _, y, x, inside = _block(size, N, blocks, BLOCK)
    k = load_rows(K, sk, b, y, x, n, inside, D, BD, UNIT).to(tl.float32)
    v = load_rows(V, sv, b, y, x, n, inside, D, BD, UNIT).to(tl.float32)
    dk, dv = tl.zeros([BLOCK, BD], tl.float32), tl.zeros([BLOCK, BD], tl.float32)
    for tap in range(WINDOW * WINDOW):
        qy, qx, on_map = _shifted(y, x, inside, WINDOW * WINDOW - 1 - tap, size, WINDOW)
        q = load_rows(Q, sq, b, qy, qx, n, on_map, D, BD, UNIT).to(tl.float32)
        grad = load_rows(GRAD, sg, b, qy, qx, n, on_map, D, BD, UNIT).to(tl.float32)
        lse = load_scalars(LSE, sl, b, qy, qx, n, on_map)
        delta = load_scalars(DELTA, sl, b, qy, qx, n, on_map)
        extra = load_scalars(EXTRA + tap, se, b, qy, qx, n, on_map).to(tl.float32)
        p = tl.exp2(_local_logits(q, k, LOCAL_BIAS, n, tap, on_map, WINDOW) - lse)
        ds = p * (tl.sum(grad * v, 1) - delta)
        dk += ds[:, None] * q
        dv += (p + extra)[:, None] * grad
    store_rows(DK, so, b, y, x, n, dk, inside, D, BD, UNIT)
    store_rows(DV, so, b, y, x, n, dv, inside, D, BD, UNIT)


@triton.jit
def _backward_of_pooled(
    Q, PK, PV, TABLE, ROWS, COLS, GRAD, LSE, DELTA, DPK, DPV, sq, spk, spv, sg, sl, sp, size, pooled, table, N, chunk,
    D: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, KEYS: tl.constexpr, BD: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Of pooled tokens, summed over a chunk of the queries: DPK and DPV are (chunks, B, P, Q, N, D)."""
    b, n, part, start = tl.program_id(0) // N, tl.program_id(0) % N, tl.program_id(2), tl.program_id(1) * KEYS
    at_y, at_x, on_k = _pooled_tokens(start, pooled, KEYS)
    k = load_rows(PK, spk, b, at_y, at_x, n, on_k, D, BD, UNIT)
    v = load_rows(PV, spv, b, at_y, at_x, n, on_k, D, BD, UNIT)
    dk, dv = tl.zeros([KEYS, BD], tl.float32), tl.zeros([KEYS, BD], tl.float32)
    for token in range(part * chunk, tl.minimum((part + 1) * chunk, size[0] * size[1]), BLOCK):
        y, x, inside = _tokens(token, size, BLOCK)
        q = load_rows(Q, sq, b, y, x, n, inside, D, BD, UNIT)
        grad = load_rows(GRAD, sg, b, y, x, n, inside, D, BD, UNIT)
        lse = load_scalars(LSE, sl, b, y, x, n, inside)
        delta = load_scalars(DELTA, sl, b, y, x, n, inside)
        s = _pooled_logits(q, k, TABLE, ROWS, COLS, n, y, x, inside, at_y, at_x, on_k, pooled, table, PRECISION)
        p, ds = softmax_gradient(s, lse, delta, grad, v, PRECISION)
        dv = tl.dot(tl.trans(p.to(v.dtype)), grad, dv, input_precision=PRECISION)
        dk = tl.dot(tl.trans(ds.to(k.dtype)), q, dk, input_precision=PRECISION)
    first = part.to(tl.int64) * sp[0]
    store_rows(DPK + first, sp[1:], b, at_y, at_x, n, dk, on_k, D, BD, UNIT)
    store_rows(DPV + first, sp[1:], b, at_y, at_x, n, dv, on_k, D, BD, UNIT)


@triton.jit
def _backward_of_table(
    Q, PK, PV, TABLE, ROWS, COLS, GRAD, LSE, DELTA, PARTS, sq, spk, spv, sg, sl, size, pooled, table, N, B, chunk, top,
    height,
    D: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, KEYS: tl.constexpr, BD: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Of the pooled bias, summed over a chunk of images: PARTS are (chunks, N, height, P, W, Q), of rows from `top`."""
    n, part, start = tl.program_id(0) % N, tl.program_id(0) // N, tl.program_id(2) * KEYS
    at_y, at_x, on_k = _pooled_tokens(start, pooled, KEYS)
    y, x, inside = _tokens(top * size[1] + tl.program_id(1) * BLOCK, size, BLOCK)
    inside = inside & (y < top + height)
    total = tl.zeros([BLOCK, KEYS], tl.float32)
    for i in range(tl.minimum(chunk, B - part * chunk)):
        b = part * chunk + i
        k = load_rows(PK, spk, b, at_y, at_x, n, on_k, D, BD, UNIT)
        v = load_rows(PV, spv, b, at_y, at_x, n, on_k, D, BD, UNIT)
        q = load_rows(Q, sq, b, y, x, n, inside, D, BD, UNIT)
        grad = load_rows(GRAD, sg, b, y, x, n, inside, D, BD, UNIT)
        lse = load_scalars(LSE, sl, b, y, x, n, inside)
        delta = load_scalars(DELTA, sl, b, y, x, n, inside)
        s = _pooled_logits(q, k, TABLE, ROWS, COLS, n, y, x, inside, at_y, at_x, on_k, pooled, table, PRECISION)
        _, ds = softmax_gradient(s, lse, delta, grad, v, PRECISION)
        total += ds
    row = ((part * N + n) * height + (y - top))[:, None] * pooled[0] + at_y[None, :]
    cell = (row.to(tl.int64) * size[1] + x[:, None]) * pooled[1] + at_x[None, :]
    tl.store(PARTS + cell, total, inside[:, None] & on_k[None, :])


PROGRAMS = 1024  # to sum over queries or images: a few for each multiprocessor, and few parts to add up
CELLS = 2**24  # of the pooled bias of a band of queries, in float32, that are summed before they go into the table


def _settings(q: Tensor, pooled_k: Tensor, window: int, *maps: Tensor) -> dict:
    """The kernels' constants.

    Blocks of 32 queries by 64 pooled tokens, of which there are 49 at the published sizes: 64 queries would spill.
    Exact products of float32 keep their operands in registers: smaller blocks. Published heads have 24 channels, 16
    bytes of which are loaded at once only if the compiler is told the strides' UNIT.
    """
    D = q.shape[-1]
    exact = q.dtype == torch.float32
    block = 16 if D > 64 else 32
    tokens = pooled_k.shape[1] * pooled_k.shape[2]
    keys = min(block if exact else 64, lanes(tokens))
    constants = dict(
        D=D, WINDOW=window, PRECISION=precision(q), BLOCK=block, KEYS=keys, BD=lanes(D), WHOLE=tokens <= keys
    )
    constants["UNIT"] = math.gcd(16, *(stride for x in (q, pooled_k, *maps) for stride in x.stride()[:-1]))
    return constants | dict(num_warps=4, num_stages=1 if exact else 2)


def _only(constants: dict, *without: str) -> dict:
    return {name: value for name, value in constants.items() if name not in without}


def _strides(*tensors: Tensor) -> tuple:
    return tuple(t.stride() for t in tensors)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pooled_k: Tensor,
    pooled_v: Tensor,
    extra: Tensor,
    local_bias: Tensor,
    pooled_bias: Tensor,
    rows: Tensor,
    cols: Tensor,
) -> tuple[Tensor, Tensor]:
    B, H, W, N, _ = q.shape
    constants = _settings(q, pooled_k, math.isqrt(local_bias.shape[1]), k, v, pooled_v)
    tables = [x.contiguous() for x in (local_bias, pooled_bias, rows, cols)]
    out, lse = q.new_empty(q.shape), q.new_empty(q.shape[:-1], dtype=torch.float32)
    maps = q, k, v, pooled_k, pooled_v, extra
    blocks = triton.cdiv(H * W, constants["BLOCK"])
    sizes = (H, W), tuple(pooled_k.shape[1:3]), tuple(pooled_bias.shape[1:])
    _forward[(B * blocks * N,)](*maps, *tables, out, lse, *_strides(*maps, out, lse), *sizes, N, blocks, **constants)
    return out, lse


def backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pooled_k: Tensor,
    pooled_v: Tensor,
    extra: Tensor,
    local_bias: Tensor,
    pooled_bias: Tensor,
    rows: Tensor,
    cols: Tensor,
) -> tuple[Tensor, ...]:
    B, H, W, N, _ = q.shape
    constants = _settings(q, pooled_k, math.isqrt(local_bias.shape[1]), k, v, pooled_v, grad)
    local_bias, table, rows, cols = tables = [x.contiguous() for x in (local_bias, pooled_bias, rows, cols)]
    dq, dk, dv, dextra = (x.new_empty(x.shape) for x in (q, k, v, extra))
    delta = torch.empty_like(lse)
    maps = q, k, v, pooled_k, pooled_v, extra
    blocks = triton.cdiv(H * W, constants["BLOCK"])
    sizes = (H, W), tuple(pooled_k.shape[1:3]), tuple(table.shape[1:])
    grid = (B * blocks * N,)

    bias_parts = lse.new_empty(B * blocks, N, local_bias.shape[1])
    strides = _strides(*maps, grad, lse, dq, dextra)
    results = delta, dq, dextra, bias_parts
    rest = *strides, *sizes, N, blocks
    _backward_of_queries[grid](*maps, *tables, grad, lse, *results, *rest, **constants)

    inputs = q, k, v, extra, local_bias, grad, lse, delta
    strides = _strides(q, k, v, extra, grad, lse, dk)
    rest = _only(constants, "KEYS", "PRECISION", "WHOLE")
    _backward_of_keys[grid](*inputs, dk, dv, *strides, (H, W), N, blocks, **rest)

    inputs = q, pooled_k, pooled_v, *tables[1:], grad, lse, delta
    rest = _strides(q, pooled_k, pooled_v, grad, lse), sizes, _only(constants, "WINDOW", "WHOLE")
    dpooled_k, dpooled_v = _gradients_of_pooled(inputs, *rest)
    dtable = _gradient_of_table(inputs, *rest)
    return dq, dk, dv, dpooled_k, dpooled_v, dextra, bias_parts.sum(0).to(local_bias.dtype), dtable


def _gradients_of_pooled(inputs: tuple, strides: tuple, sizes: tuple, constants: dict) -> tuple[Tensor, Tensor]:
    """Of the pooled keys and values, (B, P, Q, N, D)."""
    lse, pooled_k = inputs[7], inputs[1]
    B, H, W, N = lse.shape
    (P, Q), block = sizes[1], constants["BLOCK"]
    blocks = triton.cdiv(P * Q, constants["KEYS"])
    chunk = block * triton.cdiv(H * W, block * max(1, PROGRAMS // (B * N * blocks)))
    parts = lse.new_empty(2, triton.cdiv(H * W, chunk), *pooled_k.shape)
    grid = B * N, blocks, parts.shape[1]
    _backward_of_pooled[grid](
        *inputs, *parts, *strides, parts[0].stride(), *sizes, N, chunk, **constants | dict(num_warps=8)
    )
    return tuple(part.sum(0).to(pooled_k.dtype) for part in parts)


def _gradient_of_table(inputs: tuple, strides: tuple, sizes: tuple, constants: dict) -> Tensor:
    """Of the pooled bias, (N, R, C).

    Of a band of queries at a time, what images add to the bias of each query on each pooled token; these go to their
    cells by two products with matrices of zeros and ones, since adding them one by one would be atomic.
    """
    table, rows, cols, lse = inputs[3], inputs[4], inputs[5], inputs[7]
    B, H, W, N = lse.shape
    _, (P, Q), (R, C) = sizes
    onto_rows, onto_cols = (
        (index.view(-1, 1) == torch.arange(n, device=lse.device)).float() for index, n in ((rows, R), (cols, C))
    )
    total = lse.new_zeros(N, R, C)
    blocks = triton.cdiv(P * Q, constants["KEYS"])
    band = max(1, min(H, CELLS // (N * W * P * Q)))
    for top in range(0, H, band):
        height = min(band, H - top)
        tiles = triton.cdiv(height * W, constants["BLOCK"])
        chunk = triton.cdiv(B, max(1, PROGRAMS // (N * tiles * blocks)))
        parts = lse.new_empty(triton.cdiv(B, chunk), N, height, P, W, Q)
        grid = len(parts) * N, tiles, blocks
        _backward_of_table[grid](*inputs, parts, *strides, *sizes, N, B, chunk, top, height, **constants)
        # products into given tensors, which autocast does not round
        by_cols = torch.mm(parts.sum(0).view(-1, W * Q), onto_cols, out=lse.new_empty(N * height * P, C))
        onto = onto_rows[top * P : (top + height) * P].T.expand(N, -1, -1)
        total.baddbmm_(onto, by_cols.view(N, -1, C))
    return total.to(table.dtype)

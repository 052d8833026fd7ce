"""What the attention kernels share: tiles of maps, the online softmax and its gradient.

Offsets inside one image are 32 bits wide, which spares registers; images are addressed by 64 bits.
Logits are in base 2 (multiplied by log2 e), so that weights are exp2 of them, and -inf where a query has no such key.
The gradient of natural logits is weight * (d weight - delta), delta the weighted mean of d weight, which is grad . out
(FlashAttention-2, https://arxiv.org/abs/2307.08691, section 3.1).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_rows(X, strides, b, y, x, n, inside, D, BD: tl.constexpr, UNIT: tl.constexpr = 1):
    """Tokens (y, x) of head n of image b of a map: (tokens, BD), zeros where they are not `inside` and beyond D.

    Strides are multiples of UNIT, a power of two: Triton knows it by itself only of multiples of 16.
    """
    d = tl.arange(0, BD)
    image, row = b.to(tl.int64) * strides[0], y * strides[1] + x * strides[2] + n * strides[3]
    if UNIT > 1:  # a hint of 1 would hide what Triton knows
        image, row = tl.multiple_of(image, UNIT), tl.multiple_of(row, UNIT)
    X += image
    return tl.load(X + (row[:, None] + d), inside[:, None] & (d < D), 0.0)


@triton.jit
def store_rows(X, strides, b, y, x, n, values, inside, D, BD: tl.constexpr, UNIT: tl.constexpr = 1):
    d = tl.arange(0, BD)
    image, row = b.to(tl.int64) * strides[0], y * strides[1] + x * strides[2] + n * strides[3]
    if UNIT > 1:
        image, row = tl.multiple_of(image, UNIT), tl.multiple_of(row, UNIT)
    X += image
    tl.store(X + (row[:, None] + d), values.to(X.dtype.element_ty), inside[:, None] & (d < D))


@triton.jit
def load_scalars(X, strides, b, y, x, n, inside):
    """Of a map (B, H, W, N): (tokens,)."""
    return tl.load(X + b.to(tl.int64) * strides[0] + (y * strides[1] + x * strides[2] + n * strides[3]), inside, 0.0)


@triton.jit
def store_scalars(X, strides, b, y, x, n, values, inside):
    tl.store(X + b.to(tl.int64) * strides[0] + (y * strides[1] + x * strides[2] + n * strides[3]), values, inside)


@triton.jit
def load_queries(Q, GRAD, LSE, DELTA, sq, sg, sl, b, y, x, n, inside, D: tl.constexpr, E: tl.constexpr,
                 BD: tl.constexpr, BE: tl.constexpr):  # fmt: skip
    """What a backward pass needs of queries: themselves, the output's gradient, the denominator and delta."""
    q = load_rows(Q, sq, b, y, x, n, inside, D, BD)
    grad = load_rows(GRAD, sg, b, y, x, n, inside, E, BE)
    return q, grad, load_scalars(LSE, sl, b, y, x, n, inside), load_scalars(DELTA, sl, b, y, x, n, inside)


@triton.jit
def softmax_step(s, v, peak, total, acc, PRECISION: tl.constexpr):
    """Takes a block of keys in: logits s (queries, keys) and values v (keys, channels).

    `peak` is the largest logit so far, `total` the sum of exp2(logit - peak), `acc` that of these times values.
    """
    higher = tl.maximum(peak, tl.max(s, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)
    p = tl.exp2(s - base[:, None])
    fade = tl.exp2(peak - base)
    acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None], input_precision=PRECISION)
    return higher, total * fade + tl.sum(p, 1), acc


@triton.jit
def softmax_end(peak, total, acc):
    """The output, and the base-2 logarithm of the denominator; zeros for a query without keys."""
    total = tl.where(total == 0.0, 1.0, total)
    return acc / total[:, None], tl.where(peak == float("-inf"), 0.0, peak) + tl.log2(total)


@triton.jit
def softmax_gradient(s, lse, delta, grad, v, PRECISION: tl.constexpr):
    """Weights, and the gradient of natural logits; both (queries, keys)."""
    p = tl.exp2(s - lse[:, None])
    dp = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
    return p, p * (dp - delta[:, None])


@triton.jit
def _row_dots(A, B, OUT, sa, sb, W, N, rows, blocks, D: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr):
    b, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    row = block * BR + tl.arange(0, BR)  # of the image
    y, x, n, inside = row // N // W, row // N % W, row % N, row < rows
    left = load_rows(A, sa, b, y, x, n, inside, D, BD).to(tl.float32)
    right = load_rows(B, sb, b, y, x, n, inside, D, BD).to(tl.float32)
    tl.store(OUT + b.to(tl.int64) * rows + row, tl.sum(left * right, 1), inside)


def row_dots(a: Tensor, b: Tensor) -> Tensor:
    """Products of maps (B, H, W, N, D) over channels, (B, H, W, N) in float32: delta, of grad and out."""
    B, H, W, N, D = a.shape
    out, block = a.new_empty(a.shape[:-1], dtype=torch.float32), max(1, min(64, 2048 // lanes(D)))
    blocks = triton.cdiv(H * W * N, block)
    _row_dots[(B * blocks,)](a, b, out, a.stride(), b.stride(), W, N, H * W * N, blocks, D, block, lanes(D))
    return out


def lanes(n: int) -> int:
    """The side of a tile that holds n: a power of two, at least the 16 that matrix products take."""
    return max(16, triton.next_power_of_2(n))


def precision(x: Tensor) -> str:
    """Of products of float32: tf32 only where torch's switch allows it."""
    return "tf32" if x.is_cuda and torch.backends.cuda.matmul.allow_tf32 else "ieee"

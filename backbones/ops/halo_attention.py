"""Attention of blocks to themselves and a halo around them (HaloNet, https://arxiv.org/abs/2103.12731, section 3).

A block of `block_size` x `block_size` tokens attends to the window of w = block_size + 2 halo_size tokens a side around
it. With i the place of a query in its block and j that of a key in the window, row and column,

    logit[i, j] = scale * q[i] . k[j] + q[i] . height_rel[j_y - i_y + w - 1] + q[i] . width_rel[j_x - i_x + w - 1]
    out[i] = sum over j of softmax_j(logit[i, j]) v[j]

Keys and values that are not on the map are zeros, and take part. Blocks start at the top left corner; the last ones may
overhang the map. With a stride, only every stride-th row and column has a query (section 3.2, downsampling).
Shapes: B images, H x W tokens, N heads, D channels a head, E of the values.
"""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ._fused import fused
from ._impl import Impl, choose, custom_ops_fit, implementations, in_float32
from ._maps import pad_to_multiple
from ._tiles import Tile, add, by_head, chunks, gather, on_map, put, softmax_backward, zeros_like


def halo_attention(
    q: Tensor,  # (B, H / stride, W / stride, N, D), rounded up
    k: Tensor,  # (B, H, W, N, D)
    v: Tensor,  # (B, H, W, N, E)
    height_rel: Tensor,  # (2 w - 1, D), of all heads
    width_rel: Tensor,  # (2 w - 1, D)
    *,
    block_size: int,
    halo_size: int,
    stride: int = 1,
    scale: float | None = None,
    impl: str | None = None,
) -> Tensor:
    """Attention of every block to its window; returns (B, H / stride, W / stride, N, E), rounded up.

    `scale` of q . k defaults to D ** -0.5; the relative logits take none. Raises ValueError if `stride` does not divide
    `block_size`, if shapes do not fit, or if `impl` cannot run.
    """
    B, H, W, N, D = k.shape
    if block_size < 1 or halo_size < 0 or stride < 1 or block_size % stride:
        raise ValueError(
            f"stride {stride} does not divide block_size {block_size}, or halo_size {halo_size} is negative"
        )
    size = -(-H // stride), -(-W // stride)
    if q.shape != (B, *size, N, D):
        raise ValueError(f"q is {tuple(q.shape)}, not {(B, *size, N, D)} as for keys {tuple(k.shape)}, stride {stride}")
    table = 2 * (block_size + 2 * halo_size) - 1, D
    for name, rel in (("height_rel", height_rel), ("width_rel", width_rel)):
        if rel.shape != table:
            raise ValueError(f"{name} is {tuple(rel.shape)}, not {table} as for a window of {(table[0] + 1) // 2}")
    args = q, k, v, height_rel, width_rel, block_size, halo_size, stride, D**-0.5 if scale is None else scale
    return choose(IMPLS, impl, *args)(*args)


def multiply_adds(
    q: tuple, k: tuple, v: tuple, height_rel: tuple, width_rel: tuple, block_size: int, halo_size: int, stride: int, *_
) -> int:
    """Of arguments of these shapes: every query of every block, whole or not, with its window and with both tables."""
    B, H, W, N, D = k
    window = block_size + 2 * halo_size
    queries = (-(-H // block_size) * block_size // stride) * (-(-W // block_size) * block_size // stride)
    return B * N * queries * (window**2 * (D + v[-1]) + 2 * window * D)


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    height_rel: Tensor,
    width_rel: Tensor,
    block_size: int,
    halo_size: int,
    stride: int,
    scale: float,
) -> Tensor:
    side, window = block_size // stride, block_size + 2 * halo_size
    q, on_map = pad_to_multiple(q, (side, side))
    k, v = (_padded(t, block_size, halo_size) for t in (k, v))
    q = q.unflatten(2, (-1, side)).unflatten(1, (-1, side)).movedim((3, 5), (2, 3))  # (B, rows, cols, N, side, side, D)
    k, v = (t.unfold(1, window, block_size).unfold(2, window, block_size) for t in (k, v))  # (..., N, D, w, w)
    rows, cols = (_by_query(rel.to(q.dtype), side, window) for rel in (height_rel, width_rel))
    attn = scale * q.flatten(4, 5) @ k.flatten(5)  # (B, rows, cols, N, side * side, w * w)
    attn = attn.unflatten(4, (side, side)).unflatten(6, (window, window))
    attn = attn + (q @ rows.mT)[..., None] + (q.transpose(4, 5) @ cols.mT).transpose(4, 5)[..., None, :]
    out = attn.flatten(6).flatten(4, 5).softmax(-1) @ v.flatten(5).mT
    out = out.unflatten(4, (side, side)).movedim((2, 3), (3, 5))  # (B, rows, side, cols, side, N, E)
    return out.flatten(3, 4).flatten(1, 2)[on_map]


def _padded(x: Tensor, block_size: int, halo_size: int) -> Tensor:
    """With the halo of the blocks at the border, and the blocks that overhang whole."""
    x, _ = pad_to_multiple(x, (block_size, block_size))
    return F.pad(x, (0, 0, 0, 0, *(halo_size,) * 4))


def _by_query(rel: Tensor, side: int, window: int) -> Tensor:
    """(side, window, D): of each query's row or column, the part of the table for the window's."""
    return torch.stack([rel[window - 1 - i : 2 * window - 1 - i] for i in range(side)])


@in_float32
def tiled(*args) -> Tensor:
    """A few blocks at a time, so that neither windows nor attention maps of all of them are ever kept."""
    return _forward(*args)


class _Blocks:
    """What both passes need of the arguments: padded maps by head, and the rectangles of each block."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, block_size: int, halo_size: int, stride: int):
        self.side, self.window = block_size // stride, block_size + 2 * halo_size
        self.q = self.whole(q)
        self.k, self.v = (by_head(_padded(t, block_size, halo_size)) for t in (k, v))
        (H, W), (Hq, Wq) = k.shape[1:3], q.shape[1:3]
        self.of_queries = ..., slice(Hq), slice(Wq), slice(None)
        self.of_keys = ..., slice(halo_size, halo_size + H), slice(halo_size, halo_size + W), slice(None)
        blocks = list(itertools.product(range(-(-H // block_size)), range(-(-W // block_size))))
        self.queries = [(_span(y, self.side, self.side), _span(x, self.side, self.side)) for y, x in blocks]
        self.keys = [(_span(y, block_size, self.window), _span(x, block_size, self.window)) for y, x in blocks]

    def whole(self, x: Tensor) -> Tensor:
        """A map like q by head, its last blocks filled up."""
        return by_head(pad_to_multiple(x, (self.side, self.side))[0])

    def chunks(self) -> Iterator[tuple[list[Tile], list[Tile]]]:
        return chunks(self.queries, self.keys, self.q, self.side**2 * self.window**2)

    def weights(self, q: Tensor, k: Tensor, rows: Tensor, cols: Tensor, scale: float) -> Tensor:
        """(B, blocks, N, queries, keys) of gathered queries and keys."""
        by_place = q.unflatten(3, (self.side, self.side))
        by_row = torch.einsum("...yxd,yjd->...yxj", by_place, rows)
        by_col = torch.einsum("...yxd,xjd->...yxj", by_place, cols)
        logits = q.new_empty(*q.shape[:-1], self.window, self.window)
        torch.add(by_row[..., None], by_col[..., None, :], out=logits.unflatten(3, (self.side, self.side)))
        logits = logits.flatten(4)
        logits.flatten(0, 2).baddbmm_(q.flatten(0, 2), k.flatten(0, 2).mT, alpha=scale)
        return logits.softmax(-1)


def _span(i: int, step: int, length: int) -> slice:
    return slice(i * step, i * step + length)


def _mix(weights: Tensor, x: Tensor) -> Tensor:
    """weights @ x, in the order that the CPU multiplies up to four times as fast when x has few channels."""
    return (x.mT @ weights.mT).mT


@torch.library.custom_op("backbones::halo_attention", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    height_rel: Tensor,
    width_rel: Tensor,
    block_size: int,
    halo_size: int,
    stride: int,
    scale: float,
) -> Tensor:
    blocks = _Blocks(q, k, v, block_size, halo_size, stride)
    rows, cols = (_by_query(rel, blocks.side, blocks.window) for rel in (height_rel, width_rel))
    out = q.new_empty(*blocks.q.shape[:-1], v.shape[-1])
    for queries, keys in blocks.chunks():
        weights = blocks.weights(gather(blocks.q, queries), gather(blocks.k, keys), rows, cols, scale)
        put(out, queries, _mix(weights, gather(blocks.v, keys)))
    return on_map(out[blocks.of_queries])


@torch.library.custom_op("backbones::halo_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    out: Tensor,
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
    blocks = _Blocks(q, k, v, block_size, halo_size, stride)
    side, window = blocks.side, blocks.window
    rows, cols = (_by_query(rel, side, window) for rel in (height_rel, width_rel))
    mean = blocks.whole((grad * out).sum(-1, keepdim=True))  # of the weights' gradients
    grad = blocks.whole(grad)
    dq, dk, dv, drows, dcols = map(torch.zeros_like, (blocks.q, blocks.k, blocks.v, rows, cols))
    for queries, keys in blocks.chunks():
        near_q, near_k, dout = gather(blocks.q, queries), gather(blocks.k, keys), gather(grad, queries)
        weights = blocks.weights(near_q, near_k, rows, cols, scale)
        add(dv, keys, _mix(weights.mT, dout))
        dlogits = softmax_backward(weights, dout @ gather(blocks.v, keys).mT, gather(mean, queries))
        add(dk, keys, _mix(dlogits.mT, near_q).mul_(scale))
        dnear_q = _mix(dlogits, near_k).mul_(scale).unflatten(3, (side, side))
        near_q = near_q.unflatten(3, (side, side))
        by_place = dlogits.unflatten(4, (window, window)).unflatten(3, (side, side))
        by_row, by_col = by_place.sum(-1), by_place.sum(-2)  # (B, blocks, N, side, side, window)
        dnear_q += torch.einsum("...yxj,yjd->...yxd", by_row, rows)
        dnear_q += torch.einsum("...yxj,xjd->...yxd", by_col, cols)
        drows += torch.einsum("bgnyxj,bgnyxd->yjd", by_row, near_q)
        dcols += torch.einsum("bgnyxj,bgnyxd->xjd", by_col, near_q)
        put(dq, queries, dnear_q.flatten(3, 4))
    dheight, dwidth = map(zeros_like, (height_rel, width_rel))
    for i in range(side):
        dheight[window - 1 - i : 2 * window - 1 - i] += drows[i]
        dwidth[window - 1 - i : 2 * window - 1 - i] += dcols[i]
    dk, dv = (on_map(t[blocks.of_keys]) for t in (dk, dv))
    return on_map(dq[blocks.of_queries]), dk, dv, dheight, dwidth


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *args) -> Tensor:
    return q.new_empty(*q.shape[:-1], v.shape[-1])


@_backward.register_fake
def _(grad: Tensor, out: Tensor, *args) -> tuple[Tensor, ...]:
    return tuple(map(zeros_like, args[:5]))


def _save(ctx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(output, *inputs[:5])
    ctx.settings = inputs[5:]


def _differentiate(ctx, grad: Tensor) -> tuple:
    return *_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)

ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor height_rel, Tensor width_rel, "
    "SymInt block_size, SymInt halo_size, SymInt stride, float scale"
)

IMPLS = implementations(
    triton=fused("halo_attention", ARGUMENTS, gradients=5),
    tiled=Impl(tiled, suits=custom_ops_fit),
    reference=Impl(reference),
)

SMALL = [
    dict(B=2, H=4, W=8, N=2, D=8, E=4, block_size=4, halo_size=1, stride=1),
    dict(B=1, H=5, W=7, N=1, D=4, E=8, block_size=4, halo_size=3, stride=2),  # blocks overhang
    dict(B=2, H=2, W=3, N=3, D=8, E=8, block_size=3, halo_size=0, stride=1),
    dict(B=1, H=6, W=5, N=1, D=4, E=8, block_size=2, halo_size=3, stride=1),  # windows over more than neighbours
    dict(B=1, H=10, W=9, N=1, D=8, E=8, block_size=9, halo_size=4, stride=1),  # many queries and keys a block
]
REAL = [  # HaloNet-H1 at 256, batch 4: stages 1 and 3, the first block of stage 2
    dict(B=4, H=64, W=64, N=8, D=8, E=8, block_size=8, halo_size=3, stride=1),
    dict(B=4, H=16, W=16, N=8, D=32, E=32, block_size=8, halo_size=3, stride=1),
    dict(B=4, H=64, W=64, N=8, D=16, E=16, block_size=8, halo_size=3, stride=2),
]


def inputs(B: int, H: int, W: int, N: int, D: int, E: int, block_size: int, halo_size: int, stride: int, **kw) -> tuple:
    """Strided, and no argument at its default: an implementation that drops one must differ."""
    q = torch.randn(B, -(-H // stride), -(-W // stride), 2, N, D, **kw)[:, :, :, 0]
    k, v = torch.randn(B, H, W, N, D + E, **kw).split([D, E], -1)
    tables = (0.3 * torch.randn(2 * (block_size + 2 * halo_size) - 1, D, **kw) for _ in range(2))
    return q, k, v, *tables, block_size, halo_size, stride, 0.3

"""Attention of each token to its row and its column (CCNet, https://arxiv.org/abs/1811.11721, section 3.2).

    out[y, x] = sum over j of softmax_j(scale * q[y, x] . k[j]) v[j],  j over row y and column x, (y, x) itself once

Shapes: B images, H x W tokens, N heads, D channels a head of queries and keys, E of values. Half precision is computed
in float32; kernels round weights and their gradients to it for products, which they sum in float32.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ._fused import fused
from ._impl import Impl, choose, custom_ops_fit, implementations, in_float32
from ._tiles import zeros_like


def criss_cross_attention(
    q: Tensor,  # (B, H, W, N, D)
    k: Tensor,  # (B, H, W, N, D)
    v: Tensor,  # (B, H, W, N, E)
    *,
    scale: float | None = None,
    impl: str | None = None,
) -> Tensor:
    """Attention of every token to the H + W - 1 tokens of its row and column; returns (B, H, W, N, E).

    The fast implementation keeps no H x W x (H + W) attention map, neither at once nor for the backward pass. `scale`
    defaults to D ** -0.5 (CCNet takes 1). Raises ValueError if shapes do not fit, or if `impl` cannot run.
    """
    if q.ndim != 5 or k.shape != q.shape or v.shape[:-1] != q.shape[:-1]:
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} are not maps (B, H, W, N, ...)")
    args = q, k, v, q.shape[-1] ** -0.5 if scale is None else scale
    return choose(IMPLS, impl, *args)(*args)


def multiply_adds(q: tuple, k: tuple, v: tuple, *_) -> int:
    """Of arguments of these shapes: every query with, and for, its row and its column, its own pixel in both."""
    B, H, W, N, D = q
    return B * N * H * W * (H + W) * (D + v[-1])


def reference(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    H, W = q.shape[1:3]
    by_row, by_col = (0, 1, 3, 2, 4), (0, 2, 3, 1, 4)  # (B, H, N, W, D) and (B, W, N, H, D)
    back = 0, 3, 1, 2, 4
    rows = (scale * q.permute(by_row) @ k.permute(by_row).mT).permute(by_row)
    cols = (scale * q.permute(by_col) @ k.permute(by_col).mT).permute(back)
    own = torch.eye(H, dtype=torch.bool, device=q.device)[:, None, None]  # which the row has
    attn = torch.cat([rows, cols.masked_fill(own, float("-inf"))], -1)
    rows, cols = attn.softmax(-1).split([W, H], -1)  # (B, H, W, N, ...)
    in_row = (rows.permute(by_row) @ v.permute(by_row)).permute(by_row)
    return in_row + (cols.permute(by_col) @ v.permute(by_col)).permute(back)


@in_float32
def lines(*args) -> Tensor:
    """A few rows at a time, then a few columns, whose results are merged by their softmax denominators."""
    return _forward(*args)[0]


WEIGHTS_OF_A_CHUNK = dict(cpu=2**18, gpu=2**26)


class _Lines:
    """Rows (or columns) of maps (B, H, W, N, ...), a few at a time, and what is computed of each of these chunks.

    Logits and weights of all chunks share two buffers: fresh memory would cost the CPU more than the softmax.
    """

    def __init__(self, *maps: Tensor, columns: bool):
        self.columns = columns
        self.maps = [x.transpose(1, 2) for x in maps] if columns else maps
        like = self.maps[0]
        B, lines, self.length, N = like.shape[:4]
        limit = WEIGHTS_OF_A_CHUNK["cpu" if like.device.type == "cpu" else "gpu"]
        self.step = min(lines, max(1, limit // (B * N * self.length**2)))
        self.buffers = like.new_empty(2, B * self.step * N, self.length, self.length)

    def chunks(self) -> Iterator[tuple[Tensor, ...]]:
        """Of every map, (B, lines, N, length, ...); they can be written to."""
        for i in range(0, self.maps[0].shape[1], self.step):
            yield tuple(x[:, i : i + self.step].transpose(2, 3) for x in self.maps)

    def products(self, a: Tensor, b: Tensor, scale: float = 1.0, buffer: int = 0) -> Tensor:
        """scale * a @ b.mT, (B * lines * N, length, length), in one of the buffers."""
        a, b = (x.flatten(0, 2) for x in (a, b))
        out = self.buffers[buffer, : a.shape[0]]
        return torch.baddbmm(out, a, b.mT, beta=0, alpha=scale, out=out)

    def logits(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """Without a token's own pixel in columns: its row has it."""
        logits = self.products(q, k, scale)
        if self.columns:
            logits.diagonal(dim1=-2, dim2=-1).fill_(float("-inf"))
        return logits

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attention inside lines, and the logarithm of the softmax's denominator."""
        logits = self.logits(q, k, scale)
        weights = torch.softmax(logits, -1, out=self.buffers[1, : logits.shape[0]])
        normaliser = logits.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log()
        out = weights @ v.flatten(0, 2)
        return out.unflatten(0, v.shape[:3]), normaliser.unflatten(0, v.shape[:3])


@torch.library.custom_op("backbones::criss_cross_attention", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The output and the logarithm of the softmax's denominator, (B, H, W, N, 1)."""
    out, normaliser = torch.empty_like(v, memory_format=torch.contiguous_format), q.new_empty(*q.shape[:-1], 1)
    maps = q, k, v, out, normaliser
    rows = _Lines(*maps, columns=False)
    for *qkv, out_, normaliser_ in rows.chunks():
        in_row, of_row = rows.attend(*qkv, scale)
        out_.copy_(in_row)
        normaliser_.copy_(of_row)
    if q.shape[1] == 1:
        return out, normaliser
    columns = _Lines(*maps, columns=True)
    for *qkv, out_, normaliser_ in columns.chunks():
        in_column, of_column = columns.attend(*qkv, scale)
        out_.lerp_(in_column, (of_column - normaliser_).sigmoid())
        normaliser_.copy_(torch.logaddexp(normaliser_, of_column))
    return out, normaliser


@torch.library.custom_op("backbones::criss_cross_attention_backward", mutates_args=())
def _backward(
    grad: Tensor, out: Tensor, normaliser: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    grads = tuple(map(zeros_like, (q, k, v)))
    mean = (grad * out).sum(-1, keepdim=True)  # of the weights' gradients
    for columns in (False, True):
        lines = _Lines(q, k, v, grad, normaliser, mean, *grads, columns=columns)
        for *maps, dq, dk, dv in lines.chunks():
            q_, k_, v_, grad_, normaliser_, mean_ = maps
            weights = lines.logits(q_, k_, scale).sub_(normaliser_.flatten(0, 2)).exp_()
            dv += (weights.mT @ grad_.flatten(0, 2)).view(dv.shape)
            dlogits = lines.products(grad_, v_, buffer=1).sub_(mean_.flatten(0, 2)).mul_(weights)
            dq.add_((dlogits @ k_.flatten(0, 2)).view(dq.shape), alpha=scale)
            dk.add_((dlogits.mT @ q_.flatten(0, 2)).view(dk.shape), alpha=scale)
    return grads


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v, memory_format=torch.contiguous_format), q.new_empty(*q.shape[:-1], 1)


@_backward.register_fake
def _(grad: Tensor, out: Tensor, normaliser: Tensor, *args) -> tuple[Tensor, ...]:
    return tuple(map(zeros_like, args[:3]))


def _save(ctx, inputs: tuple, output: tuple) -> None:
    *ctx_inputs, ctx.scale = inputs
    ctx.save_for_backward(*output, *ctx_inputs)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad: Tensor | None, _: None) -> tuple:
    if grad is None:
        return (None,) * 4
    return *_backward(grad, *ctx.saved_tensors, ctx.scale), None


_forward.register_autograd(_differentiate, setup_context=_save)

IMPLS = implementations(
    triton=fused("criss_cross_attention", "Tensor q, Tensor k, Tensor v, float scale", gradients=3, widest_value=2048),
    lines=Impl(lines, suits=custom_ops_fit),
    reference=Impl(reference),
)

SMALL = [  # lines of several blocks, rows of two in half precision too; one and several chunks of values
    dict(B=2, H=3, W=5, N=2, D=8, E=4),
    dict(B=1, H=1, W=67, N=1, D=4, E=8),
    dict(B=2, H=4, W=1, N=1, D=8, E=132),
    dict(B=1, H=33, W=2, N=1, D=8, E=8),
]
REAL = [  # CCNet on a crop of 769 x 769; one of its modules of 64 channels
    dict(B=1, H=97, W=97, N=1, D=64, E=512),
    dict(B=1, H=97, W=97, N=1, D=64, E=64),
    dict(B=1, H=97, W=97, N=1, D=8, E=64),
]


def inputs(B: int, H: int, W: int, N: int, D: int, E: int, **kw) -> tuple:
    """Strided, and no argument at its default: an implementation that drops one must differ."""
    return *torch.randn(B, H, W, N, 2 * D + E, **kw).split([D, D, E], -1), 0.3

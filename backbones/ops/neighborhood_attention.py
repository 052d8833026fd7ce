"""Attention of each token to the window around it (NAT, https://arxiv.org/abs/2204.07143, section 3; dilated: DiNAT,
https://arxiv.org/abs/2209.15001, section 3.1).

    out[i] = sum over j in window(i) of softmax_j(scale * q[i] . k[j] + bias[j - i]) v[j]

Along an axis of n tokens, window(i) holds `kernel_size` successive tokens, i in their middle; at a border the window
moves inwards and stays whole. With a dilation d, tokens i, i + d, i + 2d ... are an axis of their own.
Shapes: B images or sequences, H x W or L tokens, N heads, D channels a head.
"""

import functools
import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._fused import fused
from ._impl import Impl, choose, custom_ops_fit, implementations, in_float32
from ._tiles import Tile, add, by_head, chunks, gather, on_map, put, softmax_backward, zeros_like


def neighborhood_attention(
    q: Tensor,  # (B, H, W, N, D) or (B, L, N, D), as are k and v
    k: Tensor,
    v: Tensor,
    *,
    kernel_size: int | tuple[int, int],
    dilation: int | tuple[int, int] = 1,
    bias: Tensor | None = None,  # (N, 2 kernel_size - 1, 2 kernel_size - 1), or (N, 2 kernel_size - 1) of a sequence
    scale: float | None = None,
    impl: str | None = None,
) -> Tensor:
    """Attention of every token to the `kernel_size` tokens around it along each axis; returns the shape of q.

    `bias` is indexed by the offset of a key from its query in steps of `dilation`: the middle is the query itself.
    Sizes may differ by axis: (rows, columns). `scale` defaults to D ** -0.5.
    Raises ValueError if a kernel size is even, if kernel_size * dilation exceeds the tokens of its axis (a window that
    cannot be whole; a kernel size of 1 always fits), if the bias has another shape, or if `impl` cannot run.
    """
    if q.ndim not in (4, 5):
        raise ValueError(f"q {tuple(q.shape)} is neither a map (B, H, W, N, D) nor a sequence (B, L, N, D)")
    axes = q.ndim - 3
    kernel_size, dilation = _per_axis("kernel_size", kernel_size, axes), _per_axis("dilation", dilation, axes)
    for n, kernel, step in zip(q.shape[1:], kernel_size, dilation, strict=False):
        if kernel % 2 == 0:
            raise ValueError(f"kernel_size {kernel} is even; a window needs a middle: {kernel - 1} or {kernel + 1}")
        if kernel > 1 and kernel * step > n:
            fits = f"kernel_size {_largest(n // step)}" if step <= n else f"a dilation of at most {max(1, n // kernel)}"
            raise ValueError(f"kernel_size {kernel} with dilation {step} spans more than {n} tokens: {fits} would fit")
    if bias is not None:
        shape = (q.shape[-2], *(2 * kernel - 1 for kernel in kernel_size))
        if bias.shape != shape:
            raise ValueError(f"bias is {tuple(bias.shape)}, not {shape} as for kernel_size {kernel_size}")
    if axes == 1:
        q, k, v = (t[:, None] for t in (q, k, v))
        bias = None if bias is None else bias[:, None]
        kernel_size, dilation = (1, *kernel_size), (1, *dilation)
    args = q, k, v, bias, kernel_size, dilation, q.shape[-1] ** -0.5 if scale is None else scale
    out = choose(IMPLS, impl, *args)(*args)
    return out[:, 0] if axes == 1 else out


def _per_axis(name: str, value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(values) != axes or min(values) < 1:
        raise ValueError(f"{name} {value} is not {axes} positive integer{'s' * (axes > 1)}")
    return values


def _largest(fits: int) -> int:
    return fits - 1 + fits % 2


def multiply_adds(q: tuple, k: tuple, v: tuple, bias: tuple | None, kernel_size: tuple, *args) -> int:
    """Of arguments of these shapes: every query with, and for, the keys of its window."""
    B, H, W, N, D = q
    return 2 * B * H * W * N * D * kernel_size[0] * kernel_size[1]


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> Tensor:
    windows, offsets = [], []
    for n, kernel, step in zip(q.shape[1:3], kernel_size, dilation, strict=True):
        i = torch.arange(n, device=q.device)
        place, last = i // step, (n - 1 - i % step) // step  # along the axis of every step-th token
        first = torch.minimum((place - kernel // 2).clamp(min=0), last - (kernel - 1))
        window = first[:, None] + torch.arange(kernel, device=q.device)
        windows.append(i[:, None] % step + window * step)  # (n, kernel)
        offsets.append(window - place[:, None] + kernel - 1)
    rows, cols = windows[0][:, None, :, None], windows[1][:, None, :]
    near_k, near_v = (t[:, rows, cols].flatten(3, 4) for t in (k, v))  # (B, H, W, window, N, D)
    attn = scale * torch.einsum("bhwnd,bhwjnd->bhwnj", q, near_k)
    if bias is not None:
        bias = bias.to(q.dtype)[:, offsets[0][:, None, :, None], offsets[1][:, None, :]]  # (N, H, W, kernel, kernel)
        attn = attn + bias.flatten(3).movedim(0, 2)
    return torch.einsum("bhwnj,bhwjnd->bhwnd", attn.softmax(-1), near_v)


@in_float32
def tiled(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *args) -> Tensor:
    """Tiles of queries attend to the rectangle that their windows cover, by dense products under a mask."""
    return _forward(q, k, v, bias, *args)


TILE = 8  # tokens a side at most: of 4 to 14, the fastest on the CPU at the sizes of NAT


class _Window(NamedTuple):
    """What tiles of an axis may share: their number of keys, and of each query the place of its window and its own."""

    keys: int
    queries: tuple[tuple[int, int], ...]

    def offsets(self, kernel: int, device: torch.device) -> Tensor:
        """(queries, keys): of keys from queries, as `bias` counts them; -1 outside of the window."""
        first, place = torch.tensor(self.queries, device=device)[..., None].unbind(1)
        key = torch.arange(self.keys, device=device)
        return torch.where((key >= first) & (key < first + kernel), key - place + kernel - 1, -1)


@functools.lru_cache(maxsize=256)
def _axis(n: int, kernel: int, step: int) -> dict[_Window, list[tuple[slice, slice]]]:
    """Tiles of an axis of n tokens, their queries and keys, by what they share."""
    tiles: dict[_Window, list[tuple[slice, slice]]] = {}
    for residue in range(min(step, n)):
        count = len(range(residue, n, step))
        size = -(-count // -(-count // TILE))
        for begin in range(0, count, size):
            places = range(begin, min(begin + size, count))
            first = [min(max(i - kernel // 2, 0), count - kernel) for i in places]
            start, stop = first[0], first[-1] + kernel
            window = _Window(stop - start, tuple((f - start, i - start) for f, i in zip(first, places, strict=True)))
            queries, keys = (
                slice(residue + a * step, residue + (b - 1) * step + 1, step)
                for a, b in ((places.start, places.stop), (start, stop))
            )
            tiles.setdefault(window, []).append((queries, keys))
    return tiles


class _Group(NamedTuple):
    """Tiles of one geometry, and where (queries, keys) a head's bias has their offsets; -1 outside of the window."""

    queries: list[Tile]
    keys: list[Tile]
    index: Tensor

    def chunks(self, like: Tensor) -> Iterator[tuple[list[Tile], list[Tile]]]:
        return chunks(self.queries, self.keys, like, self.index.numel())

    def mask(self, bias: Tensor | None, like: Tensor) -> Tensor:
        """(N or 1, queries, keys), to add to logits."""
        bias = like.new_zeros(1, 1) if bias is None else bias.flatten(1)
        index = self.index.clamp(0, bias.shape[1] - 1)
        return bias[:, index].masked_fill_(self.index < 0, float("-inf"))


def _groups(q: Tensor, kernel_size: Sequence[int], dilation: Sequence[int]) -> Iterator[_Group]:
    axes = (_axis(*axis).items() for axis in zip(q.shape[2:4], kernel_size, dilation, strict=True))
    for (row_window, row_tiles), (col_window, col_tiles) in itertools.product(*axes):
        y, x = (w.offsets(n, q.device) for w, n in zip((row_window, col_window), kernel_size, strict=True))
        y, x = y[:, None, :, None], x[:, None, :]
        index = torch.where((y < 0) | (x < 0), -1, y * (2 * kernel_size[1] - 1) + x)
        queries, keys = ([(rows[i], cols[i]) for rows, cols in itertools.product(row_tiles, col_tiles)] for i in (0, 1))
        yield _Group(queries, keys, index.flatten(2).flatten(0, 1))


def _weights(q: Tensor, k: Tensor, mask: Tensor, scale: float) -> Tensor:
    """(B, tiles, N, queries, keys)"""
    return ((scale * q) @ k.mT).add_(mask).softmax(-1)


@torch.library.custom_op("backbones::neighborhood_attention", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> Tensor:
    q, k, v = map(by_head, (q, k, v))
    out = torch.empty_like(q)
    for group in _groups(q, kernel_size, dilation):
        mask = group.mask(bias, q)
        for queries, keys in group.chunks(q):
            weights = _weights(gather(q, queries), gather(k, keys), mask, scale)
            put(out, queries, weights @ gather(v, keys))
    return on_map(out)


@torch.library.custom_op("backbones::neighborhood_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of q, k, v and the bias (without one: empty)."""
    mean = by_head((grad * out).sum(-1, keepdim=True))  # of the weights' gradients
    grad, q, k, v = map(by_head, (grad, q, k, v))
    dq, dk, dv = map(torch.zeros_like, (q, k, v))
    dbias = q.new_zeros(0) if bias is None else zeros_like(bias)
    for group in _groups(q, kernel_size, dilation):
        mask = group.mask(bias, q)
        for queries, keys in group.chunks(q):
            near_q, near_k = gather(q, queries), gather(k, keys)
            weights = _weights(near_q, near_k, mask, scale)
            dout = gather(grad, queries)
            add(dv, keys, weights.mT @ dout)
            dlogits = softmax_backward(weights, dout @ gather(v, keys).mT, gather(mean, queries))
            if bias is not None:
                index = group.index.clamp(min=0).flatten()
                dbias.flatten(1).index_add_(1, index, dlogits.sum((0, 1)).flatten(1))
            put(dq, queries, (dlogits @ near_k).mul_(scale))
            add(dk, keys, (dlogits.mT @ near_q).mul_(scale))
    return *map(on_map, (dq, dk, dv)), dbias


@_forward.register_fake
def _(q: Tensor, *args) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@_backward.register_fake
def _(grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *args) -> tuple[Tensor, ...]:
    return *map(zeros_like, (q, k, v)), q.new_zeros(0) if bias is None else zeros_like(bias)


def _save(ctx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(output, *inputs[:4])
    ctx.settings = inputs[4:]


def _differentiate(ctx, grad: Tensor) -> tuple:
    saved = ctx.saved_tensors
    *grads, dbias = _backward(grad, *saved, *ctx.settings)
    return *grads, None if saved[-1] is None else dbias, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def natten(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: None,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> Tensor:
    """The library https://github.com/SHI-Labs/NATTEN, where it is installed."""
    from natten import na2d

    return na2d(q, k, v, kernel_size=kernel_size, dilation=dilation, scale=scale)


def _natten_refuses(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel_size: tuple[int, int], *args
) -> str | None:
    if importlib.util.find_spec("natten") is None:
        return "needs the package natten"
    if 1 in kernel_size:
        return "takes no kernel_size of 1"
    if q.device.type == "cpu" and torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
        return "has no gradients on the CPU"
    return None if bias is None else "has no bias since natten 0.20"


ARGUMENTS = "Tensor q, Tensor k, Tensor v, Tensor? bias, SymInt[2] kernel_size, SymInt[2] dilation, float scale"

IMPLS = implementations(
    triton=fused("neighborhood_attention", ARGUMENTS, gradients=4),  # has the bias; not yet measured against natten
    natten=Impl(natten, refuses=_natten_refuses, suits=lambda q, *args: q.is_cuda),
    tiled=Impl(tiled, suits=custom_ops_fit),
    reference=Impl(reference),
)

SMALL = [
    dict(B=2, H=5, W=7, N=2, D=8, kernel_size=(3, 5), dilation=(1, 1), bias=True),
    dict(B=1, H=1, W=9, N=1, D=8, kernel_size=(1, 3), dilation=(1, 3), bias=True),
    dict(B=1, H=11, W=17, N=1, D=8, kernel_size=(3, 7), dilation=(3, 2), bias=True),  # dilations that divide no side
    dict(B=2, H=4, W=19, N=1, D=16, kernel_size=(1, 9), dilation=(5, 2), bias=False),
    dict(B=2, H=7, W=13, N=2, D=16, kernel_size=(3, 5), dilation=(2, 1), bias=False),
    dict(B=1, H=10, W=18, N=1, D=8, kernel_size=(3, 5), dilation=(1, 1), bias=True),  # several tiles an axis
]
REAL = [  # NAT-Mini at 224, batch 4: stages 1 to 4; DiNAT-Mini: stages 1 and 3
    dict(B=4, H=56, W=56, N=2, D=32, kernel_size=(7, 7), dilation=(1, 1), bias=True),
    dict(B=4, H=28, W=28, N=4, D=32, kernel_size=(7, 7), dilation=(1, 1), bias=True),
    dict(B=4, H=14, W=14, N=8, D=32, kernel_size=(7, 7), dilation=(1, 1), bias=True),
    dict(B=4, H=7, W=7, N=16, D=32, kernel_size=(7, 7), dilation=(1, 1), bias=True),
    dict(B=4, H=56, W=56, N=2, D=32, kernel_size=(7, 7), dilation=(8, 8), bias=True),
    dict(B=4, H=14, W=14, N=8, D=32, kernel_size=(7, 7), dilation=(2, 2), bias=True),
]


def inputs(B: int, H: int, W: int, N: int, D: int, kernel_size: tuple, dilation: tuple, bias: bool, **kw) -> tuple:
    """Strided, and no argument at its default: an implementation that drops one must differ."""
    q, k, v = torch.randn(B, H, W, 3, N, D, **kw).unbind(3)
    table = torch.randn(N, *(2 * n - 1 for n in kernel_size), **kw) if bias else None
    return q, k, v, table, kernel_size, dilation, 0.3

"""Softmax attention inside the non-overlapping windows of a map.

    out[i] = sum over j in the window of i of softmax_j(scale * q[i] . k[j] + bias[i, j]) v[j]

A window may be a stripe (CSWin, https://arxiv.org/abs/2107.00652), the whole map, or, with an interval, tokens that are
that far apart (long-distance attention, CrossFormer, https://arxiv.org/abs/2108.00154, section 3.2).
Shapes: B images, H x W tokens in windows of h x w, N heads, D channels a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._fused import fused
from ._impl import Impl, choose, implementations
from ._maps import pad_to_multiple, partition, tiles, unpartition


def window_attention(
    q: Tensor,  # (B, H, W, N, D), as are k and v
    k: Tensor,
    v: Tensor,
    *,
    window: tuple[int, int],
    interval: int = 1,
    bias: Tensor | None = None,  # (N, h * w, h * w): of each query of a window on each of its keys
    scale: float | None = None,
    impl: str | None = None,
) -> Tensor:
    """Attention of every token to the tokens of its own window (h, w); returns (B, H, W, N, D).

    A window takes every `interval`-th row and column of a block of the map of h * interval x w * interval tokens.
    Blocks start at the top left corner; windows that overhang the map hold only its tokens. `scale` defaults to
    D ** -0.5. Raises ValueError if `window` or `interval` is not positive, if the bias has another shape, or if
    `impl` cannot run.
    """
    N, D = q.shape[3:]
    h, w = window
    if h < 1 or w < 1 or interval < 1:
        raise ValueError(f"window {window} and interval {interval} must be at least 1")
    if bias is not None:
        if bias.shape != (N, h * w, h * w):
            raise ValueError(f"bias is {tuple(bias.shape)}, not (heads {N}, tokens {h * w}, tokens {h * w})")
        bias = bias.to(q.dtype)
    args = q, k, v, bias, window, interval, D**-0.5 if scale is None else scale
    return choose(IMPLS, impl, *args)(*args)


def multiply_adds(q: tuple, k: tuple, v: tuple, bias: tuple | None, window: tuple[int, int], interval: int, *_) -> int:
    """Of arguments of these shapes: every query of every window, also off the map, with, and for, its window's keys."""
    B, H, W, N, D = q
    h, w = window
    windows = -(-H // (h * interval)) * -(-W // (w * interval)) * interval**2
    return 2 * B * windows * N * (h * w) ** 2 * D


def reference(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, window: tuple[int, int], interval: int, scale: float
) -> Tensor:
    size = q.shape[1:3]
    q, k, v, mask = _windows(q, k, v, window, interval)
    attn = scale * q @ k.mT  # (B * windows, N, tokens, tokens)
    if bias is not None:
        attn = attn + bias
    if mask is not None:
        attn = (attn.unflatten(0, (-1, mask.shape[0])) + mask).flatten(0, 1)
    return _map(attn.softmax(-1) @ v, size, window, interval)


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, window: tuple[int, int], interval: int, scale: float
) -> Tensor:
    size = q.shape[1:3]
    q, k, v, mask = _windows(q, k, v, window, interval)
    if mask is not None:
        mask = (mask if bias is None else mask + bias).repeat(q.shape[0] // mask.shape[0], 1, 1, 1)
    elif bias is not None:
        mask = bias[None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return _map(out, size, window, interval)


def _windows(q: Tensor, k: Tensor, v: Tensor, window: tuple[int, int], interval: int) -> tuple:
    """q, k, v as (B * windows, N, tokens, D) and a mask (windows, 1, 1, tokens), or None if windows tile the map.

    The mask is hugely negative at tokens that are not on the map; not infinitely, for windows without any on it.
    """
    size = q.shape[1:3]
    block = window[0] * interval, window[1] * interval
    mask = None
    if not tiles(size, block):
        on_map, _ = pad_to_multiple(q.new_ones(1, *size), block)
        mask = (1 - partition(on_map, window, interval)[:, None, None]) * (0.5 * torch.finfo(q.dtype).min)
        q, k, v = (pad_to_multiple(t, block)[0] for t in (q, k, v))
    q, k, v = (partition(t, window, interval).transpose(1, 2) for t in (q, k, v))
    return q, k, v, mask


def _map(out: Tensor, size: tuple[int, int], window: tuple[int, int], interval: int) -> Tensor:
    """(B * windows, N, tokens, D) to maps (B, H, W, N, D)."""
    H, W = size
    block = window[0] * interval, window[1] * interval
    padded = tuple(-(-n // m) * m for n, m in zip(size, block, strict=True))
    out = unpartition(out.transpose(1, 2), window, padded, interval)
    return out if tiles(size, block) else out[:, :H, :W].clone(memory_format=torch.contiguous_format)


def _bias_is_constant(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *args) -> bool:
    # On the CPU only torch's slow attention differentiates a mask: 1.2 times the time of the reference, 49 tokens
    return q.is_cuda or bias is None or not (bias.requires_grad and torch.is_grad_enabled())


ARGUMENTS = "Tensor q, Tensor k, Tensor v, Tensor? bias, SymInt[2] window, SymInt interval, float scale"

IMPLS = implementations(
    triton=fused("window_attention", ARGUMENTS, gradients=4),
    sdpa=Impl(sdpa, suits=_bias_is_constant),
    reference=Impl(reference),
)

SMALL = [
    dict(B=2, H=6, W=4, N=2, D=16, window=(6, 2), interval=1, bias=False),
    dict(B=1, H=7, W=14, N=3, D=24, window=(7, 7), interval=1, bias=True),
    dict(B=3, H=5, W=9, N=1, D=8, window=(1, 9), interval=1, bias=False),
    dict(B=1, H=5, W=4, N=2, D=8, window=(2, 2), interval=2, bias=True),  # a window without any token of the map
    dict(B=2, H=7, W=11, N=1, D=8, window=(2, 3), interval=2, bias=False),
]
REAL = [  # batch 4 at 224: the vertical stripes of CSWin-T, stages 1 to 4; CrossFormer-T, short and long distance
    dict(B=4, H=56, W=56, N=1, D=32, window=(56, 1), interval=1, bias=False),
    dict(B=4, H=28, W=28, N=2, D=32, window=(28, 2), interval=1, bias=False),
    dict(B=4, H=14, W=14, N=4, D=32, window=(14, 7), interval=1, bias=False),
    dict(B=4, H=7, W=7, N=16, D=32, window=(7, 7), interval=1, bias=False),
    dict(B=4, H=56, W=56, N=2, D=32, window=(7, 7), interval=1, bias=True),
    dict(B=4, H=14, W=14, N=8, D=32, window=(7, 7), interval=2, bias=True),
]


def inputs(B: int, H: int, W: int, N: int, D: int, window: tuple[int, int], interval: int, bias: bool, **kw) -> tuple:
    """Strided, and no argument at its default: an implementation that drops one must differ."""
    q, k, v = torch.randn(B, H, W, 3, N, D, **kw).unbind(3)
    tokens = window[0] * window[1]
    return q, k, v, torch.randn(N, tokens, tokens, **kw) if bias else None, window, interval, 0.3

"""Softmax attention inside the non-overlapping windows of a map; a window may be a stripe, or the whole map.

    out[i] = sum over j in the window of i of softmax_j(scale * q[i] . k[j]) v[j]

Shapes: B images, H x W tokens in windows of h x w, N heads, D channels a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._impl import Impl, choose, implementations
from ._maps import partition, unpartition


def window_attention(
    q: Tensor,  # (B, H, W, N, D), as are k and v
    k: Tensor,
    v: Tensor,
    *,
    window: tuple[int, int],
    scale: float | None = None,
    impl: str | None = None,
) -> Tensor:
    """Attention of every token to the tokens of its own window (h, w); returns (B, H, W, N, D).

    `scale` defaults to D ** -0.5. Raises ValueError if windows do not tile the map or `impl` cannot run.
    """
    H, W, D = q.shape[1], q.shape[2], q.shape[4]
    if H % window[0] or W % window[1]:
        raise ValueError(f"windows of {window[0]} x {window[1]} do not tile a map of {H} x {W}; pad the map first")
    args = q, k, v, window, D**-0.5 if scale is None else scale
    return choose(IMPLS, impl, *args)(*args)


def reference(q: Tensor, k: Tensor, v: Tensor, window: tuple[int, int], scale: float) -> Tensor:
    size = q.shape[1:3]
    q, k, v = (partition(t, window).transpose(1, 2) for t in (q, k, v))  # (windows, N, tokens, D)
    out = (scale * q @ k.mT).softmax(-1) @ v
    return unpartition(out.transpose(1, 2), window, size)


def sdpa(q: Tensor, k: Tensor, v: Tensor, window: tuple[int, int], scale: float) -> Tensor:
    size = q.shape[1:3]
    q, k, v = (partition(t, window).transpose(1, 2) for t in (q, k, v))  # (windows, N, tokens, D)
    out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return unpartition(out.transpose(1, 2), window, size)


IMPLS = implementations(sdpa=Impl(sdpa), reference=Impl(reference))

SMALL = [
    dict(B=2, H=6, W=4, N=2, D=16, window=(6, 2)),
    dict(B=1, H=7, W=14, N=3, D=24, window=(7, 7)),
    dict(B=3, H=5, W=9, N=1, D=8, window=(1, 9)),
]
REAL = [  # the vertical stripes of CSWin-T at 224, batch 4: stages 1 to 4
    dict(B=4, H=56, W=56, N=1, D=32, window=(56, 1)),
    dict(B=4, H=28, W=28, N=2, D=32, window=(28, 2)),
    dict(B=4, H=14, W=14, N=4, D=32, window=(14, 7)),
    dict(B=4, H=7, W=7, N=16, D=32, window=(7, 7)),
]


def inputs(B: int, H: int, W: int, N: int, D: int, window: tuple[int, int], **kw) -> tuple:
    """Strided, and no argument at its default: an implementation that drops one must differ."""
    q, k, v = torch.randn(B, H, W, 3, N, D, **kw).unbind(3)
    return q, k, v, window, 0.3

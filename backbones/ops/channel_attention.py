"""Attention of channels to channels, each represented by its values at all tokens (DaViT,
https://arxiv.org/abs/2204.03645, section 3.3).

    out[i, c] = sum over d of softmax_d(scale * sum over j of k[j, c] v[j, d]) q[i, d]

in the roles that the official code gives its projections: keys attend to values, and queries are what is mixed. The
cost is linear in the tokens. Shapes: B images, H x W tokens, N heads (the paper's groups), D channels a head.
"""

import torch
from torch import Tensor

from ._impl import Impl, choose, implementations


def channel_attention(
    q: Tensor,  # (B, H, W, N, D), as are k and v
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    impl: str | None = None,
) -> Tensor:
    """Mixes the channels of q inside each head; returns (B, H, W, N, D).

    `scale` defaults to D ** -0.5. Raises ValueError if shapes differ, or if `impl` cannot run.
    """
    if not q.shape == k.shape == v.shape or q.ndim != 5:
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} are not maps (B, H, W, N, D)")
    args = q, k, v, q.shape[-1] ** -0.5 if scale is None else scale
    return choose(IMPLS, impl, *args)(*args)


def reference(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    size = q.shape[1:3]
    q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))  # (B, N, tokens, D)
    attn = ((scale * k).mT @ v).softmax(-1)
    return (q @ attn.mT).transpose(1, 2).unflatten(1, size)


IMPLS = implementations(reference=Impl(reference))

SMALL = [dict(B=2, H=3, W=5, N=2, D=8), dict(B=1, H=1, W=1, N=3, D=4)]
REAL = [dict(B=4, H=56, W=56, N=3, D=32), dict(B=4, H=14, W=14, N=12, D=32)]  # DaViT-Tiny at 224: stages 1 and 3


def inputs(B: int, H: int, W: int, N: int, D: int, **kw) -> tuple:
    """Strided, and no argument at its default: an implementation that drops one must differ."""
    return *(torch.randn(B, H, W, 3, N, D, **kw) / 2).unbind(3), 0.3

"""Rank-augmented linear attention with rotary positions (RALA, https://arxiv.org/abs/2411.07635, eq. 8-11).

With f(x) = elu(x) + 1 and R the rotation of a token's channels by its position,

    out[i] = sum over j of a[j] (R f(q[i]) . R f(k[j])) v[j] / (sum over j of a[j] f(q[i]) . f(k[j]) + 1e-6)
    a = softmax_j(scale * mean_i(f(q[i])) . f(k[j]))

at a cost that grows with the number of tokens, not with its square.
Shapes: B images, H x W tokens, N heads, D channels a head. Half precision is computed in float32: the sums grow with
the map, and products of features leave float16's range.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._impl import Impl, choose, implementations, in_float32

EPS = 1e-6


def linear_attention(
    q: Tensor,  # (B, H, W, N, D), as are k and v
    k: Tensor,
    v: Tensor,
    rotation: Tensor,  # (H, W, 2, D / 2): cosines and sines, see `rotary`
    *,
    scale: float | None = None,
    impl: str | None = None,
) -> Tensor:
    """Linear attention of every token to the whole map; returns (B, H, W, N, D).

    `scale` of the keys' weights defaults to D ** -0.5. Raises ValueError if the rotation does not fit the map or if
    `impl` cannot run.
    """
    H, W, _, D = q.shape[1:]
    if rotation.shape != (H, W, 2, D // 2):
        raise ValueError(f"rotation is {tuple(rotation.shape)}, not {(H, W, 2, D // 2)} as for q {tuple(q.shape)}")
    args = q, k, v, rotation, D**-0.5 if scale is None else scale
    return choose(IMPLS, impl, *args)(*args)


def rotary(H: int, W: int, angles: Tensor) -> Tensor:
    """(H, W, 2, 2n): of rows times `angles` (n,) and columns times them, cosines and sines."""
    rows, cols = (torch.arange(n, device=angles.device).to(angles.dtype)[:, None] * angles for n in (H, W))
    phase = torch.cat([rows[:, None].expand(H, W, -1), cols[None].expand(H, W, -1)], -1)
    return torch.stack([phase.cos(), phase.sin()], 2)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turns channels 2i and 2i + 1 of every token of (B, H, W, N, D) by the i-th phase of the token's position."""
    cos, sin = rotation[:, :, None].to(x.dtype).unbind(3)  # (H, W, 1, D / 2)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)


@in_float32
def reference(q: Tensor, k: Tensor, v: Tensor, rotation: Tensor, scale: float) -> Tensor:
    q, k = F.elu(q) + 1, F.elu(k) + 1
    turned_q, turned_k, q, k, v = (t.flatten(1, 2) for t in (rotate(q, rotation), rotate(k, rotation), q, k, v))
    weight = (scale * torch.einsum("bnd,bknd->bkn", q.mean(1), k)).softmax(1)[..., None]  # (B, keys, N, 1)
    context = torch.einsum("bknd,bkne->bnde", weight * turned_k, v)
    total = torch.einsum("bqnd,bnd->bqn", q, (weight * k).sum(1))
    out = torch.einsum("bqnd,bnde->bqne", turned_q, context) / (total + EPS)[..., None]
    return out.unflatten(1, rotation.shape[:2])


@in_float32
def complex_(q: Tensor, k: Tensor, v: Tensor, rotation: Tensor, scale: float) -> Tensor:
    """Pairs of channels as complex numbers, which one product turns."""
    phase = torch.view_as_complex(rotation.to(q.dtype).transpose(2, 3).contiguous())[:, :, None]  # (H, W, 1, D / 2)

    def turn(x: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * phase).flatten(-2)

    q, k = F.elu(q) + 1, F.elu(k) + 1
    turned_q, turned_k, q, k, v = (
        t.flatten(1, 2).transpose(1, 2) for t in (turn(q), turn(k), q, k, v)
    )  # (B, N, tokens, D)
    weight = (scale * k @ q.mean(2, keepdim=True).mT).softmax(2)  # (B, N, tokens, 1)
    context = turned_k.mT @ (weight * v)
    total = q @ (weight.mT @ k).mT
    out = turned_q @ context / (total + EPS)
    return out.transpose(1, 2).unflatten(1, rotation.shape[:2])


def _not_compiling(*args) -> bool:
    return not torch.compiler.is_compiling()  # its code generator has no complex numbers


IMPLS = implementations(complex=Impl(complex_, suits=_not_compiling), reference=Impl(reference))

SMALL = [
    dict(B=2, H=4, W=6, N=2, D=8),
    dict(B=1, H=7, W=5, N=1, D=24),
    dict(B=3, H=1, W=3, N=3, D=16),
]
REAL = [  # RAVLT-T at 224, batch 4: stages 1 and 2
    dict(B=4, H=56, W=56, N=1, D=64),
    dict(B=4, H=28, W=28, N=2, D=64),
]


def inputs(B: int, H: int, W: int, N: int, D: int, **kw) -> tuple:
    """Strided, and no argument at its default: an implementation that drops one must differ."""
    q, k, v = torch.randn(B, H, W, 3, N, D, **kw).unbind(3)
    angles = torch.rand(D // 4, device=kw.get("device"))
    return q, k, v, rotary(H, W, angles).to(q.dtype), 0.3

"""Attention of each token to its neighbours and to a pooled map at once (TransNeXt, https://arxiv.org/abs/2311.17132,
section 3.1).

With o running over the offsets of a w x w window and j over the pooled tokens,

    p = softmax over (o, j) of (q[i] . k[i + o] + local_bias[o],  q[i] . pooled_k[j] + pooled_bias[i, j])
    out[i] = sum over o of (p[o] + extra[i, o]) v[i + o]  +  sum over j of p[j] pooled_v[j]

where neighbours outside of the map do not take part. pooled_bias comes as a table: the bias of the query at (y, x) on
the pooled token at (a, b) is pooled_bias[rows[y, a], cols[x, b]].
Shapes: B images, H x W tokens, N heads, D channels a head, P x Q pooled tokens. Queries carry their scale. Half
precision is computed in float32; kernels round to it what multiplies pooled tokens, and queries and keys wider than v.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._fused import fused
from ._impl import Impl, choose, custom_ops_fit, implementations, in_float32
from ._tiles import zeros_like


def aggregated_attention(
    q: Tensor,  # (B, H, W, N, D), as are k and v
    k: Tensor,
    v: Tensor,
    pooled_k: Tensor,  # (B, P, Q, N, D), as is pooled_v
    pooled_v: Tensor,
    extra: Tensor,  # (B, H, W, N, w * w): added to the weights of the neighbours, after the softmax
    local_bias: Tensor,  # (N, w * w)
    pooled_bias: Tensor,  # (N, R, C)
    rows: Tensor,  # (H, P) of int64, below R
    cols: Tensor,  # (W, Q) of int64, below C
    *,
    impl: str | None = None,
) -> Tensor:
    """Attention to the w x w neighbourhood and to the pooled map in one softmax; returns (B, H, W, N, D).

    The fast implementation keeps no attention map and no unfolded window for the backward pass; it computes them again,
    a band of rows at a time. Raises ValueError if shapes do not fit, if w is even, or if `impl` cannot run.
    """
    B, H, W, N, _ = q.shape
    P, Q = pooled_k.shape[1:3]
    taps = local_bias.shape[1]
    if math.isqrt(int(taps)) ** 2 != taps or taps % 2 == 0:
        raise ValueError(f"local_bias has {taps} offsets, which is no square of an odd window")
    if extra.shape != (B, H, W, N, taps):
        raise ValueError(f"extra is {tuple(extra.shape)}, not {(B, H, W, N, taps)}")
    if rows.shape != (H, P) or cols.shape != (W, Q):
        raise ValueError(f"rows {tuple(rows.shape)} and cols {tuple(cols.shape)} are not {(H, P)} and {(W, Q)}")
    args = q, k, v, pooled_k, pooled_v, extra, local_bias, pooled_bias, rows, cols
    return choose(IMPLS, impl, *args)(*args)


def multiply_adds(q: tuple, k: tuple, v: tuple, pooled_k: tuple, pooled_v: tuple, extra: tuple, *shapes) -> int:
    """Of arguments of these shapes: every query with, and for, its neighbours and the pooled tokens."""
    return 2 * math.prod(q) * (extra[-1] + pooled_k[1] * pooled_k[2])


@in_float32
def reference(
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
) -> Tensor:
    H, W, N, D = q.shape[1:]
    window = math.isqrt(int(local_bias.shape[1]))

    def unfold(x: Tensor) -> Tensor:  # (B, N, H * W, w * w, D)
        x = F.unfold(x.flatten(3).permute(0, 3, 1, 2), window, padding=window // 2)
        return x.unflatten(1, (N, D, -1)).permute(0, 1, 4, 3, 2)

    q, pooled_k, pooled_v, extra = map(_by_head, (q, pooled_k, pooled_v, extra))  # (B, N, tokens, ...)
    on_map = F.unfold(q.new_ones(1, 1, H, W), window, padding=window // 2).mT  # (1, H * W, w * w)
    local = (q[..., None, :] @ unfold(k).mT)[..., 0, :] + local_bias[:, None]
    local = local.masked_fill(on_map == 0, float("-inf"))
    bias = pooled_bias[:, rows[:, None, :, None], cols[:, None, :]]  # (N, H, W, P, Q)
    pooled = q @ pooled_k.mT + bias.flatten(3).flatten(1, 2)
    local, pooled = torch.cat([local, pooled], -1).softmax(-1).split([window**2, pooled.shape[-1]], -1)
    out = ((local + extra)[..., None, :] @ unfold(v))[..., 0, :] + pooled @ pooled_v
    return out.transpose(1, 2).unflatten(1, (H, W))


@in_float32
def banded(*args: Tensor) -> Tensor:
    """A band of rows at a time; neighbours are shifted views of the map, so nothing is unfolded or padded."""
    return _forward(*args)[0]


WEIGHTS_OF_A_BAND = dict(cpu=2**20, gpu=2**26)


class _Band:
    """Rows top to bottom of the queries, and what both passes compute of them.

    `local`, (w * w, B, rows, W, N), and `pooled`, (B, N, rows * W, P * Q), are logits, then weights.
    """

    def __init__(self, top: int, bottom: int, q: Tensor, taps: int):
        self.rows = slice(top, bottom)
        self.size = bottom - top, q.shape[2]
        self.q = q[:, self.rows]
        self.shifts = []  # of every offset that stays on the map: its number, the queries in the band, their keys
        H, W, reach = q.shape[1], q.shape[2], math.isqrt(taps) // 2
        for tap, (dy, dx) in enumerate(itertools.product(range(-reach, reach + 1), repeat=2)):
            y0, y1, x0, x1 = max(top, -dy), min(bottom, H - dy), max(0, -dx), min(W, W - dx)
            if y0 < y1 and x0 < x1:
                inside = slice(None), slice(y0 - top, y1 - top), slice(x0, x1)
                self.shifts.append((tap, inside, (slice(None), slice(y0 + dy, y1 + dy), slice(x0 + dx, x1 + dx))))

    def logits(self, k: Tensor, pooled_k: Tensor, local_bias: Tensor, pooled_bias: Tensor, index: Tensor) -> None:
        self.local = self.dots(self.q, k, local_bias.shape[1], float("-inf"))
        self.local += local_bias.T[:, None, None, None]
        self.pooled = _by_head(self.q) @ _by_head(pooled_k).mT
        bias = pooled_bias.flatten(1).index_select(1, index[self.rows].flatten())
        self.pooled += bias.view(-1, *self.pooled.shape[2:])

    def dots(self, x: Tensor, shifted: Tensor, taps: int, elsewhere: float) -> Tensor:
        """Products, over channels, of a band with each of its neighbours on a map, (w * w, B, rows, W, N)."""
        out = x.new_full((taps, *x.shape[:-1]), elsewhere)
        for tap, inside, keys in self.shifts:
            out[tap][inside] = (x[inside] * shifted[keys]).sum(-1)
        return out

    def exponentials(self) -> tuple[Tensor, Tensor]:
        """Turns logits into exponentials; returns their sum and the logarithm of the true sum, (B, rows, W, N)."""
        peak = torch.maximum(self.local.amax(0), self.on_map(self.pooled.amax(-1, keepdim=True))[..., 0])
        self.softmax(peak)
        total = self.local.sum(0) + self.on_map(self.pooled.sum(-1, keepdim=True))[..., 0]
        return total, peak + total.log()

    def softmax(self, normaliser: Tensor) -> None:
        """Turns logits into exponentials relative to `normaliser`."""
        self.local.sub_(normaliser).exp_()
        self.pooled.sub_(_by_head(normaliser[..., None])).exp_()

    def on_map(self, pooled: Tensor) -> Tensor:
        """(B, N, rows * W, D) to (B, rows, W, N, D)."""
        return pooled.transpose(1, 2).unflatten(1, self.size)


def _by_head(x: Tensor) -> Tensor:
    """(B, H, W, N, D) to (B, N, H * W, D)."""
    return x.flatten(1, 2).transpose(1, 2)


def _bands(q: Tensor, pooled_k: Tensor, taps: int) -> list[_Band]:
    """Bands of as many rows as make that many weights: on the CPU they stay in the cache, and memory is bounded."""
    B, H, W, N, _ = q.shape
    weights = WEIGHTS_OF_A_BAND["cpu" if q.device.type == "cpu" else "gpu"]
    height = max(1, weights // (B * N * W * pooled_k.shape[1] * pooled_k.shape[2]))
    return [_Band(top, min(top + height, H), q, taps) for top in range(0, H, height)]


def _index(rows: Tensor, cols: Tensor, pooled_bias: Tensor) -> Tensor:
    """(H, W, P, Q) into a flattened table."""
    return rows[:, None, :, None] * pooled_bias.shape[2] + cols[:, None, :]


@torch.library.custom_op("backbones::aggregated_attention", mutates_args=())
def _forward(
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
    """The output and the logarithm of the softmax's denominator, (B, H, W, N)."""
    out, normaliser = torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(q.shape[:-1])
    index = _index(rows, cols, pooled_bias)
    for band in _bands(q, pooled_k, local_bias.shape[1]):
        band.logits(k, pooled_k, local_bias, pooled_bias, index)
        total, normaliser[:, band.rows] = band.exponentials()
        band.local.div_(total).add_(extra[:, band.rows].movedim(-1, 0))
        result = out[:, band.rows]
        torch.div(band.on_map(band.pooled @ _by_head(pooled_v)), total[..., None], out=result)
        for tap, inside, keys in band.shifts:
            result[inside].addcmul_(band.local[tap][inside][..., None], v[keys])
    return out, normaliser


@torch.library.custom_op("backbones::aggregated_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    normaliser: Tensor,
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    grads = tuple(map(zeros_like, (q, k, v, pooled_k, pooled_v, extra, local_bias, pooled_bias)))
    dq, dk, dv, dpooled_k, dpooled_v, dextra, dlocal_bias, dpooled_bias = grads
    index = _index(rows, cols, pooled_bias)
    taps = local_bias.shape[1]
    for band in _bands(q, pooled_k, taps):
        band.logits(k, pooled_k, local_bias, pooled_bias, index)
        band.softmax(normaliser[:, band.rows])
        g, g_by_head = grad[:, band.rows], _by_head(grad[:, band.rows])
        dlocal = band.dots(g, v, taps, 0.0)  # (w * w, B, rows, W, N)
        dextra[:, band.rows] = dlocal.movedim(0, -1)
        dpooled = g_by_head @ _by_head(pooled_v).mT  # (B, N, rows * W, P * Q)
        _by_head(dpooled_v).add_(band.pooled.mT @ g_by_head)

        # through the softmax: d logit = weight * (d weight - sum of weight * d weight)
        total = (band.pooled * dpooled).sum(-1, keepdim=True)
        total += _by_head((band.local * dlocal).sum(0)[..., None])
        dpooled.sub_(total).mul_(band.pooled)
        dlocal.sub_(band.on_map(total)[..., 0]).mul_(band.local)

        band.local += extra[:, band.rows].movedim(-1, 0)
        dq_band = dq[:, band.rows]
        dq_band.copy_(band.on_map(dpooled @ _by_head(pooled_k)))
        for tap, inside, keys in band.shifts:
            dq_band[inside].addcmul_(dlocal[tap][inside][..., None], k[keys])
            dk[keys].addcmul_(dlocal[tap][inside][..., None], band.q[inside])
            dv[keys].addcmul_(band.local[tap][inside][..., None], g[inside])
        _by_head(dpooled_k).add_(dpooled.mT @ _by_head(band.q))
        dlocal_bias += dlocal.sum((1, 2, 3)).T
        dbias = dpooled.sum(0).flatten(1)
        dpooled_bias.view(len(dbias), -1).index_add_(1, index[band.rows].flatten(), dbias)
    return grads


@_forward.register_fake
def _(q: Tensor, *args) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(q.shape[:-1])


@_backward.register_fake
def _(grad: Tensor, normaliser: Tensor, *args) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in args[:8])


def _save(ctx, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(output[1], *inputs)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad: Tensor | None, _: None) -> tuple:
    if grad is None:
        return (None,) * 10
    return *_backward(grad, *ctx.saved_tensors), None, None


_forward.register_autograd(_differentiate, setup_context=_save)


ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor pooled_k, Tensor pooled_v, Tensor extra, Tensor local_bias, "
    "Tensor pooled_bias, Tensor rows, Tensor cols"
)

IMPLS = implementations(
    triton=fused("aggregated_attention", ARGUMENTS, gradients=8),
    banded=Impl(banded, suits=custom_ops_fit),
    reference=Impl(reference),
)

SMALL = [  # the last: several blocks of queries and of pooled tokens, in half precision too
    dict(B=2, H=4, W=6, N=2, D=8, P=2, Q=3, window=3),
    dict(B=2, H=1, W=5, N=2, D=12, P=1, Q=1, window=3),
    dict(B=1, H=5, W=3, N=3, D=8, P=2, Q=2, window=5),
    dict(B=1, H=11, W=6, N=1, D=8, P=6, Q=11, window=3),
]
REAL = [  # TransNeXt-Micro at 224, batch 4: stages 1 to 3
    dict(B=4, H=56, W=56, N=2, D=24, P=7, Q=7, window=3),
    dict(B=4, H=28, W=28, N=4, D=24, P=7, Q=7, window=3),
    dict(B=4, H=14, W=14, N=8, D=24, P=7, Q=7, window=3),
]


def inputs(B: int, H: int, W: int, N: int, D: int, P: int, Q: int, window: int, **kw) -> tuple:
    """Strided, and no argument at its default: an implementation that drops one must differ."""
    q, k, v = torch.randn(B, H, W, 3, N, D, **kw).unbind(3)
    q *= 0.3  # logits of about 1: of much larger ones, rounding decides the gradients
    pooled_k, pooled_v = torch.randn(B, P, Q, 2, N, D, **kw).unbind(3)
    extra, local_bias = torch.randn(B, H, W, N, window**2, **kw), torch.randn(N, window**2, **kw)
    rows, cols = (torch.randint(n + p, (n, p), device=kw.get("device")) for n, p in ((H, P), (W, Q)))
    return q, k, v, pooled_k, pooled_v, extra, local_bias, torch.randn(N, H + P, W + Q, **kw), rows, cols

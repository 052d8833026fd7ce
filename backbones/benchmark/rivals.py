"""What one would write in place of each op with PyTorch's FlexAttention and scaled_dot_product_attention.

A rival is made of an op's positional arguments: what depends on their shapes alone (index tables, block masks) is
computed then, and is not timed. Called with such arguments, it returns what the op does. In place of a rival stands the
reason why there is none.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, create_mask, flex_attention

from ..ops._maps import pad_to_multiple, partition, unpartition

BLOCK = 128  # tokens a side of a block of Flex's masks
LEAST_CHANNELS = 16  # of Flex on CUDA


class Recipe(NamedTuple):
    """An op as attention between two lists of tokens. Functions of b, n, i, j are as FlexAttention takes them."""

    queries: int
    keys: int
    mask: Callable[..., Tensor]  # of (b, n, i, j): whether query i attends to key j
    split: Callable[
        ..., tuple
    ]  # the op's arguments to q, k, v (B, N, tokens, channels), what is added to scores, scale
    join: Callable[..., Tensor]  # the result (B, N, queries, channels) and the op's arguments to the op's result


def flex(recipe: Callable[..., Recipe]) -> Callable:
    """The rival that follows a recipe through FlexAttention."""

    def make(*args) -> Callable:
        made = recipe(*args)
        block_mask = create_block_mask(made.mask, None, None, made.queries, made.keys, args[0].device)

        def run(*args) -> Tensor:
            q, k, v, bias, scale = made.split(*args)
            return made.join(_flex(q, k, v, bias, block_mask, scale), *args)

        return run

    return make


def dense(recipe: Callable[..., Recipe]) -> Callable:
    """The rival that follows a recipe through scaled_dot_product_attention, with a mask of all queries and keys."""

    def make(*args) -> Callable:
        made = recipe(*args)
        device = args[0].device
        mask = create_mask(made.mask, None, None, made.queries, made.keys, device)  # (1, 1, queries, keys)
        i, j = torch.arange(made.queries, device=device)[:, None], torch.arange(made.keys, device=device)

        def run(*args) -> Tensor:
            q, k, v, bias, scale = made.split(*args)
            added = mask
            if bias is not None:
                images, heads = (torch.arange(n, device=device) for n in q.shape[:2])
                added = bias(images[:, None, None, None], heads[:, None, None], i, j).to(q.dtype)
                added = added.masked_fill(~mask, float("-inf"))
            return made.join(F.scaled_dot_product_attention(q, k, v, attn_mask=added, scale=scale), *args)

        return run

    return make


def _flex(
    q: Tensor, k: Tensor, v: Tensor, bias: Callable | None, block_mask: BlockMask | None, scale: float, **kw
) -> Tensor:
    """flex_attention with a `bias` added to scores; on CUDA with as many channels as it needs."""
    channels = v.shape[-1]
    if q.is_cuda:
        q, k, v = (F.pad(t, (0, max(0, LEAST_CHANNELS - t.shape[-1]))) for t in (q, k, v))
    else:  # compiled for the CPU it takes no views
        q, k, v = (t.clone(memory_format=torch.contiguous_format) for t in (q, k, v))
    score_mod = None if bias is None else lambda score, b, n, i, j: score + bias(b, n, i, j)
    out = flex_attention(q, k, v, score_mod=score_mod, block_mask=block_mask, scale=scale, **kw)
    return (out[0][..., :channels], out[1].lse) if kw else out[..., :channels]


def _tokens(x: Tensor) -> Tensor:
    """(B, H, W, N, D) to (B, N, H * W, D)."""
    return x.flatten(1, 2).transpose(1, 2)


def _map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `_tokens`."""
    return x.transpose(1, 2).unflatten(1, size)


def _places(H: int, W: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(H * W,): the row and the column of every token."""
    i = torch.arange(H * W, device=device)
    return i // W, i % W


def _wide(x: Tensor) -> Tensor:
    """At least float32: gradients of what Flex adds to scores are summed in its dtype."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _windows(q, k, v, bias, window, interval, scale) -> Recipe:
    """Tokens sorted by window."""
    size, T = q.shape[1:3], window[0] * window[1]
    block = window[0] * interval, window[1] * interval
    padded = tuple(-(-n // m) * m for n, m in zip(size, block, strict=True))
    S = padded[0] * padded[1]
    on_map = partition(pad_to_multiple(q.new_ones(1, *size), block)[0], window, interval).flatten() > 0

    def mask(b, n, i, j):
        return (i // T == j // T) & on_map[j]

    def by_window(x: Tensor) -> Tensor:
        x = partition(pad_to_multiple(x, block)[0], window, interval)
        return x.unflatten(0, (-1, S // T)).flatten(1, 2).transpose(1, 2)

    def split(q, k, v, bias, *_):
        table = None if bias is None else _wide(bias)
        add = None if bias is None else lambda b, n, i, j: table[n, i % T, j % T]
        return *map(by_window, (q, k, v)), add, scale

    def join(out, *_):
        out = out.transpose(1, 2).unflatten(1, (S // T, T)).flatten(0, 1)
        return unpartition(out, window, padded, interval)[:, : size[0], : size[1]]

    return Recipe(S, S, mask, split, join)


def _neighbourhoods(q, k, v, bias, kernel_size, dilation, scale) -> Recipe:
    """Tokens in rows; with a dilation, sorted by the map of every dilation-th token that they are on."""
    size, device = q.shape[1:3], q.device
    axes = []  # of every token: which of the dilated axes it is on, its place there, the first of its window
    for i, n, kernel, step in zip(_places(*size, device), size, kernel_size, dilation, strict=True):
        place, last = i // step, (n - 1 - i % step) // step
        first = torch.minimum((place - kernel // 2).clamp(min=0), last - (kernel - 1))
        axes.append((i % step, place, first))
    order = None
    if tuple(dilation) != (1, 1):
        order = (axes[0][0] * dilation[1] + axes[1][0]).argsort(stable=True)
        back = order.argsort()
        axes = [tuple(t[order] for t in axis) for axis in axes]
    (on_y, y, top), (on_x, x, left) = axes
    height, width = kernel_size

    def mask(b, n, i, j):
        rows = (on_y[i] == on_y[j]) & (y[j] >= top[i]) & (y[j] < top[i] + height)
        return rows & (on_x[i] == on_x[j]) & (x[j] >= left[i]) & (x[j] < left[i] + width)

    def tokens(x: Tensor) -> Tensor:
        return _tokens(x) if order is None else x.flatten(1, 2)[:, order].transpose(1, 2)

    def split(q, k, v, bias, *_):
        table = None if bias is None else _wide(bias)

        def add(b, n, i, j):  # Flex asks about tokens outside of the window too
            dy, dx = y[j] - y[i] + height - 1, x[j] - x[i] + width - 1
            return table[n, dy.clamp(0, 2 * height - 2), dx.clamp(0, 2 * width - 2)]

        return *map(tokens, (q, k, v)), None if bias is None else add, scale

    def join(out, *_):
        return _map(out if order is None else out[:, :, back], size)

    return Recipe(y.numel(), y.numel(), mask, split, join)


def _crosses(q, k, v, scale) -> Recipe:
    """Tokens in rows."""
    y, x = _places(*q.shape[1:3], q.device)

    def mask(b, n, i, j):
        return (y[i] == y[j]) | (x[i] == x[j])

    def split(q, k, v, _):
        return *map(_tokens, (q, k, v)), None, scale

    return Recipe(y.numel(), y.numel(), mask, split, lambda out, q, *_: _map(out, q.shape[1:3]))


def rows_and_columns(q, k, v, scale) -> Callable:
    """Rows and columns apart, merged by the logarithms of their softmax's denominators: 1 / 25 of the products."""
    H = q.shape[1]
    others = create_block_mask(lambda b, n, i, j: i != j, None, None, H, H, q.device)

    def run(q, k, v, _) -> Tensor:
        by_row = [t.flatten(0, 1).transpose(1, 2) for t in (q, k, v)]  # (B * H, N, W, D)
        row, of_row = _flex(*by_row, None, None, scale, return_aux=AuxRequest(lse=True))
        row, of_row = row.unflatten(0, (-1, H)).transpose(2, 3), of_row.unflatten(0, (-1, H)).transpose(2, 3)
        by_column = [t.permute(0, 2, 3, 1, 4).flatten(1, 2) for t in (q, k, v)]  # (B, W * N, H, D)
        column, of_column = _flex(*by_column, None, others, scale, return_aux=AuxRequest(lse=True))
        column, of_column = (t.unflatten(1, q.shape[2:4]).movedim(3, 1) for t in (column, of_column))
        return torch.lerp(row, column, (of_column - of_row).sigmoid()[..., None].to(row.dtype))

    return run


def _pooled(q, k, v, pooled_k, pooled_v, extra, local_bias, pooled_bias, rows, cols) -> Recipe:
    """The pooled tokens follow those of the map; what comes after the softmax (`extra`) is a sum of shifted maps."""
    H, W = q.shape[1:3]
    S = H * W
    window = math.isqrt(local_bias.shape[1])
    reach = window // 2
    y, x = _places(H, W, q.device)
    a, b = _places(*pooled_k.shape[1:3], q.device)
    ky, kx = torch.cat([y, a]), torch.cat([x, b])  # of a key: on its own map

    def mask(b, n, i, j):
        near = ((ky[j] - y[i]).abs() <= reach) & ((kx[j] - x[i]).abs() <= reach)
        return near | (j >= S)

    def split(q, k, v, pooled_k, pooled_v, extra, local_bias, pooled_bias, rows, cols):
        local, pooled = _wide(local_bias), _wide(pooled_bias)

        def add(b, n, i, j):
            offset = (ky[j] - y[i] + reach).clamp(0, window - 1) * window + (kx[j] - x[i] + reach).clamp(0, window - 1)
            on_pooled = j >= S
            row, col = torch.where(on_pooled, ky[j], 0), torch.where(on_pooled, kx[j], 0)
            return torch.where(on_pooled, pooled[n, rows[y[i], row], cols[x[i], col]], local[n, offset])

        k, v = (torch.cat([_tokens(t), _tokens(p)], 2) for t, p in ((k, pooled_k), (v, pooled_v)))
        return _tokens(q), k, v, add, 1.0

    def join(out, q, k, v, pooled_k, pooled_v, extra, *_):
        extra, around = _wide(extra), F.pad(_wide(v), (0, 0, 0, 0, *(reach,) * 4))
        offsets = itertools.product(range(window), repeat=2)
        rest = sum(extra[..., o, None] * around[:, y : y + H, x : x + W] for o, (y, x) in enumerate(offsets))
        return (_map(out, (H, W)) + rest).to(q.dtype)

    return Recipe(S, S + a.numel(), mask, split, join)


def _halos(q, k, v, height_rel, width_rel, block_size, halo_size, stride, scale) -> Recipe:
    """Queries sorted by block, keys in the rows of the padded map."""
    H, W = k.shape[1:3]
    side, window = block_size // stride, block_size + 2 * halo_size
    rows, cols = -(-H // block_size), -(-W // block_size)
    i = torch.arange(rows * cols * side**2, device=q.device)
    top, left = (block * block_size for block in (i // side**2 // cols, i // side**2 % cols))
    y, x = i % side**2 // side, i % side
    padded = rows * block_size + 2 * halo_size, cols * block_size + 2 * halo_size
    ky, kx = _places(*padded, q.device)

    def mask(b, n, i, j):
        row, col = ky[j] - top[i], kx[j] - left[i]
        return (row >= 0) & (row < window) & (col >= 0) & (col < window)

    def split(q, k, v, height_rel, width_rel, *_):
        q = partition(pad_to_multiple(q, (side, side))[0], (side, side))
        q = q.unflatten(0, (-1, rows * cols)).flatten(1, 2).transpose(1, 2)
        k, v = (_tokens(_with_halo(t, block_size, halo_size)) for t in (k, v))
        by_row, by_col = (_wide(q) @ _wide(rel).T for rel in (height_rel, width_rel))  # (B, N, queries, 2 window - 1)

        def add(b, n, i, j):
            dy, dx = ky[j] - top[i] - y[i], kx[j] - left[i] - x[i]
            dy, dx = ((d + window - 1).clamp(0, 2 * window - 2) for d in (dy, dx))
            return by_row[b, n, i, dy] + by_col[b, n, i, dx]

        return q, k, v, add, scale

    def join(out, q, *_):
        out = out.transpose(1, 2).unflatten(1, (rows * cols, side**2)).flatten(0, 1)
        return unpartition(out, (side, side), (rows * side, cols * side))[:, : q.shape[1], : q.shape[2]]

    return Recipe(i.numel(), ky.numel(), mask, split, join)


def _with_halo(x: Tensor, block_size: int, halo_size: int) -> Tensor:
    return F.pad(pad_to_multiple(x, (block_size, block_size))[0], (0, 0, 0, 0, *(halo_size,) * 4))


def unfolded(q, k, v, height_rel, width_rel, block_size, halo_size, stride, scale) -> Callable:
    """Windows are copied, relative logits are the mask."""
    side, window = block_size // stride, block_size + 2 * halo_size
    place = torch.arange(side, device=q.device)[:, None]
    offset = torch.arange(window, device=q.device) - place + window - 1  # (side, window)

    def run(q, k, v, height_rel, width_rel, *_) -> Tensor:
        q, on_map = pad_to_multiple(q, (side, side))
        padded = q.shape[1:3]
        q = partition(q, (side, side)).transpose(1, 2)  # (B * blocks, N, side * side, D)
        k, v = (_with_halo(t, block_size, halo_size) for t in (k, v))
        k, v = (t.unfold(1, window, block_size).unfold(2, window, block_size) for t in (k, v))
        k, v = (t.permute(0, 1, 2, 3, 5, 6, 4).flatten(4, 5).flatten(0, 2) for t in (k, v))
        by_place = q.unflatten(2, (side, side))
        by_row = torch.einsum("bnyxd,yjd->bnyxj", by_place, height_rel[offset])
        by_col = torch.einsum("bnyxd,xjd->bnyxj", by_place, width_rel[offset])
        relative = (by_row[..., None] + by_col[..., None, :]).flatten(4).flatten(2, 3)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=relative, scale=scale)
        return unpartition(out.transpose(1, 2), (side, side), padded)[on_map]

    return run


def regions_by_index(q, k, v, index, regions, scale) -> Callable:
    """Tokens sorted by region; the block mask, which depends on `index`, is made at every call."""
    size = q.shape[1:3]
    window = size[0] // regions[0], size[1] // regions[1]
    R, T = index.shape[1], window[0] * window[1]
    blocks = -(-R * T // BLOCK)
    region = torch.arange(blocks * BLOCK, device=q.device).view(blocks, BLOCK, 1) // T
    tokens = (region == torch.arange(R, device=q.device)).sum(1).float()

    def run(q, k, v, index, *_) -> Tensor:
        block_mask = region_blocks(index, tokens, T)
        q, k, v = (partition(t, window).unflatten(0, (-1, R)).flatten(1, 2).transpose(1, 2) for t in (q, k, v))
        out = _flex(q, k, v, None, block_mask, scale).transpose(1, 2).unflatten(1, (R, T)).flatten(0, 1)
        return unpartition(out, window, size)

    return run


@torch.compiler.disable  # compiled for the CPU with the rest, it gives wrong results (torch 2.15)
def region_blocks(index: Tensor, tokens: Tensor, T: int) -> BlockMask:
    """Of tokens sorted by region, T each; `tokens`, (blocks, regions), says how many of a region are in a block."""
    R = index.shape[1]
    chosen = index.new_zeros(index.shape[0], R, R, dtype=torch.bool).scatter_(2, index, True)
    pairs = (tokens @ chosen.float() @ tokens.T)[:, None]  # (B, 1, blocks, blocks): of tokens that meet
    whole = pairs == BLOCK**2
    partial = (pairs > 0) & ~whole
    counts_and_order = [
        t.int() for m in (partial, whole) for t in (m.sum(-1), m.int().argsort(dim=-1, descending=True, stable=True))
    ]

    def mask(b, n, i, j):
        return chosen[b, i // T, j // T]

    return BlockMask.from_kv_blocks(*counts_and_order, BLOCK_SIZE=BLOCK, mask_mod=mask, seq_lengths=(R * T, R * T))


def channels_as_tokens(q, k, v, scale) -> Callable:
    """The channels of k are queries, those of v keys, those of q values; the tokens are their channels."""

    def run(q, k, v, _) -> Tensor:
        of_k, of_v, of_q = (_tokens(t).mT for t in (k, v, q))  # (B, N, D, H * W)
        return _map(F.scaled_dot_product_attention(of_k, of_v, of_q, scale=scale).mT, q.shape[1:3])

    return run


NO_SOFTMAX = "no softmax over products of queries and keys"
RIVALS: dict[str, dict[str, Callable | str]] = {
    "aggregated_attention": dict(flex=flex(_pooled), sdpa=dense(_pooled)),
    "channel_attention": dict(flex="its head size would be the number of tokens", sdpa=channels_as_tokens),
    "criss_cross_attention": dict(flex=rows_and_columns, sdpa=dense(_crosses)),
    "halo_attention": dict(flex=flex(_halos), sdpa=unfolded),
    "linear_attention": dict(flex=NO_SOFTMAX, sdpa=NO_SOFTMAX),
    "neighborhood_attention": dict(flex=flex(_neighbourhoods), sdpa=dense(_neighbourhoods)),
    "routing_attention": dict(flex=regions_by_index),  # its own `gathered` and `masked` are SDPA
    "window_attention": dict(flex=flex(_windows)),  # its own `sdpa` is SDPA
}

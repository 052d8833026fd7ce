"""Moving between maps (B, H, W, ...) and their non-overlapping windows."""

import torch
import torch.nn.functional as F
from torch import Tensor


def partition(x: Tensor, window: tuple[int, int], interval: int = 1) -> Tensor:
    """(B, H, W, ...) to (B * windows, tokens, ...), windows in row-major order; a view where strides allow it.

    With an `interval`, a window of h x w tokens takes every `interval`-th row and column of a block of the map of
    h * interval x w * interval; the windows of a block follow each other, first token first.
    """
    B, H, W, *rest = x.shape
    h, w = window
    if interval == 1:
        x = x.unflatten(2, (W // w, w)).unflatten(1, (H // h, h))  # (B, rows, h, cols, w, ...)
        return x.transpose(2, 3).reshape(B * (H // h) * (W // w), h * w, *rest)
    x = x.unflatten(2, (W // (w * interval), w, interval)).unflatten(1, (H // (h * interval), h, interval))
    x = x.movedim((2, 3, 5, 6), (5, 3, 6, 4))  # (B, rows, cols, top, left, h, w, ...)
    return x.reshape(B * (H // h) * (W // w), h * w, *rest)


def unpartition(x: Tensor, window: tuple[int, int], size: tuple[int, int], interval: int = 1) -> Tensor:
    """The inverse of `partition` for maps of `size` (H, W)."""
    (h, w), (H, W) = window, size
    rows, cols = H // (h * interval), W // (w * interval)
    if interval == 1:
        x = x.unflatten(1, (h, w)).unflatten(0, (-1, rows, cols))  # (B, rows, cols, h, w, ...)
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    x = x.unflatten(1, (h, w)).unflatten(0, (-1, rows, cols, interval, interval))
    x = x.movedim((5, 3, 6, 4), (2, 3, 5, 6))  # (B, rows, h, top, cols, w, left, ...)
    return x.flatten(4, 6).flatten(1, 3)


def pad_to_multiple(x: Tensor, multiple: tuple[int, int], centred: bool = False) -> tuple[Tensor, tuple[slice, ...]]:
    """Zeros around a map (B, H, W, ...) until `multiple` divides it, and the index that gives the map back.

    They go below and to the right; `centred`, half of them (rounded down) above and to the left.
    """
    H, W = x.shape[1:3]
    # (H + h - 1) // h * h, unlike -H % h, is a size that a compiler can divide by h again
    down, right = (-(-n // m) * m - n for n, m in zip((H, W), multiple, strict=True))
    top, left = (down // 2, right // 2) if centred else (0, 0)
    if not tiles((H, W), multiple):  # F.pad copies even by zero
        x = F.pad(x, (*(0, 0) * (x.ndim - 3), left, right - left, top, down - top))
    return x, (slice(None), slice(top, top + H), slice(left, left + W))


def tiles(size: tuple[int, int], multiple: tuple[int, int]) -> bool:
    """Whether `multiple` divides `size`; False if that differs between the sizes that a compiled graph is to serve."""
    divided = [n % m == 0 for n, m in zip(size, multiple, strict=True)]
    if not torch.compiler.is_compiling():
        return all(divided)
    if not _COMPILER_KNOWS:
        return False
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # slow to import

    return all(map(statically_known_true, divided))


_COMPILER_KNOWS = torch.__version__ >= "2.9"  # before, it cannot trace the question

"""Moving between maps (B, H, W, ...) and their non-overlapping windows."""

import torch
import torch.nn.functional as F
from torch import Tensor


def partition(x: Tensor, window: tuple[int, int]) -> Tensor:
    """(B, H, W, ...) to (B * windows, tokens, ...), windows in row-major order; a view where strides allow it."""
    B, H, W, *rest = x.shape
    h, w = window
    x = x.unflatten(2, (W // w, w)).unflatten(1, (H // h, h))  # (B, rows, h, cols, w, ...)
    return x.transpose(2, 3).reshape(B * (H // h) * (W // w), h * w, *rest)


def unpartition(x: Tensor, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The inverse of `partition` for maps of `size` (H, W)."""
    (h, w), (H, W) = window, size
    rows, cols = H // h, W // w
    x = x.unflatten(1, (h, w)).unflatten(0, (-1, rows, cols))  # (B, rows, cols, h, w, ...)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def pad_to_multiple(x: Tensor, multiple: tuple[int, int], centred: bool = False) -> tuple[Tensor, tuple[slice, ...]]:
    """Zeros around a map (B, H, W, ...) until `multiple` divides it, and the index that gives the map back.

    They go below and to the right; `centred`, half of them (rounded down) above and to the left.
    """
    H, W = x.shape[1:3]
    # (H + h - 1) // h * h, unlike -H % h, is a size that a compiler can divide by h again
    down, right = (-(-n // m) * m - n for n, m in zip((H, W), multiple, strict=True))
    top, left = (down // 2, right // 2) if centred else (0, 0)
    # F.pad copies even by zero; a compiler sees through that, and would otherwise guard on each size
    if torch.compiler.is_compiling() or down or right:
        x = F.pad(x, (*(0, 0) * (x.ndim - 3), left, right - left, top, down - top))
    return x, (slice(None), slice(top, top + H), slice(left, left + W))

"""Tiles of maps: rectangles, which may overlap, as one batch of token lists."""

from collections.abc import Iterator

import torch
from torch import Tensor

Tile = tuple[slice, slice]  # rows and columns

WEIGHTS_OF_A_CHUNK = dict(cpu=2**19, gpu=2**26)


def by_head(x: Tensor) -> Tensor:
    """(B, H, W, N, D) to (B, N, H, W, D), where a tile of a head is made of long runs."""
    return x.movedim(3, 1).contiguous()


def on_map(x: Tensor) -> Tensor:
    """The inverse of `by_head`."""
    return x.movedim(1, 3).contiguous()


def gather(x: Tensor, tiles: list[Tile]) -> Tensor:
    """Tiles of one size of (B, N, H, W, D): (B, tiles, N, tokens, D)."""
    return torch.stack([x[(..., *tile, slice(None))] for tile in tiles], 1).flatten(3, 4)


def put(x: Tensor, tiles: list[Tile], values: Tensor) -> None:
    """Writes what `gather` reads."""
    for i, tile in enumerate(tiles):
        part = x[(..., *tile, slice(None))]
        part.copy_(values[:, i].unflatten(2, part.shape[2:4]))


def add(x: Tensor, tiles: list[Tile], values: Tensor) -> None:
    """The adjoint of `gather`: tiles that overlap add up."""
    for i, tile in enumerate(tiles):
        part = x[(..., *tile, slice(None))]
        part += values[:, i].unflatten(2, part.shape[2:4])


def chunks(queries: list[Tile], keys: list[Tile], like: Tensor, weights: int) -> Iterator[tuple[list, list]]:
    """Both lists in parts of as many tiles as have that many weights, `weights` each for every image and head.

    On the CPU a part stays in the cache; memory is bounded everywhere.
    """
    B, N = like.shape[:2]
    limit = WEIGHTS_OF_A_CHUNK["cpu" if like.device.type == "cpu" else "gpu"]
    step = max(1, limit // (B * N * weights))
    for i in range(0, len(queries), step):
        yield queries[i : i + step], keys[i : i + step]


def softmax_backward(weights: Tensor, grad: Tensor, mean: Tensor) -> Tensor:
    """The gradient of the logits, in place of `grad`, that of the weights, whose weighted `mean` is given."""
    return grad.sub_(mean).mul_(weights)


def zeros_like(x: Tensor) -> Tensor:
    return torch.zeros_like(x, memory_format=torch.contiguous_format)

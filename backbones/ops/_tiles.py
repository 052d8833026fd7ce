"""Tiles of maps (B, H, W, N, D): rectangles, which may overlap, as one batch of token lists."""

from collections.abc import Iterator

import torch
from torch import Tensor

Tile = tuple[slice, slice]  # rows and columns

WEIGHTS_OF_A_CHUNK = dict(cpu=2**19, gpu=2**26)


def gather(x: Tensor, tiles: list[Tile]) -> Tensor:
    """Tiles of one size, (B, tiles, N, tokens, D)."""
    first = x[(slice(None), *tiles[0])]
    B, h, w, N, D = first.shape
    out = x.new_empty(B, len(tiles), N, h, w, D)
    for i, tile in enumerate(tiles):
        out[:, i] = x[(slice(None), *tile)].movedim(3, 1)
    return out.flatten(3, 4)


def put(x: Tensor, tiles: list[Tile], values: Tensor) -> None:
    """Writes what `gather` reads."""
    for i, tile in enumerate(tiles):
        part = x[(slice(None), *tile)]
        part.copy_(values[:, i].unflatten(2, part.shape[1:3]).movedim(1, 3))


def add(x: Tensor, tiles: list[Tile], values: Tensor) -> None:
    """The adjoint of `gather`: tiles that overlap add up."""
    for i, tile in enumerate(tiles):
        part = x[(slice(None), *tile)]
        part.add_(values[:, i].unflatten(2, part.shape[1:3]).movedim(1, 3))


def chunks(queries: list[Tile], keys: list[Tile], like: Tensor, weights: int) -> Iterator[tuple[list, list]]:
    """Both lists in parts of as many tiles as have that many weights, `weights` each for every image and head.

    On the CPU a part stays in the cache; memory is bounded everywhere.
    """
    B, N = like.shape[0], like.shape[3]
    limit = WEIGHTS_OF_A_CHUNK["cpu" if like.device.type == "cpu" else "gpu"]
    step = max(1, limit // (B * N * weights))
    for i in range(0, len(queries), step):
        yield queries[i : i + step], keys[i : i + step]


def softmax_backward(weights: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the logits, in place of `grad`, that of the weights."""
    return grad.sub_((weights * grad).sum(-1, keepdim=True)).mul_(weights)


def zeros_like(x: Tensor) -> Tensor:
    return torch.zeros_like(x, memory_format=torch.contiguous_format)

"""Modules that several families share and timm does not have."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .ops._impl import counting


class MapConv2d(nn.Conv2d):
    """A convolution of maps (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ParameterTable(nn.Module):
    """A tensor made of parameters and a size only, by `compute(*size)`; inference computes it once per size.

    The last table is kept in eval mode while gradients are off, and used again as long as the parameters are the same:
    on the CPU if their values are, elsewhere (where looking at values would wait for the device) if torch counts no
    write to them. It is no part of copies and pickles. Stand-ins for parameters (torch.func, fake tensors) keep none.
    """

    _last = None

    def compute(self, *size: Hashable) -> Tensor:
        raise NotImplementedError

    def forward(self, *size: Hashable) -> Tensor:
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or counting():
            return self.compute(*size)
        state = self._state()
        if state is None:
            return self.compute(*size)
        key = size, _autocast()
        if self._last is None or self._last[0] != key or not _same(self._last[1], state):
            self._last = key, state, self.compute(*size)
        return self._last[2]

    def _state(self) -> Tensor | list | None:
        params = list(self.parameters())
        if not all(type(p) is nn.Parameter and not p.is_inference() for p in params):
            return None
        if all(p.device.type == "cpu" for p in params):
            values = torch.cat([p.detach().flatten() for p in params])
            return values if type(values) is Tensor else None
        return [(p, p.data_ptr(), p._version) for p in params]

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_last"}


def _same(a: Tensor | list, b: Tensor | list) -> bool:
    if torch.is_tensor(a) and torch.is_tensor(b):
        return a.dtype == b.dtype and torch.equal(a, b)
    if torch.is_tensor(a) or torch.is_tensor(b):
        return False
    return all(x[0] is y[0] and x[1:] == y[1:] for x, y in zip(a, b, strict=True))


def _autocast() -> tuple:
    return tuple((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda"))


def recompute(module: nn.Module, run: Callable[..., Tensor], *args: Tensor) -> Tensor:
    """`run(*args)`, of which training keeps the arguments only: for cheap steps with large intermediate results.

    What `run` computes before its last layer is computed again in the backward pass; that layer's result is not.
    """
    if module.training and torch.is_grad_enabled():
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False)
    return run(*args)


def drop_path_rates(last: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Stochastic depth's rate of every block, stage by stage: from 0, growing linearly to `last`."""
    return [stage.tolist() for stage in torch.linspace(0, last, sum(depths), device="cpu").split(list(depths))]

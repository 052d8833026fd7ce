"""How an op picks one of its implementations."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

_names: set[str] = set()
_preferred: str | None = None


class Impl(NamedTuple):
    run: Callable
    refuses: Callable[..., str | None] = lambda *args: None  # why it cannot take these arguments
    suits: Callable[..., bool] = lambda *args: True  # whether to take it when nobody names one


def implementations(**impls: Impl) -> dict[str, Impl]:
    """An op's table, fastest first; the last takes anything."""
    _names.update(impls)
    return impls


def modules() -> dict[str, ModuleType]:
    """Every op's module, by the op's name: what has its reference, implementations, sample inputs and multiply-adds."""
    names = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    ops = (name for name in names if not name.startswith("_") and not name.endswith("_triton"))
    return {op: importlib.import_module(f"{__package__}.{op}") for op in ops}


def choose(impls: dict[str, Impl], name: str | None, *args) -> Callable:
    """The implementation called `name`, or a ValueError; without a name, the first that takes and suits `args`.

    While torch counts FLOPs, that is the reference: what an op costs is what its definition multiplies. So it is while
    torch.jit traces, whose graphs fvcore counts.
    """
    if name is not None:
        if name not in impls:
            raise ValueError(f'impl="{name}" is not one of {", ".join(impls)}')
        if reason := impls[name].refuses(*args):
            raise ValueError(f'impl="{name}" {reason}')
        return impls[name].run
    if counting():
        return impls["reference"].run
    if _preferred in impls and not impls[_preferred].refuses(*args):
        return impls[_preferred].run
    return next(impl.run for impl in impls.values() if impl.suits(*args) and not impl.refuses(*args))


def counting() -> bool:
    """Whether somebody counts what is computed: torch's FLOP counter, or fvcore, for which torch.jit traces."""
    if torch.compiler.is_compiling():
        return False
    if torch.jit.is_tracing():
        return True
    return any(type(mode).__module__ == "torch.utils.flop_counter" for mode in _get_current_dispatch_mode_stack())


def custom_ops_fit(*args) -> bool:
    """For `suits` of implementations that are operators of ours: programs should run where this package is not.

    Nor can torch.func transform such an operator.
    """
    return not (torch.compiler.is_exporting() or torch._C._are_functorch_transforms_active())


@contextmanager
def prefer(name: str) -> Iterator[None]:
    """Inside the block, ops that have an implementation called `name` use it where it fits.

    Raises ValueError if no op has one.
    """
    global _preferred
    if name not in _names:
        raise ValueError(f'no op has an implementation "{name}"; there are {", ".join(sorted(_names))}')
    before, _preferred = _preferred, name
    try:
        yield
    finally:
        _preferred = before


def in_float32(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorates an implementation: half precision is widened, autocast off, and the first argument's dtype returns."""

    @functools.wraps(run)
    def wide(*args) -> Tensor:
        device, dtype = args[0].device.type, args[0].dtype
        args = [a.float() if torch.is_tensor(a) and a.dtype in (torch.float16, torch.bfloat16) else a for a in args]
        if device != "meta" and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return run(*args).to(dtype)
        return run(*args).to(dtype)

    return wide

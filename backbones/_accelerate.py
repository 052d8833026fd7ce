"""timm's own attention modules on this package's operators."""

import sys
import warnings

import torch
from torch import nn


def accelerate(model: nn.Module) -> dict[str, type[nn.Module]]:
    """Puts the modules of timm's in `model` that our operators compute exactly onto these operators.

    In place: parameters, state dict, hooks and mode stay, and so do the numbers, up to rounding; maps of any size are
    then accepted. Weights of convolutions become channels_last, the layout of maps between our operators.
    Returns the paths of the modules and the classes of timm's that they were; without any, it warns.
    """
    known = _known()
    replaced = {path: type(module) for path, module in model.named_modules() if type(module) in known}
    for path, was in replaced.items():
        model.get_submodule(path).__class__ = known[was]
    if replaced:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
    else:
        ours = any(type(module) in known.values() for module in model.modules())
        names = ", ".join(sorted(cls.__name__ for cls in known))
        why = "it runs on our operators already" if ours else f"no module is timm's {names}"
        warnings.warn(f"{type(model).__name__} has nothing to accelerate: {why}", stacklevel=2)
    return replaced


def _known() -> dict[type[nn.Module], type[nn.Module]]:
    """timm's classes and ours, which the families' modules name in REPLACES."""
    modules = [module for name, module in sys.modules.items() if name.startswith(f"{__package__}.")]
    return {old: new for module in modules for old, new in getattr(module, "REPLACES", {}).items()}

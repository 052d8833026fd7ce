"""A state dict against a model: in the model's keys, and every difference."""

import re
from collections.abc import Callable, Collection

from torch import Tensor, nn

_OUT_NORM = re.compile(r"^\w*norm\w*(\.\d+)?(\.norm)?\.(weight|bias|running_mean|running_var|num_batches_tracked)$")


def in_own_keys(
    state_dict: dict[str, Tensor],
    own: dict[str, Tensor],
    model: nn.Module,
    remap: Callable[[dict, nn.Module], dict],
) -> dict[str, Tensor]:
    """An official state dict through `remap`; one that has the model's keys already as it is."""
    official = remap(state_dict, model)
    return official if len(official.keys() & own.keys()) > len(state_dict.keys() & own.keys()) else state_dict


def classifier_keys(model: nn.Module) -> set[str]:
    names = model.pretrained_cfg.get("classifier") or ()
    return {f"{name}.{part}" for name in ([names] if isinstance(names, str) else names) for part in ("weight", "bias")}


def head_keys(own: Collection[str]) -> set[str]:
    return {key for key in own if key.startswith("head.")}


def out_norms(tensors: dict[str, Tensor], own: Collection[str]) -> set[str]:
    """Keys of what detectors and segmentors add to a backbone: norms of the maps that it gives."""
    return {key for key, value in tensors.items() if key not in own and value.ndim < 2 and _OUT_NORM.match(key)}


def differences(tensors: dict[str, Tensor], own: dict[str, Tensor], ignored: Collection[str] = ()) -> list[str]:
    """Missing and unexpected keys and wrong shapes, a line each; none if the tensors fit.

    Counters of batches may be missing: they are counted since 2018 only, and unused with the momentum of our families.
    """
    shapes = [
        f"{key} {tuple(tensors[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in tensors and key not in ignored and tensors[key].shape != own[key].shape
    ]
    missing = {key for key in own.keys() - tensors.keys() if not key.endswith("num_batches_tracked")}
    return [
        f"{what} ({len(keys)}): {', '.join(sorted(keys))}"
        for what, keys in (
            ("missing", missing - set(ignored)),
            ("unexpected", tensors.keys() - own.keys() - set(ignored)),
            ("wrong shape", shapes),
        )
        if keys
    ]

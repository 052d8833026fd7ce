"""Which models of the zoo a state dict fits, strictly."""

import functools
import re
from collections.abc import Callable, Collection

import timm
import torch
from torch import Tensor, nn

from .. import _catalogue
from .._fit import classifier_keys, differences, head_keys, in_own_keys, out_norms
from .read import Checkpoint

# what `remap` may meet in another family's tensors
_FOREIGN = (LookupError, RuntimeError, ValueError, AttributeError, TypeError)


@functools.cache
def _skeleton(name: str) -> tuple[nn.Module, dict[str, Tensor], Callable[[dict, nn.Module], dict]]:
    """The model and its state dict, without memory for values, and its family's `remap`."""
    with torch.device("meta"):
        model = timm.create_model(name)
    return model, model.state_dict(), _catalogue.remaps()[name]


def keys(name: str) -> Collection[str]:
    """Of the state dict of model `name`."""
    return _skeleton(name)[1].keys()


def compare(checkpoint: Checkpoint, name: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors in the keys of model `name`, and what differs; nothing if it fits.

    The number of classes may differ, a backbone of a detector has no classifier (nor, mostly, a last norm) and may
    have norms of its maps, and any checkpoint may come without its classifier. Nothing else is passed over.
    """
    model, own, remap = _skeleton(name)
    try:
        tensors = in_own_keys(checkpoint.tensors, own, model, remap)
    except _FOREIGN as error:
        return {}, [f"not in the layout of {name}: {error}"]
    head = head_keys(own)
    classifier = classifier_keys(model)
    ignored = {
        key
        for key in classifier & own.keys() & tensors.keys()
        if tensors[key].shape[1:] == own[key].shape[1:] and tensors[key].ndim == own[key].ndim
    }
    if not head & tensors.keys():
        ignored |= head
    if checkpoint.dense:
        ignored |= out_norms(tensors, own) | {k for k in own if k.startswith("norm.") and k not in tensors}
    return tensors, differences(tensors, own, ignored)


def classes(tensors: dict[str, Tensor], name: str) -> int | None:
    """The classes of tensors in the keys of model `name`; None without a classifier, 0 if the model has none."""
    model, own, _ = _skeleton(name)
    rows = {len(tensors[key]) for key in classifier_keys(model) & tensors.keys()}
    return rows.pop() if len(rows) == 1 else None if classifier_keys(model) & own.keys() else 0


def recognise(checkpoint: Checkpoint) -> list[str]:
    """The models that the checkpoint fits: several where they have the same keys and shapes."""
    return [name for name in _candidates(checkpoint) if not compare(checkpoint, name)[1]]


def nearest(checkpoint: Checkpoint) -> tuple[str, list[str]] | None:
    """For a checkpoint that fits nothing: the model that shares most, and the differences; None: nothing shares."""
    best, most = None, 0
    for name in _candidates(checkpoint):
        own = _skeleton(name)[1]
        tensors, problems = compare(checkpoint, name)
        shared = sum(own[key].shape == value.shape for key, value in tensors.items() if key in own)
        if shared > most:
            best, most = (name, problems), shared
    return best


def _candidates(checkpoint: Checkpoint) -> list[str]:
    """Models of the families whose kinds of keys are most like the checkpoint's.

    Small models stand for their families, so that large ones are built for one family only.
    """
    families: dict[str, list[str]] = {}
    for name, family in _catalogue._families().items():
        families.setdefault(family, []).append(name)
    likeness = {
        family: max(
            _likeness(checkpoint, name)
            for name in ([name for name in names if name.startswith("test_")] or [sorted(names)[0]])
        )
        for family, names in families.items()
    }
    most = max(likeness.values())
    if most == 0:
        return []
    return sorted(name for family, names in families.items() if likeness[family] >= 0.9 * most for name in names)


def _likeness(checkpoint: Checkpoint, name: str) -> float:
    """How many of the checkpoint's keys have a counterpart in the model, whatever their numbers: from 0 to 1."""
    model, own, remap = _skeleton(name)
    try:
        keys = list(in_own_keys(checkpoint.tensors, own, model, remap))
    except _FOREIGN:
        return 0.0
    kinds = {_kind(key) for key in own}
    return sum(_kind(key) in kinds for key in keys) / max(len(keys), 1)


def _kind(key: str) -> str:
    return re.sub(r"\d+", "0", key)

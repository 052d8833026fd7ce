"""From a published file to weights in the cache."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from . import cache, matching, read
from .sources import Source, source, sources


def import_file(
    path: str | Path,
    model: str | None = None,
    ema: bool | None = None,
    *,
    url: str | None = None,
) -> tuple[Source, Path]:
    """Recognises a checkpoint by its keys and shapes, converts it, and puts it where `pretrained=True` finds it.

    `model`: `name` or `name.tag`, needed only where several fit; `ema`: averaged weights or plain ones, None takes
    the averaged ones if there are any. Returns what it is and the path of the converted weights.
    Raises ValueError for a file that cannot be read safely, fits no model, another than `model`, or several, has
    classes that no published weights have, or is not what its published sha256 says.
    """
    entry, tensors, facts = convert(path, model, ema)
    return entry, cache.store(entry.name, tensors, facts | dict(url=url or entry.url or entry.page))


def convert(
    path: str | Path, model: str | None = None, ema: bool | None = None
) -> tuple[Source, dict[str, Tensor], dict[str, Any]]:
    """What a checkpoint is, its tensors in our keys, and where they come from. Raises ValueError as `import_file`.

    The backbone of a detector or segmentor keeps its prefix `backbone.` and the norms of its maps.
    """
    checkpoint = read.checkpoint(path, ema)
    digest = cache.sha256(path)
    entry = _decide(path, checkpoint, digest, model)
    published = entry.facts.get("sha256") or entry.facts.get("sha256_prefix") or ""
    if not digest.startswith(published):
        raise ValueError(f"{path} is not the published file of {entry.name}: sha256 {digest}, published {published}")
    tensors, _ = matching.compare(checkpoint, entry.model)
    if entry.dense:
        tensors = {f"backbone.{key}": value for key, value in tensors.items()}
    facts = dict(
        model=entry.model,
        tag=entry.tag,
        averaged=checkpoint.averaged,
        source_file=Path(path).name,
        source_sha256=digest,
        source_checked=bool(published),
    )
    return entry, tensors, facts


def misfit(checkpoint: read.Checkpoint, name: str) -> str:
    """Why a checkpoint does not fit model `name`: another that it fits, or the differences."""
    others = matching.recognise(checkpoint)
    problems = matching.compare(checkpoint, name)[1]
    return f"it is that of {' or '.join(others)}" if others else "\n".join(map(_shortened, problems))


def _decide(path: str | Path, checkpoint: read.Checkpoint, digest: str, model: str | None) -> Source:
    """The one source that the checkpoint can be."""
    if model:
        wanted = source(model)
        if matching.compare(checkpoint, wanted.model)[1]:
            raise ValueError(f"{path} does not fit {wanted.model}: {misfit(checkpoint, wanted.model)}")
        fits = [wanted.model]
    else:
        fits = matching.recognise(checkpoint)
    if not fits:
        near = matching.nearest(checkpoint)
        if near is None:
            raise ValueError(f"{path} fits no model of the zoo; its first keys are {list(checkpoint.tensors)[:4]}")
        name, problems = near
        raise ValueError(
            f"{path} fits no model of the zoo; nearest is {name}:\n" + "\n".join(map(_shortened, problems))
        )

    found, counted = [], {}
    for name in fits:
        counted[name] = matching.classes(matching.compare(checkpoint, name)[0], name)
        found += [entry for entry in sources(name) if _can_be(entry, checkpoint, counted[name])]
    if model and "." in model:
        if wanted in found:
            return wanted
        tags = ", ".join(entry.name for entry in found) or "none"
        raise ValueError(f"{path} is a {wanted.model}, but cannot be {wanted.name}: {tags} can be")
    if len(found) > 1:
        found = [entry for entry in found if entry.facts.get("sha256") == digest] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(_ambiguous(path, found))
    what = ", ".join(f"{name} with {'no' if n is None else n} classes" for name, n in counted.items())
    how = "features_only=True" if None in counted.values() else "num_classes=N in pretrained_cfg_overlay"
    raise ValueError(
        f"{path} is {what}, which nobody published: load it by pretrained_cfg_overlay=dict(file=...), {how}"
    )


def _can_be(entry: Source, checkpoint: read.Checkpoint, classes: int | None) -> bool:
    if checkpoint.dense or entry.dense:  # a whole segmentation network has no prefix, but no classifier either
        return entry.dense and (checkpoint.dense or classes is None)
    return classes == entry.facts.get("num_classes", 1000) or classes == 0


def _ambiguous(path: str | Path, found: list[Source]) -> str:
    named = [entry.name for entry in found if entry.facts.get("file") == Path(path).name]
    hint = f" (the published file of that name is {' or '.join(named)})" if named else ""
    names = ", ".join(entry.name for entry in found)
    return f"{path} can be {names}: they have the same keys and shapes. Say which with --model NAME{hint}"


def _shortened(line: str, most: int = 4) -> str:
    keys = re.split(r", (?![^(]*\))", line)
    return ", ".join(keys[:most]) + (" ..." if len(keys) > most else "")

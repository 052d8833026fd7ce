"""Is what lies in the cache what was published, and does it do what was published?"""

from pathlib import Path

import timm

from . import cache
from .sources import source


def verify(name: str) -> str:
    """Recomputes the sha256 of imported weights; says whether their source's was published and is the same.

    Raises ValueError if they are not here, damaged, or not those that were published.
    """
    entry = source(name)
    path = cache.find(entry.name)
    if path is None:
        raise ValueError(f"{entry.name} is not in {cache.folder()}: import or download it")
    record = cache.record(entry.name)
    published = entry.facts.get("sha256") or entry.facts.get("sha256_prefix")
    if published and not record["source_sha256"].startswith(published):
        raise ValueError(f"{entry.name} came from a file of sha256 {record['source_sha256']}, published {published}")
    compared = "as published" if published else "none published"
    return f"{entry.name}: intact, sha256 {record['sha256']}; source {record['source_sha256']}, {compared}"


def top1(name: str, root: str | Path, *, batch_size: int = 64, workers: int = 2, device: str = "auto") -> dict:
    """Accuracy of `pretrained=True` on ImageNet's folder of splits, by the zoo's validation: top1, top5, images.

    `published` is the published top-1 in %, or None. Needs the `tools` extra.
    """
    from ..classification import data
    from ..classification.checkpoints import Published
    from ..classification.config import Data
    from ..classification.evaluate import device_of, evaluate

    entry = source(name)
    if entry.dense:
        raise ValueError(f"{entry.name} has no classifier")
    validated = Published(entry.name)
    split = data.dataset(Data(root=str(root)), "validation", False, batch_size)
    names = data.class_names(split)
    if names and len(names) != validated.model.num_classes:
        raise ValueError(f"{entry.name} has {validated.model.num_classes} classes, {root} has {len(names)}")
    where = device_of(device)
    loader = data.loader(split, timm.data.resolve_data_config({}, model=validated.model), batch_size, workers, where)
    metrics = evaluate(validated.model.to(where), loader, where, show=True)
    return metrics | dict(published=entry.facts.get("top1"))

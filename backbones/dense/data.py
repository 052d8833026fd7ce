"""Checks of COCO and ADE20K data sets, before a run spends hours on what it would drop or stumble over."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import config

MOST_LISTED = 10
MOST_OPENED = 2000  # images and label maps of one data set that are opened, evenly spread

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def check(cfg, splits: Sequence[str] = ("train", "val"), say: Callable[[str], None] = print) -> None:
    """Checks the data sets of a config that are of COCO's or of mmseg's kind; says what was looked at.

    Raises ValueError that counts what is wrong and names the first MOST_LISTED, with file and place.
    """
    seen = set()
    for where, dataset, cls in config.datasets(cfg, splits):
        kind = _kind(cls)
        place = (dataset.get("data_root"), dataset.get("ann_file"), str(dataset.get("data_prefix")))
        if kind is None or place in seen:
            continue
        seen.add(place)
        root = Path(dataset.get("data_root") or "")
        if not root.exists():
            raise ValueError(f"no data at {root} ({where}): give --data FOLDER")
        names = config.class_names(dataset, cls)
        say(coco(dataset, root, names) if kind == "coco" else label_maps(dataset, root, names, cls))


def coco(dataset, root: Path, names: Sequence[str] | None) -> str:
    """Checks the annotation file and the images of a COCO data set; returns what it holds, in a line."""
    path = root / dataset.ann_file
    images = root / (dataset.get("data_prefix") or {}).get("img", "")
    if not path.is_file():
        raise ValueError(f"no annotation file {path}")
    if not images.is_dir():
        raise ValueError(f"no folder of images {images}")
    masks = any(step.get("with_mask") for step in dataset.get("pipeline", []) if step.type == "LoadAnnotations")
    content = _json(path)
    _report(f"{path}", list(_coco_problems(content, images, names, masks)))
    left_out = sum(1 for a in content["annotations"] if min(a["bbox"][2:]) < 1)
    text = f"{path}: {len(content['images'])} images, {len(content['annotations'])} annotations"
    if left_out:
        text += f", of which {left_out} are thinner than a pixel and left out"
    others = [c["name"] for c in content["categories"] if names and c["name"] not in names]
    return text + (f"; not trained: {', '.join(others[:10])}" if others else "")


def label_maps(dataset, root: Path, names: Sequence[str] | None, cls: type | None = None) -> str:
    """Checks the label maps of a data set of mmseg's kind; returns what it holds, in a line."""
    prefix = dataset.get("data_prefix") or {}
    images, maps = (root / prefix.get(key, "") for key in ("img_path", "seg_map_path"))
    for folder in (images, maps):
        if not folder.is_dir():
            raise ValueError(f"no folder {folder}")
    settings = _settings(dataset, cls)
    suffix, map_suffix = settings["img_suffix"], settings["seg_map_suffix"]
    if dataset.get("ann_file"):
        listed = root / dataset.ann_file
        if not listed.is_file():
            raise ValueError(f"no list of images {listed}")
        stems = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        found = sorted(p.relative_to(images).as_posix() for p in images.rglob(f"*{suffix}"))
        stems = [name[: -len(suffix)] for name in found]
    if not stems:
        raise ValueError(f"no images in {images}: they end in {suffix}")
    problems = []
    missing = set()
    for stem in stems:
        for path in (images / f"{stem}{suffix}", maps / f"{stem}{map_suffix}"):
            if not path.is_file():
                missing.add(stem)
                problems.append(f"{path}: missing")
    opened = _spread([stem for stem in stems if stem not in missing])
    ignored = settings["ignore_index"]
    for stem in opened:
        pair = images / f"{stem}{suffix}", maps / f"{stem}{map_suffix}"
        problems += _map_problems(*pair, len(names) if names else None, settings["reduce_zero_label"], ignored)
    _report(f"{maps}", problems)
    return f"{maps}: {len(stems)} label maps" + (f", {len(opened)} opened" if len(opened) < len(stems) else "")


def _kind(cls: type) -> str | None:
    bases = {base.__name__ for base in cls.__mro__}
    if "CocoDataset" in bases:
        return "coco"
    return "maps" if "BaseSegDataset" in bases else None


def _settings(dataset, cls: type | None) -> dict[str, Any]:
    """How a data set reads its maps: what the config says, or else the defaults of its class and the classes below."""
    import inspect

    found = dict(img_suffix=".jpg", seg_map_suffix=".png", reduce_zero_label=False, ignore_index=255)
    for base in reversed(cls.__mro__ if cls else ()):
        if "__init__" in base.__dict__:
            parameters = inspect.signature(base.__init__).parameters
            found |= {k: parameters[k].default for k in found if k in parameters}
    return found | {key: dataset[key] for key in found if key in dataset}


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        cut = " (the file is cut off)" if error.pos >= len(error.doc.rstrip()) - 1 else ""
        raise ValueError(f"{path} is not JSON: {error.msg}, line {error.lineno} column {error.colno}{cut}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    wanted = ("images", "annotations", "categories")
    lacking = [key for key in wanted if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if lacking:
        raise ValueError(f"{path} has no list of {', '.join(lacking)}: it is not in COCO's format")
    return content


def _coco_problems(content: dict, folder: Path, names: Sequence[str] | None, masks: bool) -> Iterator[str]:
    for key in ("images", "annotations", "categories"):
        records = content[key]
        for i, record in enumerate(records):
            if not isinstance(record, dict) or "id" not in record:
                yield f"{key}[{i}] has no id"
        ids = Counter(r["id"] for r in records if isinstance(r, dict) and "id" in r)
        for number, count in ids.items():
            if count > 1:
                yield f"{key}: id {number} stands {count} times"
    known = {c["id"]: c.get("name") for c in content["categories"] if isinstance(c, dict) and "id" in c}
    if names is not None and (lacking := [name for name in names if name not in known.values()]):
        has = ", ".join(map(str, list(known.values())[:10])) + (", ..." if len(known) > 10 else "")
        yield f"categories: no {', '.join(lacking[:10])} of the config's {len(names)} classes; the file has {has}"
    images = {r["id"]: r for r in content["images"] if isinstance(r, dict) and "id" in r}
    yield from _image_problems(images, folder)
    for i, record in enumerate(content["annotations"]):
        if isinstance(record, dict):
            for problem in _annotation_problems(record, images, known, masks):
                yield f"annotations[{i}] (id {record.get('id')}): {problem}"


def _image_problems(images: dict[Any, dict], folder: Path) -> Iterator[str]:
    there = {os.path.relpath(os.path.join(top, name), folder) for top, _, files in os.walk(folder) for name in files}
    good = []
    for number, record in images.items():
        sides = [record.get("height"), record.get("width")]
        if not all(isinstance(side, int) and side > 0 for side in sides):
            yield f"image {number}: height and width are {sides[0]!r} and {sides[1]!r}"
        elif os.path.normpath(str(record.get("file_name"))) not in there:
            yield f"image {number}: no file {folder / str(record.get('file_name'))}"
        else:
            good.append(record)
    for record in _spread(good):
        try:
            with Image.open(folder / record["file_name"]) as image:
                width, height = image.size
        except UNREADABLE as error:
            yield f"image {record['id']}: cannot read {folder / record['file_name']}: {error}"
            continue
        if (height, width) != (record["height"], record["width"]):
            said = f"{record['height']} x {record['width']}"
            yield f"image {record['id']}: {record['file_name']} is {height} x {width}, the annotation file says {said}"


def _annotation_problems(record: dict, images: dict, categories: dict, masks: bool) -> Iterator[str]:
    if record.get("category_id") not in categories:
        yield f"unknown category id {record.get('category_id')}"
    image = images.get(record.get("image_id"))
    if image is None:
        yield f"unknown image id {record.get('image_id')}"
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(side) for side in box):
        yield f"bbox {box!r} is not [x, y, width, height]"
        return
    x, y, width, height = box
    if width < 0 or height < 0:
        yield f"bbox {box} has a negative side"
    elif image is not None and all(isinstance(image.get(side), int) for side in ("width", "height")):
        if x < -1 or y < -1 or x + width > image["width"] + 1 or y + height > image["height"] + 1:
            yield f"bbox {box} is outside of image {image['id']}, {image['height']} x {image['width']}"
        if masks:
            yield from _mask_problems(record.get("segmentation"), image)
    if not _is_number(record.get("area")) or record["area"] < 0:
        yield f"area is {record.get('area')!r}"


def _mask_problems(mask: Any, image: dict) -> Iterator[str]:
    if isinstance(mask, list) and mask:
        if not all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(map(_is_number, p)) for p in mask):
            yield "segmentation is no list of polygons [x1, y1, x2, y2, x3, y3, ...]"
    elif isinstance(mask, dict) and {"size", "counts"} <= mask.keys():
        size = [image["height"], image["width"]]
        if list(mask["size"]) != size:
            yield f"segmentation of size {mask['size']} in an image of {size}"
        elif isinstance(mask["counts"], list) and sum(mask["counts"]) != math.prod(size):
            yield f"segmentation's run lengths add up to {sum(mask['counts'])}, not to {math.prod(size)} pixels"
    else:
        yield "no segmentation, which this config trains on"


def _map_problems(image: Path, path: Path, classes: int | None, reduced: bool, ignored: int) -> Iterator[str]:
    try:
        with Image.open(image) as opened:
            size = opened.size
        with Image.open(path) as opened:
            mode, labels = opened.mode, np.asarray(opened)
    except UNREADABLE as error:
        yield f"{path}: cannot read it or its image: {error}"
        return
    if labels.ndim != 2:
        yield f"{path}: a picture of mode {mode}, not a map of labels"
        return
    if labels.shape != (size[1], size[0]):
        yield f"{path}: {labels.shape[0]} x {labels.shape[1]}, but its image is {size[1]} x {size[0]}"
    if classes is None:
        return
    most = classes if reduced else classes - 1
    values = np.unique(labels)
    beyond = values[(values > most) & (values != ignored)]
    if len(beyond):
        meaning = f"0 (none) to {most}" if reduced else f"0 to {most}"
        few = ", ".join(map(str, beyond[:5].tolist())) + (", ..." if len(beyond) > 5 else "")
        yield f"{path}: labels {few}; {classes} classes are {meaning}, and {ignored} is ignored"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _spread(items: list) -> list:
    """At most MOST_OPENED of the items, evenly spread."""
    return items if len(items) <= MOST_OPENED else [items[i * len(items) // MOST_OPENED] for i in range(MOST_OPENED)]


def _report(where: str, problems: list[str]) -> None:
    if problems:
        more = len(problems) - MOST_LISTED
        lines = [f"{len(problems)} problem{'s' * (len(problems) > 1)} in {where}", *problems[:MOST_LISTED]]
        raise ValueError("\n  ".join(lines + ([f"and {more} more"] if more > 0 else [])))

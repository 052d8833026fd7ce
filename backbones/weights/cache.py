"""The folder of converted weights: `<name>-<hash>.safetensors` and `<name>.json`, which says where they come from.

The json appears last and by a rename, so what it names is whole; processes that write one name take turns.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor


def folder() -> Path:
    """$BACKBONES_CACHE, or `backbones` in timm's folder of checkpoints ($TORCH_HOME/hub/checkpoints)."""
    default = Path(torch.hub.get_dir()) / "checkpoints" / "backbones"
    return Path(os.environ.get("BACKBONES_CACHE") or default).expanduser()


def inside(name: str) -> Path:
    """The path of a file of the folder. Raises ValueError for a name that would leave it."""
    if not re.fullmatch(r"[\w-][\w.+-]*", name):
        raise ValueError(f"{name!r} is no name of a file")
    return folder() / name


def sha256(path: str | Path) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """One process at a time works on `name`."""
    path = inside(f"{name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


def save(tensors: dict[str, Tensor], path: Path) -> str:
    """Writes safetensors that appear whole or not at all; returns their sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        own = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
        safetensors.torch.save_file(own, temporary, metadata={"format": "pt"})
        digest = sha256(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return digest


def store(name: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
    """Puts converted weights and what is known of them into the folder, in place of older ones of that name."""
    with locked(name):
        before = record(name)
        made = inside(f"{name}-new.safetensors")
        digest = save(tensors, made)
        path = inside(f"{name}-{digest[:12]}.safetensors")
        os.replace(made, path)
        entry = dict(file=path.name, sha256=digest, size=path.stat().st_size) | facts
        temporary = path.with_name(f".{name}.json.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, inside(f"{name}.json"))
        if before and before["file"] != path.name:
            inside(before["file"]).unlink(missing_ok=True)
    return path


def record(name: str) -> dict[str, Any] | None:
    """What is known of the weights `name` in the folder; None if there are none."""
    try:
        return json.loads(inside(f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def imported() -> dict[str, dict[str, Any]]:
    """Name -> record of everything in the folder."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder().glob("*.json"))}


def find(name: str) -> Path | None:
    """The converted weights `name`, their sha256 checked; None if they are not here.

    Raises ValueError if they are damaged.
    """
    entry = record(name)
    if entry is None:
        return None
    path = inside(entry["file"])
    if not path.is_file():  # replaced since the record was read, or lost
        entry = record(name)
        path = inside(entry["file"]) if entry else path
    got = sha256(path) if path.is_file() else "missing"
    if got != entry["sha256"]:
        raise ValueError(
            f"the imported weights {name} are damaged: {path} is {got[:12]}, was {entry['sha256'][:12]}; "
            "import or download them again"
        )
    return path

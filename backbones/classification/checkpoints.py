"""Finding and reading the checkpoints that timm's CheckpointSaver writes."""

import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import clean_state_dict

from . import data

UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError)


def read(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content, unpickled safely. Raises ValueError naming a file that is missing, cut off or foreign."""
    if not Path(path).is_file():
        raise ValueError(f"no checkpoint {path}")
    try:
        if zipfile.is_zipfile(path):  # torch does not check the sums that it writes
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} is damaged")
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is not a complete checkpoint: {reason}") from error
    if not isinstance(content, dict) or not hasattr(content.get("args"), "model_kwargs"):
        raise ValueError(f"{path} is no checkpoint of tools/train.py; give --model NAME --file {path}")
    return content


def newest_complete(folder: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint with the highest epoch that can be read, and what was wrong with newer ones."""
    found, broken = [], []
    for path in sorted(folder.glob("*.pth.tar"), key=lambda p: p.stat().st_mtime, reverse=True):
        if path.name.startswith("tmp"):
            continue  # being written when the run stopped
        try:
            found.append((read(path)["epoch"], path.name == "last.pth.tar", path))
        except ValueError as error:
            broken.append(str(error))
    return max(found)[2] if found else None, broken


class Trained:
    """A trained model with what it needs to be applied: its class names and preprocessing."""

    def __init__(self, path: str | Path, ema: bool | None = None):
        """`ema`: the averaged weights or the plain ones; None takes the averaged ones if there are any."""
        content = read(path)
        if ema and "state_dict_ema" not in content:
            raise ValueError(f"{path} has no averaged weights: it was trained without run.ema")
        use_ema = "state_dict_ema" in content if ema is None else ema
        args = content["args"]
        self.path, self.epoch, self.config = path, content["epoch"], args.config
        self.class_names: list[str] | None = args.class_names
        self.preprocessing: dict = args.preprocessing
        self.model = timm.create_model(args.model, **args.model_kwargs)
        self.model.load_state_dict(clean_state_dict(content["state_dict_ema" if use_ema else "state_dict"]))
        self.model.eval()


class Published:
    """A model of timm or the zoo, by name, with its published weights, or those of a file."""

    def __init__(self, name: str, file: str | None = None, num_classes: int | None = None):
        overlay = dict(file=file) if file else {}
        kwargs = {}
        if num_classes is not None:
            overlay["num_classes"] = kwargs["num_classes"] = num_classes
        if not timm.is_model(name.split(".")[0]):
            raise ValueError(unknown_model(name))
        self.model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()
        self.class_names = data.imagenet_names() if self.model.num_classes == 1000 else None
        self.preprocessing = timm.data.resolve_data_config({}, model=self.model)


def unknown_model(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
    return f'no model "{name}"' + (f": did you mean {', '.join(near)}?" if near else "")

"""mmengine's checkpoints, read without executing anything in them."""

import ast
import importlib
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from . import config, mm

UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError)


def is_dense(path: str | Path) -> bool:
    """Whether a file is a checkpoint of mmengine's, by a word in it; nothing is unpickled."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        records = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        return any(b"mmengine_version" in archive.read(name) for name in records)


class Checkpoint:
    """A checkpoint's weights, and the config and classes that it was trained with, where it has them."""

    def __init__(self, path: str | Path):
        """Raises ValueError naming a file that is missing, cut off or foreign."""
        mm.require()
        from mmengine.runner.checkpoint import get_torch_safe_globals

        self.path = path
        if not Path(path).is_file():
            raise ValueError(f"no checkpoint {path}")
        try:
            numbers = [getattr(np.dtypes, name) for name in np.dtypes.__all__]  # metrics may be of any kind
            with torch.serialization.safe_globals([*get_torch_safe_globals(), *numbers]):
                content = torch.load(path, map_location="cpu", weights_only=True)
        except (*UNREADABLE, pickle.UnpicklingError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"{path} is not a complete checkpoint: {reason}") from error
        state = content.get("state_dict", content) if isinstance(content, dict) else None
        if not isinstance(state, dict) or not state or not all(torch.is_tensor(v) for v in state.values()):
            raise ValueError(f"{path} holds no state dict of a detector or segmentor")
        self.state_dict = state
        meta = content.get("meta") or {}
        self.epoch, self.iteration = meta.get("epoch"), meta.get("iter")
        self._config = meta.get("cfg")
        self.classes: tuple[str, ...] | None = None
        if names := (meta.get("dataset_meta") or {}).get("classes", meta.get("CLASSES")):
            self.classes = tuple(names)

    def config(self):
        """The config that it was trained with, of which only literals are read. Raises ValueError if it has none."""
        from mmengine.config import Config

        if self._config is None:
            raise ValueError(f"{self.path} does not hold its config: give --config FILE")
        try:
            lines = ast.parse(self._config).body
            cfg = Config({line.targets[0].id: _literal(line.value) for line in lines})
        except (SyntaxError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{self.path} holds a config with more than values ({error}): give --config FILE"
            ) from error
        for name in cfg.get("custom_imports", {}).get("imports", []):
            if not name.startswith("backbones."):
                raise ValueError(f"{self.path} wants to import {name}: give --config FILE if you trust it")
            importlib.import_module(name)
        config.register(cfg)
        return cfg

    def check_classes(self, cfg) -> None:
        """Raises ValueError if it was trained for other classes than the config's test data have."""
        for where, dataset, cls in config.datasets(cfg, ["test"]):
            names = config.class_names(dataset, cls)
            if names and self.classes and names != self.classes:
                raise ValueError(
                    f"{self.path} was trained for {len(self.classes)} classes ({', '.join(self.classes[:5])} ...), "
                    f"{where} has {len(names)} ({', '.join(names[:5])} ...)"
                )


def restore(
    path: str | Path, file: str | Path | None = None, overrides: Sequence[str] = (), data: str | Path | None = None
) -> tuple[Any, Checkpoint]:
    """A checkpoint and its config: the config file's, or else the one that it was trained with."""
    checkpoint = Checkpoint(path)
    if file is not None:
        return config.load(file, overrides, data), checkpoint
    cfg = checkpoint.config()
    config.update(cfg, path, overrides, data)
    return cfg, checkpoint


def _literal(node: ast.expr) -> Any:
    """The value of a literal, in which dict(a=1) is one too."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {ast.literal_eval(k): _literal(v) for k, v in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_literal(item) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return float(node.id)
    return ast.literal_eval(node)


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Loads strictly. Raises ValueError saying which keys lack, are unknown or have another shape."""
    from mmengine.model import is_model_wrapper
    from mmengine.runner.checkpoint import load_state_dict

    model = model.module if is_model_wrapper(model) else model
    try:
        load_state_dict(model, checkpoint.state_dict, strict=True)
    except RuntimeError as error:
        lines = str(error).splitlines()
        more = [f"... {len(lines) - 12} lines more"] if len(lines) > 12 else []
        raise ValueError("\n".join([f"{checkpoint.path} does not fit the config:", *lines[:12], *more])) from error

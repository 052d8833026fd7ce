"""Every golden of official classifiers, in float64: outputs, input gradients, features, training losses.

A golden is `goldens/<name>.json` + `.npz` (goldens/README.md says how they were made). Its weights become a file with
the official keys that `weights.import_file` recognises and converts, and that `timm.create_model(pretrained=True)`
loads directly, so `remap` and the strict loader are tested too.
"""

import json
import shutil
import zlib
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import backbones
from backbones import weights

FOLDER = Path(__file__).parent / "goldens"
ALL = {p.stem: json.loads(p.read_text()) for p in sorted(FOLDER.glob("*.json"))}
GOLDENS = {name: golden for name, golden in ALL.items() if len(golden["forward"][0]["out_shape"]) == 2}  # classifiers
TOLERANCE = 1e-9  # of the largest value, in float64


def official_state_dict(golden: dict) -> dict[str, Tensor]:
    return {entry["key"]: seeded(entry["key"], entry["shape"]) for entry in golden["state_dict"] if entry["seeded"]}


def seeded(key: str, shape: list[int]) -> Tensor:
    x = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(int(np.prod(shape))).reshape(shape)
    last = key.rsplit(".", 1)[-1]
    if len(shape) > 1:
        x = 0.5 * x / np.sqrt(np.prod(shape[1:]))
    elif last == "running_var":
        x = 1 + 0.1 * np.abs(x)
    else:
        x = 1 + 0.1 * x if last == "weight" else 0.1 * x
    return torch.from_numpy(x.astype(np.float32))


def name_of(golden: str) -> str:
    """The longest name of a model that the golden's begins with: biformer_tiny_autopad -> biformer_tiny"""
    parts = golden.split("_")
    return next(n for n in ("_".join(parts[:i]) for i in range(len(parts), 0, -1)) if timm.models.is_model(n))


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The official file of a golden."""
    folder = tmp_path_factory.mktemp("official")

    def official(name: str) -> Path:
        file = folder / f"{name}.pth"
        if not file.exists():
            torch.save({"model": official_state_dict(GOLDENS[name])}, file)
        return file

    yield official
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def load(official):
    def load(name: str) -> nn.Module:
        overlay = dict(file=str(official(name)))
        return timm.create_model(name_of(name), pretrained=True, pretrained_cfg_overlay=overlay).eval().double()

    return load


@pytest.fixture(scope="module")
def load_imported(official, load, tmp_path_factory):
    """The model with what `weights.import_file` makes of the golden's official file."""
    folder = tmp_path_factory.mktemp("cache")

    def load_imported(name: str) -> nn.Module:
        model = backbones._backbone.ALIASES.get(name_of(name), name_of(name))
        if model not in backbones._catalogue._families():
            return load(name)  # a model that is only timm's
        file = official(name)
        fits = weights.recognise(weights.checkpoint(file))
        assert model in fits
        tags = sum(not source.dense for fit in fits for source in weights.sources(fit))
        entry, _ = weights.import_file(file, weights.source(model).name if tags > 1 else None)
        assert entry.model == model
        return timm.create_model(entry.model, pretrained=True).eval().double()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKBONES_CACHE", str(folder))
        yield load_imported
    shutil.rmtree(folder)


def noise(seed: int, shape) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


def spread(x: Tensor) -> Tensor:
    """The 512 values that the goldens keep; their positions were rounded from float32."""
    x = x.detach().reshape(-1)
    return x[torch.linspace(0, len(x) - 1, 512).round().long()]


def error(got, want) -> float:
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


def our_module(official: str, golden: dict, model: nn.Module) -> nn.Module:
    """The module of ours that holds what the official module `official` does, found through the key mapping."""
    family = backbones._catalogue._families()[model.default_cfg["architecture"]]
    remap = getattr(backbones, family).remap
    keys = [e["key"] for e in golden["state_dict"] if e["key"].startswith(official + ".")]
    ours = remap(dict.fromkeys(keys), model)
    paths = [key.split(".")[:-1] for key in ours]
    if all(path[0] == "stages" for path in paths):  # an official stage may end in what begins our next one
        last = max(path[1] for path in paths)
        paths = [path for path in paths if path[1] == last]
    shared = takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False))
    return model.get_submodule(".".join(names[0] for names in shared))


def in_layout_of(x: Tensor, shape: list[int]) -> Tensor:
    """Our (B, C, H, W) or (B, H, W, C) map in the reference's layout: one of the two, or (B, tokens, C)."""
    if len(shape) == 3:
        x = (x.permute(0, 2, 3, 1) if x.shape[1] == shape[-1] else x).flatten(1, 2)
    elif list(x.shape) != shape:
        x = next((y for y in (x.permute(0, 3, 1, 2), x.permute(0, 2, 3, 1)) if list(y.shape) == shape), x)
    assert list(x.shape) == shape
    return x


CASES = [(name, "x".join(map(str, run["size"]))) for name, golden in GOLDENS.items() for run in golden["forward"]]


@pytest.mark.parametrize("name, size", CASES)
def test_outputs_gradients_and_features(name, size, load_imported):
    golden, model = GOLDENS[name], load_imported(name)
    (entry,) = (run for run in golden["forward"] if "x".join(map(str, run["size"])) == size)
    values = np.load(FOLDER / f"{name}.npz")

    maps = {}
    for feature in entry["features"]:
        module = our_module(feature["module"], golden, model)
        module.register_forward_hook(lambda _m, _i, out, key=feature["module"]: maps.__setitem__(key, out))
    x = noise(0, (entry["batch"], 3, *entry["size"])).requires_grad_()
    out = model(x)
    (out * noise(1, entry["out_shape"])).sum().backward()

    assert sum(p.numel() for p in model.parameters()) == golden["n_params"]
    assert error(out.detach(), values[f"{size}/out"]) <= TOLERANCE
    assert error(spread(x.grad), values[f"{size}/input_grad"]) <= TOLERANCE
    assert error(x.grad.norm(), entry["input_grad_l2"]) <= TOLERANCE
    for i, feature in enumerate(entry["features"]):
        got = in_layout_of(maps[feature["module"]], feature["shape"])
        assert error(spread(got), values[f"{size}/feature{i}"]) <= TOLERANCE, feature
        assert error(got.detach().norm(), feature["l2"]) <= TOLERANCE, feature


@pytest.mark.parametrize("name", [name for name, golden in GOLDENS.items() if golden["train"]])
def test_training_losses(name, load):
    golden, model = GOLDENS[name], load(name)
    train = golden["train"]
    x = noise(train["input_seed"], (train["batch"], 3, *train["size"]))
    target = torch.tensor([(37 * b + 5) % model.num_classes for b in range(train["batch"])])
    optimizer = torch.optim.SGD(model.parameters(), lr=train["lr"])
    losses = []
    for _ in train["losses"]:
        loss = F.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert error(losses, train["losses"]) <= TOLERANCE


@pytest.mark.parametrize("name", GOLDENS)
def test_reference_ops_give_the_same_output(name, load):
    golden, model = GOLDENS[name], load(name)
    entry = golden["forward"][0]
    values = np.load(FOLDER / f"{name}.npz")
    with torch.inference_mode(), backbones.ops.prefer("reference"):
        out = model(noise(0, (entry["batch"], 3, *entry["size"])))
    assert error(out, values["x".join(map(str, entry["size"])) + "/out"]) <= TOLERANCE

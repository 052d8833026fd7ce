"""A folder for the Hugging Face hub, which timm also loads from disk (`local-dir:FOLDER`)."""

from pathlib import Path

import timm
from huggingface_hub import ModelCardData
from timm.data import ImageNetInfo
from timm.models import save_for_hf
from torch import nn

from .. import _catalogue
from . import cache
from .sources import Source, source


def export(name: str, target: str | Path) -> Path:
    """Writes model.safetensors, config.json and the model card README.md of `model.tag` to the new folder `target`.

    The weights are those that `pretrained=True` loads. Raises ValueError for a folder that is not empty and for the
    backbone of a detector, which timm cannot load from a folder.
    """
    entry, target = source(name), Path(target)
    if entry.dense:
        raise ValueError(f"{entry.name} is a detector's or segmentor's backbone; export a classifier")
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target} is not empty")
    model = timm.create_model(entry.name, pretrained=True)
    save_for_hf(model, str(target), model_config=_labels(entry), safe_serialization=True)
    (target / "README.md").write_text(card(entry, model), encoding="utf-8")
    return target


def card(entry: Source, model: nn.Module) -> str:
    """The model card: provenance, licence, preprocessing, published results."""
    info = _catalogue.info(entry.name) if entry.facts else None
    license = info.license if info else None
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["timm", "image-classification", "backbones"],
        license=license.lower() if license else "unknown",
        datasets=["imagenet-1k"] if entry.facts.get("dataset") == "ImageNet-1K" else None,
    )
    lines = ["---", data.to_yaml(), "---", f"# {entry.name}", ""]
    if info:
        lines += [
            f"{info.official_name} of [{info.paper['title']}]({info.paper['url']}) ({info.paper['venue']}), converted "
            "from the authors' file.",
            "",
            f"- Code: {info.repository} @ {info.commit}",
            f"- Licence: {license or 'none was found; ask the authors before you publish a copy'}",
            f"- Size: {info.params / 1e6:.1f} M parameters, {info.gmacs:.2f} GMACs at {info.input_size} pixels a side",
            f"- Data: {entry.facts['dataset']}, {entry.facts['num_classes']} classes",
            f"- Top-1: {'not published' if info.top1 is None else f'{info.top1}% as published, not measured again'}",
            f"- Source: {entry.url or entry.page}",
        ]
    if known := cache.record(entry.name):
        lines.append(f"- Source file: {known['source_file']}, sha256 {known['source_sha256']}")
    config = timm.data.resolve_data_config({}, model=model)
    kept = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    lines += [
        f"- Preprocessing: {', '.join(f'{key} {config[key]}' for key in kept)}",
        "",
        "```python",
        "import backbones  # pip install attention-backbones",
        "import timm",
        "",
        'model = timm.create_model("hf-hub:OWNER/REPOSITORY", pretrained=True)',
        "```",
        "",
    ]
    return "\n".join(lines)


def _labels(entry: Source) -> dict:
    if not entry.facts.get("classes"):
        return {}
    return dict(label_names=ImageNetInfo(entry.facts["classes"]).label_names())

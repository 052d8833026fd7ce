"""What the zoo holds: `list_models()` names the models, `info(name)` tells what is known of one.

Every fact comes from `zoo_weights/<family>.json`, where <family> is the name of the family's module:

    family, license      names, as their authors give them (license null: none was found)
    paper                title, venue, url
    repository, commit   the official code, as it was read
    models               name -> record, in the order in which tables show them:
        official_name, official_entrypoint
        params           exact, with this model's classifier     } written by tools/catalogue.py, checked by tests
        gmacs            10^9 multiply-adds of one image          } (papers call these FLOPs)
        input_size       pixels a side
        note             why a published number is more than 2% off ours, or null
        weights          tag -> checkpoint, timm's default first:
            url, host, file, sha256
            download_page    only where `url` is no direct link: a person fetches the file there
            dataset, num_classes, input_size, crop_pct, interpolation, mean, std
            classes          the names of the classes, in order: a subset of timm.data.ImageNetInfo
            crop_mode        only where it is not "center"
            top1             published, in %
            params, gmacs    only where they are not the record's: another classifier or size
            note             only where there is something to say of this file
        dense            tag -> checkpoint of a detector or segmentor on this backbone (may be absent):
            task, method, dataset, input_size
            url, host, file, sha256, download_page, note     as above
            sha256_prefix    only where the name of the file has the beginning of its hash
        published        results in print: task, dataset, input_size, pretraining, method, params_M, flops_G,
                         top1 (mCE for ImageNet-C), box_mAP, mask_mAP, mIoU (those the task has), throughput,
                         source, note

null: nobody published it. A record may override paper, repository, commit and license.
"""

import copy
import difflib
import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, repr=False)
class ModelInfo:
    """A model with one of its sets of weights; `repr` is a card to read."""

    name: str
    tag: str  # of the weights that input_size, top1, params and gmacs belong to; "" if there are none
    family: str
    paper: dict[str, str]  # title, venue, url
    repository: str
    commit: str
    license: str | None
    official_name: str
    official_entrypoint: str
    params: int
    gmacs: float  # 10^9 multiply-adds of one image of input_size
    input_size: int  # pixels a side
    top1: float | None  # published, in %
    weights: dict[str, dict[str, Any]]  # tag -> url, host, file, sha256, dataset, preprocessing
    dense: dict[str, dict[str, Any]]  # tag -> checkpoint of a detector or segmentor: url, host, file, sha256, task
    published: list[dict[str, Any]]  # results on classification, detection, segmentation, with their sources
    note: str | None

    def __repr__(self) -> str:
        size = self.input_size
        tasks = dict.fromkeys(result["task"] for result in self.published)
        lines = {
            "paper": f"{self.paper['title']} ({self.paper['venue']}), {self.paper['url']}",
            "code": f"{self.repository} @ {self.commit[:7]}, {self.license or 'no license found'}",
            "size": f"{self.params / 1e6:.1f} M parameters, {self.gmacs:.2f} GMACs at {size} x {size}",
            "top-1": "not published" if self.top1 is None else f"{self.top1}% at {size} x {size}, published",
            "weights": "\n           ".join(map(self._where, self.weights)) or "none published",
            "dense": ", ".join(self.dense),
            "results": ", ".join(f"{sum(r['task'] == task for r in self.published)} {task}" for task in tasks),
            "note": self.note,
        }
        name = f"{self.name}.{self.tag}" if self.tag else self.name
        return f"{name} ({self.official_name})" + "".join(f"\n  {k:<8} {v}" for k, v in lines.items() if v)

    def _where(self, tag: str) -> str:
        weights = self.weights[tag]
        page = weights.get("download_page")
        how = f"by hand from {page}" if page else "direct link"
        return f"{tag} ({weights['dataset']}), {how}{f' ({note})' if (note := weights.get('note')) else ''}"


def list_models(filter: str = "", family: str | None = None, pretrained: bool = False) -> list[str]:
    """This zoo's models; `filter` may hold the wildcards * and ?.

    `family` is the name of a family's module, in any case. `pretrained` lists `name.tag` for the weights that
    `timm.create_model(..., pretrained=True)` can download. The small models for tests show up for a `filter` that
    starts with "test_".
    """
    import timm  # here, so that this module imports nothing that costs

    families = _families()
    if family is not None and family.lower() not in families.values():
        raise ValueError(f'no family "{family}"; there are {", ".join(sorted(set(families.values())))}')
    return [
        name
        for name in timm.list_models(filter, pretrained=pretrained)
        if (base := name.split(".")[0]) in families
        and (family is None or families[base] == family.lower())
        and name.startswith("test_") == filter.startswith("test_")
    ]


def info(name: str) -> ModelInfo:
    """Everything known of a model; `name` may be official (`biformer_small`) and may carry a tag (`biformer_s.in1k`).

    Raises ValueError for an unknown name or tag, saying which are near.
    """
    from ._backbone import ALIASES

    records = _records()
    base, _, tag = name.partition(".")
    model = ALIASES.get(base, base)
    if model not in records:
        near = difflib.get_close_matches(base, [*records, *ALIASES], cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "backbones.list_models() names all"
        raise ValueError(f'the zoo has no model "{base}": {hint}')
    family, record = records[model]
    weights = record["weights"]
    tag = tag or next(iter(weights), "")
    if tag and tag not in weights:
        raise ValueError(f'{model} has no weights "{tag}"; there are {", ".join(weights) or "none"}')
    of_weights = {key: value for key, value in weights.get(tag, {}).items() if key != "note"}
    facts = dict(top1=_top1(record), dense={}) | family | record | of_weights
    fields = {key: value for key, value in facts.items() if key in ModelInfo.__dataclass_fields__}
    return ModelInfo(**copy.deepcopy(fields) | dict(name=model, tag=tag))


def _top1(record: dict) -> float | None:
    """What was published for the model; a set of weights knows its own."""
    return next(
        (r["top1"] for r in record["published"] if r.get("top1") and r["input_size"] == record["input_size"]), None
    )


def _families() -> dict[str, str]:
    """Registered model -> its family's module, without the package."""
    import timm

    package = f"{__package__}."
    modules = {name: timm.model_entrypoint(name).__module__ for name in timm.list_models()}
    ours = {name: module.removeprefix(package) for name, module in modules.items() if module.startswith(package)}
    loaded = {name.removeprefix(package): module for name, module in sys.modules.items() if name.startswith(package)}
    timms = {name: family for family, module in loaded.items() for name in getattr(module, "TIMM_MODELS", ())}
    return ours | timms


def remaps() -> dict[str, Callable[[dict, Any], dict]]:
    """Every model of the zoo, those of timm's that it takes in included -> `remap` of its family's module."""
    return {name: sys.modules[f"{__package__}.{family}"].remap for name, family in _families().items()}


@functools.cache
def _records() -> dict[str, tuple[dict, dict]]:
    """Model -> its family's facts and its own."""
    families = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(_folder().glob("*.json"))]
    return {name: (family, record) for family in families for name, record in family["models"].items()}


def _folder() -> Path:
    here = Path(__file__).parent
    installed = here / "zoo_weights"
    return installed if installed.is_dir() else here.parent / "zoo_weights"  # the latter in a checkout

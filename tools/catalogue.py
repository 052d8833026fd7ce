"""Measures every model of the zoo and writes what it finds to zoo_weights/*.json and to the table in README.md.

python tools/catalogue.py
"""

import json
import re
from pathlib import Path

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import backbones

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TABLE = re.compile(r"(?<=<!-- models -->\n).*?(?=<!-- /models -->)", re.DOTALL)


def measure(name: str, size: int | None = None) -> dict[str, int | float]:
    """Parameters and 10^9 multiply-adds of one image of `size` (None: the model's own), on the meta device."""
    with torch.device("meta"):
        model = timm.create_model(name).eval()
    chans, height, width = model.pretrained_cfg["input_size"]
    image = torch.empty(1, chans, size or height, size or width, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter, backbones.ops.prefer("reference"):
        model(image)
    return dict(
        params=sum(p.numel() for p in model.parameters()),
        gmacs=round(counter.get_total_flops() / 2e9, 3),
    )


def measured(family: dict) -> dict:
    """A family's facts with what we measure brought up to date."""
    for name, record in family["models"].items():
        record |= measure(name)
        for tag, weights in record["weights"].items():
            for key, value in measure(f"{name}.{tag}").items():
                weights.pop(key, None)
                if value != record[key]:
                    weights[key] = value
    return family


def dump(family: dict) -> str:
    """JSON with the innermost objects and lists on one line each."""
    text = json.dumps(family, indent=2, ensure_ascii=False)
    return re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda inner: re.sub(r"\n\s*", " ", inner[0]), text) + "\n"


def table() -> str:
    lines = [
        "| Model | Paper | Parameters | GMACs | Input | Top-1 | Weights |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for family in map(_read, _files()):
        for name in family["models"]:
            info = backbones.info(name)
            tags = [f"[{tag}]({w.get('download_page', w['url'])})" for tag, w in info.weights.items()]
            cells = [
                f"`{name}`",
                f"[{info.official_name}]({info.paper['url']})",
                f"{info.params / 1e6:.1f} M",
                f"{info.gmacs:.1f}",
                f"{info.input_size}",
                "" if info.top1 is None else f"{info.top1:.1f}",
                ", ".join(tags),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    for path in _files():
        path.write_text(dump(measured(_read(path))), encoding="utf-8")
    backbones._catalogue._records.cache_clear()
    README.write_text(TABLE.sub(lambda _: table(), README.read_text(encoding="utf-8")), encoding="utf-8")


def _files() -> list[Path]:
    return sorted((ROOT / "zoo_weights").glob("*.json"))


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

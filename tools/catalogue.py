"""Measures every model of the zoo; writes zoo_weights/*.json, the table in README.md, and docs/models.md.

python tools/catalogue.py
"""

import json
import re
from pathlib import Path

import timm
import torch

import backbones
from backbones import flops

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MODELS = ROOT / "docs" / "models.md"
TABLE = re.compile(r"(?<=<!-- models -->\n).*?(?=<!-- /models -->)", re.DOTALL)


def measure(name: str, size: int | None = None) -> dict[str, int | float]:
    """Parameters and 10^9 multiply-adds of one image of `size` (None: the model's own), on the meta device."""
    with torch.device("meta"):
        model = timm.create_model(name).eval()
    counted = flops.count(model, size)
    return dict(params=counted.params, gmacs=round(counted.gmacs, 3))


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


def side_by_side() -> str:
    """docs/models.md: what was published of each model next to what we count."""
    lines = [
        "# Published and counted",
        "",
        "Parameters and GMACs (10^9 multiply-adds of one image; papers write FLOPs) as published and as",
        "`python tools/catalogue.py` counts them: convolutions, linear layers and matrix products, attention included.",
        "The tests count them again; a difference of more than 2% has a reason below the table. Top-1 is published.",
        "",
        "| Model | Input | M parameters, published | counted | GMACs, published | counted | difference | Top-1, % |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    reasons = []
    for family in map(_read, _files()):
        for name, record in family["models"].items():
            rows = [r for r in record["published"] if r["dataset"] == "ImageNet-1K" and r["task"] == "classification"]
            counts = {record["input_size"]: record["gmacs"]}
            counts |= {w["input_size"]: w["gmacs"] for w in record["weights"].values() if "gmacs" in w}
            for size, gmacs in counts.items():
                row = next(
                    (r for r in rows if r["input_size"] == size and r["flops_G"]),
                    dict.fromkeys(["params_M", "flops_G", "top1"]),
                )
                off = "" if row["flops_G"] is None else f"{gmacs / row['flops_G'] - 1:+.1%}"
                cells = [
                    f"`{name}`",
                    size,
                    row["params_M"],
                    f"{record['params'] / 1e6:.2f}",
                    row["flops_G"],
                    f"{gmacs:.3f}",
                    off,
                    row["top1"],
                ]
                lines.append(f"| {' | '.join('' if cell is None else str(cell) for cell in cells)} |")
            if record["note"]:
                reasons.append(f"- `{name}`: {record['note']}")
    return "\n".join([*lines, "", *reasons]) + "\n"


def main() -> None:
    for path in _files():
        path.write_text(dump(measured(_read(path))), encoding="utf-8")
    backbones._catalogue._records.cache_clear()
    MODELS.parent.mkdir(exist_ok=True)
    MODELS.write_text(side_by_side(), encoding="utf-8")
    README.write_text(TABLE.sub(lambda _: table(), README.read_text(encoding="utf-8")), encoding="utf-8")


def _files() -> list[Path]:
    return sorted((ROOT / "zoo_weights").glob("*.json"))


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

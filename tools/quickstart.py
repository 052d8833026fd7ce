"""Trains, validates and applies a model of the zoo on real handwritten digits, offline, in minutes on two cores.

The digits are scikit-learn's: 1,797 scans of 8 x 8 pixels (Alpaydin and Kaynak, UCI, 1998), written as PNGs. Every
fifth scan of a class, in the order of the file, is for validation. Run it again and it goes on where it stopped.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import predict
import train
import validate
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_digits

from backbones.classification import cli

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "classification" / "digits.yaml"


def write_digits(folder: Path) -> None:
    """folder/train/<digit>/<number>.png and folder/validation/..., 32 x 32, grey."""
    if (folder / "complete").is_file():
        return
    digits = load_digits()
    seen = dict.fromkeys(range(10), 0)
    for number, (image, target) in enumerate(zip(digits.images, digits.target, strict=True)):
        seen[int(target)] += 1
        split = "validation" if seen[int(target)] % 5 == 0 else "train"
        path = folder / split / str(target) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = np.rint(image * (255 / 16)).astype(np.uint8)
        Image.fromarray(grey).resize((32, 32), Image.Resampling.BICUBIC).save(path)
    (folder / "complete").touch()


def draw(report: Path, picture: Path, right: int = 30) -> tuple[int, int]:
    """The wrong predictions, all of them, above some right ones; returns how many are wrong and how many there are."""
    predictions = json.loads(report.read_text(encoding="utf-8"))["predictions"]
    scans = load_digits().images
    cells = [(p, Path(p["path"]).parent.name) for p in predictions]
    wrong = [cell for cell in cells if cell[0]["classes"][0] != cell[1]]
    correct = [cell for cell in cells if cell[0]["classes"][0] == cell[1]]
    correct = correct[:: max(1, len(correct) // right)][:right]
    columns = 10
    groups = [
        (f"all {len(wrong)} wrong of {len(cells)}", wrong, "#c0392b"),
        (f"{len(correct)} of the {len(cells) - len(wrong)} right", correct, "#1e8449"),
    ]
    groups = [group for group in groups if group[1]]
    heights = [-(-len(members) // columns) * 1.3 + 0.45 for _, members, _ in groups]
    figure = Figure(figsize=(columns * 0.95, sum(heights)), layout="constrained")
    parts = np.atleast_1d(figure.subfigures(len(groups), 1, height_ratios=heights))
    for part, (title, members, colour) in zip(parts, groups, strict=True):
        part.suptitle(title, fontsize=12, color=colour, x=0.01, ha="left", weight="bold")
        for i, axes in enumerate(part.subplots(-(-len(members) // columns), columns, squeeze=False).flat):
            axes.set_axis_off()
            if i >= len(members):
                continue
            prediction, truth = members[i]
            axes.imshow(scans[int(Path(prediction["path"]).stem)], cmap="gray_r", interpolation="nearest")
            guess = prediction["classes"][0]
            label = guess if guess == truth else f"{guess}, is {truth}"
            axes.set_title(f"{label}\n{prediction['probabilities'][0]:.0%}", fontsize=9, color=colour)
    FigureCanvasAgg(figure).print_png(str(picture))
    return len(wrong), len(cells)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="runs/quickstart", help="where data, checkpoints and pictures go")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to digits.yaml")
    args = parser.parse_args(argv)
    output = Path(args.output)
    write_digits(output / "digits")
    run = output / "run"
    train.main([str(CONFIG), f"data.root={output / 'digits'}", f"run.output={run}", "run.resume=true", *args.overrides])
    best = str(run / "model_best.pth.tar")
    print("\nThe best checkpoint on the validation scans:")
    validate.main([best, "--json", str(output / "validation.json"), "--workers", "0"])
    report = output / "predictions.json"
    scans = [str(folder) for folder in sorted((output / "digits" / "validation").iterdir())]
    predictions, _ = predict.run(predict.parse([*scans, "--checkpoint", best, "--json", str(report), "--topk", "2"]))
    predict.show(predictions[:: max(1, len(predictions) // 10)])
    wrong, total = draw(report, output / "predictions.png")
    print(f"{total - wrong} of {total} right ({100 * (1 - wrong / total):.2f}%)")
    print(f"pictures: {output / 'predictions.png'}, {run / 'curves.png'}")
    return 0


if __name__ == "__main__":
    cli.run(main)

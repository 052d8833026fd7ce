"""Small data sets in the formats of COCO and ADE20K, made from real images: python tools/tiny_datasets.py FOLDER

Scikit-learn's scans of handwritten digits (Alpaydin and Kaynak, UCI, 1998) lie on crops of its two photographs
(of Flickr's danielbuechele and vultilion, CC BY 2.0). Validation has other scans and other parts of
the photographs than training. Both data sets show the same scenes, with every pixel's label known exactly.

FOLDER/coco    train2017, val2017, annotations/instances_{train,val}2017.json: boxes, run-length masks, areas. Some
               scenes have a heap of digits, which is one instance with iscrowd 1.
FOLDER/ade20k  images/{training,validation}, annotations/{training,validation}: label maps of 0 (unlabelled: the blurred
               edge of a digit, and heaps), 1 (photograph), 2 ... (digits), to be read with reduce_zero_label.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

from backbones.classification import cli

SPLITS = dict(train=("train2017", "training"), val=("val2017", "validation"))
INK, BLUR = 0.5, 0.1  # shares of a digit's colour: from INK on a pixel is the digit's, from BLUR on it is unlabelled


@dataclass
class Instance:
    label: int  # of the classes
    mask: np.ndarray  # (H, W) bool, what is seen of it
    crowd: bool = False


@dataclass
class Scene:
    image: np.ndarray  # (H, W, 3) uint8
    instances: list[Instance]
    unlabelled: np.ndarray  # (H, W) bool


class Scenes:
    """Random scenes of one split: the same for the same arguments, whatever was drawn before."""

    def __init__(self, split: str, classes: Sequence[int], size: int = 256, seed: int = 0):
        if not classes or not set(classes) <= set(range(10)):
            raise ValueError(f"classes are digits from 0 to 9, not {list(classes)}")
        if not 64 <= size <= 256:
            raise ValueError(f"scenes are of 64 to 256 pixels, not {size}")
        self.split, self.classes, self.size, self.seed = split, tuple(classes), size, seed
        digits = load_digits()
        self.scans: list[np.ndarray] = []  # by label, (N, 8, 8) from 0 to 1
        for digit in self.classes:
            scans = digits.images[digits.target == digit] / 16
            held_out = np.arange(len(scans)) % 5 == 4
            self.scans.append(scans[held_out if split == "val" else ~held_out])
        self.photos = []
        for name in ("china.jpg", "flower.jpg"):
            photo = load_sample_image(name)  # 427 x 640
            border = photo.shape[1] * 3 // 5
            self.photos.append(photo[:, border:] if split == "val" else photo[:, :border])

    def __getitem__(self, index: int) -> Scene:
        rng = np.random.default_rng([self.seed, list(SPLITS).index(self.split), index])
        image = self._background(rng)
        scene = Scene(image, [], np.zeros(image.shape[:2], bool))
        taken = np.zeros(image.shape[:2], bool)
        if rng.random() < 0.2:
            self._add_heap(scene, taken, rng)
        for _ in range(rng.integers(1, 5)):
            side = int(rng.integers(self.size // 4, self.size // 2))
            if (corner := _free(taken, side, rng)) is not None:
                label = int(rng.integers(len(self.classes)))
                alpha = self._digit(label, side, rng)
                self._paint(scene, alpha, corner, rng)
                scene.instances.append(Instance(label, _placed(alpha >= INK, corner, taken.shape)))
                _window(taken, corner, side)[:] = True
        return scene

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        photo = self.photos[rng.integers(len(self.photos))]
        height, width = (int(self.size * rng.uniform(0.75, 1)) for _ in range(2))
        top, left = (int(rng.integers(0, n - m + 1)) for n, m in zip(photo.shape[:2], (height, width), strict=True))
        crop = photo[top : top + height, left : left + width]
        return np.array(crop[:, ::-1] if rng.random() < 0.5 else crop)

    def _digit(self, label: int, side: int, rng: np.random.Generator) -> np.ndarray:
        """The share of ink of a random scan, (side, side) from 0 to 1."""
        scan = self.scans[label][rng.integers(len(self.scans[label]))]
        ink = Image.fromarray(np.float32(scan)).resize((side, side), Image.Resampling.BICUBIC)
        return np.clip(np.asarray(ink) * 2 - 0.5, 0, 1)  # steeper, so that edges are sharp

    def _paint(self, scene: Scene, alpha: np.ndarray, corner: tuple[int, int], rng: np.random.Generator) -> None:
        """A digit in a colour far from what is below; all that it blurs is unlabelled."""
        spot = _window(scene.image, corner, len(alpha))
        dark = spot.mean() > 127
        colour = rng.integers(0, 60, 3) if dark else rng.integers(195, 256, 3)
        share = alpha[..., None]
        spot[:] = np.rint(spot * (1 - share) + colour * share).astype(np.uint8)
        _window(scene.unlabelled, corner, len(alpha))[:] |= (alpha >= BLUR) & (alpha < INK)

    def _add_heap(self, scene: Scene, taken: np.ndarray, rng: np.random.Generator) -> None:
        """Small digits of one class over one another, which nobody could tell apart."""
        side = self.size // 3
        if (corner := _free(taken, side, rng)) is None:
            return
        mask, small, label = np.zeros(taken.shape, bool), side // 2, int(rng.integers(len(self.classes)))
        for _ in range(6):
            spot = tuple(c + int(rng.integers(0, side - small + 1)) for c in corner)
            alpha = self._digit(label, small, rng)
            self._paint(scene, alpha, spot, rng)
            mask |= _placed(alpha >= INK, spot, mask.shape)
        scene.instances.append(Instance(label, mask, crowd=True))
        _window(taken, corner, side)[:] = True


def _window(array: np.ndarray, corner: tuple[int, int], side: int) -> np.ndarray:
    return array[corner[0] : corner[0] + side, corner[1] : corner[1] + side]


def _placed(mask: np.ndarray, corner: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    whole = np.zeros(shape, bool)
    _window(whole, corner, len(mask))[:] = mask
    return whole


def _free(taken: np.ndarray, side: int, rng: np.random.Generator, tries: int = 20) -> tuple[int, int] | None:
    """The corner of a free square, if one was found."""
    for _ in range(tries):
        corner = tuple(int(rng.integers(0, n - side + 1)) for n in taken.shape)
        if not _window(taken, corner, side).any():
            return corner
    return None


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed code: lengths of runs of 0, 1, 0, ... down the columns."""
    pixels = np.concatenate([[0], mask.flatten(order="F").astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(pixels))  # runs of 1 begin and end here
    lengths = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    return lengths if lengths[-1] or len(lengths) == 1 else lengths[:-1]


def annotation(instance: Instance) -> dict:
    """COCO's record, without ids: the tightest box [x, y, width, height] in pixels, the mask, its area."""
    rows, columns = (np.flatnonzero(instance.mask.any(axis)) for axis in (1, 0))
    box = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    return dict(
        category_id=instance.label + 1,
        bbox=[float(side) for side in box],
        area=int(instance.mask.sum()),
        iscrowd=int(instance.crowd),
        segmentation=dict(size=list(instance.mask.shape), counts=run_lengths(instance.mask)),
    )


def label_map(scene: Scene) -> np.ndarray:
    """ADE20K's label map, (H, W) uint8."""
    labels = np.ones(scene.image.shape[:2], np.uint8)
    labels[scene.unlabelled] = 0
    for instance in scene.instances:
        labels[instance.mask] = 0 if instance.crowd else instance.label + 2
    return labels


def write(folder: Path, classes: Sequence[int], train: int, val: int, size: int = 256, seed: int = 0) -> None:
    """Both data sets. Raises ValueError for classes or sizes that cannot be."""
    for split, count in (("train", train), ("val", val)):
        coco_name, ade_name = SPLITS[split]
        scenes = Scenes(split, classes, size, seed)
        folders = [folder / "coco" / coco_name, folder / "coco" / "annotations"]
        folders += [folder / "ade20k" / kind / ade_name for kind in ("images", "annotations")]
        for path in folders:
            path.mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for i in range(count):
            scene = scenes[i]
            number, (height, width) = i + 1, scene.image.shape[:2]
            picture = Image.fromarray(scene.image)
            name = f"{number:012d}.jpg"
            picture.save(folders[0] / name, quality=95)
            images.append(dict(id=number, file_name=name, height=height, width=width))
            for instance in scene.instances:
                annotations.append(dict(id=len(annotations) + 1, image_id=number) | annotation(instance))
            name = f"ADE_{split}_{number:08d}"
            picture.save(folders[2] / f"{name}.jpg", quality=95)
            Image.fromarray(label_map(scene)).save(folders[3] / f"{name}.png")
        categories = [dict(id=i + 1, name=str(digit)) for i, digit in enumerate(classes)]
        content = dict(images=images, annotations=annotations, categories=categories)
        (folders[1] / f"instances_{coco_name}.json").write_text(json.dumps(content), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", nargs="+", type=int, default=[0, 1, 4], metavar="DIGIT")
    parser.add_argument("--train", type=int, default=400, help="scenes to train on")
    parser.add_argument("--val", type=int, default=100, help="scenes held out")
    parser.add_argument("--size", type=int, default=256, help="of the longest possible side, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    write(args.folder, args.classes, args.train, args.val, args.size, args.seed)
    print(f"{args.train} + {args.val} scenes in {args.folder / 'coco'} and {args.folder / 'ade20k'}")
    return 0


if __name__ == "__main__":
    cli.run(main)

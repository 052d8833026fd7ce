"""The tiny data sets: labels are exactly what is in the images, validation shares nothing with training."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from tools import tiny_datasets as tiny

CLASSES = (0, 1, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    tiny.write(path, CLASSES, train=12, val=4, size=96)
    return path


def decoded(code: dict) -> np.ndarray:
    """COCO's run lengths to a mask: 0s, 1s, 0s ... down the columns."""
    values = np.arange(len(code["counts"])) % 2
    return np.repeat(values, code["counts"]).reshape(code["size"], order="F").astype(bool)


def annotations(folder, split) -> dict:
    return json.loads((folder / "coco" / "annotations" / f"instances_{split}2017.json").read_text())


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_decode_to_the_scenes_pixels_and_boxes_are_tight(folder, split):
    content, scenes = annotations(folder, split), tiny.Scenes(split, CLASSES, 96)
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"]) > 0
    for image in content["images"]:
        scene = scenes[image["id"] - 1]
        found = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert len(found) == len(scene.instances)
        assert (image["height"], image["width"]) == scene.image.shape[:2]
        for record, instance in zip(found, scene.instances, strict=True):
            mask = decoded(record["segmentation"])
            np.testing.assert_array_equal(mask, instance.mask)
            assert record["category_id"] == instance.label + 1 and record["iscrowd"] == instance.crowd
            x, y, width, height = map(int, record["bbox"])
            assert mask[y : y + height, x : x + width].sum() == mask.sum() == record["area"] > 0
            inside = mask[y : y + height, x : x + width]
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")
def test_pycocotools_reads_the_same_masks(folder):
    api = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed").COCO
    coco = api(folder / "coco" / "annotations" / "instances_train2017.json")
    for record in coco.loadAnns(coco.getAnnIds()):
        np.testing.assert_array_equal(coco.annToMask(record), decoded(record["segmentation"]))


def test_instances_do_not_overlap_and_some_are_crowds(folder):
    content = annotations(folder, "train")
    for image in content["images"]:
        masks = [decoded(a["segmentation"]) for a in content["annotations"] if a["image_id"] == image["id"]]
        assert np.sum(masks, axis=0).max() <= 1
    crowds = [tiny.Scenes("train", CLASSES, 96)[i].instances[0].crowd for i in range(60)]
    assert 0 < sum(crowds) < 30


@pytest.mark.parametrize("split, name", [("train", "training"), ("val", "validation")])
def test_label_maps_say_what_the_scenes_hold(folder, split, name):
    scenes = tiny.Scenes(split, CLASSES, 96)
    maps = sorted((folder / "ade20k" / "annotations" / name).iterdir())
    for i, path in enumerate(maps):
        labels, scene = np.asarray(Image.open(path)), scenes[i]
        with Image.open(folder / "ade20k" / "images" / name / f"{path.stem}.jpg") as image:
            assert labels.shape == (image.height, image.width)
        for instance in scene.instances:
            assert (labels[instance.mask] == (0 if instance.crowd else instance.label + 2)).all()
        covered = np.any([instance.mask for instance in scene.instances], axis=0)
        assert set(np.unique(labels[~covered])) <= {0, 1}
        assert (labels == 1).mean() > 0.3


def test_digits_differ_from_what_is_below_them(folder):
    """The ink is where the mask says: the image there is far from the photograph's mean, in a direction of its own."""
    scenes = tiny.Scenes("train", CLASSES, 96)
    for i in range(12):
        for instance in scenes[i].instances:
            if not instance.crowd:
                ink = scenes[i].image[instance.mask].astype(float)
                assert ink.mean() < 110 or ink.mean() > 145
                assert ink.std(axis=0).mean() < 60  # one colour


def test_the_same_arguments_give_the_same_files(folder, tmp_path):
    tiny.write(tmp_path, CLASSES, train=12, val=4, size=96)
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert len(names) == 2 + 3 * 16
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_validation_has_other_scans_and_other_parts_of_the_photographs():
    train, val = tiny.Scenes("train", CLASSES), tiny.Scenes("val", CLASSES)
    for ours, theirs in zip(train.scans, val.scans, strict=True):
        assert len(theirs) >= 30 and not {scan.tobytes() for scan in ours} & {scan.tobytes() for scan in theirs}
    for name, ours, theirs in zip(("china.jpg", "flower.jpg"), train.photos, val.photos, strict=True):
        np.testing.assert_array_equal(np.concatenate([ours, theirs], axis=1), load_sample_image(name))


@pytest.mark.parametrize("mask", [[[0, 0], [0, 0]], [[1, 1], [1, 1]], [[1, 0], [0, 0]], [[0, 0], [0, 1]]])
def test_run_lengths_of_masks_at_the_edges(mask):
    mask = np.array(mask, bool)
    counts = tiny.run_lengths(mask)
    assert sum(counts) == 4
    np.testing.assert_array_equal(decoded(dict(size=[2, 2], counts=counts)), mask)


def test_what_cannot_be_is_named(tmp_path):
    with pytest.raises(ValueError, match="digits from 0 to 9, not"):
        tiny.write(tmp_path, [3, 12], 1, 1)
    with pytest.raises(ValueError, match="64 to 256 pixels, not 600"):
        tiny.write(tmp_path, [3], 1, 1, size=600)

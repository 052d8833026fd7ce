"""Training, evaluation, prediction and profiling of detectors and segmentors, on tiny data of real formats."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

REASON = "needs mmengine, mmdet and mmseg (tools/install_mm.sh)"
for package in ("mmdet", "mmseg"):
    pytest.importorskip(package, reason=REASON)

from backbones.dense import checkpoints, config, data  # noqa: E402
from tools import predict, tiny_datasets, train, validate  # noqa: E402

pytestmark = [  # of the libraries, about themselves
    pytest.mark.filterwarnings(f"ignore::{kind}:{module}")
    for kind in ("UserWarning", "DeprecationWarning", "FutureWarning", "ImportWarning")
    for module in ("mmengine", "mmcv", "mmdet", "mmseg", "pycocotools", "torch")
] + [
    pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

ROOT = Path(__file__).parents[1]
DETECTION = ROOT / "configs/detection/tiny_mask_rcnn.py"
SEGMENTATION = ROOT / "configs/segmentation/tiny_fpn.py"
FAST = ("train_dataloader.num_workers=0", "val_dataloader.num_workers=0", "test_dataloader.num_workers=0")
SMALL_FPN = (*FAST, "train_dataloader.batch_size=2")
SMALL_RCNN = (*FAST, "train_dataloader.batch_size=2", "train_dataloader.dataset.pipeline.2.scale=(64,64)")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_datasets.write(folder, (0, 1, 4), train=8, val=3, size=96)
    return folder


@pytest.fixture(scope="session")
def detector(tiny, tmp_path_factory) -> Path:
    """A checkpoint of a detector that was trained for two epochs of four steps."""
    run = tmp_path_factory.mktemp("runs") / "detector"
    options = (*SMALL_RCNN, "train_cfg.max_epochs=2", "default_hooks.checkpoint.max_keep_ckpts=3")
    train.main([str(DETECTION), "--data", str(tiny / "coco"), "--output", str(run), *options])
    return run / "epoch_2.pth"


@pytest.fixture(scope="session")
def segmentor(tiny, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "segmentor"
    train_fpn(tiny, run)
    return run / "iter_4.pth"


def train_fpn(tiny: Path, run: Path, *options: str) -> None:
    train.main(fpn_arguments(tiny, run, *options))


def fpn_arguments(tiny: Path, run: Path, *options: str) -> list[str]:
    steps = ("train_cfg.max_iters=4", "train_cfg.val_interval=2", "default_hooks.checkpoint.interval=2")
    return [str(SEGMENTATION), "--data", str(tiny / "ade20k"), "--output", str(run), *SMALL_FPN, *steps, *options]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoints.Checkpoint(path).state_dict


def assert_identical(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    differing = [key for key in a if not torch.equal(a[key], b[key])]
    assert not differing, f"{len(differing)} of {len(a)} differ: {differing[:3]}"


def environment() -> dict[str, str]:
    return os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))


# --- training and resuming


def test_a_detectors_run_resumed_after_an_epoch_ends_as_if_unbroken(detector, tiny, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(detector.parent / "epoch_1.pth", run)
    (run / "last_checkpoint").write_text(str(run / "epoch_1.pth"))
    options = (*SMALL_RCNN, "train_cfg.max_epochs=2")
    train.main([str(DETECTION), "--data", str(tiny / "coco"), "--output", str(run), "--resume", *options])
    assert_identical(weights(detector), weights(run / "epoch_2.pth"))


def test_a_killed_run_resumes_to_the_weights_of_an_unbroken_one(tiny, tmp_path):
    """With drop path, random crops, a data loading process, and a validation between the halves."""
    options = ("train_dataloader.num_workers=1", "train_cfg.val_interval=1")
    options += ("model.backbone.model=test_biformer", "model.backbone.drop_path_rate=0.3", "model.neck.num_outs=5")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_fpn(tiny, whole, *options)
    more = ("train_cfg.max_iters=1000",)  # so that it is killed long before its end
    command = [sys.executable, str(ROOT / "tools/train.py"), *fpn_arguments(tiny, broken, *options, *more)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(), start_new_session=True
    )
    last = broken / "last_checkpoint"
    waited = time.monotonic() + 120
    while not (last.is_file() and last.read_text()) and process.poll() is None and time.monotonic() < waited:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    said = process.communicate()[0].decode()
    assert process.returncode == -signal.SIGKILL, said
    for path in broken.glob("iter_*.pth"):
        if path.name != "iter_2.pth":
            path.unlink()
    last.write_text(str(broken / "iter_2.pth"))
    train_fpn(tiny, broken, "--resume", *options)
    assert_identical(weights(whole / "iter_4.pth"), weights(broken / "iter_4.pth"))
    # and randomness does matter: another seed ends elsewhere
    train_fpn(tiny, tmp_path / "other", "--seed", "1", *options)
    other = weights(tmp_path / "other" / "iter_4.pth")
    assert any(not torch.equal(value, other[key]) for key, value in weights(whole / "iter_4.pth").items())


def test_two_processes_take_the_step_of_one_with_the_doubled_batch(tiny, tmp_path):
    """SGD's first step with learning rate 1 is minus the gradient. Loss: a mean over pixels; norms: group and layer."""
    load = "{'type':'LoadImageFromFile'},{'type':'LoadAnnotations'}"
    steady = (
        "model.backbone.model=test_cswin",
        "model.backbone.drop_path_rate=0.0",
        "model.neck={'_delete_':True,'type':'FPN','out_channels':64,'num_outs':4}",
        "model.decode_head.loss_decode.class_weight=None",
        "optim_wrapper.optimizer={'_delete_':True,'type':'SGD','lr':1.0}",
        "optim_wrapper.clip_grad=None",
        "param_scheduler=[]",
        f"train_dataloader.dataset.pipeline=[{load},{{'type':'PackSegInputs'}}]",
        "default_hooks.checkpoint.interval=1",
    )
    one, two, start = tmp_path / "one", tmp_path / "two", tmp_path / "start"
    train_fpn(tiny, one, *steady, "train_cfg.max_iters=1", "train_dataloader.batch_size=4")
    train_fpn(tiny, start, *steady, "train_cfg.max_iters=1", "optim_wrapper.optimizer.lr=0.0")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(ROOT / "tools/train.py"), *fpn_arguments(tiny, two, *steady, "train_cfg.max_iters=1")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("done: ") == 1
    before, ours, theirs = (weights(run / "iter_1.pth") for run in (start, one, two))
    for key, value in before.items():
        if value.is_floating_point():
            gradient = value - ours[key]
            error = (ours[key] - theirs[key]).norm()
            assert error <= 1e-4 * gradient.norm() + 1e-6, f"{key}: {error} of {gradient.norm()}"
    assert sum((before[key] - ours[key]).norm() > 1e-3 for key in before) > 20  # a real step


def test_a_folder_with_checkpoints_is_not_overwritten(segmentor, tiny):
    with pytest.raises(ValueError, match="--resume goes on from them"):
        train_fpn(tiny, segmentor.parent)


def test_bfloat16_trains_without_a_gpu_and_fp16_says_that_it_needs_one(tiny, tmp_path):
    train_fpn(tiny, tmp_path / "bf16", "--amp", "bf16", "train_cfg.max_iters=2")
    assert all(v.isfinite().all() for v in weights(tmp_path / "bf16" / "iter_2.pth").values())
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="fp16 needs a GPU; bf16 works without"):
            train_fpn(tiny, tmp_path / "fp16", "--amp", "fp16")


# --- evaluation and prediction


def test_validate_of_a_detector_writes_metrics_and_pictures(detector, tmp_path):
    out = tmp_path / "metrics.json"
    validate.main([str(detector), "--json", str(out), "--output", str(tmp_path / "v"), "--pictures", "2"])
    metrics = json.loads(out.read_text())
    assert {"coco/bbox_mAP_50", "coco/segm_mAP_50"} <= metrics.keys() and metrics["checkpoint"] == str(detector)
    pictures = sorted((tmp_path / "v" / "pictures").iterdir())
    assert [p.name for p in pictures] == ["000000000001.png", "000000000002.png"]
    with Image.open(pictures[0]) as picture:
        assert picture.width > picture.height  # what is right beside what was predicted


def test_validate_of_a_segmentor_agrees_with_its_run_and_with_its_label_maps(segmentor, tiny, tmp_path, capsys):
    out = tmp_path / "metrics.json"
    validate.main([str(segmentor), "--json", str(out), "--output", str(tmp_path / "v")])
    found = json.loads(out.read_text())["mIoU"]
    images = tiny / "ade20k/images/validation"
    predict.main([str(images), "--checkpoint", str(segmentor), "--output", str(tmp_path / "p"), "--device", "cpu"])
    assert found == pytest.approx(100 * mean_iou(tmp_path / "p", tiny / "ade20k/annotations/validation"), abs=0.01)
    assert "mIoU" in capsys.readouterr().out


def mean_iou(predicted: Path, truth: Path, classes: int = 4) -> float:
    """By hand, from the label maps that predict.py wrote."""
    table = np.zeros((classes, classes))
    for path in sorted(truth.iterdir()):
        right = np.asarray(Image.open(path)).astype(int) - 1  # 0 is unlabelled
        said = np.asarray(Image.open(predicted / f"{path.stem}_labels.png")).astype(int)
        np.add.at(table, (right[right >= 0], said[right >= 0]), 1)
    both = table.diagonal()
    with np.errstate(invalid="ignore"):
        return float(np.nanmean(both / (table.sum(0) + table.sum(1) - both)))


def test_predict_writes_boxes_masks_and_pictures(detector, tiny, tmp_path):
    from pycocotools import mask as coder

    images = sorted((tiny / "coco/val2017").iterdir())
    out = tmp_path / "p"
    options = ("--checkpoint", str(detector), "--output", str(out), "--threshold", "0.01", "--device", "cpu")
    predict.main([*map(str, images), str(images[0]), *options])
    reports = json.loads((out / "predictions.json").read_text())["predictions"]
    assert [r["path"] for r in reports] == [str(p) for p in (*images, images[0])]
    assert [Path(r["picture"]).name for r in reports][-1] == f"{images[0].stem}_2.png"
    assert reports[0]["instances"] == reports[-1]["instances"] and reports[0]["instances"]
    for report in reports:
        with Image.open(report["picture"]) as picture:
            assert picture.size == (report["width"], report["height"])
        for instance in report["instances"]:
            assert instance["class"] in {"0", "1", "4"} and 0.01 <= instance["score"] <= 1
            assert coder.decode(instance["mask"]).shape == (report["height"], report["width"])
            x1, y1, x2, y2 = instance["box"]
            assert 0 <= x1 <= x2 <= report["width"] and 0 <= y1 <= y2 <= report["height"]


def test_predict_names_unreadable_images(segmentor, tiny, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    shutil.copy(next((tiny / "ade20k/images/validation").iterdir()), tmp_path / "good.jpg")
    options = ["--checkpoint", str(segmentor), "--output", str(tmp_path / "p"), "--device", "cpu"]
    with pytest.raises(ValueError, match="1 of 2 images cannot be read"):
        predict.main([str(tmp_path), *options])
    assert not (tmp_path / "p").exists()
    predict.main([str(tmp_path), "--skip-unreadable", *options])
    assert list(json.loads((tmp_path / "p/predictions.json").read_text())["unreadable"]) == [str(tmp_path / "bad.png")]


# --- errors of configs


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.backbone.modle=x", 'model.backbone: unknown key "modle" of ZooBackbone; did you mean model?'),
        ("model.rpn_head.type=RPNHed", 'nothing is registered as "RPNHed": did you mean'),
        ("model.method=MaskRCN", 'nothing is registered as "MaskRCN": did you mean'),
        ("modle.backbone=x", 'unknown key "modle.backbone": did you mean model?'),
        ("model.rpn_heda.type=x", 'unknown key "model.rpn_heda.type": did you mean model.rpn_head?'),
        ("train_dataloader.batch_sise=2", 'unknown key "batch_sise" of a data loader; did you mean batch_size?'),
        ("optim_wrapper.optimizer.lrr=1", 'unknown key "lrr" of AdamW; did you mean lr?'),
        ("data_root=elsewhere", "use --data FOLDER"),
        ("train_pipeline=[]", '"train_pipeline" is a name inside the config file'),
        ("train_dataloader.dataset.pipeline.9.scale=1", "pipeline has items 0 to 3"),
        ("model.roi_head.bbox_head.num_classes=80", "bbox_head.num_classes is 80, train_dataloader.dataset has 3"),
        ("val_dataloader.dataset.metainfo={'classes':('0','1')}", "not in both: 4"),
        ("train_cfg", '"train_cfg" is no override'),
    ],
)
def test_a_wrong_override_is_named_with_what_works(override, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        config.load(DETECTION, [override])


@pytest.mark.parametrize(
    "content, message",
    [
        (
            "_base_ = '{base}'\nval_dataloder = dict(batch_size=2)",
            'unknown key "val_dataloder": did you mean val_dataloader?',
        ),
        ("_base_ = '{base}'\nmodel = dict(backbone=dict(droppath=0.1))", 'unknown key "droppath" of ZooBackbone'),
        ("_base_ = '{base}'\nmodel = dict(", "SyntaxError"),
        ("_base_ = 'absent.py'", "absent.py"),
        ("default_scope = 'mmpretrain'", 'default_scope is mmdet or mmseg, not "mmpretrain"'),
    ],
)
def test_a_wrong_config_file_is_named(tmp_path, content, message):
    path = tmp_path / "mine.py"
    path.write_text(content.replace("{base}", str(DETECTION)))
    with pytest.raises(ValueError, match=f"mine.py.*{re.escape(message)}|{re.escape(message)}"):
        config.load(path)


def test_the_data_root_reaches_data_sets_and_evaluators(tmp_path):
    cfg = config.load(DETECTION, data=tmp_path)
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == f"{tmp_path}/annotations/instances_val2017.json"
    assert {dataset.data_root for _, dataset, _ in config.datasets(cfg)} == {f"{tmp_path}/"}


# --- errors of data


@pytest.fixture
def broken(tiny, tmp_path) -> Path:
    """A copy to break."""
    shutil.copytree(tiny, tmp_path / "tiny")
    return tmp_path / "tiny"


def break_json(root: Path, change) -> None:
    path = root / "coco/annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def problems_of(path: Path, root: Path) -> str:
    with pytest.raises(ValueError) as caught:
        data.check(config.load(path, data=root), say=lambda text: None)
    return str(caught.value)


def test_sound_data_pass(tiny):
    said = []
    data.check(config.load(DETECTION, data=tiny / "coco"), say=said.append)
    data.check(config.load(SEGMENTATION, data=tiny / "ade20k"), say=said.append)
    assert len(said) == 4 and "8 images" in said[0] and "3 label maps" in said[3]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["annotations"][1].update(bbox=[5, 5, -3, 4]), "annotations[1] (id 2): bbox [5, 5, -3, 4] has"),
        (lambda c: c["annotations"][1].update(bbox=[80, 5, 30, 4]), "bbox [80, 5, 30, 4] is outside of image"),
        (lambda c: c["annotations"][1].update(bbox=[5, 5, "3", 4]), "is not [x, y, width, height]"),
        (lambda c: c["annotations"][0].update(category_id=9), "annotations[0] (id 1): unknown category id 9"),
        (lambda c: c["annotations"][0].update(image_id=99), "unknown image id 99"),
        (lambda c: c["annotations"][0].update(id=2), "annotations: id 2 stands 2 times"),
        (lambda c: c["annotations"][0]["segmentation"].update(size=[3, 3]), "segmentation of size [3, 3]"),
        (lambda c: c["annotations"][0]["segmentation"]["counts"].append(7), "segmentation's run lengths add up to"),
        (lambda c: c["annotations"][0].pop("segmentation"), "no segmentation, which this config trains on"),
        (lambda c: c["annotations"][0].update(area=-1), "area is -1"),
        (lambda c: c["images"][2].update(file_name="gone.jpg"), "image 3: no file "),
        (lambda c: c["images"][2].update(width=500), "image 3: 000000000003.jpg is"),
        (lambda c: c["images"][2].update(height=0), "image 3: height and width are 0 and"),
        (lambda c: c["images"][2].update(id=1), "images: id 1 stands 2 times"),
        (lambda c: c["categories"][2].update(name="7"), "no 4 of the config's 3 classes; the file has 0, 1, 7"),
        (lambda c: c.pop("categories"), "has no list of categories: it is not in COCO's format"),
    ],
)  # fmt: skip
def test_a_broken_annotation_file_is_named_with_its_place(broken, change, message):
    break_json(broken, change)
    text = problems_of(DETECTION, broken / "coco")
    assert message in text and "instances_train2017.json" in text


def test_many_problems_are_counted_and_a_few_listed(broken):
    break_json(broken, lambda c: [a.update(category_id=9) for a in c["annotations"]])
    text = problems_of(DETECTION, broken / "coco")
    total = len(json.loads((broken / "coco/annotations/instances_train2017.json").read_text())["annotations"])
    assert text.startswith(f"{total} problems in ") and len(text.splitlines()) == 1 + data.MOST_LISTED + 1
    assert text.endswith(f"and {total - data.MOST_LISTED} more")


def test_missing_cut_off_and_unreadable_files_are_named(broken):
    assert "no data at" in problems_of(DETECTION, broken / "absent")
    path = broken / "coco/annotations/instances_val2017.json"
    path.write_bytes(path.read_bytes()[:1000])
    assert re.search(r"instances_val2017.json is not JSON: .*line 1 column", problems_of(DETECTION, broken / "coco"))
    path.unlink()
    assert "no annotation file" in problems_of(DETECTION, broken / "coco")
    shutil.rmtree(broken / "coco/train2017")
    assert "no folder of images" in problems_of(DETECTION, broken / "coco")


def test_broken_label_maps_are_named(broken):
    maps = sorted((broken / "ade20k/annotations/training").iterdir())
    sizes = [np.asarray(Image.open(path)).shape[::-1] for path in maps[:4]]
    Image.new("L", sizes[0], 5).save(maps[0])
    Image.new("L", (10, 20), 1).save(maps[1])
    Image.new("RGB", sizes[2]).save(maps[2])
    maps[3].write_bytes(b"no image")
    maps[4].unlink()
    text = problems_of(SEGMENTATION, broken / "ade20k")
    assert text.startswith("5 problems in ")
    assert f"{maps[0]}: labels 5; 4 classes are 0 (none) to 4, and 255 is ignored" in text
    assert f"{maps[1]}: 20 x 10, but its image is {sizes[1][1]} x {sizes[1][0]}" in text
    assert f"{maps[2]}: a picture of mode RGB, not a map of labels" in text
    assert f"{maps[3]}: cannot read it" in text and f"{maps[4]}: missing" in text


# --- errors of checkpoints


def test_checkpoints_that_do_not_fit_are_named(detector, segmentor, tiny, tmp_path):
    with pytest.raises(ValueError, match=r"epoch_2.pth was trained for 3 classes \(0, 1, 4 ...\).* has 4"):
        validate.main([str(detector), "--config", str(SEGMENTATION), "--data", str(tiny / "ade20k")])
    with pytest.raises(ValueError, match=r"iter_4.pth does not fit the config:\n(.|\n)*size mismatch for decode_head"):
        options = ["--cfg-options", "model.decode_head.channels=32"]
        validate.main([str(segmentor), "--output", str(tmp_path), *options])
    (tmp_path / "half.pth").write_bytes(segmentor.read_bytes()[:5000])
    with pytest.raises(ValueError, match="half.pth is not a complete checkpoint"):
        validate.main([str(tmp_path / "half.pth"), "--config", str(SEGMENTATION)])


def test_a_checkpoints_config_executes_nothing(segmentor, tmp_path):
    content = torch.load(segmentor, weights_only=False)
    for text, message in (
        (f"import os\nos.mkdir('{tmp_path}/executed')\n", "more than values"),
        (f"model = __import__('os').mkdir('{tmp_path}/executed')\n", "more than values"),
        ("custom_imports = dict(imports=['antigravity'])\n", "wants to import antigravity"),
    ):
        content["meta"]["cfg"] = text
        torch.save(content, tmp_path / "evil.pth")
        with pytest.raises(ValueError, match=message):
            checkpoints.restore(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


def test_options_of_the_other_task_are_errors(segmentor, tmp_path):
    with pytest.raises(ValueError, match="--input-size is not for this kind of model"):
        validate.main([str(segmentor), "--input-size", "64"])
    with pytest.raises(ValueError, match="--topk is not for this kind of model"):
        predict.main([str(tmp_path), "--checkpoint", str(segmentor), "--topk", "3"])
    with pytest.raises(ValueError, match="--pictures is not for this kind of model"):
        validate.main(["--model", "test_cswin", "--pictures", "3"])


# --- profiling


def test_profile_counts_a_detectors_parts(tmp_path):
    from tools import profile

    options = ("--size", "64x96", "--rounds", "1", "--output", str(tmp_path))
    assert profile.main([str(DETECTION), str(SEGMENTATION), *options]) == 0
    rows = json.loads((tmp_path / "profile.json").read_text())["rows"]
    for row, parts in zip(rows, ({"backbone", "neck", "rpn_head"}, {"backbone", "neck"}), strict=True):
        assert row["error"] is None and row["median"] > 0 and parts <= row["gmacs_by_part"].keys()
        assert sum(row["gmacs_by_part"].values()) == pytest.approx(row["gmacs"])

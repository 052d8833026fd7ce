"""The command lines, run as a user runs them, on tiny models and a few real digits."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

import backbones  # noqa: F401
from backbones.classification import checkpoints, config, data
from backbones.classification.train import Trainer
from tools import train as tools_train

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "configs/classification").glob("*.yaml"))


def tool(name: str, *arguments, ok: bool = True, launcher: tuple = (sys.executable,)) -> subprocess.CompletedProcess:
    environment = os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    command = [*launcher, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done


def error_of(name: str, *arguments) -> str:
    """What the tool says is wrong, without a traceback."""
    done = tool(name, *arguments, ok=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """160 training and 40 validation scans of the classes 0 to 3."""
    folder = tmp_path_factory.mktemp("digits")
    scans = load_digits(n_class=4)
    for i, (image, target) in enumerate(zip(scans.images[:200], scans.target[:200], strict=True)):
        path = folder / ("validation" if i % 5 == 4 else "train") / str(target) / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(image * 15.9)).resize((32, 32)).save(path)
    return folder


@pytest.fixture
def recipe(tmp_path, digits) -> Path:
    path = tmp_path / "tiny.yaml"
    values = dict(
        model=dict(name="test_cswin", drop_path_rate=0.1),
        data=dict(root=str(digits), input_size=32, batch_size=32, workers=0),
        aug=dict(hflip=0.0, scale=[0.8, 1.0], color_jitter=0.2),
        sched=dict(epochs=3, warmup_epochs=1),
        run=dict(output=str(tmp_path / "run"), device="cpu"),
    )
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, digits) -> Path:
    """A checkpoint that tools/train.py wrote."""
    run = tmp_path_factory.mktemp("trained")
    path = run / "tiny.yaml"
    path.write_text(yaml.safe_dump(dict(model=dict(name="test_biformer"), data=dict(root=str(digits)))))
    options = ("data.input_size=32", "data.batch_size=20", "data.workers=0", "sched.epochs=6", "sched.warmup_epochs=1")
    tool("train", path, *options, f"run.output={run / 'run'}", "aug.enabled=false", "optim.lr=3e-3", "run.ema=0.9")
    return run / "run" / "model_best.pth.tar"


def table(path: Path) -> list[dict]:
    return list(csv.DictReader(path.read_text().splitlines()))


def width(path: Path) -> int:
    with Image.open(path) as picture:
        return picture.size[0]


def train(recipe: Path, *overrides: str) -> Trainer:
    trainer = Trainer(config.load(recipe, overrides), say=lambda text: None)
    trainer.last = trainer.run()
    return trainer


def weights(trainer: Trainer) -> dict:
    return {key: value.clone() for key, value in trainer.model.state_dict().items()}


def assert_same(a: dict, b: dict) -> None:
    for key in a:
        torch.testing.assert_close(a[key], b[key], msg=key)


# --- configs


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_loads_and_its_model_exists(path):
    if path.stem == "imagenet":  # what the recipes share: no model of its own
        with pytest.raises(ValueError, match=r"model\.name is missing"):
            config.load(path)
        return
    loaded = config.load(path)
    assert loaded.expect
    with torch.device("meta"):
        from backbones.classification.train import _model

        assert _model(loaded, dict(loaded.model.kwargs, drop_path_rate=loaded.model.drop_path_rate)) is not None


@pytest.mark.parametrize(
    "override, message",
    [
        ("optim.lrr=1", 'unknown key "optim.lrr": did you mean optim.lr?'),
        ("lr=1", 'unknown key "lr": did you mean optim.lr?'),
        ("smoothin=0", "did you mean aug.smoothing?"),
        ("modle.name=x", "did you mean model"),
        ("optim.lr=fast", "optim.lr must be float, not 'fast'"),
        ("sched.epochs=2.5", "sched.epochs must be int, not 2.5"),
        ("run.compile=1", "run.compile must be bool, not 1"),
        ("data.mean=[0.5, x]", "data.mean[1] must be float, not 'x'"),
        ("optim=3", "optim is a section, not 3: its keys are opt, lr"),
        ("optim.lr", '"optim.lr" is no override'),
    ],
)
def test_a_wrong_override_is_named_with_what_works(recipe, override, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        config.load(recipe, [override])


def test_values_are_read_as_their_keys_want_them(recipe):
    loaded = config.load(recipe, ["optim.lr=1e-4", "run.ema=null", "aug.scale=[1, 1]", "model.kwargs.head_dim=8"])
    assert loaded.optim.lr == 1e-4 and loaded.run.ema is None and loaded.aug.scale == [1.0, 1.0]
    assert loaded.model.kwargs == {"head_dim": 8}


def test_a_config_survives_being_written(recipe, tmp_path):
    loaded = config.load(recipe)
    (tmp_path / "again.yaml").write_text(config.dump(loaded))
    assert config.load(tmp_path / "again.yaml") == loaded


# --- training


def test_a_run_leaves_what_it_promises_and_resumes_to_the_same_weights(recipe, tmp_path):
    whole = train(recipe, "run.ema=0.9")
    run = tmp_path / "run"
    assert {"config.yaml", "metrics.csv", "curves.png", "last.pth.tar", "model_best.pth.tar"} <= set(os.listdir(run))
    rows = table(run / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert all(float(row["val_top1"]) >= 0 and float(row["ema_loss"]) > 0 for row in rows)
    assert width(run / "curves.png") > 500

    # the same run, stopped after epoch 2: what is newer is cut off, half written or gone
    (run / "last.pth.tar").write_bytes((run / "last.pth.tar").read_bytes()[:1000])
    (run / "tmp.pth.tar").write_bytes(b"half")
    for path in run.glob("*.pth.tar"):
        try:
            if checkpoints.read(path)["epoch"] == 2:
                path.unlink()
        except ValueError:
            continue
    said = []
    again = Trainer(config.load(recipe, ["run.ema=0.9", "run.resume=true"]), say=said.append)
    assert 1 <= again.start <= 2 and any("last.pth.tar is not a complete checkpoint" in line for line in said)
    again.run()
    assert_same(weights(whole), weights(again))
    assert_same(
        whole.task.get_eval_model(ema=True).state_dict(),
        again.task.get_eval_model(ema=True).state_dict(),
    )
    assert [row["epoch"] for row in table(run / "metrics.csv")] == ["0", "1", "2"]


def test_flags_are_overrides(recipe, digits, tmp_path):
    run = tmp_path / "flagged"
    flags = ("--data", digits, "--output", run, "--seed", "3", "--amp", "bf16", "--cfg-options", "data.batch_size=40")
    tools_train.main([*map(str, (recipe, "sched.epochs=1", *flags))])
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert (written["run"]["seed"], written["run"]["amp"], written["data"]["batch_size"]) == (3, "bf16", 40)
    tools_train.main([str(recipe), "--output", str(run), "--resume", "sched.epochs=2"])
    assert len(table(run / "metrics.csv")) == 2


def test_a_folder_with_checkpoints_is_not_overwritten(recipe):
    train(recipe, "sched.epochs=1")
    assert "add run.resume=true" in error_of("train", recipe)
    with pytest.raises(ValueError, match="was trained as test_cswin"):
        Trainer(config.load(recipe, ["run.resume=true", "model.name=test_biformer"]), say=str)


def test_accumulated_batches_are_one_large_batch(recipe, tmp_path):
    calm = ("model.drop_path_rate=0", "aug.enabled=false", "sched.epochs=1", "optim.opt=sgd", "sched.warmup_epochs=0")
    large = train(recipe, *calm, "data.batch_size=32")
    small = train(recipe, *calm, "data.batch_size=8", "run.accumulate=4", f"run.output={tmp_path / 'small'}")
    assert_same(weights(large), weights(small))


@pytest.mark.parametrize("options", [("run.amp=bf16",), ("run.amp=fp16", "optim.clip_grad=1.0"), ("aug.mixup=0.8",)])
def test_other_ways_to_train(recipe, options):
    extra = ("sched.epochs=1", "optim.layer_decay=0.8", "run.channels_last=true", "aug.auto_augment=rand-m5-inc1")
    assert train(recipe, *options, *extra).last["train_loss"] > 0


def test_two_processes_train_one_model(recipe, tmp_path):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = tool("train", recipe, "sched.epochs=1", "data.batch_size=16", launcher=launcher)
    assert done.stdout.count("epoch 1/1") == 1 and "batch 32" in done.stdout
    assert checkpoints.read(tmp_path / "run" / "last.pth.tar")["epoch"] == 0


def test_a_loss_that_is_not_finite_ends_the_run(recipe):
    with pytest.raises(FloatingPointError, match=r"lower optim\.lr"):
        train(recipe, "optim.lr=1e30", "optim.opt=sgd", "sched.warmup_epochs=0")


def test_a_tar_is_read_like_its_folder(digits, tmp_path, recipe):
    for split in ("train", "validation"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as tar:
            tar.add(digits / split, arcname=".")
    source = config.load(recipe, [f"data.root={tmp_path}"]).data
    for split, count in (("train", 160), ("validation", 40)):
        made = data.dataset(source, split, False, 8)
        assert len(made) == count and data.class_names(made) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["model.num_classes=7"], "model.num_classes is 7, the data have 4 classes: 0, 1, 2, 3"),
        (["model.name=test_cswinn"], "did you mean test_cswin"),
        (["model.kwargs.widht=3"], "widht"),
        (["data.root=nowhere"], "no data at nowhere"),
        (["run.device=quantum"], 'no device "quantum" here'),
        (["run.amp=fp8"], 'amp is bf16 or fp16, not "fp8"'),
        (["data.batch_size=1000"], "160 training images are less than one batch of 1000"),
    ],
)
def test_what_cannot_work_is_named(recipe, overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Trainer(config.load(recipe, overrides), say=str)


def test_an_empty_folder_is_named(recipe, tmp_path):
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match="no train images in .*empty"):
        Trainer(config.load(recipe, [f"data.root={tmp_path / 'empty'}"]), say=str)


def test_an_unreadable_training_image_is_named_or_passed_over(recipe, digits, tmp_path):
    shutil.copytree(digits, tmp_path / "data")
    (tmp_path / "data" / "train" / "2" / "broken.png").write_bytes(b"not an image")
    root = f"data.root={tmp_path / 'data'}"
    assert re.search(r"cannot read image .*broken\.png", error_of("train", recipe, root, "data.workers=1"))
    assert train(recipe, root, "data.skip_unreadable=true", "sched.epochs=1").last["val_top1"] >= 0


# --- validation and prediction


def test_validate_agrees_with_the_run(trained, tmp_path):
    out = tmp_path / "result.json"
    tool("validate", trained, "--json", out, "--workers", "0")
    result = json.loads(out.read_text())
    rows = table(trained.parent / "metrics.csv")
    best = max(float(row["ema_top1"]) for row in rows)
    assert result["images"] == 40 and result["top1"] == pytest.approx(best, abs=1e-3) and best > 60


def test_validate_refuses_other_classes(trained, digits, tmp_path):
    shutil.copytree(digits, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "validation" / "3")
    message = error_of("validate", trained, "--data", tmp_path / "data")
    assert "the model has 4 classes" in message and "has 3" in message
    assert "was trained without run.ema" not in message


def test_predict_writes_what_it_sees(trained, digits, tmp_path):
    folder = digits / "validation" / "0"
    images = sorted(folder.iterdir())
    tool(
        "predict", folder, images[0], "--checkpoint", trained, "--topk", "2", "--batch-size", "3",
        "--csv", tmp_path / "p.csv", "--json", tmp_path / "p.json",
    )  # fmt: skip
    rows = table(tmp_path / "p.csv")
    report = json.loads((tmp_path / "p.json").read_text())
    assert [row["path"] for row in rows] == [str(p) for p in (*images, images[0])]
    assert list(rows[0]) == ["path", "class1", "probability1", "class2", "probability2"]
    assert rows[0]["class1"] in {"0", "1", "2", "3"} and report["unreadable"] == {}
    assert [p["classes"][0] for p in report["predictions"]] == [row["class1"] for row in rows]
    assert float(rows[0]["probability1"]) >= float(rows[0]["probability2"])
    # in batches or alone, an image gets the same answer
    assert float(rows[0]["probability1"]) == pytest.approx(float(rows[-1]["probability1"]), abs=1e-4)


def test_predict_names_and_counts_unreadable_images(trained, digits, tmp_path):
    shutil.copy(next((digits / "validation" / "1").iterdir()), tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    done = tool("predict", tmp_path, "--checkpoint", trained, "--csv", tmp_path / "p.csv", ok=False)
    assert done.returncode == 2 and not (tmp_path / "p.csv").exists()
    assert "bad.png" in done.stderr and "cut.jpg" in done.stderr and "2 of 3 images cannot be read" in done.stderr
    done = tool("predict", tmp_path, "--checkpoint", trained, "--csv", tmp_path / "p.csv", "--skip-unreadable")
    assert "bad.png" in done.stderr and "2 of 3 images skipped" in done.stderr
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 2


def test_predict_names_missing_and_empty_folders_and_bad_checkpoints(trained, tmp_path):
    assert "no file or folder" in error_of("predict", tmp_path / "absent", "--checkpoint", trained)
    assert "no images in" in error_of("predict", tmp_path, "--checkpoint", trained)
    image = tmp_path / "a.png"
    Image.new("RGB", (40, 40)).save(image)
    assert "no checkpoint" in error_of("predict", image, "--checkpoint", tmp_path / "absent.pth")
    (tmp_path / "half.pth").write_bytes(trained.read_bytes()[:5000])
    assert "half.pth is not a complete checkpoint" in error_of("predict", image, "--checkpoint", tmp_path / "half.pth")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "foreign.pth")
    assert "is no checkpoint of tools/train.py" in error_of("predict", image, "--checkpoint", tmp_path / "foreign.pth")


def test_a_checkpoint_executes_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"state_dict": Evil(), "args": 0}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="is not a complete checkpoint"):
        checkpoints.read(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


def test_a_published_model_takes_an_official_file(digits, tmp_path):
    import timm

    model = timm.create_model("test_cswin", num_classes=4)
    torch.save({"state_dict_ema": model.state_dict()}, tmp_path / "official.pth")
    options = ("--model", "test_cswin", "--file", tmp_path / "official.pth", "--classes", "4")
    tool("validate", *options, "--data", digits, "--input-size", "32", "--workers", "0")
    assert "add num_classes=4" in error_of("validate", *options[:4], "--data", digits)
    assert "did you mean" in error_of("validate", "--model", "cswin_tt", "--data", digits)


def test_the_quick_start_runs_and_goes_on(tmp_path):
    options = ("--output", tmp_path / "qs", "sched.epochs=1", "sched.warmup_epochs=0")
    done = tool("quickstart", *options)
    assert re.search(r"\d+ of 355 right", done.stdout)
    assert width(tmp_path / "qs" / "predictions.png") > 500
    assert "resumed after epoch 1" in tool("quickstart", *options).stdout


def test_a_missing_split_is_not_replaced_by_the_whole_folder(recipe, digits, tmp_path):
    shutil.copytree(digits / "train", tmp_path / "data" / "train")
    with pytest.raises(ValueError, match='no "validation" in .*data; there are train'):
        Trainer(config.load(recipe, [f"data.root={tmp_path / 'data'}"]), say=str)
    whole = config.load(recipe, [f"data.root={digits / 'train'}"]).data
    assert len(data.dataset(whole, "", False, 8)) == 160


def test_a_config_based_on_itself_is_an_error(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml")
    (tmp_path / "b.yaml").write_text("base: a.yaml")
    with pytest.raises(ValueError, match="is based on itself: a.yaml > b.yaml > a.yaml"):
        config.load(tmp_path / "a.yaml")


# --- what broke once


@pytest.mark.parametrize(
    "override, message",
    [
        ("data.root=[a", '"[a" of data.root is not YAML'),
        ("sched.epochs=0", "sched.epochs must be at least 1, not 0"),
        ("run.checkpoints=0", "run.checkpoints must be at least 1, not 0"),
        ("run.ema=1.5", "run.ema must be from 0 to less than 1, not 1.5"),
        ("aug.scale=[1]", "aug.scale must be [least, most], not [1.0]"),
        ("optim.clip_mode=nrom", "optim.clip_mode must be ('norm', 'value', 'agc'), not 'nrom'"),
        ("model.kwargs.num_classes=5", "model.kwargs must be without keys of model itself, not ['num_classes']"),
    ],
)
def test_a_value_that_cannot_work_is_named(recipe, override, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        config.load(recipe, [override])


def test_mixup_of_an_odd_batch_and_repeats_of_one_process_are_errors(recipe):
    with pytest.raises(ValueError, match="data.batch_size must be even"):
        config.load(recipe, ["aug.mixup=0.8", "data.batch_size=31"])
    with pytest.raises(ValueError, match="add aug.repeats=0"):
        Trainer(config.load(recipe, ["aug.repeats=3"]), say=str)


def test_an_unknown_kind_of_dataset_is_not_read_as_folders(recipe):
    with pytest.raises(ValueError, match='"hdfs/cats" must start with hfds/'):
        Trainer(config.load(recipe, ["data.dataset=hdfs/cats"]), say=str)


def test_a_model_without_drop_path_trains(recipe):
    assert train(recipe, "model.name=dla46_c", "model.drop_path_rate=null", "sched.epochs=1")


def test_training_starts_from_a_checkpoint_of_other_classes(recipe, trained, digits, tmp_path):
    shutil.copytree(digits, tmp_path / "data")
    for split in ("train", "validation"):
        shutil.rmtree(tmp_path / "data" / split / "3")
    options = (f"data.root={tmp_path / 'data'}", "model.name=test_biformer", f"model.file={trained}")
    trainer = Trainer(config.load(recipe, options), say=str)
    source = checkpoints.Trained(trained).model.state_dict()
    assert trainer.model.num_classes == 3
    assert_same({k: v for k, v in source.items() if "head.fc" not in k}, trainer.model.state_dict())


@pytest.mark.parametrize("content", [b"", b"junk\n", "flipped"], ids=["empty", "text", "flipped"])
def test_a_damaged_checkpoint_is_named(trained, tmp_path, content):
    if content == "flipped":
        content = bytearray(trained.read_bytes())
        content[len(content) // 2] ^= 255
    (tmp_path / "damaged.pth").write_bytes(content)
    with pytest.raises(ValueError, match="damaged.pth is not a complete checkpoint"):
        checkpoints.read(tmp_path / "damaged.pth")


def test_every_image_that_pil_refuses_is_named(trained, digits, tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 4x 4 255\n" + bytes(48))  # PIL: ValueError
    done = tool("predict", tmp_path, "--checkpoint", trained, ok=False)
    assert done.returncode == 2 and "unreadable: " in done.stderr and "a.ppm" in done.stderr


def test_validation_does_not_count_what_it_skips(trained, digits, tmp_path):
    shutil.copytree(digits, tmp_path / "data")
    (tmp_path / "data" / "validation" / "2" / "broken.png").write_bytes(b"not an image")
    out = tmp_path / "deep" / "result.json"
    tool("validate", trained, "--data", tmp_path / "data", "--workers", "0", "--skip-unreadable", "--json", out)
    assert json.loads(out.read_text())["images"] == 40


def test_paths_are_shown_as_they_are(trained, digits, tmp_path):
    folder = tmp_path / "[" / "x]"
    folder.mkdir(parents=True)
    shutil.copy(next((digits / "validation" / "1").iterdir()), folder / "a[red].png")
    assert "a[red].png" in re.sub(r"[\s│]", "", tool("predict", folder, "--checkpoint", trained, "--topk", 1).stdout)


def test_resume_says_what_changed(recipe):
    train(recipe, "sched.epochs=1")
    said = []
    Trainer(config.load(recipe, ["run.resume=true", "optim.lr=0.5"]), say=said.append)
    assert "optim.lr was 0.001, is 0.5 from here on" in said


def test_last_is_never_missing(recipe, tmp_path, monkeypatch):
    """At every step that touches `last`, a complete one is there."""
    last, replace, unlink = tmp_path / "run" / "last.pth.tar", os.replace, os.unlink

    def watched(step):
        def run(*arguments):
            step(*arguments)
            assert last.is_file() or not str(arguments[-1]).endswith(".pth.tar")

        return run

    train(recipe, "sched.epochs=1")
    monkeypatch.setattr(os, "replace", watched(replace))
    monkeypatch.setattr(os, "unlink", watched(unlink))
    train(recipe, "sched.epochs=2", "run.resume=true")
    assert checkpoints.read(last)["epoch"] == 1


def test_iterable_datasets_learn_the_epoch(recipe):
    trainer = Trainer(config.load(recipe), say=str)
    told = []
    trainer.train_loader.dataset.set_epoch = told.append
    trainer.run()
    assert told == [0, 1, 2]

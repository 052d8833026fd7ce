"""configs/detection and configs/segmentation: they load, tell what was published, build, train and predict."""

import copy
import functools
import json
import logging
import pickle
import re
from pathlib import Path

import pytest
import timm
import torch

pytest.importorskip("mmengine", reason="mmengine is not installed: tools/install_mm.sh")
pytest.importorskip("mmdet", reason="mmdet is not installed: tools/install_mm.sh")
pytest.importorskip("mmseg", reason="mmseg is not installed: tools/install_mm.sh")

from mmengine import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData

from backbones.dense import config as dense_config

pytestmark = [  # of the libraries, about themselves
    pytest.mark.filterwarnings(f"ignore::{kind}:{module}")
    for kind in ("UserWarning", "DeprecationWarning", "FutureWarning", "ImportWarning")
    for module in ("mmengine", "mmcv", "mmdet", "mmseg", "torch", "importlib")
]


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.INFO)  # mmengine tells every parameter's settings
    yield
    logging.disable(logging.NOTSET)


ROOT = Path(__file__).parent.parent
# those of published recipes; tiny_* belong to the quick start
FILES = {p.stem: p for task in ("detection", "segmentation") for p in sorted((ROOT / "configs" / task).glob("*_*.py"))}
FILES = {name: file for name, file in FILES.items() if not name.startswith("tiny_")}
METHODS = {
    "cascade_mask_rcnn_{}_3x": "Cascade Mask RCNN 3x",
    "ccnet_{}_ade20k_160k": "mmseg CCNet 160k",
    "ccnet_{}_cityscapes_60k": "CCNet R=2 60k",
    "ccnet_{}_cityscapes_80k": "mmseg CCNet 80k",
    "dino_5scale_{}_12e": "DINO 5scale 12ep",
    "dino_{}_12e": "DINO 4scale 12ep",
    "mask2former_{}_160k": "Mask2Former 160k",
    "mask_rcnn_{}_1x": "Mask RCNN 1x",
    "mask_rcnn_{}_3x": "Mask RCNN 3x",
    "retinanet_{}_1x": "RetinaNet 1x",
    "retinanet_{}_3x": "RetinaNet 3x",
    "semantic_fpn_{}_80k": "SemanticFPN 80k",
    "upernet_{}_160k": "UPerNet 160k",
}
# one of each method and of each family
SAMPLE = [
    "cascade_mask_rcnn_cswin_t_3x",
    "ccnet_r50_cityscapes_80k",
    "dino_transnext_t_12e",
    "mask_rcnn_shvit_s4_1x",
    "mask2former_transnext_t_160k",
    "retinanet_crossformer_s_1x",
    "semantic_fpn_biformer_s_80k",
    "upernet_dinat_mini_160k",
]
# published numbers of parameters that are not those of the model; README of CrossFormer: both as the smaller model's,
# CSWin: T and S, which differ by 12.3 M, are said to differ by 5 M
MISPRINTS = {"retinanet_crossformerpp_s_1x", "upernet_cswin_t_160k"}


def records() -> dict[str, list[dict]]:
    """What zoo_weights has of every model's published results."""
    found = {}
    for file in sorted((ROOT / "zoo_weights").glob("*.json")):
        for name, model in json.loads(file.read_text())["models"].items():
            found[name] = model.get("published", [])
    return found


def split(name: str) -> tuple[str, str]:
    """The model and the method of a config's name."""
    for pattern, method in METHODS.items():
        if match := re.fullmatch(pattern.replace("{}", "(.+)"), name):
            model = f"ccnet_{match[1]}" if name.startswith("ccnet") else match[1]
            return model, method
    raise AssertionError(f"{name}: which method is that?")


@functools.cache
def parsed(name: str) -> Config:
    return Config.fromfile(FILES[name])


def load(name: str) -> Config:
    cfg = copy.deepcopy(parsed(name))
    init_default_scope(cfg.default_scope)
    return cfg


def test_every_config_is_complete():
    for name in FILES:
        assert {"model", "train_dataloader", "val_evaluator", "optim_wrapper", "param_scheduler"} <= parsed(name).keys()


@pytest.mark.slow
def test_every_config_passes_the_checks_of_tools():
    for file in FILES.values():
        dense_config.load(file)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_config_survives_being_written_and_pickled(name):
    cfg = parsed(name)
    again = Config.fromstring(cfg.pretty_text, ".py")
    assert again.model == cfg.model and again.optim_wrapper == cfg.optim_wrapper
    assert pickle.loads(pickle.dumps(cfg)).model == cfg.model


def test_every_config_names_the_published_result():
    published = records()
    for name, file in FILES.items():
        model, method = split(name)
        cfg = parsed(name)
        if not name.startswith("ccnet"):
            assert cfg.model.backbone.model == model, name
        if cfg.published is None:
            assert "nobody published" in file.read_text(), name
            continue
        results = [r for r in published[model] if r.get("method") == method and r["source"] == cfg.published["source"]]
        dataset = {"ccnet": "Cityscapes val" if "cityscapes" in name else "ADE20K val"}.get(name.partition("_")[0])
        results = [r for r in results if dataset is None or r["dataset"] == dataset]
        want = {key: results[0][key] for key in ("box_mAP", "mask_mAP", "mIoU") if results[0].get(key) is not None}
        assert dict(cfg.published) == dict(method=method, source=results[0]["source"], **want), name


def test_every_published_result_has_a_config():
    patterns = {method: pattern for pattern, method in METHODS.items() if not pattern.startswith("ccnet")}
    missing = {
        patterns[result["method"]].format(model)
        for model, results in records().items()
        for result in results
        if result.get("method") in patterns
    }
    assert missing - FILES.keys() == set()


def test_models_without_published_results_are_told_apart():
    assert {name for name in FILES if parsed(name).published is None} == {
        "mask_rcnn_halonet_h1_1x",
        "semantic_fpn_halonet_h1_80k",
    }


def build(cfg: Config) -> torch.nn.Module:
    return MODELS.build(cfg.model)


def check_parameters(name: str) -> None:
    with torch.device("meta"):
        model = build(cfg := load(name))
    if cfg.published is None or name in MISPRINTS:
        return
    model_name, method = split(name)
    results = [r for r in records()[model_name] if r.get("method") == method and r["source"] == cfg.published["source"]]
    if published := results[0]["params_M"]:
        ours = sum(p.numel() for p in model.parameters()) / 1e6
        assert ours == pytest.approx(published, rel=0.012, abs=0.65), name


@pytest.mark.parametrize("name", SAMPLE)
def test_the_detector_builds_with_the_published_parameters(name):
    check_parameters(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FILES if name not in SAMPLE])
def test_every_detector_builds_with_the_published_parameters(name):
    check_parameters(name)


def test_another_backbone_by_an_option_changes_the_channels():
    cfg = load("mask_rcnn_crossformer_s_1x")
    cfg.merge_from_dict({"model.backbone.model": "test_cswin", "model.backbone.pretrained": False})
    assert build(cfg).neck.in_channels == timm.create_model("test_cswin", features_only=True).feature_info.channels()


def reduced(cfg: Config) -> Config:
    """The config with a small model of the same family, few proposals, queries and layers; for a CPU."""
    model = cfg.model
    backbone = model.backbone
    if "model" in backbone:
        family = backbone.model.partition("_")[0]
        small = {"shvit": "shvit_s1", "halonet": "halonet_h0"}.get(family, f"test_{family}")
        backbone.update(model=small, pretrained=False)
    else:
        backbone.update(depth=18, base_channels=8)
        backbone.pop("init_cfg")
        model.decode_head.in_channels, model.auxiliary_head.in_channels = 64, 32
    if cfg.default_scope == "mmdet":
        for stage in ("train_cfg", "test_cfg"):
            for key in ("rpn_proposal", "rpn"):
                if "max_per_img" in model[stage].get(key, {}):
                    model[stage][key].update(nms_pre=100, max_per_img=20)
        if "roi_head" in model:
            heads, stages = model.roi_head.bbox_head, model.train_cfg.rcnn
            for head in heads if isinstance(heads, list) else [heads]:
                head.update(fc_out_channels=32)
                head.update(conv_out_channels=16) if head.type == "ConvFCBBoxHead" else None
            for stage in stages if isinstance(stages, list) else [stages]:
                stage.sampler.num = 16
            model.roi_head.mask_head.update(conv_out_channels=16)
        if "num_queries" in model:
            model.update(num_queries=20)
            model.encoder.num_layers = model.decoder.num_layers = 1
            model.dn_cfg.group_cfg.num_dn_queries = 4
    else:
        model.data_preprocessor.size = (64, 64)
        if "transformer_decoder" in (head := model.decode_head):
            head.num_queries, head.train_cfg.num_points = 10, 128
            head.transformer_decoder.num_layers = head.pixel_decoder.encoder.num_layers = 1
    cfg.optim_wrapper.type = "OptimWrapper"  # mixed precision is for GPUs
    cfg.optim_wrapper.pop("loss_scale", None)
    return cfg


def batch(cfg: Config) -> dict:
    if cfg.default_scope == "mmdet":
        from mmdet.testing import demo_mm_inputs

        return demo_mm_inputs(2, [[3, 96, 128], [3, 96, 96]], num_classes=80, with_mask="mask_head" in str(cfg.model))
    from mmseg.structures import SegDataSample

    shape = dict(img_shape=(64, 64), ori_shape=(64, 64))
    labels = [PixelData(data=torch.randint(0, cfg.model.decode_head.num_classes, (1, 64, 64))) for _ in range(2)]
    samples = [SegDataSample(gt_sem_seg=label, metainfo=shape) for label in labels]
    return dict(inputs=[torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(2)], data_samples=samples)


def check_training(name: str) -> None:
    cfg = reduced(load(name))
    model = revert_sync_batchnorm(build(cfg)).train()
    model.init_weights()
    optim = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {key: value.clone() for key, value in model.named_parameters()}
    losses = model.train_step(batch(cfg), optim)
    assert torch.isfinite(losses["loss"].detach()), losses
    changed = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert next(key for key in before if key.startswith("backbone.")) in changed  # the first convolution
    assert any(not key.startswith("backbone.") for key in changed)
    with torch.no_grad():
        found = model.eval().test_step(batch(cfg))
    if cfg.default_scope == "mmdet":
        assert all(hasattr(sample, "pred_instances") for sample in found)
        if "mask_head" in str(cfg.model):
            assert all("masks" in sample.pred_instances for sample in found)
    else:
        assert all(sample.pred_sem_seg.data.shape == (1, 64, 64) for sample in found)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_step_of_training_and_a_prediction(name):
    check_training(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FILES if name not in SAMPLE])
def test_a_step_of_training_and_a_prediction_of_every_config(name):
    check_training(name)

"""backbones.openmm: the backbone, what is built around it, learning rates, CCNet's head."""

import logging
import pickle
import re
import subprocess
import sys

import pytest
import timm
import torch
import torch.nn.functional as F
from test_goldens import ALL, official_state_dict
from torch import nn

pytest.importorskip("mmengine", reason="mmengine is not installed: tools/install_mm.sh")
pytest.importorskip("mmdet", reason="mmdet is not installed: tools/install_mm.sh")
pytest.importorskip("mmseg", reason="mmseg is not installed: tools/install_mm.sh")

from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from backbones import weights
from backbones.openmm import ZooBackbone, channels

pytestmark = [  # of the libraries, about themselves
    pytest.mark.filterwarnings(f"ignore::{kind}:{module}")
    for kind in ("UserWarning", "DeprecationWarning", "FutureWarning", "ImportWarning")
    for module in ("mmengine", "mmcv", "mmdet", "mmseg", "torch", "importlib")
]

# golden of an official classifier -> keys that the official detectors leave out, norms that they add, ours and theirs
DENSE = {
    "biformer_tiny": ("norm.", "extra_norms.{}"),
    "crossformer_tiny": ("norm.", None),
    "crossformerpp_small": ("norm.", None),
    "cswin_tiny": ("norm.", "norm{1}"),
    "davit_tiny": ("norms.", "norm{}"),
    "dinat_mini": ("norm.", "norm{}"),
    "dinat_s_tiny": ("norm.", "norm{}"),
    "nat_mini": ("norm.", "norm{}"),
    "ravlt_t": (("norm.", "proj."), "extra_norms.{}.norm"),
    "shvit_s4": ((), None),
    "transnext_tiny": ((), None),
}


def model_of(golden: str) -> str:
    parts = golden.split("_")
    return next(n for n in ("_".join(parts[:i]) for i in range(len(parts), 0, -1)) if timm.is_model(n))


def dense_state_dict(golden: str) -> tuple[dict, dict]:
    """The backbone in an official detector's checkpoint; the norms of its maps, by map."""
    left_out, norm = DENSE[golden]
    entries = ALL[golden]["state_dict"]
    state = {entry["key"]: torch.zeros(entry["shape"]) for entry in entries} | official_state_dict(ALL[golden])
    state = {key: value for key, value in state.items() if not key.startswith(("head.", *_tuple(left_out)))}
    norms = {}
    for i, dim in enumerate(channels(model_of(golden)) if norm else ()):
        for part in ("weight", "bias"):
            norms[i, part] = torch.randn(dim)
            state[f"{norm.format(i, i + 1)}.{part}"] = norms[i, part]
    return state, norms


def _tuple(x: str | tuple[str, ...]) -> tuple[str, ...]:
    return (x,) if isinstance(x, str) else x


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.INFO)  # mmengine tells every parameter's settings
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def official(tmp_path):
    """The official classifier's file of a golden."""

    def official(golden: str) -> str:
        torch.save({"model": official_state_dict(ALL[golden])}, tmp_path / f"{golden}.pth")
        return str(tmp_path / f"{golden}.pth")

    return official


@pytest.fixture
def image():
    return torch.randn(1, 3, 65, 97)


# --- the backbone


@pytest.mark.parametrize(
    "name", ["test_biformer", "davit_tiny", "shvit_s1", "test_ccnet", "swin_tiny_patch4_window7_224"]
)
def test_maps_are_nchw_with_the_channels_and_strides_told(name):
    side = 224 if "swin" in name else 128
    backbone = ZooBackbone(name).eval()
    with torch.inference_mode():
        maps = backbone(torch.randn(1, 3, side, side))
    assert isinstance(maps, tuple)
    assert [m.shape[1] for m in maps] == backbone.channels == channels(name)
    assert [-(-side // m.shape[2]) for m in maps] == backbone.strides or name == "test_ccnet"  # rounds up


def test_channels_of_chosen_maps_and_of_another_width():
    assert channels("biformer_s", (0, 2)) == [64, 256]
    assert channels("test_crossformer", dim=64) == [64, 128, 256, 512]
    with torch.device("meta"):
        assert ZooBackbone("biformer_s", out_indices=[0, 2]).channels == [64, 256]


def test_any_input_size(image):
    assert [tuple(m.shape[2:]) for m in ZooBackbone("test_cswin").eval()(image)] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize("name", ["test_biformer", "test_transnext", "shvit_s1"])
def test_frozen_stages_neither_train_nor_count_statistics(name, image):
    backbone = ZooBackbone(name, frozen_stages=2, drop_path_rate=0.5 if name != "shvit_s1" else None).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    sum(m.square().mean() for m in backbone(image.expand(2, -1, -1, -1))).backward()
    frozen = re.compile(r"model\.(stem|patch_embed|stages\.[01])\.")
    for key, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == bool(frozen.match(key)) == (not parameter.requires_grad), key
    changed = [key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])]
    assert not any(map(frozen.match, changed))
    assert not any(m.training for key, m in backbone.named_modules() if frozen.match(f"{key}."))
    assert backbone.model.stages[2].training


def test_norm_eval_keeps_statistics(image):
    for norm_eval in (True, False):
        backbone = ZooBackbone("test_biformer", norm_eval=norm_eval).train()
        before = backbone.model.stem[1].running_mean.clone()
        backbone(image)
        assert torch.equal(backbone.model.stem[1].running_mean, before) == norm_eval
        assert backbone.model.stages[0].training


def test_gradient_checkpointing_saves_memory_and_changes_nothing(image):
    gradients, saved = [], []
    for on in (False, True):
        torch.manual_seed(0)
        backbone, count = ZooBackbone("test_cswin", grad_checkpointing=on).train(), 0

        def pack(x):
            nonlocal count
            count += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = sum(m.square().mean() for m in backbone(image))
        loss.backward()
        saved.append(count)
        gradients.append([p.grad for p in backbone.parameters()])
    assert saved[1] < 0.6 * saved[0]
    torch.testing.assert_close(*gradients)


def test_stochastic_depth_is_passed_on():
    rates = [m.drop_prob for m in ZooBackbone("test_biformer", drop_path_rate=0.4).modules() if hasattr(m, "drop_prob")]
    assert max(rates) == pytest.approx(0.4)


def test_output_norms_are_layer_norms_of_channels(image):
    backbone = ZooBackbone("test_biformer", out_norm="layer", out_norm_eps=1e-3).eval()
    plain = ZooBackbone("test_biformer").eval()
    plain.load_state_dict({k: v for k, v in backbone.state_dict().items() if not k.startswith("out_norms")})
    for got, x in zip(backbone(image), plain(image), strict=True):
        want = F.layer_norm(x.movedim(1, -1), x.shape[1:2], eps=1e-3).movedim(-1, 1)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(model="biformer_x"), 'no model "biformer_x" in timm.s registry: biformer'),
        (dict(model="test_biformer", out_indices=(0, 7)), r"out_indices=\(0, 7\) of test_biformer"),
        (dict(model="test_biformer", frozen_stages=5), "frozen_stages=5: test_biformer has 4 stages"),
        (dict(model="test_biformer", frozen_stages=-2), "frozen_stages=-2"),
        (dict(model="test_biformer", out_norm="batch"), 'out_norm=.batch. must be None or "layer"'),
        (
            dict(model="test_biformer", pretrained=True, checkpoint="a.pth"),
            "pretrained=True and checkpoint=.a.pth.: give",
        ),
        (dict(model="cswin_t.in1k", pretrained="in1k"), "both name a tag"),
        (
            dict(model="test_biformer", checkpoint="a", init_cfg=dict(type="Pretrained", checkpoint="b")),
            "checkpoint=.a. and init_cfg=.*: give one",
        ),
        (
            dict(model="test_biformer", init_cfg=dict(type="Pretrained", checkpoint="b", prefix="c")),
            "init_cfg has prefix: give type and checkpoint only",
        ),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ZooBackbone(**arguments)


def test_misspelled_arguments_are_errors():
    with pytest.raises(TypeError, match="norm_evil"):
        ZooBackbone("test_biformer", norm_evil=True)
    with pytest.raises(TypeError, match="topkz"):
        ZooBackbone("test_biformer", options=dict(topkz=1))


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="too small"):
        ZooBackbone("test_biformer")(torch.zeros(1, 3, 16, 64))


def test_it_copies_by_pickle(image):
    backbone = ZooBackbone("test_biformer", out_norm="layer", frozen_stages=1).eval()
    copy = pickle.loads(pickle.dumps(backbone))
    assert all(torch.equal(a, b) for a, b in zip(copy(image), backbone(image), strict=True))
    assert not copy.train().model.stem.training


# --- weights


@pytest.mark.parametrize("how", ["checkpoint", "init_cfg"])
def test_an_official_classifier_loads_when_weights_are_initialised(how, official, image):
    file = official("crossformer_tiny")
    weights = dict(checkpoint=file) if how == "checkpoint" else dict(init_cfg=dict(type="Pretrained", checkpoint=file))
    backbone = ZooBackbone("crossformer_t", **weights).eval()
    fresh = backbone.model.stem[0].convs[0].weight.clone()
    backbone.init_weights()
    assert not torch.equal(backbone.model.stem[0].convs[0].weight, fresh)
    model = timm.create_model("crossformer_t", pretrained=True, pretrained_cfg_overlay=dict(file=file)).eval()
    want = model.forward_intermediates(image, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(backbone(image), want, strict=True))
    with torch.no_grad():
        backbone.model.stem[0].convs[0].weight.zero_()
    backbone.init_weights()  # what is trained is not overwritten
    assert not backbone.model.stem[0].convs[0].weight.any()


def test_a_model_without_weights_says_so_and_only_when_they_are_asked_for():
    backbone = ZooBackbone("test_biformer", pretrained=True)
    with pytest.raises(ValueError, match="no weights of test_biformer were published"):
        backbone.init_weights()


def test_a_file_of_another_model_is_refused(official):
    with pytest.raises(ValueError, match="does not fit crossformer_s"):
        ZooBackbone("crossformer_s", checkpoint=official("crossformer_tiny")).init_weights()
    with pytest.raises(ValueError, match="no file missing.pth"):
        ZooBackbone("crossformer_s", checkpoint="missing.pth").init_weights()


def test_a_file_of_timms_own_model_loads_strictly(tmp_path):
    model = timm.create_model("test_convnext")
    torch.save(model.state_dict(), tmp_path / "a.pth")
    backbone = ZooBackbone("test_convnext", checkpoint=str(tmp_path / "a.pth"))
    backbone.init_weights()
    assert torch.equal(backbone.model.stem[0].weight, model.stem[0].weight)
    torch.save({"stem.0.weight": model.stem[0].weight, "x": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"does not fit timm's test_convnext:\nmissing (.|\n)*unexpected \(1\): x"):
        ZooBackbone("test_convnext", checkpoint=str(tmp_path / "a.pth")).init_weights()


@pytest.mark.parametrize("golden", DENSE)
def test_an_official_detectors_backbone_loads_strictly(golden, official, tmp_path, image):
    name, (state, norms) = model_of(golden), dense_state_dict(golden)
    arguments = dict(out_norm="layer" if norms else None)
    with torch.device("meta"):
        backbone = ZooBackbone(name, **arguments)
    key = next(key for key in state if key.endswith("1.weight"))
    with pytest.raises(RuntimeError, match=r"Missing key\(s\)"):
        backbone.load_state_dict({k: v for k, v in state.items() if k != key}, assign=True)
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\).*made_up"):
        backbone.load_state_dict(state | {"made_up.weight": torch.zeros(2, 2)}, assign=True)
    with torch.device("meta"):
        backbone = ZooBackbone(name, **arguments)
    backbone.load_state_dict(state, assign=True)  # strict
    assert not any(value.is_meta for value in backbone.state_dict().values())
    for (i, part), value in norms.items():
        assert torch.equal(getattr(backbone.out_norms[i], part), value)
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=official(golden)))
    for key, value in backbone.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]) or key.endswith("num_batches_tracked"), key

    detector = {f"backbone.{key}": value for key, value in state.items()}
    with torch.device("meta"):
        whole = nn.ModuleDict(dict(backbone=ZooBackbone(name, **arguments)))
    whole.load_state_dict(detector, assign=True)
    same = backbone.state_dict()
    assert all(torch.equal(value, same[key]) for key, value in whole.backbone.state_dict().items())


@pytest.mark.parametrize("golden", ["shvit_s4", "nat_mini", "ravlt_t"])
def test_an_official_detectors_file_loads_when_weights_are_initialised(golden, tmp_path):
    name, (state, norms) = model_of(golden), dense_state_dict(golden)
    detector = {f"backbone.{key}": value for key, value in state.items()} | {"rpn_head.x": torch.zeros(1)}
    torch.save({"state_dict": detector, "meta": {}}, tmp_path / "dense.pth")
    backbone = ZooBackbone(name, checkpoint=str(tmp_path / "dense.pth"), out_norm="layer" if norms else None)
    backbone.init_weights()
    for (i, part), value in norms.items():
        assert torch.equal(getattr(backbone.out_norms[i], part), value)
    again = ZooBackbone(name, checkpoint=str(tmp_path / "dense.pth"), out_norm=None if norms else "layer")
    with pytest.raises(ValueError, match="out_norm"):
        again.init_weights()


def test_a_detectors_tag_loads_from_the_cache_norms_of_maps_too(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKBONES_CACHE", str(tmp_path / "cache"))
    state, norms = dense_state_dict("nat_mini")
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in state.items()}}, tmp_path / "dense.pth")
    weights.import_file(tmp_path / "dense.pth", "nat_mini.coco_mask_rcnn_3x")
    for name in (dict(model="nat_mini", pretrained="coco_mask_rcnn_3x"), dict(model="nat_mini.coco_mask_rcnn_3x")):
        backbone = ZooBackbone(**(dict(pretrained=True) | name), out_norm="layer", out_norm_eps=1e-5)
        backbone.init_weights()
        assert torch.equal(backbone.out_norms[2].bias, norms[2, "bias"])
        assert torch.equal(backbone.model.stages[0].blocks[0].attn.rpb, state["levels.0.blocks.0.attn.rpb"])


def test_norms_of_some_maps_are_taken_from_those_of_all():
    state, norms = dense_state_dict("nat_mini")
    backbone = ZooBackbone("nat_mini", out_indices=(1, 3), out_norm="layer")
    backbone.load_state_dict(state)
    assert torch.equal(backbone.out_norms[0].weight, norms[1, "weight"])
    assert torch.equal(backbone.out_norms[1].bias, norms[3, "bias"])


def test_what_a_detector_of_ours_saved_loads_everywhere(tmp_path, image):
    backbone = ZooBackbone("test_biformer", out_norm="layer").eval()
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    torch.save({"state_dict": state | {"neck.x": torch.zeros(1)}}, tmp_path / "ours.pth")
    again = ZooBackbone("test_biformer", out_norm="layer", checkpoint=str(tmp_path / "ours.pth")).eval()
    again.init_weights()
    assert all(torch.equal(a, b) for a, b in zip(again(image), backbone(image), strict=True))
    features = timm.create_model(
        "test_biformer",
        pretrained=True,
        features_only=True,
        pretrained_cfg_overlay=dict(file=str(tmp_path / "ours.pth")),
    )
    assert torch.equal(features.model.stem[0].weight, backbone.model.stem[0].weight)


# --- what is built around it


def segmentor(**backbone) -> dict:
    head = dict(type="FCNHead", in_index=[0, 2], input_transform="resize_concat", channels=8, num_classes=3)
    return dict(
        type="ZooModel",
        method="EncoderDecoder",
        backbone=dict(type="ZooBackbone", model="test_biformer", **backbone),
        decode_head=dict(head, norm_cfg=dict(type="BN")),
        auxiliary_head=[dict(head, in_index=-1, input_transform=None, norm_cfg=dict(type="BN"))],
        train_cfg=dict(),
        test_cfg=dict(mode="whole"),
    )


@pytest.fixture
def mmseg_scope():
    init_default_scope("mmseg")


def test_channels_are_deduced(mmseg_scope):
    model = MODELS.build(segmentor())
    assert model.decode_head.in_channels == 16 + 32
    assert model.auxiliary_head[0].in_channels == 64
    assert (
        MODELS.build(segmentor(out_indices=(1, 2, 3), options=dict(dims=(8, 16, 24, 32)))).decode_head.in_channels == 48
    )


def test_channels_that_cannot_be_deduced_are_told(mmseg_scope):
    config = segmentor()
    config["decode_head"]["in_index"] = [0, 4]
    with pytest.raises(ValueError, match=r"decode_head has in_index=\[0, 4\]: test_biformer gives 4 maps"):
        MODELS.build(config)
    config["backbone"] = dict(type="ResNet", depth=18)
    with pytest.raises(
        ValueError, match="decode_head has no in_channels, which is deduced for ZooBackbone, not for ResNet"
    ):
        MODELS.build(config)


def test_layer_decay_is_timms(mmseg_scope):
    from timm.optim import param_groups_layer_decay

    model = MODELS.build(segmentor(out_norm="layer"))
    optim = dict(
        type="OptimWrapper",
        constructor="LayerDecay",
        optimizer=dict(type="AdamW", lr=0.1, weight_decay=0.05),
        paramwise_cfg=dict(layer_decay=0.5, backbone_lr_mult=0.2, norm_decay_mult=0.0),
    )
    groups = build_optim_wrapper(model, optim).optimizer.param_groups
    got = {id(p): group for group in groups for p in group["params"]}
    assert got.keys() == {id(p) for p in model.parameters()}
    inside = model.backbone.model
    want = {id(p): g["lr_scale"] for g in param_groups_layer_decay(inside, layer_decay=0.5) for p in g["params"]}
    assert len({*want.values()}) == 6  # stem, and five blocks
    for parameter in model.parameters():
        scale = 0.2 * 0.5 * want[id(parameter)] if id(parameter) in want else 1  # heads and norms are one layer further
        assert got[id(parameter)]["lr"] == pytest.approx(0.1 * scale)
    assert got[id(inside.stages[0].blocks[0].norm1.weight)]["weight_decay"] == 0
    assert got[id(inside.stages[0].blocks[0].attn.qkv.weight)]["weight_decay"] == 0.05


@pytest.mark.parametrize("cfg", [dict(), dict(layer_decay=1.5), dict(layer_decay=0)], ids=str)
def test_layer_decay_says_what_it_needs(cfg, mmseg_scope):
    optim = dict(type="OptimWrapper", constructor="LayerDecay", optimizer=dict(type="SGD", lr=0.1), paramwise_cfg=cfg)
    with pytest.raises(ValueError, match="layer_decay"):
        build_optim_wrapper(MODELS.build(segmentor()), optim)


# --- CCNet's head, SHViT's pyramid


def test_criss_cross_attention_is_mmcvs():
    from mmcv.ops import CrissCrossAttention as Reference

    from backbones.openmm.criss_cross_head import CrissCrossAttention

    reference, ours = Reference(16).double(), CrissCrossAttention(16).double()
    with torch.no_grad():
        reference.gamma.scale.fill_(0.7)
    ours.load_state_dict(reference.state_dict())
    x = torch.randn(2, 16, 7, 11, dtype=torch.float64, requires_grad=True)
    want, got = reference(x), ours(x)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    probe = torch.randn_like(want)
    both = [torch.autograd.grad(out, [x, *m.parameters()], probe) for out, m in ((want, reference), (got, ours))]
    torch.testing.assert_close(*both, rtol=0, atol=1e-11)


def test_the_criss_cross_head_is_mmsegs(mmseg_scope):
    import backbones.openmm.criss_cross_head  # noqa: F401

    arguments = dict(in_channels=24, channels=16, num_classes=5, recurrence=2, norm_cfg=dict(type="BN"))
    reference, ours = (MODELS.build(dict(type=t, **arguments)).double().eval() for t in ("CCHead", "CrissCrossHead"))
    with torch.no_grad():
        reference.cca.gamma.scale.fill_(0.7)
    ours.load_state_dict(reference.state_dict())
    x = [torch.randn(2, 24, 9, 6, dtype=torch.float64)]
    torch.testing.assert_close(ours(x), reference(x), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="recurrence=0 must be at least 1"):
        MODELS.build(dict(type="CrissCrossHead", **(arguments | dict(recurrence=0))))


def test_the_finer_pyramid_without_finer_levels_is_mmdets():
    from mmdet.models.necks import FPN

    from backbones.openmm.finer_fpn import FinerFPN

    reference, ours = FPN([8, 16, 24], 12, 4, add_extra_convs="on_input"), FinerFPN([8, 16, 24], 12, 4, num_finer=0)
    ours.load_state_dict(reference.state_dict())
    maps = [torch.randn(1, c, s, s) for c, s in ((8, 9), (16, 5), (24, 3))]
    torch.testing.assert_close(ours(maps), reference(maps))


def test_the_finer_pyramid_doubles_the_resolution():
    from backbones.openmm.finer_fpn import FinerFPN

    pyramid = FinerFPN([8, 16, 24], 12, 5, num_finer=2)
    maps = [torch.randn(1, c, s, s) for c, s in ((8, 9), (16, 5), (24, 3))]
    outs = pyramid(maps)
    assert [m.shape[2] for m in outs] == [36, 18, 9, 5, 3]
    with torch.no_grad():
        finest = pyramid.lateral_convs[0](maps[0])
        coarser = pyramid.lateral_convs[1](maps[1]) + F.interpolate(pyramid.lateral_convs[2](maps[2]), size=5)
        up = pyramid.extra_trans_convs[0].conv(finest + F.interpolate(coarser, size=9))
        torch.testing.assert_close(outs[1], pyramid.extra_fpn_convs[1](up))
        torch.testing.assert_close(outs[0], pyramid.extra_fpn_convs[0](pyramid.extra_trans_convs[1].conv(up)))
    with pytest.raises(ValueError, match="num_outs=3 is less than 3 maps and num_finer=2"):
        FinerFPN([8, 16, 24], 12, 3, num_finer=2)


# --- without mm


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_the_zoo_alone_never_imports_mm():
    done = run(
        "import sys, backbones; print({'mmengine', 'mmcv', 'mmdet', 'mmseg', 'backbones.openmm'} & {*sys.modules})"
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_without_mm_the_message_says_how_to_install_it():
    done = run("import sys; sys.modules['mmengine'] = None; import backbones.openmm")
    assert "ImportError: backbones.openmm needs mmengine, and mmdet or mmseg" in done.stderr
    assert "tools/install_mm.sh" in done.stderr

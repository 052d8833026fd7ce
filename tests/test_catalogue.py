"""The catalogue says what is so: numbers are measured again, weights compared with timm's registry, the README's table
written again. Generic over zoo_weights/*.json."""

import json
import re

import pytest
import timm

import backbones
from tools import catalogue

FAMILIES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in catalogue._files()}
RECORDS = {name: record for family in FAMILIES.values() for name, record in family["models"].items()}
WEIGHTS = [f"{name}.{tag}" for name, record in RECORDS.items() for tag in record["weights"]]
METRICS = dict(classification=["top1", "mCE"], detection=["box_mAP", "mask_mAP"], segmentation=["mIoU"])


def test_every_model_has_a_record_and_every_record_a_model():
    assert sorted(RECORDS) == sorted(backbones.list_models())
    for stem, family in FAMILIES.items():
        assert sorted(family["models"]) == backbones.list_models(family=stem)


@pytest.mark.parametrize("name", WEIGHTS)
def test_parameters_and_multiply_adds_are_what_we_measure(name):
    info = backbones.info(name)
    assert catalogue.measure(name) == dict(params=info.params, gmacs=info.gmacs)


@pytest.mark.parametrize("name", RECORDS)
def test_a_published_number_is_within_two_percent_or_explained(name):
    record = RECORDS[name]
    off = [
        abs(ours / row[key] - 1) > 0.02
        for row in record["published"]
        if row["task"] == "classification" and row["input_size"] == record["input_size"]
        for key, ours in (("params_M", record["params"] / 1e6), ("flops_G", record["gmacs"]))
        if row[key] is not None and not row["note"]
    ]
    assert record["note"] or not any(off)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_those_in_timms_registry(name):
    info, cfg = backbones.info(name), timm.get_pretrained_cfg(name)
    weights = info.weights[info.tag]
    if "download_page" in weights:
        assert not cfg.has_weights
        assert cfg.origin_url == weights["download_page"]
    else:
        assert (cfg.url or cfg.hf_hub_id) in weights["url"]
    assert cfg.input_size == (3, weights["input_size"], weights["input_size"])
    for key in ("num_classes", "crop_pct", "interpolation"):
        assert getattr(cfg, key) == weights[key]
    assert cfg.mean == tuple(weights["mean"])
    assert cfg.std == tuple(weights["std"])
    assert cfg.crop_mode == weights.get("crop_mode", "center")
    assert cfg.license == (info.license and info.license.lower())
    if cfg.paper_ids:  # timm's cfgs of DaViT have none
        assert info.paper["url"].endswith(cfg.paper_ids.removeprefix("arXiv:"))


def test_the_first_tag_is_timms_default():
    tags = {name: backbones.info(name).tag or None for name in RECORDS}
    timms = {name: timm.get_pretrained_cfg(name).tag for name in RECORDS}
    assert tags == {name: None if tag == "untrained" else tag for name, tag in timms.items()}


@pytest.mark.parametrize("name", RECORDS)
def test_published_results_have_a_source_and_their_tasks_metrics(name):
    for row in RECORDS[name]["published"]:
        assert row["source"]
        assert any(row.get(metric) is not None for metric in METRICS[row["task"]])
    for weights in RECORDS[name]["weights"].values():
        rows = [row for row in RECORDS[name]["published"] if row["input_size"] == weights["input_size"]]
        assert weights["top1"] in [None, *(row.get("top1") for row in rows)]


def test_files_and_readme_are_as_the_tool_writes_them():
    for path in catalogue._files():
        assert path.read_text(encoding="utf-8") == catalogue.dump(FAMILIES[path.stem]), "run tools/catalogue.py"
    readme = catalogue.README.read_text(encoding="utf-8")
    assert catalogue.TABLE.findall(readme) == [catalogue.table()], "run tools/catalogue.py"
    assert catalogue.MODELS.read_text(encoding="utf-8") == catalogue.side_by_side(), "run tools/catalogue.py"


def test_list_models():
    assert backbones.list_models("cswin_?") == ["cswin_b", "cswin_l", "cswin_s", "cswin_t"]
    assert backbones.list_models(family="BiFormer") == backbones.list_models("biformer*")
    assert not [name for name in backbones.list_models() if name.startswith("test_")]
    assert "test_cswin" in backbones.list_models("test_*")
    assert "convnext_tiny" not in backbones.list_models()
    assert {"cswin_l.in22k", "cswin_l.in22k_ft_in1k"} <= set(backbones.list_models(pretrained=True))
    by_hand = {name for name in WEIGHTS if "download_page" in backbones.info(name).weights[name.split(".")[1]]}
    assert set(backbones.list_models(pretrained=True)) == set(WEIGHTS) - by_hand
    with pytest.raises(ValueError, match=r'no family "swin"; there are biformer, .*cswin'):
        backbones.list_models(family="swin")


def test_info():
    info = backbones.info("biformer_s")
    assert (info.name, info.tag, info.family, info.license) == ("biformer_s", "in1k", "BiFormer", "MIT")
    assert (info.params, info.gmacs, info.input_size, info.top1) == (25536232, 4.464, 224, 83.8)
    assert re.search(r"25\.5 M parameters, 4\.46 GMACs at 224 x 224\n.*83\.8%", str(info))
    info.published.clear()  # a copy
    assert backbones.info("biformer_s").published
    large = backbones.info("cswin_l.in22k")
    assert large.params - backbones.info("cswin_l").params == (21841 - 1000) * (1152 + 1)
    assert large.top1 is None


@pytest.mark.parametrize("alias, name", backbones._backbone.ALIASES.items())
def test_official_names_mean_the_same_model(alias, name):
    assert repr(backbones.info(alias)) == repr(backbones.info(name))


@pytest.mark.parametrize(
    "name, message",
    [
        ("biformr_s", 'no model "biformr_s": did you mean biformer_s or'),
        ("resnet50", 'no model "resnet50": backbones.list_models'),
        ("cswin_l.in21k", 'no weights "in21k"; there are in22k_ft_in1k, in22k'),
    ],
)
def test_unknown_names_are_answered_with_known_ones(name, message):
    with pytest.raises(ValueError, match=message):
        backbones.info(name)

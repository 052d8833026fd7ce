"""Weights with provenance: what is read, recognised, downloaded, kept, refused. Small models, a local server."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from timm.data import ImageNetInfo

import backbones
from backbones import _catalogue, weights
from backbones.classification import data
from backbones.weights import __main__ as command_line
from backbones.weights import cache, read, transfer

ROOT = Path(__file__).parents[1]
TINY = backbones.list_models("test_*")
RECORDS = {name: record for name, (_, record) in _catalogue._records().items()}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BACKBONES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def publish(monkeypatch):
    """Says in the catalogue that a tiny model has published weights."""

    def publish(model="test_biformer", tag="in1k", dense=False, **facts):
        record = _catalogue._records().get(model, ({}, {}))[1]
        key = "dense" if dense else "weights"
        facts = dict(num_classes=1000, download_page="https://drive.example/x", file="official.pth") | facts
        record = record | {key: record.get(key, {}) | {tag: facts}}
        records = _catalogue._records() | {model: ({}, record)}
        monkeypatch.setattr(_catalogue, "_records", lambda: records)
        return f"{model}.{tag}"

    return publish


def tiny(name="test_biformer", **kwargs) -> torch.nn.Module:
    return timm.create_model(name, **kwargs).eval()


def saved(tmp_path, content, name="official.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# --- recognising


@pytest.mark.parametrize("name", TINY)
def test_an_imported_file_is_what_pretrained_loads(name, tmp_path):
    model = tiny(name)
    file = saved(tmp_path, model.state_dict())
    entry, path = weights.import_file(file, name)
    assert entry.model == name and path.parent == cache.folder()
    assert same(timm.create_model(name, pretrained=True), model)
    known = cache.record(entry.name)
    assert known["source_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert known["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    # positions and windows follow the input, so another size is no other set of weights
    other = timm.create_model(name, pretrained=True, img_size=(96, 64)).eval()
    assert same(other, model) and timm.data.resolve_data_config({}, model=other)["input_size"] == (3, 96, 64)
    with torch.inference_mode():
        torch.testing.assert_close(other(torch.ones(1, 3, 96, 64)), model(torch.ones(1, 3, 96, 64)))


def test_sizes_that_cannot_be_are_named():
    with pytest.raises(ValueError, match=r"img_size=16 must be .* at least 32"):
        tiny(img_size=16)


WRAPPERS = {
    "model": lambda s: {"model": s, "epoch": 3},
    "state_dict": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "args": argparse.Namespace(lr=1)},
    "nested": lambda s: {"module": {"state_dict": s}},
    "lightning": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}},
    "averaged": lambda s: {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in s.items()}},
    "compiled": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_any_wrapper_is_taken_off(wrapper, tmp_path):
    model = tiny("test_cswin")
    assert weights.import_file(saved(tmp_path, WRAPPERS[wrapper](model.state_dict())))[0].model == "test_cswin"
    assert same(timm.create_model("test_cswin", pretrained=True), model)


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
def test_averaged_weights_are_the_default_and_a_choice(key, tmp_path):
    plain, averaged = tiny(), tiny()
    file = saved(tmp_path, {"model": plain.state_dict(), key: averaged.state_dict()})
    for ema, expected in ((None, averaged), (True, averaged), (False, plain)):
        weights.import_file(file, ema=ema)
        assert same(timm.create_model("test_biformer", pretrained=True), expected)
    with pytest.raises(ValueError, match="has no averaged weights"):
        weights.import_file(saved(tmp_path, plain.state_dict()), ema=True)


def test_another_familys_file_is_refused_with_both_names(tmp_path):
    file = saved(tmp_path, tiny("test_cswin").state_dict())
    with pytest.raises(ValueError, match="does not fit test_biformer: it is that of test_cswin"):
        weights.import_file(file, "test_biformer")
    with pytest.raises(ValueError, match="(?s)does not fit test_biformer:\nit is that of test_cswin\nmissing"):
        timm.create_model("test_biformer", pretrained=True, pretrained_cfg_overlay=dict(file=str(file)))
    assert not weights.imported()


def test_a_file_of_nothing_names_the_nearest_and_what_differs(tmp_path):
    state = tiny("test_ravlt").state_dict()
    state["foreign"] = state.pop("stem.0.0.weight")
    with pytest.raises(
        ValueError, match=r"(?s)nearest is test_ravlt:\nmissing \(1\): stem.0.0.weight\nunexpected.*fore"
    ):
        weights.import_file(saved(tmp_path, state))
    with pytest.raises(ValueError, match=r"fits no model of the zoo"):
        weights.import_file(saved(tmp_path, {"odd.weight": torch.ones(3)}))


def keys_of(name: str) -> weights.Checkpoint:
    """A checkpoint of a large model, of which only keys and shapes exist."""
    with torch.device("meta"):
        return weights.Checkpoint(timm.create_model(name).state_dict())


@pytest.mark.parametrize("name", ["biformer_stl", "crossformerpp_h", "cswin_t", "ravlt_l", "shvit_s2", "transnext_b"])
def test_large_models_are_told_apart(name):
    assert weights.recognise(keys_of(name)) == [name]


@pytest.mark.parametrize("name, others", [("cswin_b", ["cswin_b_384"]), ("nat_t", ["dinat_t"])])
def test_models_of_the_same_shapes_are_all_named(name, others):
    assert sorted(weights.recognise(keys_of(name))) == sorted([name, *others])


def test_tables_of_old_releases_do_not_matter():
    """CrossFormer once kept tables of its training size as buffers."""
    golden = json.loads((Path(__file__).parent / "goldens" / "crossformer_tiny.json").read_text())
    state = {e["key"]: torch.empty(e["shape"], device="meta") for e in golden["state_dict"] if e["seeded"]}
    for name in ("attn.biases", "attn.relative_position_index", "attn_mask"):
        state[f"layers.0.blocks.0.{name}"] = torch.empty(169, 2, device="meta")
    assert weights.recognise(weights.Checkpoint(state)) == ["crossformer_t"]
    state["layers.0.blocks.0.attn.table"] = torch.empty(169, 2, device="meta")
    assert weights.recognise(weights.Checkpoint(state)) == []


def test_ambiguity_is_reported_and_never_guessed(tmp_path, publish):
    publish(tag="in1k", file="a.pth"), publish(tag="in1k_384", file="official.pth")
    model = tiny()
    file = saved(tmp_path, model.state_dict())
    message = (
        r"can be test_biformer.in1k, test_biformer.in1k_384: .*--model NAME \(the published .* test_biformer.in1k_3"
    )
    with pytest.raises(ValueError, match=message):
        weights.import_file(file)
    assert not weights.imported()
    assert weights.import_file(file, "test_biformer.in1k_384")[0].tag == "in1k_384"
    assert list(weights.imported()) == ["test_biformer.in1k_384"]
    publish(tag="in1k", sha256=cache.sha256(file))  # a published hash is no guess
    assert weights.import_file(file)[0].tag == "in1k"


def test_classes_that_nobody_published_are_named(tmp_path, publish):
    publish()
    with pytest.raises(ValueError, match="is test_biformer with 7 classes, which nobody published.*num_classes=N"):
        weights.import_file(saved(tmp_path, tiny(num_classes=7).state_dict()))
    publish(tag="in22k", num_classes=21841)
    publish(tag="in1k")
    assert weights.import_file(saved(tmp_path, tiny(num_classes=21841).state_dict()))[0].tag == "in22k"


def test_a_published_hash_is_checked(tmp_path, publish):
    name = publish(sha256="0" * 64)
    with pytest.raises(ValueError, match="is not the published file of test_biformer.in1k: sha256 .*, published 0000"):
        weights.import_file(saved(tmp_path, tiny().state_dict()), name)


def detector(model, prefix="backbone.", **more) -> dict:
    """What mmdet saves: our backbone without classifier and norm, norms of its maps, and a head."""
    inside = {key: value for key, value in model.state_dict().items() if not key.startswith(("head.", "norm."))}
    inside |= {f"extra_norms.{i}.weight": torch.ones(info["num_chs"]) for i, info in enumerate(model.feature_info)}
    state = {f"{prefix}{key}": value for key, value in (inside | more).items()} | {"roi_head.fc.weight": torch.ones(3)}
    return {"meta": {"epoch": 12, "config": "x"}, "state_dict": state}


@pytest.mark.parametrize("name", [name for name in TINY if name != "test_ccnet"])
def test_the_backbone_of_a_detector_loads(name, tmp_path, publish):
    publish(name, "coco_x", dense=True)
    model = tiny(name)
    file = saved(tmp_path, detector(model))
    direct = timm.create_model(name, pretrained=True, features_only=True, pretrained_cfg_overlay=dict(file=str(file)))
    entry, _ = weights.import_file(file)
    assert entry.name == f"{name}.coco_x"
    loaded = timm.create_model(f"{name}.coco_x", pretrained=True, features_only=True).eval()
    with torch.inference_mode():
        x = torch.randn(1, 3, 64, 64)
        for got, also, want in zip(
            loaded(x), direct.eval()(x), model.forward_intermediates(x, intermediates_only=True), strict=True
        ):
            assert torch.equal(got, want) and torch.equal(also, want)
    with pytest.raises(ValueError, match="coco_x is a backbone without classifier: add features_only=True"):
        timm.create_model(f"{name}.coco_x", pretrained=True)
    for shape in ((2, 2), (2,)):
        broken = saved(tmp_path, detector(model, **{"stages.0.extra.weight": torch.ones(shape)}))
        with pytest.raises(ValueError, match=r"unexpected \(1\): stages.0.extra.weight"):
            weights.import_file(broken, name)


def test_the_backbone_of_a_whole_segmentation_network_loads(tmp_path, publish):
    publish("test_transnext", "ade_x", dense=True)
    model = tiny("test_transnext")
    inside = {key: value for key, value in model.state_dict().items() if not key.startswith("head.")}
    assert weights.import_file(saved(tmp_path, inside))[0].name == "test_transnext.ade_x"
    loaded = timm.create_model("test_transnext.ade_x", pretrained=True, features_only=True)
    assert torch.equal(loaded.model.stem[0].weight, model.stem[0].weight)


# --- reading safely


class Evil:
    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("function", [os.mkdir, exec, np.load, os.makedirs], ids=lambda f: f.__name__)
def test_nothing_in_a_checkpoint_executes(function, zipped, tmp_path):
    executed = tmp_path / "executed"
    argument = f"import os; os.mkdir({str(executed)!r})" if function is exec else str(executed)
    content = {"model": tiny().state_dict(), "args": Evil(function, argument)}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=rf"evil.pth is refused: it asks for \S*{function.__name__}, and nothing"):
        weights.import_file(tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="evil.pth"):
        timm.create_model(
            "test_biformer", pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / "evil.pth"))
        )
    assert not executed.exists() and not weights.imported()


def test_names_that_are_let_through_stand_for_nothing():
    assert {stand_in for stand_in, _ in read.SAFE_GLOBALS} == {read._Ignored, read._Dict}


def test_what_old_checkpoints_hold_is_passed_over(tmp_path, monkeypatch):
    """Settings of packages that are not here, by name, without their code."""
    module = type(sys)("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config", "__qualname__": "CfgNode"})
    monkeypatch.setitem(sys.modules, "yacs", type(sys)("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    config = module.CfgNode(MODEL=module.CfgNode(DEPTH=2))
    config.frozen = True
    model = tiny()
    beside = {"config": config, "args": argparse.Namespace(lr=0.1), "best": np.float64(3.5), "path": Path("x")}
    file = saved(tmp_path, {"model": model.state_dict(), **beside})
    monkeypatch.delitem(sys.modules, "yacs.config")
    weights.import_file(file)
    assert same(timm.create_model("test_biformer", pretrained=True), model)
    overlay = dict(file=str(file))
    assert same(timm.create_model("test_biformer", pretrained=True, pretrained_cfg_overlay=overlay), model)
    assert torch.serialization.get_safe_globals() == [
        entry for entry in torch.serialization.get_safe_globals() if not isinstance(entry, tuple)
    ]


def archive(path: Path, compression=zipfile.ZIP_STORED, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, content in files.items():
            out.writestr(name.replace("__", "/").replace("_pkl", ".pkl"), content)
    return path


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "x.pth is empty"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "x.pth is a web page, not weights"),
        (b"PK\x03\x04 cut off", "x.pth is not a complete checkpoint"),
        (b"\x80\x02}q\x01", "x.pth is not a complete checkpoint"),
        (b"hello", "x.pth is no checkpoint: it begins with b'hello'"),
        (b"\x1f\x8b\x08", "x.pth is no checkpoint: a gzip archive: unpack it first"),
        ((9).to_bytes(8, "little") + b'{"a":', "x.pth is not a complete safetensors file"),
    ],
)
def test_files_that_are_no_weights_are_named(content, message, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        weights.import_file(tmp_path / "x.pth")
    with pytest.raises(ValueError, match="no file .*absent.pth"):
        weights.import_file(tmp_path / "absent.pth")


@pytest.mark.parametrize("kind", ["cut", "flipped"])
def test_damaged_files_are_named(kind, tmp_path):
    file = saved(tmp_path, tiny().state_dict())
    content = bytearray(file.read_bytes())
    if kind == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.raises(ValueError, match="official.pth is not a complete checkpoint"):
        weights.import_file(file)


def test_archives_that_unpack_to_too_much_are_refused(tmp_path):
    bomb = archive(tmp_path / "bomb.pth", zipfile.ZIP_DEFLATED, x__data_pkl=bytes(10**6))
    assert bomb.stat().st_size < 10**4
    with pytest.raises(ValueError, match=r"bomb.pth is refused: \d+ bytes unpack to 1000000"):
        weights.import_file(bomb)
    with pytest.raises(ValueError, match="is an archive of official.pth: unpack it"):
        weights.import_file(archive(tmp_path / "a.zip", **{"official.pth": b"x"}))
    file = saved(tmp_path, tiny().state_dict())
    with pytest.raises(ValueError, match="more than the limit of 1000"):
        weights.checkpoint(file, max_bytes=1000)
    huge = saved(tmp_path, {"a.weight": torch.ones(1).expand(10**12)})
    with pytest.raises(ValueError, match="a.weight claims 1000000000000 values, more than the file holds"):
        weights.checkpoint(huge)


def test_timms_own_models_load_what_was_imported(tmp_path):
    model = tiny("shvit_s1")
    with pytest.raises(ValueError, match=r"shvit_s4 with features_only=True|run `python -m backbones.weights download"):
        timm.create_model("shvit_s4.coco_mask_rcnn_1x", pretrained=True, features_only=True)
    weights.import_file(saved(tmp_path, {"model": model.state_dict()}))
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(tiny("shvit_s1", pretrained=True)(x), model(x))
        torch.testing.assert_close(tiny("shvit_s1.in1k", pretrained=True)(x), model(x))
        adapted = tiny("shvit_s1", pretrained=True, num_classes=3, in_chans=1)
        assert adapted(x[:, :1]).shape == (1, 3)


def test_timms_own_models_take_the_backbone_of_a_detector(tmp_path):
    state = {f"backbone.{key}": value for key, value in tiny("shvit_s4").state_dict().items() if "head" not in key}
    file = saved(tmp_path, {"state_dict": state | {"rpn_head.rpn_conv.weight": torch.zeros(1)}})
    entry, _ = weights.import_file(file, "shvit_s4.coco_mask_rcnn_1x")
    assert entry.dense
    with pytest.raises(ValueError, match="is a backbone without classifier: add features_only=True"):
        timm.create_model("shvit_s4.coco_mask_rcnn_1x", pretrained=True)
    features = timm.create_model("shvit_s4.coco_mask_rcnn_1x", pretrained=True, features_only=True)
    got = features.state_dict()["stages_2.blocks.0.conv.m.c.weight"]
    assert torch.equal(got, state["backbone.stages.2.blocks.0.conv.m.c.weight"])


def test_timms_own_models_refuse_another_models_file_with_both_names(tmp_path):
    file = saved(tmp_path, tiny("shvit_s2").state_dict())
    with pytest.raises(ValueError, match="does not fit shvit_s1:\nit is that of shvit_s2"):
        timm.create_model("shvit_s1", pretrained=True, pretrained_cfg_overlay=dict(file=str(file)))


@pytest.mark.parametrize("name", ["../x", "a/b", "", "..", ".hidden", "/x"])
def test_nothing_leaves_the_folder(name):
    with pytest.raises(ValueError, match="is no name of a file"):
        cache.inside(name)


def test_damaged_weights_in_the_cache_are_not_loaded(tmp_path):
    _, path = weights.import_file(saved(tmp_path, tiny().state_dict()))
    assert "intact" in weights.verify("test_biformer")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for use in (lambda: timm.create_model("test_biformer", pretrained=True), lambda: weights.verify("test_biformer")):
        with pytest.raises(ValueError, match="imported weights test_biformer are damaged"):
            use()


# --- downloading


class Server(ThreadingHTTPServer):
    """Serves `files`; `cut`: ends each answer after so many bytes; `slow`: seconds before it answers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[dict] = []
        self.cut, self.slow, self.type, self.moved = None, 0.0, "application/octet-stream", {}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server, name = self.server, self.path.strip("/")
        server.requests.append(dict(self.headers))
        time.sleep(server.slow)
        if name in server.moved:
            target, tag = server.moved[name]
            self.send_response(302)
            self.send_header("Location", server.url(target))
            self.send_header("X-Linked-ETag", f'"{tag}"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if name not in server.files:
            return self.send_error(404)
        content = server.files[name]
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if self.headers.get("If-Range") != etag:
            start = 0
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", server.type)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(body[: server.cut])
        self.wfile.flush()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(transfer, "TRIES", 2)
    made = Server()
    threading.Thread(target=made.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


CONTENT = np.random.RandomState(0).bytes(300_000)
HASH = hashlib.sha256(CONTENT).hexdigest()


def test_an_interrupted_download_goes_on(server, tmp_path):
    server.files["a"], server.cut = CONTENT, 70_000
    path = weights.fetch(server.url("a"), tmp_path / "a", sha256=HASH)
    assert path.read_bytes() == CONTENT
    assert [r.get("Range") for r in server.requests] == [
        None, "bytes=70000-", "bytes=140000-", "bytes=210000-", "bytes=280000-"
    ]  # fmt: skip
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob("*.etag"))


def test_a_later_run_goes_on_but_never_with_another_version(server, tmp_path):
    server.files["a"], server.cut = CONTENT, 0
    (tmp_path / "a.part").write_bytes(CONTENT[:1000])
    (tmp_path / "a.etag").write_text(f'"{hashlib.md5(CONTENT).hexdigest()}"')
    with pytest.raises(OSError, match="cannot be downloaded: .*; 1000 bytes are kept, run again"):
        weights.fetch(server.url("a"), tmp_path / "a")
    server.cut, server.requests = None, []
    assert weights.fetch(server.url("a"), tmp_path / "a").read_bytes() == CONTENT
    assert server.requests[0]["Range"] == "bytes=1000-"
    (tmp_path / "b.part").write_bytes(b"older")
    (tmp_path / "b.etag").write_text('"older"')
    assert weights.fetch(server.url("a"), tmp_path / "b").read_bytes() == CONTENT


def test_a_wrong_hash_is_rejected(server, tmp_path):
    server.files["a"] = CONTENT
    with pytest.raises(ValueError, match=f"its sha256 is {HASH}, not 1234; nothing was kept"):
        weights.fetch(server.url("a"), tmp_path / "a", sha256="1234")
    server.moved["hub"] = "a", "0" * 64  # as Hugging Face tells the hash of a file
    with pytest.raises(ValueError, match="not 0000"):
        weights.fetch(server.url("hub"), tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]
    server.moved["hub"] = "a", HASH
    assert weights.fetch(server.url("hub"), tmp_path / "a").read_bytes() == CONTENT


def test_what_a_server_cannot_give_is_reported(server, tmp_path):
    with pytest.raises(ValueError, match="/absent answers 404 Not Found: the file is not there"):
        weights.fetch(server.url("absent"), tmp_path / "a")
    server.files["a"], server.type = b"<html>", "text/html; charset=utf-8"
    with pytest.raises(ValueError, match="/a is a web page, not a file"):
        weights.fetch(server.url("a"), tmp_path / "a")
    server.files["a"], server.type = CONTENT, "application/octet-stream"
    with pytest.raises(ValueError, match="more than the limit of 1000 bytes"):
        weights.fetch(server.url("a"), tmp_path / "a", max_bytes=1000)
    with pytest.raises(ValueError, match="'file:///x' is no http"):
        weights.fetch("file:///x", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_time_out_is_reported(server, tmp_path):
    server.files["a"], server.slow = CONTENT, 1.0
    with pytest.raises(OSError, match=r"cannot be downloaded: no answer within 0.1 s; 0 bytes are kept"):
        weights.fetch(server.url("a"), tmp_path / "a", timeout=0.1)


PROCESS = "import sys, pathlib; from backbones.weights import fetch; fetch(sys.argv[1], pathlib.Path(sys.argv[2]))"


def test_processes_that_download_at_once_take_turns(server, tmp_path):
    server.files["a"], server.cut = CONTENT, 200_000
    command = [sys.executable, "-c", PROCESS, server.url("a"), str(tmp_path / "a")]
    environment = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    running = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[1] for process in running] == [""] * 2
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert [r.get("Range") for r in server.requests] == [None, "bytes=200000-"]  # one download


def test_imports_at_once_take_turns_and_leave_one_whole_entry(tmp_path, monkeypatch):
    files = [saved(tmp_path, tiny().state_dict(), f"{i}.pth") for i in range(3)]
    save, at_work, most = cache.save, [], []

    def slow_save(*arguments):
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.1)
        digest = save(*arguments)
        at_work.pop()
        return digest

    monkeypatch.setattr(cache, "save", slow_save)
    threads = [threading.Thread(target=weights.import_file, args=(file, "test_biformer")) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(most) == 3
    assert timm.create_model("test_biformer", pretrained=True)
    assert len(list(cache.folder().glob("*.safetensors"))) == 1 and not list(cache.folder().glob(".*"))


def test_download_converts_and_pretrained_finds_it_offline(server, tmp_path, publish, monkeypatch):
    model = tiny()
    server.files["w.pth"] = saved(tmp_path, {"state_dict": model.state_dict()}).read_bytes()
    name = publish(url=server.url("w.pth"), download_page=None, file="w.pth")
    digest = hashlib.sha256(server.files["w.pth"]).hexdigest()
    for forbidden in (lambda: weights.download(name, local_files_only=True),):
        with pytest.raises(ValueError, match="test_biformer.in1k are not in .*cache, and downloads are off"):
            forbidden()
    path = weights.download(name)
    assert cache.record(name)["source_sha256"] == digest and not list(cache.folder().glob("*.download/*.pth"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.requests.clear()
    assert weights.download(name) == path and not server.requests
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE"):
        weights.download(name, force=True)


def test_offline_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match="cswin_t.in1k are not in .*: run `python -m backbones.weights download cswin_t"
    ):
        timm.create_model("cswin_t.in1k", pretrained=True)


def test_share_links_are_explained():
    page = RECORDS["biformer_s"]["weights"]["in1k"]["download_page"]
    for use in (
        lambda: timm.create_model("biformer_small.in1k", pretrained=True),
        lambda: weights.download("biformer_s"),
    ):
        with pytest.raises(ValueError) as error:
            use()
        assert page in str(error.value)
        assert "python -m backbones.weights import biformer_small_in1k.pth --model biformer_s.in1k" in str(error.value)


# --- the rest of the way


def test_an_export_loads_from_its_folder(tmp_path, monkeypatch):
    model = tiny("test_cswin")
    weights.import_file(saved(tmp_path, model.state_dict()))
    target = weights.export("test_cswin", tmp_path / "hub")
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert same(timm.create_model(f"local-dir:{target}", pretrained=True), model)
    card = (target / "README.md").read_text()
    assert card.startswith("---\n")
    assert "license: unknown" in card and cache.record("test_cswin")["source_sha256"] in card
    with pytest.raises(ValueError, match="is not empty"):
        weights.export("test_cswin", target)


def test_a_card_tells_where_weights_come_from():
    with torch.device("meta"):
        model = timm.create_model("cswin_t.in1k")
    from backbones.weights.hub import card

    text = card(weights.source("cswin_t.in1k"), model)
    for fact in ("license: mit", "imagenet-1k", "82.8% as published", "CSWin-Transformer/releases", "crop_pct 0.9"):
        assert fact in text


def test_verify_measures_top1(tmp_path, monkeypatch):
    model = tiny()
    torch.nn.init.zeros_(model.head.fc.weight)
    model.head.fc.bias.data.copy_(torch.arange(1000) == 0)  # always the first class
    weights.import_file(saved(tmp_path, model.state_dict()))
    for i in (0, 0, 1, 2):
        folder = tmp_path / "data" / "validation" / str(i)
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(folder / f"{len(list(folder.iterdir()))}.png")
    with pytest.raises(ValueError, match="test_biformer has 1000 classes, .* has 3"):
        weights.top1("test_biformer", tmp_path / "data", workers=0, device="cpu")
    monkeypatch.setattr(data, "class_names", lambda split: None)
    result = weights.top1("test_biformer", tmp_path / "data", workers=0, device="cpu")
    assert result["top1"] == 50.0 and result["images"] == 4 and result["published"] is None


def tool(*arguments: str) -> str:
    command = [sys.executable, str(ROOT / "tools" / "weights.py"), *map(str, arguments)]
    environment = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_the_command_line(tmp_path, capsys):
    file = saved(tmp_path, tiny().state_dict())
    assert "is test_biformer (plain weights)" in tool("import", file)
    run = command_line.main
    run(["verify"])
    run(["list", "cswin_t*"])
    run(["info", "cswin_t"])
    run(["convert", str(file), str(tmp_path / "out.safetensors")])
    run(["export", "test_biformer", str(tmp_path / "hub")])
    run(["download", "test_biformer", "--cache-only"])
    said = capsys.readouterr().out
    for text in (
        "test_biformer: intact",
        "cswin_t.in1k",
        "direct link",
        "ade20k_upernet_160k",
        "out.safetensors, sha256",
    ):
        assert text in said
    assert read.checkpoint(tmp_path / "out.safetensors").tensors.keys() == tiny().state_dict().keys()
    with pytest.raises(ValueError, match="no file .*absent.pth"):
        run(["import", str(tmp_path / "absent.pth")])
    with pytest.raises(ValueError, match='no published weights are called "swin'):
        run(["list", "swin*"])


# --- the catalogue

HOSTS = {"github-release", "huggingface", "own-site", "google-drive", "onedrive", "baidu"}
TASKS = {"detection", "segmentation"}


@pytest.mark.parametrize("name", RECORDS)
def test_records_of_checkpoints_are_complete(name):
    record = RECORDS[name]
    for facts in [*record["weights"].values(), *record.get("dense", {}).values()]:
        assert facts["host"] in HOSTS and facts["url"].startswith("http")
        by_hand = facts["host"] in {"google-drive", "onedrive", "baidu"}
        assert ("download_page" in facts) == by_hand
        assert facts["sha256"] is None or len(facts["sha256"]) == 64
        assert facts.get("sha256_prefix", "") in (facts["file"] or "")
    for facts in record["weights"].values():
        if facts["classes"] is not None:
            assert ImageNetInfo(facts["classes"]).num_classes() == facts["num_classes"]
    for facts in record.get("dense", {}).values():
        assert facts["task"] in TASKS and facts["method"] and facts["dataset"] and "input_size" in facts
    assert not record["weights"].keys() & record.get("dense", {}).keys()


def test_info_tells_of_dense_checkpoints():
    info = backbones.info("cswin_t")
    assert "ade20k_upernet_160k" in info.dense and "ade20k_upernet_160k" in repr(info)
    assert json.dumps(info.dense)

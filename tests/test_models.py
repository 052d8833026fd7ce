"""The contract with timm and the promises beyond it, for every registered model."""

import copy
import inspect
import pickle
import sys
from contextlib import nullcontext

import pytest
import timm
import torch
from close import assert_close_to
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ops import OPS
from timm.optim import param_groups_layer_decay
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.flop_counter import FlopCounterMode

import backbones
from backbones._backbone import ALIASES, MIN_SIZE

MODELS = [n for n in timm.list_models() if timm.models.model_entrypoint(n).__module__.startswith("backbones.")]
TINY = [n for n in MODELS if n.startswith("test_")]
PUBLISHED = [n for n in MODELS if n not in TINY]


def implementations(name: str) -> list[str]:
    """Of the operators that the model's family calls."""
    source = inspect.getsource(sys.modules[timm.models.model_entrypoint(name).__module__])
    return sorted({impl for op, module in OPS.items() if f"ops.{op}(" in source for impl in module.IMPLS})


IMPLS = [(name, impl) for name in TINY for impl in implementations(name)]


@pytest.fixture(params=TINY)
def name(request):
    return request.param


def images(*size, batch=2, chans=3, **kw):
    return torch.randn(batch, chans, *size, **kw)


def float64_gradients(model, x):
    model.zero_grad()
    model(x).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def blocks(model):
    """Stage by stage, the paths of its blocks."""
    stages = [(f"stages.{i}", getattr(stage, "blocks", None)) for i, stage in enumerate(model.stages)]
    return [
        [f"{path}.blocks.{j}" for j in range(len(inner))]
        if inner is not None
        else [f"{path}.{j}" for j in range(len(model.get_submodule(path)))]
        for path, inner in stages
    ]


def first_convs(model):
    convs = model.default_cfg["first_conv"]
    return [convs] if isinstance(convs, str) else convs


# --- timm's contract


@pytest.mark.parametrize("name", MODELS)
def test_builds_and_runs_on_meta_as_its_cfg_says(name):
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        features = model.forward_features(torch.empty(2, *model.default_cfg["input_size"]))
    cfg = model.default_cfg
    assert cfg["architecture"] == name and cfg["num_classes"] == model.num_classes
    assert features.shape == (2, model.num_features, *cfg["pool_size"])
    for conv in first_convs(model):
        assert model.get_submodule(conv).in_channels == cfg["input_size"][0]
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    assert model(torch.empty(2, *cfg["input_size"], device="meta")).shape == (2, model.num_classes)


@pytest.mark.parametrize("alias", ALIASES)
def test_an_official_name_is_the_same_model(alias):
    name = ALIASES[alias]
    with torch.device("meta"):
        ours, theirs = timm.create_model(name), timm.create_model(alias)
    assert theirs.default_cfg == ours.default_cfg and theirs.default_cfg["architecture"] == name
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {k: v.shape for k, v in ours.state_dict().items()}
    assert timm.is_model(alias) and alias not in timm.list_models(alias)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(height=st.integers(MIN_SIZE, 150), width=st.integers(MIN_SIZE, 150), batch=st.integers(1, 2))
@pytest.mark.parametrize("name", TINY)
def test_any_size_gives_maps_of_the_declared_strides(name, height, width, batch):
    model = timm.create_model(name, features_only=True).eval()
    rounded_up = name == "test_ccnet"  # its max pooling, as published, makes one more
    with torch.inference_mode():
        maps = model(images(height, width, batch=batch))
    for m, chs, red in zip(maps, model.feature_info.channels(), model.feature_info.reduction(), strict=True):
        assert m.shape[:2] == (batch, chs) and m.isfinite().all()
        for got, size in zip(m.shape[2:], (height, width), strict=True):
            assert size // red <= got <= -(-size // red) + rounded_up


def test_a_small_or_misshapen_input_is_an_error(name):
    model = timm.create_model(name)
    for size in (31, 64), (64, 31), (1, 1):
        with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} is too small: at least 32 x 32"):
            model(images(*size))
    with pytest.raises(ValueError, match=r"expected images \(B, 3, H, W\), got \(2, 4, 64, 64\)"):
        model(images(64, 64, chans=4))
    with pytest.raises(ValueError, match=r"got \(3, 64, 64\)"):
        model(torch.randn(3, 64, 64))


def test_forward_intermediates(name):
    model = timm.create_model(name).eval()
    x = images(64, 96)
    with torch.inference_mode():
        final, maps = model.forward_intermediates(x)
        torch.testing.assert_close(final, model.forward_features(x))
        assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]

        only = model.forward_intermediates(x, indices=2, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(only, maps[-2:], strict=True))
        (normed,) = model.forward_intermediates(x, indices=[-1], norm=True, intermediates_only=True)
        torch.testing.assert_close(normed, final)

        early, (second,) = model.forward_intermediates(x, indices=[1], stop_early=True)
        assert torch.equal(second, maps[1]) and torch.equal(early, maps[1])
        late, (second,) = model.forward_intermediates(x, indices=[1])
        torch.testing.assert_close(late, final)
        assert torch.equal(second, maps[1])
    with pytest.raises(ValueError, match='must be "NCHW", not "NLC"'):
        model.forward_intermediates(x, output_fmt="NLC")
    with pytest.raises((AssertionError, ValueError)):
        model.forward_intermediates(x, indices=[7])


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 3), (2,), (-1,), (0,)])
def test_features_only(name, out_indices):
    torch.manual_seed(1)
    model = timm.create_model(name).eval()
    features = timm.create_model(name, features_only=True, out_indices=out_indices).eval()
    features.load_state_dict({f"model.{k}": v for k, v in model.state_dict().items()}, strict=False)
    x = images(64, 96)
    with torch.inference_mode():
        want = model.forward_intermediates(x, indices=list(out_indices), intermediates_only=True)
        got = features(x)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert features.feature_info.channels() == [m.shape[1] for m in got]


def test_pruning_keeps_what_is_asked_for(name):
    x = images(64, 64)
    for indices, prune_norm, prune_head in (([1], False, True), ([-1], True, False), (1, False, False)):
        model = timm.create_model(name, num_classes=5).eval()
        width, last = model.num_features, len(model.feature_info) - 1
        with torch.inference_mode():
            want = model.forward_intermediates(x, indices=indices, intermediates_only=True)
        kept = model.prune_intermediate_layers(indices, prune_norm, prune_head)
        with torch.inference_mode():
            got = model.forward_intermediates(x, indices=kept, intermediates_only=True)
            out = model(x)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        module = model.feature_info[max(kept)]["module"]
        if module.startswith("stages."):
            assert f"stages.{len(model.stages) - 1}" == module
        norm = getattr(model, "norm", nn.Identity())
        assert isinstance(norm, nn.Identity) or not (prune_norm or max(kept) < last)
        if prune_head or model.num_features != width:
            assert out.ndim == 4 and out.shape[1] == model.num_features
        else:
            assert out.shape == (2, 5)


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
def test_head(name, pool):
    if (name, pool) == ("test_davit", "catavgmax"):
        pytest.skip("timm's head of DaViT has no such pooling")
    model = timm.create_model(name, num_classes=5, in_chans=1, global_pool=pool).eval()
    x = images(64, 64, chans=1)
    with torch.inference_mode():
        assert model(x).shape == (2, 5)
        pre = model.forward_head(model.forward_features(x), pre_logits=True)
        assert pre.shape == (2, model.head_hidden_size)
        model.reset_classifier(0)
        assert torch.equal(model(x), pre)
        model.reset_classifier(0, "")
        unpooled = model(x)
        assert unpooled.ndim == 4 and unpooled.shape[:2] == (2, model.num_features)
        model.reset_classifier(7, "avg")
        assert model(x).shape == (2, 7) and model.num_classes == 7 and not model.head.training
        bare = timm.create_model(name, num_classes=0, global_pool="").eval()
        assert bare(images(64, 64)).ndim == 4


def test_reset_classifier_keeps_dtype_and_device(name):
    model = timm.create_model(name).to(torch.float64)
    model.reset_classifier(3)
    assert model.get_classifier().weight.dtype == torch.float64
    model = timm.create_model(name).to("meta")
    model.reset_classifier(3)
    assert model.get_classifier().weight.is_meta


def test_every_parameter_learns_and_checkpointing_changes_nothing(name):
    model = timm.create_model(name).double().train()
    x = images(64, 64, dtype=torch.float64)
    state = copy.deepcopy(model.state_dict())
    plain = float64_gradients(model, x)
    assert plain.keys() == {n for n, _ in model.named_parameters()}
    model.load_state_dict(state)
    model.set_grad_checkpointing()
    calls = []
    model.get_submodule(blocks(model)[0][0]).register_forward_pre_hook(lambda *_: calls.append(1))
    checkpointed = float64_gradients(model, x)
    assert len(calls) == 2, "run once forward, once again backward"
    assert checkpointed.keys() == plain.keys()
    for key, grad in checkpointed.items():
        torch.testing.assert_close(grad, plain[key])
    model.set_grad_checkpointing(False)
    assert not any(getattr(m, "grad_checkpointing", False) for m in model.modules())


def test_drop_path_and_dropout_act_in_training_only(name):
    model = timm.create_model(name, drop_path_rate=0.5, drop_rate=0.5).double()
    calm = timm.create_model(name).double()
    calm.load_state_dict(model.state_dict())
    x = images(64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), calm.eval()(x))
        model.train()
        assert not torch.equal(model(x), model(x))


def test_layer_decay_grows_from_stem_to_head(name):
    model = timm.create_model(name)
    name_of = {p: n for n, p in model.named_parameters()}
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    scale = {name_of[p]: g["lr_scale"] for g in groups for p in g["params"]}
    layers = ["stem."]
    for i, paths in enumerate(blocks(model)):
        layers += [f"stages.{i}.downsample.", *(f"{path}." for path in paths)]
    scales = [{v for n, v in scale.items() if n.startswith(layer)} for layer in (*layers, "norm.", "final_", "head.")]
    scales = [s for s in scales if s]
    assert sum(len(s) for s in scales) == len(scales), "one rate per layer"
    assert scales == sorted(scales, key=min) and scales[-1] == {1.0}
    assert len(set(scale.values())) >= sum(map(len, blocks(model))) + 2
    assert scale.keys() == set(name_of.values())
    coarse = model.group_matcher(coarse=True)
    assert coarse.keys() == {"stem", "blocks"} and r"stages\.(\d+)\." not in str(coarse["blocks"])


def test_a_misspelled_argument_is_an_error(name):
    with pytest.raises(TypeError, match="drop_pth_rate"):
        timm.create_model(name, drop_pth_rate=0.1)


def test_no_weight_decay_names_parameters_that_exist(name):
    model = timm.create_model(name)
    assert set(model.no_weight_decay()) <= {n for n, _ in model.named_parameters()}


# --- beyond timm


def test_it_says_nothing(name, capfd):
    timm.create_model(name)(images(64, 64))
    assert capfd.readouterr() == ("", "")


def test_copies_and_pickles(name):
    model = timm.create_model(name).eval()
    x = images(64, 64)
    with torch.inference_mode():
        want = model(x)
        torch.testing.assert_close(copy.deepcopy(model)(x), want)
        torch.testing.assert_close(pickle.loads(pickle.dumps(model))(x), want)


def test_runs_on_a_device_it_was_not_made_on(name):
    model = timm.create_model(name).to("meta").eval()
    assert model(images(96, 64, device="meta")).is_meta


def test_the_whole_model_agrees_with_its_reference_ops(name):
    model = timm.create_model(name).eval().double()
    x = images(70, 90, dtype=torch.float64)
    with torch.inference_mode():
        got = model(x)
        with backbones.ops.prefer("reference"):
            want = model(x)
    torch.testing.assert_close(got, want)


def test_torch_counts_what_the_reference_multiplies(name):
    model, x = timm.create_model(name), images(64, 96)
    totals = []
    for counter, context in (
        (FlopCounterMode(display=False), nullcontext()),
        (FlopCounterMode(display=False), backbones.ops.prefer("reference")),
    ):
        with counter, context:
            model(x).sum().backward()
        totals.append(counter.get_total_flops())
    assert totals[0] == totals[1] > 0


@pytest.mark.parametrize("how", ["float32", "bfloat16 autocast", "channels_last"])
def test_other_precisions_and_layouts_are_as_near_to_float64_as_plain_code(name, how):
    model = timm.create_model(name).eval()
    x = images(64, 96)
    if how == "channels_last":
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)

    def run():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled="autocast" in how):
            return model(x).float()

    with backbones.ops.prefer("reference"):
        plain = run()
    got = run()
    with torch.inference_mode():
        exact = model.double()(x.double())
    if "autocast" in how:  # the answer was rounded to bfloat16
        plain, got = plain.bfloat16(), got.bfloat16()
    assert_close_to(exact, plain, got, how)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_compiles_in_one_graph(name, training):
    torch._dynamo.reset()
    model = timm.create_model(name).train(training)
    x = images(96, 64)
    with torch.set_grad_enabled(training):
        got = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)(x)
        torch.testing.assert_close(got, model(x))


def test_one_graph_serves_every_size(name):
    torch._dynamo.reset()
    model = timm.create_model(name).eval()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    with torch.inference_mode():
        for size in (256, 288), (320, 264), (241, 517), (333, 256):
            x = images(*size)
            torch.testing.assert_close(compiled(x), model(x))
    assert counter.frame_count == 1, "recompiled for a new size"


def test_exports_with_a_dynamic_batch(name):
    model = timm.create_model(name).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images(64, 96),), dynamic_shapes=({0: batch},))
    ops = {str(node.target) for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}
    assert all(op.startswith("aten.") for op in ops), "it would need this package to run"
    for n in (1, 3):
        x = images(64, 96, batch=n)
        with torch.inference_mode():
            torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("scale", [1, 1000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name, impl", [case for case in IMPLS if case[1] != "triton"])
def test_trains_under_autocast(name, impl, dtype, scale):
    trains_under_autocast(name, impl, dtype, scale)


@pytest.mark.parametrize("name", [name for name, impl in IMPLS if impl == "triton"])
def test_trains_under_autocast_by_kernels(name):
    """Interpreted, which takes long: the harder of the cases above."""
    trains_under_autocast(name, "triton", torch.float16, 1000)


def trains_under_autocast(name, impl, dtype, scale):
    model = timm.create_model(name).train()
    with torch.autocast("cpu", dtype), backbones.ops.prefer(impl):
        loss = model(scale * images(40, 64)).float().square().mean()
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_runs_in_one_dtype(name, dtype):
    model = timm.create_model(name).to(dtype).train()
    out = model(images(40, 64, dtype=dtype))
    out.float().square().mean().backward()
    assert out.dtype == dtype and out.isfinite().all()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in model.parameters())


# --- loading


@pytest.fixture
def saved(tmp_path, name):
    """A model, and the path of its state dict after `change`."""

    def save(change=lambda state: state, **kwargs):
        model = timm.create_model(name, **kwargs).eval()
        file = tmp_path / "weights.pth"
        torch.save(change(model.state_dict()), file)
        return model, str(file)

    return save


def loaded(name, file, overlay=None, **kwargs):
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=file, **(overlay or {})), **kwargs)


def test_loads_its_own_weights_in_any_wrapper(name, saved):
    def distributed(s):
        return {"state_dict": {f"module.{k}": v for k, v in s.items()}}

    for wrap in (lambda s: s, lambda s: {"model": s}, distributed):
        model, file = saved(wrap)
        x = images(64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(loaded(name, file).eval()(x), model(x))


def test_missing_extra_and_misshapen_entries_are_all_listed(name, saved):
    def damage(state):
        keys = [k for k in state if k.endswith("weight")]
        state = dict(state, **{keys[1]: state[keys[1]][..., :1].repeat_interleave(5, -1)}, foreign=torch.zeros(1))
        del state[keys[0]], state[keys[-2]]
        damage.keys = keys
        return state

    _, file = saved(damage)
    with pytest.raises(ValueError, match="does not fit " + name) as error:
        loaded(name, file)
    for expected in ("missing (2)", damage.keys[0], damage.keys[-2], "unexpected (1): foreign", "wrong shape (1)"):
        assert expected in str(error.value)


def test_another_models_weights_are_refused(name, tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match=r"(?s)missing \(\d+\): .*unexpected \(\d+\): .*conv1"):
        loaded(name, str(tmp_path / "foreign.pth"))


def test_class_counts_must_agree(name, saved):
    _, file = saved(num_classes=10)
    with pytest.raises(ValueError, match="it has 10 classes, its cfg says 1000: add num_classes=10"):
        loaded(name, file, num_classes=10)
    model = loaded(name, file, dict(num_classes=10))
    assert model.num_classes == 10


def test_a_head_and_a_stem_adapt_as_timm_does(name, saved):
    model, file = saved()
    adapted = loaded(name, file, num_classes=7, in_chans=1)
    conv = first_convs(model)[0] + ".weight"
    assert adapted(images(64, 64, chans=1)).shape == (2, 7)
    torch.testing.assert_close(adapted.state_dict()[conv], model.state_dict()[conv].sum(1, keepdim=True))
    features = loaded(name, file, features_only=True)
    assert torch.equal(features.model.state_dict()[conv], model.state_dict()[conv])


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", b"PK\x03\x04 cut off", b"hello"],
    ids=["empty", "html", "truncated", "text"],
)
def test_an_unreadable_file_is_named(name, tmp_path, content):
    file = tmp_path / "broken.pth"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="cannot read .*broken.pth as a checkpoint"):
        loaded(name, str(file))
    with pytest.raises(ValueError, match="absent.pth as a checkpoint: no such file"):
        loaded(name, str(tmp_path / "absent.pth"))


def test_a_file_without_tensors_is_an_error(name, tmp_path):
    torch.save({"epoch": 3}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="holds no state dict: 'epoch' is <class 'int'>"):
        loaded(name, str(tmp_path / "odd.pth"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_are_a_direct_link_or_an_error_that_says_where_they_are(name):
    cfg = timm.models.get_pretrained_cfg(name)
    if cfg.has_weights:
        assert cfg.url.startswith("https://") or cfg.hf_hub_id
    else:
        with pytest.raises(ValueError, match="(?s)pretrained_cfg_overlay"):
            timm.create_model(name, pretrained=True)

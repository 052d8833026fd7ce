"""Multiply-adds: by torch's counter, by fvcore, by hand; eager and compiled; ops against their references."""

import runpy
import warnings
from pathlib import Path

import pytest
import timm
import torch
from test_models import TINY
from test_ops import OPS, is_float
from torch.utils.flop_counter import FlopCounterMode

import backbones
from backbones import flops
from backbones.ops import _maps

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis

BY_HAND = sorted((Path(__file__).parent / "by_hand").glob("*.py"))
OTHERS = ["test_vit", "test_convnext", "test_resnet", "test_efficientnet", "davit_tiny"]


def image_for(name):
    cfg = timm.get_pretrained_cfg(name)
    return torch.randn(1, 3, 64, 96) if name in TINY else torch.randn(1, *cfg.input_size)


@pytest.fixture(params=[*TINY, *OTHERS])
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return timm.create_model(name).eval()


def test_torch_and_fvcore_agree_module_by_module(name, model):
    x = image_for(name)
    counted = flops.count(model, x)
    analysis = FlopCountAnalysis(model, x).set_op_handle(**flops.fvcore_handles())
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert analysis.total() == counted.macs > 0
    theirs = analysis.by_module()
    assert all(theirs[path] == macs for path, macs in counted.by_module.items())
    assert sum(counted.by_kind.values()) == counted.macs and counted.by_kind["other"] == 0


def test_a_size_is_enough(name, model):
    x = image_for(name)
    on_meta = flops.count(model, tuple(x.shape[2:]))
    on_cpu = flops.count(model, x)
    assert (on_meta.macs, on_meta.by_kind, on_meta.activations) == (on_cpu.macs, on_cpu.by_kind, on_cpu.activations)
    assert on_meta.params == sum(p.numel() for p in model.parameters())
    assert not any(p.is_meta for p in model.parameters())


OPERATORS = {"test_transnext": "banded", "test_nat": "tiled", "test_halonet": "tiled", "test_ccnet": "lines"}


@pytest.mark.parametrize("name, impl", [*((name, "reference") for name in TINY), *OPERATORS.items()])
def test_compiled_graphs_count_the_same(name, impl):
    if name == "test_transnext" and not _maps._COMPILER_KNOWS:
        pytest.skip("this torch compiles larger tables of positions")
    model, x = timm.create_model(name).eval(), image_for(name)
    graphs = []

    def keep(graph, inputs):
        graphs.append((graph, inputs))
        return graph

    torch._dynamo.reset()
    with torch.no_grad(), backbones.ops.prefer(impl):
        compiled = torch.compile(model, backend=keep, fullgraph=True)
        compiled(x)
    ((graph, inputs),) = graphs
    assert ("torch.ops.backbones." in graph.code) == (impl != "reference")
    with torch.no_grad(), flops.counter() as counter:
        graph(*inputs)
    assert counter.get_total_flops() == 2 * flops.count(model, x).macs == 2 * flops.count(compiled, x).macs


@pytest.mark.parametrize("op", [op for op, module in OPS.items() if hasattr(module, "multiply_adds")])
def test_formulas_are_what_references_multiply(op):
    module = OPS[op]
    for case in module.SMALL:
        args = [
            a.requires_grad_() if torch.is_tensor(a) and a.is_floating_point() else a for a in module.inputs(**case)
        ]
        shapes = [tuple(a.shape) if torch.is_tensor(a) else a for a in args]
        with FlopCounterMode(display=False) as counter:
            out = module.reference(*args)
        assert counter.get_total_flops() == 2 * module.multiply_adds(*shapes)
        with FlopCounterMode(display=False) as counter:
            out.sum().backward()
        assert counter.get_total_flops() == 4 * module.multiply_adds(*shapes)


OPERATORS = [name for op in OPS for name in (op, f"{op}_triton") if hasattr(torch.ops.backbones, name)]


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_of_ours_count_by_their_formulas(name):
    module, operator = OPS[name.removesuffix("_triton")], getattr(torch.ops.backbones, name)
    for case in module.SMALL:
        args = [a.requires_grad_() if is_float(a) else a for a in module.inputs(**case, device="meta")]
        want = module.multiply_adds(*(tuple(a.shape) if torch.is_tensor(a) else a for a in args))
        with flops.counter() as counter:
            out = operator(*args)
        assert counter.get_total_flops() == 2 * want
        with flops.counter() as counter:
            (out[0] if isinstance(out, tuple) else out).sum().backward()
        assert counter.get_total_flops() == 4 * want


@pytest.mark.parametrize("path", BY_HAND, ids=lambda path: path.stem)
def test_a_block_counted_by_hand(path):
    block = runpy.run_path(str(path))
    with torch.device("meta"):
        model = timm.create_model(block["MODEL"]).eval()
    assert flops.count(model, 224).by_module[block["BLOCK"]] == block["multiply_adds"]()


def test_every_family_has_a_block_counted_by_hand():
    families = backbones._catalogue._families()
    counted = {families[runpy.run_path(str(path))["MODEL"]] for path in BY_HAND}
    assert counted == {families[name] for name in backbones.list_models()}


def test_what_counts_as_zero_is_listed():
    counted = flops.count(timm.create_model("test_cswin").eval(), 64)
    assert counted.zero["gelu"] == 5 and counted.zero["_softmax"] > 0
    assert not {"addmm", "bmm", "convolution", "view", "clone"} & counted.zero.keys()


def test_attention_counts_on_the_cpu_whatever_torch_knows(monkeypatch):
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    monkeypatch.delitem(flops.flop_registry, attention, raising=False)  # torch 2.7 has none
    q = torch.randn(2, 3, 5, 8)
    with flops.counter() as counter:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert counter.get_total_flops() == 2 * 2 * 2 * 3 * 5 * 5 * 8


def test_a_kept_table_is_counted():
    model, x = timm.create_model("test_transnext").eval(), torch.randn(1, 3, 64, 64)
    want = flops.count(model, x).macs
    with torch.inference_mode():
        model(x)
    assert flops.count(model, x).macs == want


def test_without_a_size_the_model_must_have_one():
    assert flops.count(timm.create_model("test_cswin").eval()).macs > 0
    with pytest.raises(ValueError, match="Conv2d has no default input size"):
        flops.count(torch.nn.Conv2d(3, 8, 3))

"""Triton's kernels, interpreted where there is no GPU, and compiled ahead of time.

Values and gradients are in tests/test_ops.py, with those of the other implementations.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from close import assert_close_to
from test_ops import DEVICE, OPS, is_float, with_gradients
from torch._subclasses import FakeTensorMode

from backbones.profiling import kernels

FUSED = [op for op, module in OPS.items() if "triton" in module.IMPLS]


def small(op: str, case: int = 0, **kw) -> tuple:
    return OPS[op].inputs(**OPS[op].SMALL[case], **kw)


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter runs one program after the other")
@pytest.mark.parametrize("op", FUSED)
def test_results_are_the_same_every_time(op):
    for case in OPS[op].REAL:
        args = OPS[op].inputs(**case, device=DEVICE, dtype=torch.bfloat16)
        grad = torch.randn_like(OPS[op].reference(*args))
        first, second = (with_gradients(OPS[op].IMPLS["triton"].run, args, grad) for _ in range(2))
        assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("op", FUSED)
def test_channels_may_be_strided(op):
    args = small(op, device=DEVICE)
    spread = [torch.stack([a, a], -1)[..., 0] if is_float(a) else a for a in args]
    run = OPS[op].IMPLS["triton"].run
    torch.testing.assert_close(run(*spread), run(*args), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck asks for it
@pytest.mark.parametrize("op", FUSED)
def test_operators_are_sound(op):
    args = [a.detach().requires_grad_() if is_float(a) else a for a in small(op, device=DEVICE)]
    torch.library.opcheck(getattr(torch.ops.backbones, f"{op}_triton").default, args)


@pytest.mark.parametrize("op", FUSED)
def test_maps_of_several_dtypes_are_computed_in_that_of_values(op):
    q, k, v, *rest = small(op, device=DEVICE)
    run = OPS[op].IMPLS["triton"].run
    rest = [a.half() if torch.is_tensor(a) and a.ndim == 5 else a for a in rest]
    got, want = run(q, k, v.half(), *rest), run(q.half(), k.half(), v.half(), *rest)
    assert got.dtype == torch.float16 and torch.equal(got, want)


@pytest.mark.parametrize("op", FUSED)
def test_they_are_chosen_on_cuda_but_not_for_export_or_transforms(op, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    module = OPS[op]
    triton = module.IMPLS["triton"].run
    with FakeTensorMode():
        args = small(op, device="cuda")
        assert module.choose(module.IMPLS, None, *args) is triton
        out = triton(*args)
        assert out.shape == module.reference(*args).shape and out.is_cuda
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        assert module.choose(module.IMPLS, None, *args) is not triton
    with pytest.raises(ValueError, match='impl="triton" needs CUDA tensors'):
        module.choose(module.IMPLS, "triton", *small(op))


@pytest.mark.parametrize("op", FUSED)
def test_refusals_say_why(op):
    args = small(op)
    wide = [a.double() if is_float(a) else a for a in args]
    with pytest.raises(ValueError, match=r"takes float32, float16 and bfloat16, not torch\.float64"):
        OPS[op].choose(OPS[op].IMPLS, "triton", *wide)


@pytest.mark.parametrize("op", FUSED)
def test_maps_whose_offsets_need_64_bits_are_refused(op, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with FakeTensorMode():
        q, *rest = small(op, device="cuda")
        args = torch.empty_strided(q.shape, (2**34, 2**31, *q.stride()[2:]), device="cuda"), *rest
    assert "2**31" in OPS[op].IMPLS["triton"].refuses(*args)


@pytest.mark.parametrize("op", FUSED)
def test_heads_may_be_wide(op):
    """Other block sizes than those of test_ops.py's narrow heads."""
    sizes = {**OPS[op].SMALL[0], "B": 1, "D": 80}
    args = OPS[op].inputs(**sizes, device=DEVICE, dtype=torch.float16)
    wide = [a.double() if is_float(a) else a for a in args]
    plain = OPS[op].reference(*args)
    grad = torch.randn_like(plain)
    results = (with_gradients(run, a, grad) for run, a in ((OPS[op].reference, wide), (OPS[op].reference, args)))
    got = with_gradients(OPS[op].IMPLS["triton"].run, args, grad)
    for i, triple in enumerate(zip(*results, got, strict=True)):
        assert_close_to(*triple, what=f"{op} output {i}")


def test_torch_func_transforms_models_whose_ops_are_operators():
    q = torch.randn(1, 5, 5, 1, 8)
    neighborhood = OPS["neighborhood_attention"]
    rest = q, q, None, (3, 3), (1, 1), 0.3

    def loss(run):
        return lambda q: run(q, *rest).sin().sum()

    want = torch.func.grad(loss(neighborhood.reference))(q)
    chosen = torch.func.grad(loss(lambda *a: neighborhood.choose(neighborhood.IMPLS, None, *a)(*a)))(q)
    torch.testing.assert_close(chosen, want)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> list[dict]:
    """Every kernel, for two generations of GPUs, by the command line."""
    path = tmp_path_factory.mktemp("kernels") / "report.json"
    tool = Path(__file__).parent.parent / "tools" / "kernels.py"
    command = [sys.executable, "-W", "ignore", tool, "--once", "--dtype", "bfloat16", "--json", path]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | dict(TRITON_INTERPRET="0"))
    return json.loads(path.read_text())


@pytest.mark.parametrize("target", kernels.TARGETS)
@pytest.mark.parametrize("op", FUSED)
def test_kernels_compile_and_forward_does_not_spill(op, target, compiled):
    mine = {k["kernel"]: k for k in compiled if k["op"] == op and k["target"] == target}
    source = importlib.import_module(f"backbones.ops.{op}_triton")
    expected = {name for name in vars(source) if name.startswith(("_forward", "_backward"))}
    assert expected <= set(mine)
    assert all(16 <= k["registers"] <= 255 and k["shared"] <= 99 * 1024 for k in mine.values())  # sm_89's share, too
    assert not any(k["spilled"] for name, k in mine.items() if name.startswith("_forward"))


def test_where_kernels_are_interpreted_they_cannot_be_compiled():
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        kernels.compiled("window_attention", OPS["window_attention"].SMALL[0], "float16", 90)

"""tools/bench.py: what it compares, what it refuses to report, what it writes; and that the rivals compute the ops."""

import json
import math

import pytest
import torch
from close import assert_close_to
from PIL import Image
from torch.nn.attention.flex_attention import create_block_mask

from backbones import benchmark
from backbones.benchmark import measure, report, rivals, targets
from backbones.benchmark.rivals import RIVALS, _halos, _windows, dense
from backbones.ops._impl import Impl, modules
from backbones.profiling import Setup
from backbones.profiling.measure import copy_peak, matmul_peak
from tools import bench as tool

OPS = modules()
MAKERS = [(op, rival) for op, made in RIVALS.items() for rival, make in made.items() if callable(make)]
UNCOMPILED = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def with_gradients(run, args, grad):
    return measure._results(run, args, grad.to(next(a.dtype for a in args if torch.is_tensor(a))))


def double(args):
    return [a.double() if measure._is_float(a) else a for a in args]


@pytest.fixture
def quick(monkeypatch):
    """One small case an op, nothing compiled (half a minute a case), no kernels (slow where they are interpreted), no
    processes that measure memory."""
    monkeypatch.setattr(measure.memory, "on_cpu", lambda *_, **__: 5.0)
    monkeypatch.setattr(measure.torch, "compile", lambda run, **_: run)
    monkeypatch.setattr(tool, "matmul_peak", lambda setup: 50.0)
    monkeypatch.setattr(tool, "copy_peak", lambda setup: 10.0)
    for module in OPS.values():
        monkeypatch.setattr(module, "REAL", module.SMALL[:1])
        monkeypatch.delitem(module.IMPLS, "triton", raising=False)


@UNCOMPILED
@pytest.mark.parametrize("op, rival", MAKERS)
def test_rivals_compute_the_op(op, rival):
    """Values; gradients too where the CPU has them, which FlexAttention does not."""
    module = OPS[op]
    for case in module.SMALL:
        args = module.inputs(**case)
        run, grad = RIVALS[op][rival](*args), torch.randn_like(module.reference(*args))
        if rival == "flex":
            results = [[module.reference(*double(args))], [module.reference(*args)], [run(*args)]]
        else:
            exact = with_gradients(module.reference, double(args), grad)
            results = exact, with_gradients(module.reference, args, grad), with_gradients(run, args, grad)
        for i, triple in enumerate(zip(*results, strict=True)):
            assert_close_to(*triple, what=f"{case}, output {i}")


@pytest.mark.parametrize("op, recipe", [("window_attention", _windows), ("halo_attention", _halos)])
def test_the_recipes_that_only_flex_follows_have_the_right_gradients(op, recipe):
    module = OPS[op]
    args = module.inputs(**module.SMALL[1])
    grad = torch.randn_like(module.reference(*args))
    sides = (module.reference, double(args)), (module.reference, args), (dense(recipe)(*args), args)
    for i, triple in enumerate(zip(*(with_gradients(*side, grad) for side in sides), strict=True)):
        assert_close_to(*triple, what=f"output {i}")


@pytest.mark.parametrize("R, T", [(49, 16), (6, 72), (5, 128)])
def test_blocks_of_regions_are_those_of_their_tokens(R, T):
    q, index = torch.randn(2, R, T, 1, 8), torch.rand(2, R, R).topk(2).indices
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rivals, "_flex", lambda q, k, v, bias, block_mask, scale: seen.append(block_mask) or q)
        RIVALS["routing_attention"]["flex"](q, q, q, index, (R, 1), 1.0)(q, q, q, index)
    got, right = seen[0], create_block_mask(seen[0].mask_mod, 2, None, R * T, R * T, "cpu")
    assert torch.equal(got.to_dense(), right.to_dense())
    assert torch.equal(got.full_kv_num_blocks, right.full_kv_num_blocks)
    assert torch.equal(got.kv_num_blocks, right.kv_num_blocks)


def test_every_op_has_rivals_or_reasons():
    assert set(RIVALS) == set(OPS)
    assert all("flex" in made for made in RIVALS.values())


@UNCOMPILED
def test_every_op_is_measured_and_written(tmp_path, capsys, quick):
    stem = tmp_path / "folder" / "small"
    names = [*OPS, "test_nat"]
    arguments = ["--batch", "1", "--size", "64", "--rounds", "2", "--output", str(stem)]
    assert tool.main([*names, *arguments]) == 0
    said = capsys.readouterr().out
    data = json.loads(stem.with_suffix(".json").read_text())
    assert data["about"]["torch"] == torch.__version__ and "--rounds 2" in data["about"]["command"]
    assert data["ceilings"] == dict(matmul_tflops=0.1, copy_gigabytes_per_second=10.0)
    assert {row["subject"] for row in data["rows"]} == {*names}
    for row in data["rows"]:
        assert not row["wrong"] and (row["median"] is None) == bool(row["note"]), row
        if row["median"] is not None:
            assert 0 < row["low"] <= row["median"] <= row["high"] and row["batch"] == 1
            assert row["tflops"] == pytest.approx(2 * row["gmacs"] * 1e9 / row["median"] / 1e12)
            assert row["images_per_second"] == pytest.approx(1 / row["median"])
    timed = {(row["subject"], row["step"], row["impl"]) for row in data["rows"] if row["median"] is not None}
    for op in OPS:
        for step in measure.STEPS:
            assert {(op, step, "reference"), (op, step, "dense_sdpa")} <= timed
        assert {(op, measure.FORWARD, rival) for o, rival in MAKERS if o == op} <= timed
    flex = [row["note"] for row in data["rows"] if row["impl"] == "flex" and row["step"] == measure.BOTH]
    assert flex and all(note for note in flex)
    text = stem.with_suffix(".md").read_text()
    assert all(f"## {name}\n" in text and name in said for name in names)
    assert "channel_attention, flex (2 of 2 lines): its head size would be the number of tokens" in text
    image = Image.open(stem.with_suffix(".png")).convert("RGB")
    assert len(image.getcolors(1 << 24)) > 50 and min(image.size) > 300


@pytest.mark.parametrize("fault", ["values", "gradients", "nan"])
def test_what_is_wrong_is_not_reported(fault, monkeypatch, capsys, quick):
    module = OPS["window_attention"]

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, out):
            if fault == "nan":
                return torch.where(out == out.flatten()[0], math.nan, out)
            return out * (1 + 1e-5 * (fault == "values"))

        @staticmethod
        def backward(ctx, grad):
            return grad * (1 + 1e-5 * (fault == "gradients"))

    impl = Impl(lambda *args: Wrong.apply(module.reference(*args)))
    monkeypatch.setitem(module.IMPLS, "planted", impl)
    monkeypatch.setitem(RIVALS, "window_attention", {})
    assert tool.main(["window_attention", "--rounds", "1"]) == 1
    said = capsys.readouterr().out
    assert "WRONG: " + ("gradient of argument 0: error" if fault == "gradients" else "values: error") in said
    rows = benchmark.operators(["window_attention"], Setup(rounds=1))
    planted = [row for row in rows if row.impl == "planted"]
    assert len(planted) == 2 and all(row.median is None and row.note for row in planted)
    assert all(row.median for row in rows if row.impl == "reference")


def test_a_model_whose_op_is_wrong_is_not_reported(monkeypatch, quick):
    module = OPS["neighborhood_attention"]
    for name in set(module.IMPLS) - {"reference"}:
        monkeypatch.setitem(module.IMPLS, name, Impl(lambda *args: 1.01 * module.reference(*args)))
    rows = benchmark.models(["test_nat"], Setup(rounds=1), 2, 64)
    ours = [row for row in rows if row.impl == "ours"]
    assert len(ours) == 2 and all(row.wrong and row.median is None and "outputs: error" in row.note for row in ours)
    assert all(row.median and row.memory for row in rows if row.impl == "reference")


def test_implementations_can_be_left_out(quick):
    rows = benchmark.operators(["channel_attention"], Setup(rounds=1), cases="SMALL", without=["flex", "dense_sdpa"])
    assert {row.impl for row in rows} == {"reference", "sdpa"}


def test_ceilings_are_positive():
    setup = Setup()
    assert 0 < copy_peak(setup) < 1e5 and 0 < matmul_peak(setup) < 1e6


def test_multiply_adds_and_bytes_by_hand():
    """A map of 6 x 4, windows of 6 x 2, two heads of 16 channels: 24 queries of 12 keys, twice; backward as much again
    twice. Three maps in and one out; then all four again and three gradients out."""
    module = OPS["window_attention"]
    case = module.SMALL[0] | dict(B=3)
    macs = measure._multiply_adds(module, case)
    assert macs == {measure.FORWARD: 3 * 2 * 2 * 24 * 12 * 16, measure.BOTH: 3 * 3 * 2 * 2 * 24 * 12 * 16}
    args = module.inputs(**case, dtype=torch.bfloat16)
    moved = measure._gigabytes(args, module.reference(*args))
    one = 3 * 24 * 2 * 16 * 2 / 1e9
    assert moved == pytest.approx({measure.FORWARD: 4 * one, measure.BOTH: 11 * one})


def row(impl, median, step=measure.FORWARD, case="a", memory=None, subject="routing_attention"):
    return benchmark.Row(subject, case, 4, step, impl, 1.0, 1.0, median, median, median, memory)


def test_targets_are_met_missed_or_open():
    rows = [row("triton", 1.0), row("reference", 2.5), row("flex", 1.2), row("dense_sdpa", 0.5)]
    rows += [row("triton", 1.0, case="b"), row("reference", 1.9, case="b"), row("flex", 1.5, case="b")]
    rows += [row("ours", 1.0, measure.BOTH, memory=9.0, subject="nat_mini")]
    rows += [row("reference", 1.5, measure.BOTH, memory=9.0, subject="nat_mini")]
    found = {(v.target[:30], v.subject): (v.met, v.ratio) for v in benchmark.judge(rows)}
    assert found == {
        ("at least 2x as fast as the ref", "routing_attention"): (False, 1.9),
        ("at least as fast as FlexAttent", "routing_attention"): (True, 1.2),
        ("1.3x as fast as FlexAttention ", "routing_attention"): (True, pytest.approx(math.sqrt(1.8))),
        ("at most 1.5x the time of dense", "routing_attention"): (False, 0.5),
        ("at least 1.5x the reference's ", "nat_mini"): (True, 1.5),
        ("lower peak memory of a trainin", "nat_mini"): (False, 1.0),
    }
    assert benchmark.judge([row("triton", None), row("reference", 1.0)])[0].met is None
    assert targets.geometric_mean([2.0, 8.0]) == pytest.approx(4)


def test_speeds_pair_cases():
    rows = [row("reference", 3.0), row("flex", 1.0), row("reference", 4.0, case="b"), row("flex", None, case="b")]
    assert report.speeds(rows, "routing_attention", measure.FORWARD, "flex") == [3.0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["routing_atention"], 'no model fits "routing_atention"'),
        (["--dtype", "float8"], 'no dtype "float8"'),
        (["--batch", "0"], "a batch of 0: at least 1"),
        (["--without", "reference"], "--without reference: there are banded, complex, dense_sdpa, flex"),
    ],
)
def test_what_cannot_be_is_an_error_that_says_what_can(arguments, message):
    with pytest.raises(ValueError, match=message):
        tool.main(arguments)

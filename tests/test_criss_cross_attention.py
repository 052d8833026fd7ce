"""What tests/test_ops.py cannot know of the op: thin maps, chunks, extreme logits, that it keeps no attention map."""

import importlib
import itertools

import pytest
import torch
from test_ops import DEVICE, with_gradients

from backbones.ops import criss_cross_attention

op = importlib.import_module("backbones.ops.criss_cross_attention")


@pytest.mark.parametrize("impl", ["lines", "reference"])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (4, 3)])
def test_every_pixel_sees_its_row_and_column_and_itself_once(size, impl):
    H, W = size
    q, k, v = torch.randn(3, 1, H, W, 2, 4, dtype=torch.float64)
    got = criss_cross_attention(q, k, v, scale=0.7, impl=impl)
    for y, x in itertools.product(range(H), range(W)):
        keys = list(dict.fromkeys([(y, j) for j in range(W)] + [(i, x) for i in range(H)]))
        assert len(keys) == H + W - 1
        weights = torch.stack([0.7 * (q[0, y, x] * k[0, i, j]).sum(-1) for i, j in keys], -1).softmax(-1)
        want = (weights[..., None] * torch.stack([v[0, i, j] for i, j in keys], 1)).sum(1)
        torch.testing.assert_close(got[0, y, x], want)


@pytest.mark.parametrize("weights", [1, 100])
@pytest.mark.parametrize("case", op.SMALL, ids=str)
def test_chunks_of_any_size_give_the_same(case, weights, monkeypatch):
    args = op.inputs(**case, dtype=torch.float64)
    grad = torch.randn_like(args[2])
    want = with_gradients(op.reference, args, grad)
    monkeypatch.setitem(op.WEIGHTS_OF_A_CHUNK, "cpu", weights)
    for a, b in zip(with_gradients(op.lines, args, grad), want, strict=True):
        torch.testing.assert_close(a, b)


def implementation(name: str, *args):
    if reason := op.IMPLS[name].refuses(*args):
        pytest.skip(reason)
    return op.IMPLS[name].run


@pytest.mark.parametrize("impl", ["triton", "lines"])
@pytest.mark.parametrize("where", ["row", "column"])
def test_a_pixel_that_outshines_all_others_is_finite(where, impl):
    q, k, v = torch.randn(3, 1, 5, 6, 1, 4, device=DEVICE)
    q[0, 2, 3], k[0, 2, 0] = 1e3, 1e3
    if where == "column":
        q, k, v = (t.transpose(1, 2).contiguous() for t in (q, k, v))
    run = implementation(impl, q, k, v, 1.0)
    got, want = (with_gradients(fn, [q, k, v, 1.0], torch.ones_like(v)) for fn in (run, op.reference))
    for a, b in zip(got, want, strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)  # roundings, times keys of 1e3


@pytest.mark.parametrize("impl", ["triton", "lines"])
def test_a_map_of_one_pixel_gives_its_value(impl):
    q, k, v, grad = torch.randn(4, 2, 1, 1, 2, 8, device=DEVICE)
    out, dq, dk, dv = with_gradients(implementation(impl, q, k, v, 0.5), (q, k, v, 0.5), grad)
    for a, b in zip((out, dq, dk, dv), (v, torch.zeros_like(q), torch.zeros_like(k), grad), strict=True):
        torch.testing.assert_close(a, b)


def test_shapes_that_do_not_fit_are_errors():
    q = torch.randn(1, 4, 5, 2, 8)
    with pytest.raises(ValueError, match=r"q \(1, 4, 5, 2, 8\), k \(1, 4, 5, 2, 4\), v .* are not maps"):
        criss_cross_attention(q, q[..., :4], q)
    with pytest.raises(ValueError, match="are not maps"):
        criss_cross_attention(q[0], q[0], q[0])


def test_no_attention_map_is_kept_for_the_backward_pass():
    q, k, v = torch.randn(3, 1, 40, 40, 1, 2).requires_grad_().unbind(0)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        criss_cross_attention(q, k, v, impl="lines")
        ours = sum(saved)
        saved.clear()
        criss_cross_attention(q, k, v, impl="reference")
    assert ours < 40 * 40 * 20 < 40 * 40 * 80 < sum(saved)


def peak_bytes(run, *args) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run(*args)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    return max(itertools.accumulate(e.nbytes() for e in events))


@pytest.mark.parametrize("training", [False, True])
def test_peak_memory_is_at_most_half_of_two_products_and_a_map(training):
    """At 97 x 97 and 64 channels, queries and keys of 8, as one of CCNet's modules has them."""
    args = [t.clone().requires_grad_(training) for t in torch.randn(1, 97, 97, 1, 80).split([8, 8, 64], -1)]

    def step(run):
        out = run(*args, 1.0)
        if training:
            out.sum().backward()

    assert 0 < peak_bytes(step, op.lines) <= 0.5 * peak_bytes(step, op.reference)

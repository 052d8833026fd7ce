"""What tests/test_ops.py cannot know of the op: windows at borders, sizes that do not fit, natten, its registration."""

import importlib
import itertools

import pytest
import torch
from test_ops import DEVICE, is_float, with_gradients

from backbones.ops import neighborhood_attention

op = importlib.import_module("backbones.ops.neighborhood_attention")
tiles = importlib.import_module("backbones.ops._tiles")


def window(i: int, n: int, kernel: int, step: int) -> list[int]:
    """The definition in words: the `kernel` nearest of every step-th token, whole at borders."""
    line = list(range(i % step, n, step))
    first = min(max(line.index(i) - kernel // 2, 0), len(line) - kernel)
    return line[first : first + kernel]


@pytest.mark.parametrize("impl", ["tiled", "reference"])
@pytest.mark.parametrize(
    "size, kernel, step",
    [((6, 9), (3, 5), (1, 1)), ((11, 7), (3, 3), (3, 2)), ((1, 1), 1, 1), ((1, 8), (1, 3), (7, 2))],
)
def test_every_query_sees_its_window(size, kernel, step, impl):
    (H, W), N, D = size, 2, 4
    kernels, steps = (k if isinstance(k, tuple) else (k, k) for k in (kernel, step))
    q, k, v = torch.randn(3, 1, H, W, N, D, dtype=torch.float64)
    bias = torch.randn(N, 2 * kernels[0] - 1, 2 * kernels[1] - 1, dtype=torch.float64)
    got = neighborhood_attention(q, k, v, kernel_size=kernel, dilation=step, bias=bias, scale=0.7, impl=impl)
    for y, x in itertools.product(range(H), range(W)):
        keys = list(itertools.product(window(y, H, kernels[0], steps[0]), window(x, W, kernels[1], steps[1])))
        logits = [
            0.7 * (q[0, y, x] * k[0, j, i]).sum(-1)
            + bias[:, (j - y) // steps[0] + kernels[0] - 1, (i - x) // steps[1] + kernels[1] - 1]
            for j, i in keys
        ]
        weights = torch.stack(logits, -1).softmax(-1)  # (heads, keys)
        want = (weights[..., None] * torch.stack([v[0, j, i] for j, i in keys], 1)).sum(1)
        torch.testing.assert_close(got[0, y, x], want)


def test_a_sequence_is_a_map_of_one_row():
    q, k, v = torch.randn(3, 2, 13, 2, 8)
    bias = torch.randn(2, 9)
    got = neighborhood_attention(q, k, v, kernel_size=5, dilation=2, bias=bias)
    rows = (t[:, None] for t in (q, k, v))
    want = neighborhood_attention(*rows, kernel_size=(1, 5), dilation=(1, 2), bias=bias[:, None])
    assert got.shape == q.shape and torch.equal(got, want[:, 0])


@pytest.mark.parametrize("impl", ["tiled", "reference"])
def test_one_token_attends_to_itself(impl):
    v = torch.randn(2, 1, 1, 3, 4)
    got = neighborhood_attention(torch.randn_like(v), torch.randn_like(v), v, kernel_size=1, dilation=5, impl=impl)
    torch.testing.assert_close(got, v)
    line = torch.randn(2, 1, 3, 4)
    torch.testing.assert_close(neighborhood_attention(line, line, line, kernel_size=1, impl=impl), line)


@pytest.mark.parametrize(
    "size, kernel, step, message",
    [
        ((5, 9), 7, 1, "kernel_size 7 with dilation 1 spans more than 5 tokens: kernel_size 5 would fit"),
        ((9, 4), 5, 1, "kernel_size 5 with dilation 1 spans more than 4 tokens: kernel_size 3 would fit"),
        ((14, 20), 7, 3, "kernel_size 7 with dilation 3 spans more than 14 tokens: kernel_size 3 would fit"),
        ((9, 9), 3, 10, "kernel_size 3 with dilation 10 spans more than 9 tokens: a dilation of at most 3 would fit"),
        ((1, 9), 3, 1, "kernel_size 3 with dilation 1 spans more than 1 tokens: kernel_size 1 would fit"),
        ((9, 9), 4, 1, "kernel_size 4 is even; a window needs a middle: 3 or 5"),
        ((9, 9), 0, 1, "kernel_size 0 is not 2 positive integers"),
        ((9, 9), (3, 3, 3), 1, r"kernel_size \(3, 3, 3\) is not 2 positive integers"),
        ((9, 9), 3, (1, -1), r"dilation \(1, -1\) is not 2 positive integers"),
    ],
)
def test_windows_that_do_not_fit_are_errors_that_say_what_does(size, kernel, step, message):
    q = torch.randn(1, *size, 1, 4)
    with pytest.raises(ValueError, match=message):
        neighborhood_attention(q, q, q, kernel_size=kernel, dilation=step)


def test_a_bias_or_a_shape_that_does_not_fit_is_an_error():
    q = torch.randn(1, 9, 9, 2, 4)
    with pytest.raises(ValueError, match=r"bias is \(2, 3, 3\), not \(2, 5, 5\) as for kernel_size \(3, 3\)"):
        neighborhood_attention(q, q, q, kernel_size=3, bias=torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match=r"\(9, 2, 4\) is neither a map \(B, H, W, N, D\) nor a sequence"):
        neighborhood_attention(q[0, 0], q[0, 0], q[0, 0], kernel_size=3)


@pytest.mark.parametrize("weights", [1, 2000])
@pytest.mark.parametrize("case", op.SMALL, ids=str)
def test_chunks_of_any_size_give_the_same(case, weights, monkeypatch):
    args = op.inputs(**case, dtype=torch.float64)
    grad = torch.randn_like(args[0])
    want = with_gradients(op.reference, args, grad)
    monkeypatch.setitem(tiles.WEIGHTS_OF_A_CHUNK, "cpu", weights)
    monkeypatch.setattr(op, "TILE", 3)
    op._axis.cache_clear()
    for a, b in zip(with_gradients(op.tiled, args, grad), want, strict=True):
        torch.testing.assert_close(a, b)
    op._axis.cache_clear()


def test_large_biases_leave_no_trace_where_there_is_no_query():
    q, k, v, bias, *settings = op.inputs(**op.SMALL[0], device=DEVICE)
    args = q, k, v, bias + 100, *settings  # 2 ** 144 is not a float32
    grad = torch.randn_like(q)
    wide = [a.double() if is_float(a) else a for a in args]
    got, want = with_gradients(op.IMPLS["triton"].run, args, grad), with_gradients(op.reference, wide, grad)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3)


def test_the_bias_gradient_is_a_sum_over_chunks_of_tiles(monkeypatch):
    kernels = importlib.import_module("backbones.ops.neighborhood_attention_triton")
    monkeypatch.setattr(kernels, "PROGRAMS", 2)  # of three residues, the second takes one
    q, k, v, *rest = op.inputs(**(op.SMALL[1] | dict(B=2)), device=DEVICE)
    args, grad = (q[:1], k[:1], v[:1], *rest), torch.randn_like(q)[:1]  # whoever goes on reads the other image
    got, want = with_gradients(op.IMPLS["triton"].run, args, grad), with_gradients(op.reference, args, grad)
    torch.testing.assert_close(got[4], want[4])


@pytest.mark.parametrize("size, kernel, step", [((9, 14), (5, 7), (1, 2)), ((12, 12), (3, 3), (3, 4))])
@pytest.mark.filterwarnings("ignore")  # natten's use of FlexAttention warns that it is not compiled
def test_natten_computes_the_same_without_a_bias(size, kernel, step):
    pytest.importorskip("natten")
    q, k, v = torch.randn(3, 2, *size, 2, 16)
    settings = dict(kernel_size=kernel, dilation=step, scale=0.4)
    theirs = neighborhood_attention(q, k, v, **settings, impl="natten")
    torch.testing.assert_close(neighborhood_attention(q, k, v, **settings), theirs)
    for message, arguments in (
        ("has no bias", dict(settings, bias=torch.zeros(2, *(2 * n - 1 for n in kernel)))),
        ("takes no kernel_size of 1", dict(settings, kernel_size=(1, 3))),
    ):
        with pytest.raises(ValueError, match=f'impl="natten" {message}'):
            neighborhood_attention(q, k, v, **arguments, impl="natten")
    with pytest.raises(ValueError, match="has no gradients on the CPU"):
        neighborhood_attention(q.requires_grad_(), k, v, **settings, impl="natten")


def test_natten_where_it_is_not_installed_is_an_error(monkeypatch):
    monkeypatch.setattr(op.importlib.util, "find_spec", lambda name: None)
    q = torch.randn(1, 9, 9, 1, 8)
    with pytest.raises(ValueError, match='impl="natten" needs the package natten'):
        neighborhood_attention(q, q, q, kernel_size=3, impl="natten")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own check reads it
@pytest.mark.parametrize("name", ["neighborhood_attention", "halo_attention", "criss_cross_attention"])
def test_torch_accepts_the_operators(name):
    module = importlib.import_module(f"backbones.ops.{name}")
    args = [a.detach().requires_grad_() if is_float(a) else a for a in module.inputs(**module.SMALL[0])]
    torch.library.opcheck(module._forward, args)
    detached = [a.detach() if is_float(a) else a for a in args]
    results = module._forward(*detached)
    results = results if isinstance(results, tuple) else (results,)
    torch.library.opcheck(module._backward, (torch.randn_like(results[0]), *results, *detached))

"""Every implementation of every op against its reference: values, gradients, bad input, compilability."""

import itertools

import pytest
import torch
from close import assert_close_to

import backbones.ops
from backbones.ops._impl import modules
from backbones.ops._maps import pad_to_multiple, partition, unpartition

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPS = modules()
IMPLS = [(op, name) for op, module in OPS.items() for name in module.IMPLS]
CASES = [(op, name, i) for op, name in IMPLS for i in range(len(OPS[op].SMALL))]


def is_float(x) -> bool:
    return torch.is_tensor(x) and x.is_floating_point()


def with_gradients(fn, args, grad):
    args = [a.detach().requires_grad_() if is_float(a) else a for a in args]
    out = fn(*args)
    leaves = [a for a in args if is_float(a)]
    return out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.dtype))


@pytest.fixture
def nan_in_new_tensors():
    """Fills what torch.empty returns: what reads or returns memory that it did not write is found out."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op, name, case", CASES)
def test_values_and_gradients(op, name, case, dtype, nan_in_new_tensors):
    module = OPS[op]
    args = module.inputs(**module.SMALL[case], device=DEVICE, dtype=dtype)
    leaves = [a.detach().requires_grad_() if is_float(a) else a for a in args]
    if reason := module.IMPLS[name].refuses(*leaves):
        with pytest.raises(ValueError, match="impl="):
            module.choose(module.IMPLS, name, *leaves)
        pytest.skip(reason)
    wide = [a.double() if is_float(a) else a for a in args]
    grad = torch.randn_like(module.reference(*args))
    exact = with_gradients(module.reference, wide, grad)
    plain = with_gradients(module.reference, args, grad)
    got = with_gradients(module.IMPLS[name].run, args, grad)
    for i, triple in enumerate(zip(exact, plain, got, strict=True)):
        assert_close_to(*triple, what=f"{op}/{name} output {i}")


@pytest.mark.parametrize("op, name", [(op, name) for op, name in IMPLS if name != "reference"])
def test_an_implementation_ignores_no_argument(op, name):
    """The public function, with impl named, is what the reference says when every argument is given."""
    module = OPS[op]
    args = module.inputs(**module.SMALL[0], device=DEVICE, dtype=torch.float64)
    if module.IMPLS[name].refuses(*args):
        pytest.skip("refuses these inputs")
    chosen = module.choose(module.IMPLS, name, *args)
    assert chosen is module.IMPLS[name].run
    torch.testing.assert_close(chosen(*args), module.reference(*args))


@pytest.mark.parametrize("op, name", IMPLS)
def test_gradcheck(op, name):
    module = OPS[op]
    args = module.inputs(**min(module.SMALL, key=lambda kw: kw["B"] * kw["H"] * kw["W"]), dtype=torch.float64)
    args = [a.detach().requires_grad_() if is_float(a) else a for a in args]
    if module.IMPLS[name].refuses(*args):
        pytest.skip("refuses these inputs")
    assert torch.autograd.gradcheck(module.IMPLS[name].run, args, fast_mode=True)


@pytest.mark.parametrize("op, name", IMPLS)
def test_compiles_in_one_graph(op, name):
    module = OPS[op]
    args = module.inputs(**module.SMALL[0])
    if module.IMPLS[name].refuses(*args):
        pytest.skip("refuses these inputs")
    fn = module.IMPLS[name].run
    torch.testing.assert_close(torch.compile(fn, backend="aot_eager", fullgraph=True)(*args), fn(*args))


@pytest.mark.parametrize(
    "op, name", [case for case in IMPLS if case[0] in ("aggregated_attention", "linear_attention")]
)
def test_what_needs_float32_keeps_it_under_autocast(op, name):
    module = OPS[op]
    args, run = module.inputs(**module.SMALL[0]), module.IMPLS[name].run
    with torch.autocast("cpu", torch.bfloat16):
        got = run(*args)
    assert torch.equal(got, run(*args))


@pytest.mark.parametrize("op", OPS)
def test_an_unknown_implementation_is_an_error_that_lists_the_known(op):
    module = OPS[op]
    with pytest.raises(ValueError, match="reference"):
        module.choose(module.IMPLS, "refrence", *module.inputs(**module.SMALL[0]))


def test_preferring_an_unknown_implementation_is_an_error():
    with pytest.raises(ValueError, match="reference"), backbones.ops.prefer("refrence"):
        pass


def test_prefer_is_undone():
    module = OPS["window_attention"]
    args = module.inputs(**module.SMALL[0])
    with backbones.ops.prefer("reference"):
        assert module.choose(module.IMPLS, None, *args) is module.reference
    assert module.choose(module.IMPLS, None, *args) is not module.reference


@pytest.mark.parametrize("window, interval", [((4, 6), 1), ((1, 12), 1), ((8, 12), 1), ((4, 3), 2), ((2, 1), 4)])
def test_partition_lists_windows_in_row_major_order(window, interval):
    x = torch.arange(2 * 8 * 12 * 3).view(2, 8, 12, 3)
    rows, cols = window[0] * interval, window[1] * interval
    windows = [
        x[b, i + top : i + rows : interval, j + left : j + cols : interval].reshape(-1, 3)
        for b, i, j in itertools.product((0, 1), range(0, 8, rows), range(0, 12, cols))
        for top, left in itertools.product(range(interval), repeat=2)
    ]
    assert torch.equal(partition(x, window, interval), torch.stack(windows))
    assert torch.equal(unpartition(partition(x, window, interval), window, (8, 12), interval), x)


@pytest.mark.parametrize("centred, corner", [(False, (0, 0)), (True, (1, 2))])
def test_padding_surrounds_the_map_with_zeros(centred, corner):
    x = 1 + torch.rand(1, 5, 7, 2)
    padded, inside = pad_to_multiple(x, (4, 6), centred)
    assert padded.shape == (1, 8, 12, 2)
    assert torch.equal(padded[inside], x) and (inside[1].start, inside[2].start) == corner
    assert padded.count_nonzero() == x.numel()


@pytest.mark.parametrize("impl", ["sdpa", "reference"])
@pytest.mark.parametrize("interval", [1, 3])
def test_windows_that_overhang_the_map_hold_only_its_tokens(interval, impl):
    q, k, v = torch.randn(3, 1, 8, 7, 2, 4, dtype=torch.float64)
    bias = torch.randn(2, 6, 6, dtype=torch.float64)
    got = backbones.ops.window_attention(q, k, v, window=(2, 3), interval=interval, bias=bias, impl=impl)
    for y, x in itertools.product(range(8), range(7)):
        rows, cols = (
            range(n - n % (m * interval) + n % interval, end, interval)[:m] for n, m, end in ((y, 2, 8), (x, 3, 7))
        )
        keys = list(itertools.product(rows, cols))
        at = [rows.index(r) * 3 + cols.index(c) for r, c in keys]
        query = rows.index(y) * 3 + cols.index(x)
        weights = torch.stack([0.5 * (q[0, y, x] * k[0, r, c]).sum(-1) for r, c in keys], -1) + bias[:, query, at]
        values = torch.stack([v[0, r, c] for r, c in keys], 1)  # (heads, keys, channels)
        torch.testing.assert_close(got[0, y, x], (weights.softmax(-1)[..., None] * values).sum(1))


def test_windows_that_make_no_sense_are_errors():
    q = torch.randn(1, 6, 6, 2, 8)
    with pytest.raises(ValueError, match=r"window \(0, 3\) and interval 1"):
        backbones.ops.window_attention(q, q, q, window=(0, 3))
    with pytest.raises(ValueError, match=r"bias is \(2, 4, 4\), not \(heads 2, tokens 9, tokens 9\)"):
        backbones.ops.window_attention(q, q, q, window=(3, 3), bias=torch.zeros(2, 4, 4))


def test_regions_that_do_not_fit_are_an_error():
    q = torch.randn(1, 6, 6, 2, 8)
    with pytest.raises(ValueError, match="4 x 3 regions does not divide a map of 6 x 6"):
        backbones.ops.routing_attention(q, q, q, torch.zeros(1, 12, 1, dtype=torch.long), regions=(4, 3))
    with pytest.raises(ValueError, match=r"index is \(1, 9, 1\)"):
        backbones.ops.routing_attention(q, q, q, torch.zeros(1, 9, 1, dtype=torch.long), regions=(2, 3))

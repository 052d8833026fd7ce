"""What tests/test_ops.py cannot know of the op: its bands, and that torch accepts its registration."""

import importlib

import pytest
import torch
from test_ops import DEVICE, is_float, with_gradients

op = importlib.import_module("backbones.ops.aggregated_attention")


@pytest.mark.parametrize("case", op.SMALL, ids=str)
@pytest.mark.parametrize("weights", [1, 100])
def test_bands_agree_with_the_whole(case, weights, monkeypatch):
    args = op.inputs(**case, dtype=torch.float64)
    grad = torch.randn_like(op.reference(*args))
    want = with_gradients(op.reference, args, grad)
    monkeypatch.setitem(op.WEIGHTS_OF_A_BAND, "cpu", weights)
    assert weights > 1 or len(op._bands(args[0], args[3], case["window"] ** 2)) == case["H"]
    for a, b in zip(with_gradients(op.banded, args, grad), want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("programs, cells", [(1, 2**24), (8, 40)])
def test_kernels_sum_over_any_number_of_programs_and_bands(programs, cells, monkeypatch):
    """Few programs: each loops over several blocks of queries, and images. Few cells: several bands."""
    args = op.inputs(B=3, H=7, W=6, N=2, D=8, P=1, Q=2, window=3, device=DEVICE)
    if reason := op.IMPLS["triton"].refuses(*args):
        pytest.skip(reason)
    kernels = importlib.import_module("backbones.ops.aggregated_attention_triton")
    monkeypatch.setattr(kernels, "PROGRAMS", programs)
    monkeypatch.setattr(kernels, "CELLS", cells)
    grad = torch.randn_like(args[0])
    got, want = (with_gradients(run, args, grad) for run in (op.IMPLS["triton"].run, op.reference))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own check reads it
def test_torch_accepts_the_operators():
    args = [a.detach().requires_grad_() if is_float(a) else a for a in op.inputs(**op.SMALL[0])]
    torch.library.opcheck(op._forward, args)
    out, normaliser = op._forward(*(a.detach() for a in args))
    torch.library.opcheck(op._backward, (torch.randn_like(out), normaliser, *(a.detach() for a in args)))


def test_shapes_that_do_not_fit_are_errors():
    *args, local_bias, table, rows, cols = op.inputs(**op.SMALL[0])
    extra = args.pop()
    public = op.aggregated_attention
    with pytest.raises(ValueError, match="local_bias has 4 offsets"):
        public(*args, extra, local_bias[:, :4], table, rows, cols)
    with pytest.raises(ValueError, match=r"extra is \(2, 4, 6, 2, 8\), not \(2, 4, 6, 2, 9\)"):
        public(*args, extra[..., :8], local_bias, table, rows, cols)
    with pytest.raises(ValueError, match=r"rows \(3, 2\) and cols \(6, 3\) are not \(4, 2\) and \(6, 3\)"):
        public(*args, extra, local_bias, table, rows[:3], cols)

import torch
from torch import Tensor


def assert_close_to(exact: Tensor, plain: Tensor, got: Tensor, what: str = "") -> None:
    """`got` may be twice as far from the float64 answer as the plain same-dtype code and one rounding are.

    That holds for the error as a whole; the worst element, a noisier number, may be four times as far.
    """
    assert got.shape == plain.shape and got.dtype == plain.dtype, what
    eps = torch.finfo(got.dtype).eps
    for norm, factor in ((torch.linalg.vector_norm, 2), (lambda x: x.abs().max(), 4)):
        allowed = factor * (norm(plain.double() - exact) + eps * norm(exact))
        error = norm(got.double() - exact)
        assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g}"

from torch import Tensor

from backbones.benchmark.check import excess


def assert_close_to(exact: Tensor, plain: Tensor, got: Tensor, what: str = "") -> None:
    """`got` may be twice as far from the float64 answer as the plain same-dtype code and one rounding are.

    That holds for the error as a whole; the worst element, a noisier number, may be four times as far.
    """
    fault = excess(exact, plain, got, got.dtype)
    assert fault is None, f"{what}: {fault}"

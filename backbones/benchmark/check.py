"""Whether a result is as near to the float64 answer as its dtype allows."""

import torch
from torch import Tensor


def excess(exact: Tensor, plain: Tensor, got: Tensor, dtype: torch.dtype) -> str | None:
    """How `got` is wrong, or None if it is not.

    It may be twice as far from the float64 answer as the plain code in the same `dtype` and one rounding are. That
    holds for the error as a whole; the worst element, a noisier number, may be four times as far.
    """
    if got.shape != plain.shape or got.dtype != plain.dtype:
        return f"{tuple(got.shape)} of {got.dtype}, not {tuple(plain.shape)} of {plain.dtype}"
    eps = torch.finfo(dtype).eps
    for norm, factor in ((torch.linalg.vector_norm, 2), (lambda x: x.abs().max(), 4)):
        allowed = factor * (norm(plain.double() - exact) + eps * norm(exact))
        error = norm(got.double() - exact)
        if not error <= allowed:  # NaN, too
            return f"error {error:.3g}, allowed {allowed:.3g}"
    return None

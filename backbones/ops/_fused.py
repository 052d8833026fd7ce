"""Implementations by Triton kernels, forward and backward, as custom operators."""

import importlib
import importlib.util
import os

import torch
from torch import Tensor

from ._impl import Impl, custom_ops_fit

WIDEST_HEAD = 128


def fused(op: str, arguments: str, gradients: int, widest_value: int = WIDEST_HEAD) -> Impl:
    """The implementation of `op` by the kernels in `<op>_triton.py`.

    It registers backbones::<op>_triton and backbones::<op>_triton_backward. `arguments` is the op's positional
    signature in torch's schema language; the first `gradients` of them are those with gradients, q, k and v first.
    The module's `forward(*args)` returns the output, shaped like q with v's channels, and the logarithm of the
    softmax's denominator, (B, H, W, N) in float32, base 2; `backward(grad, out, lse, *args)` the gradients, an empty
    tensor for an argument that is None. Its kernels read maps by their strides, but for the channels', which is 1.
    Maps of several dtypes, as under autocast, are computed in v's, sums in float32; tables keep theirs.
    """
    name = f"backbones::{op}_triton"

    def launchers():
        return importlib.import_module(f"{__package__}.{op}_triton")

    def forward(*args) -> tuple[Tensor, Tensor]:
        return launchers().forward(*map(_readable, args))

    def backward(*args) -> list[Tensor]:
        return list(launchers().backward(*map(_readable, args)))

    forward = torch.library.custom_op(name, forward, mutates_args=(), schema=f"({arguments}) -> (Tensor, Tensor)")
    backward = torch.library.custom_op(
        f"{name}_backward",
        backward,
        mutates_args=(),
        schema=f"(Tensor grad, Tensor out, Tensor lse, {arguments}) -> Tensor[]",
    )

    @forward.register_fake
    def _(q: Tensor, k: Tensor, v: Tensor, *args) -> tuple[Tensor, Tensor]:
        return q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(q.shape[:-1], dtype=torch.float32)

    @backward.register_fake
    def _(grad: Tensor, out: Tensor, lse: Tensor, *args) -> list[Tensor]:
        return [grad.new_empty(0) if x is None else x.new_empty(x.shape) for x in args[:gradients]]

    def save(ctx, inputs: tuple, output: tuple) -> None:
        tensors = [x for x in inputs if x is None or torch.is_tensor(x)]
        ctx.save_for_backward(*output, *tensors)
        ctx.settings = inputs[len(tensors) :]
        ctx.set_materialize_grads(False)

    def differentiate(ctx, grad: Tensor | None, _: None) -> tuple:
        out, lse, *tensors = ctx.saved_tensors
        nothing = (None,) * (len(tensors) - gradients + len(ctx.settings))
        if grad is None:
            return (None,) * gradients + nothing
        grads = backward(grad, out, lse, *tensors, *ctx.settings)
        return *(None if x is None else g for g, x in zip(grads, tensors, strict=False)), *nothing

    forward.register_autograd(differentiate, setup_context=save)

    def suits(q: Tensor, *args) -> bool:
        return q.is_cuda and custom_ops_fit()

    def run(q: Tensor, k: Tensor, v: Tensor, *args) -> Tensor:
        args = [x.to(v.dtype) if torch.is_tensor(x) and x.ndim == 5 else x for x in args]
        return forward(q.to(v.dtype), k.to(v.dtype), v, *args)[0]

    def refuses(q: Tensor, k: Tensor, v: Tensor, *args) -> str | None:
        if not (q.is_cuda or interpreted()):
            return "needs CUDA tensors"
        if importlib.util.find_spec("triton") is None:
            return "needs the package triton"
        if v.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return f"takes float32, float16 and bfloat16, not {v.dtype}"
        if interpreted() and v.dtype == torch.bfloat16:
            return "takes no bfloat16 in Triton's interpreter, which multiplies it wrongly"
        if q.shape[-1] > WIDEST_HEAD or v.shape[-1] > widest_value:
            return f"takes at most {WIDEST_HEAD} channels a head ({widest_value} of values), not {q.shape[-1]}"
        if any(_span(x) >= 2**31 for x in (q, k, v)):
            return f"takes maps of less than 2**31 elements an image, not {tuple(q.shape[1:])} among others"
        return None

    return Impl(run, refuses, suits)


def _span(x: Tensor) -> int:
    """From an image's first element to its last: kernels count them in 32 bits."""
    return sum((n - 1) * stride for n, stride in zip(x.shape[1:], x.stride()[1:], strict=True))


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _readable(x):
    return x.contiguous() if torch.is_tensor(x) and x.ndim and x.stride(-1) != 1 else x

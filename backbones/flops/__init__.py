"""Multiply-adds of any timm model, counted once and the same way by torch's FlopCounterMode and by fvcore.

A multiply-add is one multiplication and one addition: what papers report as "FLOPs", and half of what torch counts.
They are those of convolutions, linear layers and matrix products, attention included; all else counts as zero and
is listed. An op of this package costs what its definition multiplies, whichever implementation runs.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula, sdpa_flop_count

from .. import ops
from ..ops._impl import modules

KINDS = "convolution", "linear", "attention", "other"

aten = torch.ops.aten


@dataclass(frozen=True)
class Count:
    """What one forward pass costs. Multiply-adds and activations are those of the whole batch."""

    macs: int
    by_kind: dict[str, int]  # convolution; linear; attention (products of activations); other
    by_module: dict[str, int]  # path -> multiply-adds of the module and what is inside; "" is the model
    activations: int  # elements that convolutions and linear layers write
    params: int
    zero: dict[str, int]  # operator -> calls that count no multiply-adds; without allocations, views and copies

    @property
    def gmacs(self) -> float:
        return self.macs / 1e9


def count(model: nn.Module, inputs: Tensor | tuple[Tensor, ...] | tuple[int, int] | int | None = None) -> Count:
    """Counts a forward pass of `model`, in the mode (train, eval) in which it is.

    `inputs` are tensors to run it on, or the height and width of one image, or its side; None: the size in the model's
    default_cfg. For a size nothing is computed: the model runs on the meta device, also a big one in a blink.
    A compiled model costs what the model does that was compiled. Raises what the model raises at a size it refuses, and
    ValueError if there is no size.
    """
    model = getattr(model, "_orig_mod", model)
    tensors = (inputs,) if torch.is_tensor(inputs) else inputs
    on_meta = not (isinstance(tensors, tuple) and tensors and torch.is_tensor(tensors[0]))
    if on_meta:
        image = torch.empty(1, *_image_size(model, inputs), device="meta")
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        state = {name: value.detach().to("meta").requires_grad_(value.requires_grad) for name, value in state.items()}
        run = partial(functional_call, model, state, (image,))
    else:
        run = partial(model, *tensors)

    with torch.no_grad(), ops.prefer("reference"), _Watch() as watch, counter() as flops:
        run()
    totals = flops.get_flop_counts()
    by_operator = totals.pop("Global", {})
    by_kind = dict.fromkeys(KINDS, 0)
    for operator, n in by_operator.items():
        by_kind[_kind(operator)] += n // 2
    root = type(model).__name__
    by_module = {"": flops.get_total_flops() // 2}
    for path, operators in totals.items():
        if path != root:
            by_module[path.removeprefix(f"{root}.")] = sum(operators.values()) // 2
    return Count(
        macs=flops.get_total_flops() // 2,
        by_kind=by_kind,
        by_module=by_module,
        activations=watch.activations,
        params=sum(p.numel() for p in model.parameters()),
        zero=dict(watch.zero.most_common()),
    )


def counter() -> FlopCounterMode:
    """torch's counter, silent, with formulas for what this torch's lacks. It counts FLOPs: two a multiply-add."""
    return FlopCounterMode(display=False, custom_mapping=_missing())


def _image_size(model: nn.Module, size: tuple[int, int] | int | None) -> tuple[int, int, int]:
    cfg = getattr(model, "pretrained_cfg", None) or {}
    chans = getattr(model, "in_chans", None) or cfg.get("input_size", (3,))[0]
    if size is None:
        if "input_size" not in cfg:
            raise ValueError(f"{type(model).__name__} has no default input size: name one")
        size = cfg["input_size"][1:]
    height, width = (size, size) if isinstance(size, int) else size
    return chans, height, width


# --- torch's counter

_SDPA = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)


def _sdpa(q: tuple, k: tuple, v: tuple, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(q, k, v)


def _missing() -> dict:
    """Formulas that some versions of torch lack: they count zero for attention on the CPU."""
    packets = [getattr(aten, name) for name in _SDPA if hasattr(aten, name)]
    return {packet: _sdpa for packet in packets if packet not in flop_registry}


def _register(op: str, multiply_adds: Callable[..., int]) -> None:
    """Formulas of an operator of ours and of its backward pass, whose last arguments are the forward pass's."""
    forward, backward = getattr(torch.ops.backbones, op), getattr(torch.ops.backbones, f"{op}_backward")
    inputs = len(forward.default._schema.arguments)

    @register_flop_formula(forward)
    def _(*shapes, out_shape=None, **kwargs) -> int:
        return 2 * multiply_adds(*shapes)

    @register_flop_formula(backward)
    def _(*shapes, out_shape=None, **kwargs) -> int:
        return 4 * multiply_adds(*shapes[-inputs:])  # two products for each of the forward pass


for _op, _module in modules().items():
    for _name in (_op, f"{_op}_triton"):
        if hasattr(_module, "multiply_adds") and hasattr(torch.ops.backbones, _name):
            _register(_name, _module.multiply_adds)


def _kind(operator: Any) -> str:
    name = str(operator).removeprefix("aten.").removeprefix("backbones.")
    if "conv" in name:
        return "convolution"
    if name in ("mm", "addmm", "_scaled_mm", "linear"):
        return "linear"
    return "attention" if name in ("bmm", "baddbmm") or "attention" in name else "other"


class _Watch(TorchDispatchMode):
    """Counts elements that convolutions and linear layers write, and calls of operators that count as zero."""

    _MAKES = "empty", "zeros", "ones", "full", "arange", "linspace", "scalar_tensor", "lift_fresh"
    _MOVES = "_unsafe_view", "as_strided", "clone", "copy", "_to_copy"

    def __init__(self):
        super().__init__()
        self.activations, self.zero = 0, Counter()
        self.formulas = flop_registry.keys() | _missing().keys()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        name = func.overloadpacket.__name__
        if func.overloadpacket in self.formulas:
            if _kind(func.overloadpacket) in ("convolution", "linear"):
                self.activations += out.numel()
        elif not (func.is_view or name.removeprefix("new_").startswith(self._MAKES + self._MOVES)):
            self.zero[name] += 1
        return out


# --- fvcore


def fvcore_handles() -> dict[str, Callable]:
    """Handles with which fvcore's FlopCountAnalysis gives `count(...).macs`.

    `FlopCountAnalysis(model, image).set_op_handle(**fvcore_handles())`; without them fvcore leaves out
    scaled_dot_product_attention and adds norms and pooling.
    """
    handles: dict[str, Callable] = dict.fromkeys(_FVCORE_ADDS, lambda x, out: 0)
    handles["aten::_convolution"] = lambda x, out: math.prod(_shape(out[0])) * math.prod(_shape(x[1])[1:])
    handles["aten::linear"] = lambda x, out: math.prod(_shape(out[0])) * _shape(x[0])[-1]
    handles["aten::addmm"] = lambda x, out: math.prod(_shape(out[0])) * _shape(x[1])[-1]
    handles["aten::baddbmm"] = handles["aten::addmm"]
    handles["aten::mm"] = handles["aten::bmm"] = handles["aten::matmul"] = handles["aten::linear"]
    handles["aten::einsum"] = _einsum
    handles["aten::scaled_dot_product_attention"] = lambda x, out: sdpa_flop_count(*map(_shape, x[:3])) // 2
    return handles


_FVCORE_ADDS = (
    "aten::adaptive_avg_pool1d",
    "aten::adaptive_avg_pool2d",
    "aten::adaptive_avg_pool3d",
    "aten::batch_norm",
    "aten::grid_sampler",
    "aten::group_norm",
    "aten::instance_norm",
    "aten::layer_norm",
    "aten::upsample_bicubic2d",
    "aten::upsample_bilinear2d",
    "aten::upsample_linear1d",
    "aten::upsample_nearest1d",
    "aten::upsample_nearest2d",
    "aten::upsample_nearest3d",
    "aten::upsample_trilinear3d",
)


def _shape(value: Any) -> list[int]:
    return value.type().sizes()


def _einsum(inputs: list, outputs: list) -> int:
    equation = inputs[0].toIValue().replace(" ", "")
    operands = list(inputs[1].node().inputs())
    if len(operands) != 2 or "." in equation:
        raise ValueError(f'no count for einsum "{equation}" of {len(operands)} operands')
    terms, result = equation.split("->")
    sizes: dict[str, int] = {}
    for letters, operand in zip(terms.split(","), operands, strict=True):
        for letter, n in zip(letters, _shape(operand), strict=True):
            sizes[letter] = max(sizes.get(letter, 1), n)
    return math.prod(sizes.values()) if set(sizes) - set(result) else 0

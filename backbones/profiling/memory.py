"""Peak memory of one step of a model, measured where nothing else allocates.

On the CPU a fresh process runs the step; it may use what memory is free, so that too big a step fails there and nowhere
else. Linux only. Figures leave out what is there before the step: weights and libraries.
"""

import multiprocessing
import os
import resource
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext, suppress

import torch
from torch import Tensor, nn

from .. import ops
from . import models

OUT_OF_MEMORY = "out of memory"


def step(model: nn.Module, x: Tensor, train: bool, dtype: torch.dtype = torch.float32) -> None:
    """A forward pass without gradients, or a forward and a backward pass; half precision by autocast."""
    autocast = nullcontext() if dtype == torch.float32 else torch.autocast(x.device.type, dtype)
    if train:
        model.zero_grad(set_to_none=True)
        with autocast:
            out = model(x)
        out.float().square().mean().backward()
    else:
        with torch.inference_mode(), autocast:
            model(x)


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "out of memory" in text or "can't alloc" in text


def on_gpu(model: nn.Module, x: Tensor, train: bool, dtype: torch.dtype) -> float:
    """MiB that a step adds on a CUDA device."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(model, x, train, dtype)
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def on_cpu(
    name: str,
    shape: tuple[int, ...],
    train: bool = True,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    reference: bool = False,
) -> float:
    """MiB that a step of the model `name` on images of `shape` adds; `reference`: with the plain ops.

    Raises MemoryError if it does not fit, and what the model raises.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = os.environ["MALLOC_TRIM_THRESHOLD_"] = "65536"  # give freed blocks back
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["backbones.profiling.memory"])
    with ProcessPoolExecutor(1, mp_context=context) as process:
        try:
            return process.submit(_child, name, shape, train, dtype, channels_last, reference).result()
        except BrokenProcessPool as error:  # killed, most likely by the system
            raise MemoryError(OUT_OF_MEMORY) from error


def _child(
    name: str, shape: tuple[int, ...], train: bool, dtype: torch.dtype, channels_last: bool, reference: bool
) -> float:
    limit = _proc("/proc/self/status", "VmSize") + _proc("/proc/meminfo", "MemAvailable")
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        model = models.create(name).train(train).to(memory_format=layout)
        x = torch.randn(shape).contiguous(memory_format=layout)
        with suppress(Exception):  # what libraries allocate once; models of a fixed size refuse, and show more
            step(model, x[:1, :, :32, :32], train, dtype)
        model.zero_grad()
        before = _proc("/proc/self/status", "VmRSS")
        with ops.prefer("reference") if reference else nullcontext():
            step(model, x, train, dtype)
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError(OUT_OF_MEMORY) from None
        raise ValueError(str(error)) from None  # what a process can hand over
    return (_proc("/proc/self/status", "VmHWM") - before) / 2**20


def _proc(path: str, field: str) -> int:
    with open(path, encoding="ascii") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))

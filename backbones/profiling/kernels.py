"""What Triton's kernels need of a GPU's multiprocessor, by compiling them; no GPU is needed."""

import importlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

from ..ops._fused import interpreted
from ..ops._impl import modules
from .measure import DTYPES

TARGETS = 80, 90  # compute capabilities: A100, H100 and H200


class Kernel(NamedTuple):
    op: str
    kernel: str
    case: str
    dtype: str
    target: int
    registers: int  # a thread
    shared: int  # bytes a program
    spilled: int  # bytes a thread keeps in memory because registers do not suffice
    warps: int


def ops() -> list[str]:
    """Those that have Triton kernels."""
    return [op for op, module in modules().items() if "triton" in module.IMPLS]


def names(op: str) -> set[str]:
    """Of the kernels that the op's passes launch: those whose name begins with _forward or _backward."""
    from triton.runtime import JITFunction

    launchers = importlib.import_module(f"backbones.ops.{op}_triton")
    found = {name for name, value in vars(launchers).items() if isinstance(value, JITFunction)}
    return {name for name in found if name.startswith(("_forward", "_backward"))}


def report(op: str, dtype: str, target: int, small: bool = False, once: bool = False) -> list[Kernel]:
    """The kernels for the op's REAL inputs, or its SMALL ones; `once`: only until each has been compiled."""
    module = modules()[op]
    found: list[Kernel] = []
    for case in module.SMALL if small else module.REAL:
        if not once or names(op) - {kernel.kernel for kernel in found}:
            found += compiled(op, case, dtype, target)
    return found


def compiled(op: str, case: dict, dtype: str, target: int) -> list[Kernel]:
    """Every kernel that the op's forward and backward pass launch for inputs like `case`, compiled for `target`.

    Raises RuntimeError where Triton interprets kernels, and what its compiler raises.
    """
    if interpreted():
        raise RuntimeError("Triton interprets kernels here; unset TRITON_INTERPRET to compile them")
    launchers = importlib.import_module(f"backbones.ops.{op}_triton")
    args = modules()[op].inputs(**case, dtype=DTYPES[dtype], device="meta")
    with _compiling(target) as found:
        out, lse = launchers.forward(*args)
        launchers.backward(torch.empty_like(out), out, lse, *args)
    text = ", ".join(f"{k}={v}" for k, v in case.items())
    return [Kernel(op, kernel.metadata.name, text, dtype, target, *_resources(kernel)) for kernel in found]


class _Driver:
    """Stands for a device that Triton compiles for and that nothing runs on."""

    def __init__(self, target: int):
        self.target = target

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.target, 32)

    def get_current_device(self) -> int:
        return self.target  # the compiled are kept by device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def _compiling(target: int) -> Iterator[list]:
    """Inside the block, a launch compiles; the list has what was compiled, once each."""
    from triton.runtime import JITFunction, driver

    found, run = {}, JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        found[kernel.hash] = kernel
        return kernel

    kernels: list = []
    before = driver._active
    driver.set_active(_Driver(target))
    try:
        with mock.patch.object(JITFunction, "run", compile_only):
            yield kernels
    finally:
        driver._active = before
        kernels.extend(found.values())


def _resources(kernel) -> tuple[int, int, int, int]:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        run = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    usage = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", run.stdout)}
    return usage["REG"], kernel.metadata.shared, usage["STACK"] + usage["LOCAL"], kernel.metadata.num_warps

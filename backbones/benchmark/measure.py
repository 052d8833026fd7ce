"""Times implementations in turns, once their results are found right."""

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .. import flops, ops
from ..ops._impl import modules
from ..profiling import Setup, memory
from ..profiling.measure import DTYPES, in_turns
from .check import excess
from .rivals import RIVALS

FORWARD, BOTH = STEPS = "forward", "forward + backward"
YARDSTICK = "dense_sdpa"
Progress = Callable[[str, int, int], None]


@dataclass
class Row:
    """One implementation of one case: what was measured, or the `note` that says why not."""

    subject: str  # an op or a model
    case: str
    batch: int
    step: str  # of STEPS
    impl: str
    gmacs: float  # 10^9 multiply-adds of the whole batch, as the definition makes them
    gigabytes: float | None = None  # 10^9 bytes that must move: arguments in, results out, their gradients
    median: float | None = None  # seconds, as are the quartiles
    low: float | None = None
    high: float | None = None
    memory: float | None = None  # MiB that the step adds at its peak; of ops on CUDA alone
    note: str = ""
    wrong: bool = False

    @property
    def tflops(self) -> float | None:
        """10^12 floating point operations a second: two for each multiply-add."""
        return self.median and 2e-3 * self.gmacs / self.median

    @property
    def gigabytes_per_second(self) -> float | None:
        return self.median and self.gigabytes and self.gigabytes / self.median

    @property
    def images_per_second(self) -> float | None:
        return self.median and self.batch / self.median


class Entry(NamedTuple):
    """Something to time: a function of `args`. `checked`: whether it has to return what the op does."""

    run: Callable[..., Tensor]
    args: tuple
    checked: bool = True


def operators(
    names: Sequence[str],
    setup: Setup,
    batch: int | None = None,
    cases: str = "REAL",
    progress: Progress = lambda *_: None,
    without: Sequence[str] = (),
) -> list[Row]:
    """Rows of every case, step and implementation of these ops; `batch` replaces that of the cases.

    Beside the op's own implementations run those of `rivals`, compiled, and as a yardstick dense attention of as many
    multiply-adds, which computes something else; those in `without` do not. What is not as exact as `check.excess`
    wants is not timed.
    """
    todo = [(name, case) for name in names for case in getattr(modules()[name], cases)]
    rows = []
    for i, (name, case) in enumerate(todo):
        case = case if batch is None else case | dict(B=batch)
        progress(f"{name} {_words(case)}", i, len(todo))
        rows += _case(name, case, setup, without)
    return rows


def implementations(name: str) -> set[str]:
    """What `operators` runs of an op."""
    return {*modules()[name].IMPLS, *RIVALS[name], YARDSTICK}


def _case(name: str, case: dict, setup: Setup, without: Sequence[str] = ()) -> list[Row]:
    module, dtype = modules()[name], DTYPES[setup.dtype]
    torch.manual_seed(0)
    args = module.inputs(**case, device=setup.device, dtype=dtype)
    grad = torch.randn_like(module.reference(*args))
    macs = _multiply_adds(module, case)
    moved = _gigabytes(args, grad)
    common = dict(subject=name, case=_words(case), batch=case["B"])
    exact = _results(module.reference, [a.double() if _is_float(a) else a for a in args], grad.double())
    plain = _results(module.reference, args, grad)
    rows, turns = [], {}
    torch.compiler.reset()
    for impl, entry in _entries(name, module, args, macs[FORWARD]).items():
        if impl in without:
            continue
        mine = [Row(**common, step=step, impl=impl, gmacs=macs[step] / 1e9, gigabytes=moved[step]) for step in STEPS]
        rows += mine
        if not isinstance(entry, Entry):
            for row in mine:
                row.note = entry
            continue
        for row in mine:
            run = _step(entry.run, entry.args, grad, row.step)
            if impl in module.IMPLS and (reason := _refusal(module.IMPLS[impl], args, row.step)):
                row.note = reason
            elif (got := _attempt(row, run, setup)) is not None:
                turns[impl, row.step] = run
                if entry.checked:
                    parts = zip(_names(args), exact, plain, got, strict=False)  # forward has values alone
                    faults = [f"{part}: {fault}" for part, *three in parts if (fault := excess(*three, dtype))]
                    row.wrong, row.note = bool(faults), "; ".join(faults)
        if any(row.wrong for row in mine):
            for row in mine:
                turns.pop((impl, row.step), None)
                row.memory = None
                row.note = row.note or "wrong in the other step"
    timer = Timer(setup.device)
    times = in_turns({key: partial(timer, run) for key, run in turns.items()}, setup.rounds)
    for row in rows:
        if (row.impl, row.step) in times:
            _summarise(row, times[row.impl, row.step])
    return sorted(rows, key=lambda row: STEPS.index(row.step))


def _entries(name: str, module: ModuleType, args: tuple, macs: int) -> dict[str, Entry | str]:
    """Everything that computes a case, or why it does not, by name."""
    entries: dict[str, Entry | str] = {impl: Entry(module.IMPLS[impl].run, args) for impl in module.IMPLS}
    for rival, make in RIVALS[name].items():
        if isinstance(make, str):
            entries[rival] = make
            continue
        try:
            run = make(*args)
        except Exception as error:
            entries[rival] = _reason(error)
        else:
            entries[rival] = Entry(torch.compile(run, dynamic=False) if rival == "flex" else run, args)
    entries[YARDSTICK] = _dense(args, macs)
    return entries


def _dense(args: tuple, macs: int) -> Entry:
    """Attention of as many queries to as many keys, the same for all queries of an image, as make `macs`."""
    q, _, v = args[:3]
    B, H, W, N, D = q.shape
    E = v.shape[-1]
    keys = max(1, round(macs / (B * H * W * N * (D + E))))
    shapes = (B, N, H * W, D), (B, N, keys, D), (B, N, keys, E)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(1, (H, W))

    return Entry(run, tuple(torch.randn(shape, device=q.device, dtype=q.dtype) for shape in shapes), checked=False)


def _step(run: Callable, args: Sequence, grad: Tensor, step: str) -> Callable[[], tuple[Tensor, ...]]:
    """What is timed: the result, and with a backward pass the gradients of all floating point arguments."""
    if step == FORWARD:

        def forward() -> tuple[Tensor]:
            with torch.no_grad():
                return (run(*args),)

        return forward
    args = [a.detach().requires_grad_() if _is_float(a) else a for a in args]
    leaves = [a for a in args if _is_float(a)]

    def both() -> tuple[Tensor, ...]:
        out = run(*args)
        return out.detach(), *torch.autograd.grad(out, leaves, grad)

    return both


def _results(run: Callable, args: Sequence, grad: Tensor) -> tuple[Tensor, ...]:
    return _step(run, args, grad, BOTH)()


def _refusal(impl, args: tuple, step: str) -> str | None:
    with torch.set_grad_enabled(step == BOTH):
        return impl.refuses(*(a.detach().requires_grad_(step == BOTH) if _is_float(a) else a for a in args))


def _attempt(row: Row, run: Callable[[], tuple], setup: Setup) -> tuple | None:
    """What `run` returns, the memory that it takes noted in `row`; or None, and the reason."""
    on_cuda = torch.device(setup.device).type == "cuda"
    try:
        if on_cuda:
            run()  # compiles, and chooses what it tunes
            torch.cuda.synchronize(setup.device)
            before = torch.cuda.memory_allocated(setup.device)
            torch.cuda.reset_peak_memory_stats(setup.device)
        got = run()
        if on_cuda:
            torch.cuda.synchronize(setup.device)
            row.memory = (torch.cuda.max_memory_allocated(setup.device) - before) / 2**20
        return got
    except Exception as error:
        row.note = _reason(error)


def _reason(error: Exception) -> str:
    """Its first line; of what torch's compiler raises, the part that says most."""
    if memory.is_out_of_memory(error):
        return memory.OUT_OF_MEMORY
    line = (str(error).strip().splitlines() or [""])[0].removeprefix("LoweringException: ")
    return (line if line.startswith("NotImplementedError") else f"{type(error).__name__}: {line}")[:200]


class Timer:
    """Seconds of a call. On CUDA the device's own, with its cache flushed and the host ahead of it."""

    HEAD_START = 5_000_000  # clock cycles, about 3 ms, in which the host queues the call

    def __init__(self, device: str):
        self.on_cuda = torch.device(device).type == "cuda"
        if self.on_cuda:
            self.cache = torch.empty(2**28, dtype=torch.uint8, device=device)
            self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __call__(self, run: Callable[[], object]) -> float:
        if not self.on_cuda:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        torch.cuda._sleep(self.HEAD_START)
        self.cache.zero_()
        self.start.record()
        run()
        self.end.record()
        self.end.synchronize()
        return self.start.elapsed_time(self.end) / 1e3


def _summarise(row: Row, times: list[float]) -> None:
    row.low, row.median, row.high = (
        torch.tensor(times).double().quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist()
    )


def _multiply_adds(module: ModuleType, case: dict) -> dict[str, int]:
    """Of the reference, by step."""
    args = module.inputs(**case, device="meta")
    grad = module.reference(*args)
    macs = {}
    for step in STEPS:
        with FlopCounterMode(display=False) as counter:
            _step(module.reference, args, grad, step)()
        macs[step] = counter.get_total_flops() // 2
    return macs


def _gigabytes(args: tuple, out: Tensor) -> dict[str, float]:
    """10^9 bytes: forward reads the arguments and writes the result; backward reads them all and writes gradients."""
    read = sum(a.numel() * a.element_size() for a in args if torch.is_tensor(a))
    grads = sum(a.numel() * a.element_size() for a in args if _is_float(a))
    written = out.numel() * out.element_size()
    return {FORWARD: (read + written) / 1e9, BOTH: (2 * read + 2 * written + grads) / 1e9}


def _is_float(x: object) -> bool:
    return torch.is_tensor(x) and x.is_floating_point()


def _names(args: tuple) -> list[str]:
    return ["values", *(f"gradient of argument {i}" for i, a in enumerate(args) if _is_float(a))]


def _words(case: dict) -> str:
    """56x56, N 2, D 32, kernel_size 7x7, bias."""
    words = [f"{case['H']}x{case['W']}"]
    for name, value in case.items():
        if name in "BHW" or value is False:
            continue
        if isinstance(value, tuple):
            value = "x".join(map(str, value))
        words.append(name if value is True else f"{name} {value}")
    return ", ".join(words)


def models(
    names: Sequence[str], setup: Setup, batch: int, size: int | None = None, progress: Progress = lambda *_: None
) -> list[Row]:
    """Rows of every model and step, with the implementations that ops choose (`ours`) and with their references."""
    rows = []
    for i, name in enumerate(names):
        progress(name, i, len(names))
        rows += _model(name, setup, batch, size)
    return rows


def _model(name: str, setup: Setup, batch: int, size: int | None) -> list[Row]:
    torch.manual_seed(0)
    model = timm.create_model(name).to(setup.device)
    chans, height, width = model.pretrained_cfg["input_size"]
    if size:
        height = width = size
    gmacs = batch * flops.count(model.eval(), (height, width)).gmacs
    x = torch.randn(batch, chans, height, width, device=setup.device)
    dtype = DTYPES[setup.dtype]
    timer, rows, turns = Timer("cpu"), [], {}  # the host's work is part of a model's time
    fault = _model_fault(model, x[:2], dtype)
    for (step, train), reference in ((s, r) for s in zip(STEPS, (False, True), strict=True) for r in (False, True)):
        work = gmacs * (3 if train else 1)  # backward: two products for each of forward's
        impl = "reference" if reference else "ours"
        row = Row(name, f"{height}x{width}", batch, step, impl, work)
        rows.append(row)
        if fault and not reference:
            row.wrong, row.note = True, fault
            continue

        def run(train=train, reference=reference) -> None:
            with _implementations(reference):
                memory.step(model.train(train), x, train, dtype)
                if x.is_cuda:
                    torch.cuda.synchronize()

        try:
            row.memory = _model_memory(name, model, x, train, dtype, reference)
        except Exception as error:
            row.note = _reason(error)
        else:
            turns[impl, step] = partial(timer, run)
    times = in_turns(turns, setup.rounds)
    for row in rows:
        if (row.impl, row.step) in times:
            _summarise(row, times[row.impl, row.step])
    return rows


def _implementations(reference: bool):
    return ops.prefer("reference") if reference else nullcontext()


def _model_fault(model: nn.Module, x: Tensor, dtype: torch.dtype) -> str | None:
    """How outputs or gradients with the ops' own choice are wrong, in evaluation mode."""

    def results(model: nn.Module, x: Tensor, reference: bool, autocast: bool) -> tuple[Tensor, Tensor, Tensor]:
        x = x.detach().requires_grad_()
        with _implementations(reference), torch.autocast(x.device.type, dtype) if autocast else nullcontext():
            out = model(x)
        dx, *dparams = torch.autograd.grad(out.float().square().sum(), [x, *model.parameters()])
        return out.detach(), dx, torch.cat([d.flatten() for d in dparams])

    model.eval()
    half = dtype != torch.float32
    exact = results(copy.deepcopy(model).double(), x.double(), True, False)
    plain, got = (results(model, x, reference, half) for reference in (True, False))
    parts = zip(("outputs", "gradient of images", "gradient of parameters"), exact, plain, got, strict=True)
    return "; ".join(f"{part}: {fault}" for part, *three in parts if (fault := excess(*three, dtype))) or None


def _model_memory(
    name: str, model: nn.Module, x: Tensor, train: bool, dtype: torch.dtype, reference: bool
) -> float | None:
    if not x.is_cuda:
        return memory.on_cpu(name, tuple(x.shape), train, dtype, reference=reference)
    with _implementations(reference):
        memory.step(model.train(train), x, train, dtype)  # compiles, and chooses what it tunes
        model.zero_grad(set_to_none=True)
        used = memory.on_gpu(model, x, train, dtype)
    model.zero_grad(set_to_none=True)
    return used

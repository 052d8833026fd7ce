"""Times models in turns, so that a machine that slows down favours none."""

import difflib
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import timm
import torch
from torch import Tensor, nn

from .. import _catalogue, flops
from . import memory
from . import models as known

Key = TypeVar("Key")
Result = TypeVar("Result")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Setup:
    """How every model is run."""

    device: str = "cpu"
    dtype: str = "float32"  # others by autocast
    train: bool = False  # forward and backward instead of forward
    compile: bool = False
    channels_last: bool = False
    rounds: int = 11

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise ValueError(f'no dtype "{self.dtype}"; there are {", ".join(DTYPES)}')
        if self.rounds < 1:
            raise ValueError(f"{self.rounds} rounds: at least 1")
        try:
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
            raise ValueError(f'no device "{self.device}" here; there are {", ".join(known)}') from error


@dataclass
class Row:
    """One model at one size and batch. Latencies are seconds of a batch; None where nothing was measured."""

    model: str
    height: int
    width: int
    batch: int
    params: int | None = None
    gmacs: float | None = None  # of one image, forward
    gmacs_by_kind: dict[str, float] = field(default_factory=dict)
    gmacs_by_part: dict[str, float] = field(default_factory=dict)  # children of the model, stages apart
    activations: int | None = None  # of one image
    counted_zero: dict[str, int] = field(default_factory=dict)
    median: float | None = None
    low: float | None = None  # of the median's 95% confidence interval
    high: float | None = None
    p95: float | None = None
    throughput: float | None = None  # images a second
    memory: float | None = None  # MiB that a step adds
    gmacs_per_second: float | None = None
    peak_share: float | None = None  # of the device's matrix product
    top1: float | None = None  # published, at its own size
    error: str | None = None

    @property
    def size(self) -> str:
        return f"{self.height}" if self.height == self.width else f"{self.height}x{self.width}"


def resolve(names: Iterable[str]) -> list[str]:
    """Model names, where `names` may hold the wildcards * and ?, without the zoo's tiny ones for tests; config files.

    Raises ValueError for a name or pattern that fits no model, saying which are near.
    """
    found: dict[str, None] = {}
    for name in names:
        if known.is_config(name):
            if not Path(name).is_file():
                raise ValueError(f"no config file {name}")
            found[name] = None
            continue
        if timm.is_model(name.split(".")[0]):
            found[name] = None
            continue
        matches = [n for n in timm.list_models(name) if not n.startswith("test_")] if set(name) & set("*?") else []
        if not matches:
            near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.6)
            hint = f": did you mean {' or '.join(near)}?" if near else "; timm.list_models() names all"
            raise ValueError(f'no model fits "{name}"{hint}')
        found.update(dict.fromkeys(matches))
    return list(found)


def profile(
    names: list[str],
    sizes: list[tuple[int, int] | None],
    batches: list[int],
    setup: Setup,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    seed: int = 0,
) -> tuple[list[Row], float]:
    """Rows of all models at all sizes (None: the model's own) and batches, and the device's peak in GMAC/s.

    What a model refuses, and what does not fit in memory, is a row with an error. `progress` hears of every step.
    """
    models = {name: _build(name, setup) for name in names}
    rows = [_counted(name, models[name], size, batch) for name in names for size in sizes for batch in batches]
    for i, row in enumerate(rows):
        progress(f"memory of {row.model} at {row.size}", i, len(rows))
        if row.error is None:
            _attempt(row, lambda row=row: _memory(row, models[row.model], setup))
    peak = matmul_peak(setup)
    ready = [row for row in rows if row.error is None]
    runs = {name: torch.compile(model) if setup.compile else model for name, model in models.items()}

    def sample(row: Row) -> float | None:
        if row.error is None:
            return _attempt(row, lambda: _seconds(runs[row.model], _images(row, models, setup), setup))

    turns = {(row.model, i): partial(sample, row) for i, row in enumerate(ready)}
    times = in_turns(
        turns, setup.rounds, lambda n, run, *at: progress(f"round {n} of {setup.rounds}: {run[0]}", *at), seed
    )
    for i, row in enumerate(ready):
        if row.error is None:
            _summarise(row, times[row.model, i], peak, setup)
    return rows, peak


def in_turns(
    runs: dict[Key, Callable[[], float]],
    rounds: int,
    progress: Callable[[int, Key, int, int], None] = lambda *_: None,
    seed: int = 0,
) -> dict[Key, list[float]]:
    """What each of `runs` returns in every round; the order changes, and a first round warms up.

    `progress` hears the round, the run, how many are done and how many there are.
    """
    results: dict[Key, list[float]] = {key: [] for key in runs}
    order = list(runs)
    shuffle = random.Random(seed).shuffle
    for n in range(rounds + 1):
        shuffle(order)
        for k, key in enumerate(order):
            progress(n, key, n * len(order) + k, (rounds + 1) * len(order))
            results[key].append(runs[key]())
    return {key: values[1:] for key, values in results.items()}


def matmul_peak(setup: Setup) -> float:
    """GMAC/s of the best of several big matrix products in the setup's dtype: what the device can do at most."""
    n = 8192 if _on_cuda(setup) else 2048
    a, b = torch.randn(2, n, n, device=setup.device, dtype=DTYPES[setup.dtype])
    return n**3 / _best(lambda: a @ b, setup) / 1e9


def copy_peak(setup: Setup) -> float:
    """GB/s, read and written, of the best of several big copies: what the device can move at most."""
    a = torch.zeros(2**30 if _on_cuda(setup) else 2**28, dtype=torch.uint8, device=setup.device)
    b = torch.zeros_like(a)
    return 2 * a.numel() / _best(lambda: b.copy_(a), setup) / 1e9


def _best(run: Callable[[], object], setup: Setup) -> float:
    best = math.inf
    for _ in range(8):
        _wait(setup)
        start = time.perf_counter()
        run()
        _wait(setup)
        best = min(best, time.perf_counter() - start)
    return best


def _build(name: str, setup: Setup) -> nn.Module:
    model = known.create(name).train(setup.train).to(setup.device)
    return model.to(memory_format=torch.channels_last) if setup.channels_last else model


def _counted(name: str, model: nn.Module, size: tuple[int, int] | None, batch: int) -> Row:
    height, width = size or model.pretrained_cfg["input_size"][1:]
    row = Row(name, height, width, batch, params=sum(p.numel() for p in model.parameters()), top1=_top1(name))

    def fill() -> None:
        size = (height, width)
        if known.is_config(name):  # the regions that a detector looks at depend on the image: it has to be computed
            size = torch.randn(1, _chans(model), *size, device=next(model.parameters()).device)
        count = flops.count(model.eval(), size)
        row.gmacs, row.activations, row.counted_zero = count.gmacs, count.activations, count.zero
        row.gmacs_by_kind = {kind: macs / 1e9 for kind, macs in count.by_kind.items()}
        row.gmacs_by_part = {part: macs / 1e9 for part, macs in _parts(count.by_module).items()}

    training = model.training
    _attempt(row, fill)
    model.train(training)
    return row


def _parts(by_module: dict[str, int]) -> dict[str, int]:
    """The model's children; a child whose children are numbered (stages, layers, blocks) is split into those.

    So is one that nobody calls itself, such as the head of a detector.
    """
    split = {path.split(".")[0] for path in by_module if path.count(".") == 1 and path.split(".")[1].isdigit()}
    whole = set(by_module) - {"", *(name for name in split if name in ("stages", "layers", "blocks", "features"))}
    return {path: by_module[path] for path in by_module if path in whole and not _above(path) & whole}


def _above(path: str) -> set[str]:
    names = path.split(".")
    return {".".join(names[:i]) for i in range(1, len(names))}


def _top1(name: str) -> float | None:
    try:
        return _catalogue.info(name).top1
    except ValueError:
        return None


def _memory(row: Row, model: nn.Module, setup: Setup) -> None:
    if torch.device(setup.device).type == "cpu":
        shape = (row.batch, _chans(model), row.height, row.width)
        dtype = DTYPES[setup.dtype]
        row.memory = memory.on_cpu(row.model, shape, setup.train, dtype, setup.channels_last)
    elif _on_cuda(setup):
        images = _images(row, {row.model: model}, setup)
        row.memory = memory.on_gpu(model, images, setup.train, DTYPES[setup.dtype])
        model.zero_grad(set_to_none=True)


def _chans(model: nn.Module) -> int:
    return model.pretrained_cfg["input_size"][0]


def _images(row: Row, models: dict[str, nn.Module], setup: Setup) -> Tensor:
    x = torch.randn(row.batch, _chans(models[row.model]), row.height, row.width, device=setup.device)
    return x.contiguous(memory_format=torch.channels_last) if setup.channels_last else x


def _attempt(row: Row, run: Callable[[], Result]) -> Result | None:
    try:
        return run()
    except Exception as error:  # whatever a model of timm's thousand raises at a size it does not know
        if memory.is_out_of_memory(error):
            row.error = memory.OUT_OF_MEMORY
        else:
            row.error = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[:200]


def _seconds(model: nn.Module, x: Tensor, setup: Setup) -> float:
    _wait(setup)
    start = time.perf_counter()
    memory.step(model, x, setup.train, DTYPES[setup.dtype])
    _wait(setup)
    return time.perf_counter() - start


def _wait(setup: Setup) -> None:
    if _on_cuda(setup):
        torch.cuda.synchronize(setup.device)


def _on_cuda(setup: Setup) -> bool:
    return torch.device(setup.device).type == "cuda"


def _summarise(row: Row, times: list[float], peak: float, setup: Setup) -> None:
    times = sorted(times)
    row.median = statistics.median(times)
    row.low, row.high = median_interval(times)
    row.p95 = times[min(len(times) - 1, math.ceil(0.95 * len(times)) - 1)]
    row.throughput = row.batch / row.median
    if row.gmacs is not None:
        work = row.gmacs * row.batch * (3 if setup.train else 1)  # backward: two products for each of forward's
        row.gmacs_per_second = work / row.median
        row.peak_share = row.gmacs_per_second / peak


def median_interval(times: list[float]) -> tuple[float, float]:
    """The 95% confidence interval of the median of sorted samples, by their ranks (a binomial's quantiles).

    Fewer than six samples have no such interval; theirs is all that they span.
    """
    n, rank, missed = len(times), 0, 1 / 2 ** len(times)
    while rank < (n - 1) // 2 and missed + math.comb(n, rank + 1) / 2**n <= 0.025:
        rank += 1
        missed += math.comb(n, rank) / 2**n
    return times[rank], times[n - 1 - rank]

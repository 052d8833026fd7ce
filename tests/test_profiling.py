"""tools/profile.py: what it writes, what it refuses, and the arithmetic behind it."""

import csv
import json
import math
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from backbones import flops, profiling
from backbones.profiling import measure, plots
from tools import profile as tool

ROOT = Path(__file__).parents[1]


def test_tables_and_pictures(tmp_path, capsys):
    names = ["test_cswin", "test_transnext", "resnet18"]
    arguments = [*names, "--size", "32", "64x96", "--batch", "1", "2", "--rounds", "3", "--output", str(tmp_path)]
    assert tool.main([*arguments, "--top1", "test_cswin=10", "resnet18=69.8"]) == 0
    said = capsys.readouterr().out
    rows = json.loads((tmp_path / "profile.json").read_text())["rows"]
    assert [(r["model"], r["height"], r["width"], r["batch"]) for r in rows] == [
        (name, *size, batch) for name in names for size in ((32, 32), (64, 96)) for batch in (1, 2)
    ]
    for row in rows:
        assert row["error"] is None and row["model"] in said
        assert 0 < row["low"] <= row["median"] <= row["high"] and row["median"] <= row["p95"]
        assert row["throughput"] == pytest.approx(row["batch"] / row["median"])
        assert row["gmacs_per_second"] == pytest.approx(row["gmacs"] * row["batch"] / row["median"])
        assert sum(row["gmacs_by_kind"].values()) == pytest.approx(row["gmacs"])
        assert sum(row["gmacs_by_part"].values()) == pytest.approx(row["gmacs"])
    cells = list(csv.DictReader((tmp_path / "profile.csv").read_text().splitlines()))
    assert [float(cell["median"]) for cell in cells] == [row["median"] for row in rows]
    assert (tmp_path / "profile.md").read_text().count("| resnet18 |") == 4
    for name in ("accuracy_latency", "accuracy_gmacs", "latency_resolution", "memory_resolution", "stages"):
        assert (tmp_path / f"{name}.svg").stat().st_size > 1000
        assert len(Image.open(tmp_path / f"{name}.png").convert("L").getcolors()) > 10


def test_a_size_that_a_model_refuses_is_a_row(capsys):
    assert tool.main(["vit_tiny_patch16_224", "test_cswin", "--size", "64", "16", "--rounds", "1"]) == 0
    said = capsys.readouterr().out
    assert "vit_tiny_patch16_224 at 64, batch 1: AssertionError: Input height (64) doesn't match model (224)" in said
    assert "test_cswin at 16, batch 1: ValueError: an input of 16 x 16 is too small: at least 32 x 32" in said


def test_what_does_not_fit_in_memory_is_a_row():
    rows, _ = profiling.profile(["test_cswin"], [(200_000, 200_000), (32, 32)], [1], profiling.Setup(rounds=1))
    assert [row.error for row in rows] == ["out of memory", None]
    assert rows[0].gmacs > 1e3 and rows[0].median is None and rows[1].median > 0


def test_when_nothing_was_measured_the_status_says_so():
    assert tool.main(["test_cswin", "--size", "8", "--rounds", "1"]) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["biformr_t"], 'no model fits "biformr_t": did you mean biformer_t'),
        (["zzz*"], r'no model fits "zzz\*"; timm.list_models'),
        (["test_cswin", "--device", "cuda:7"], 'no device "cuda:7" here; there are cpu'),
        (["test_cswin", "--device", "tpu"], 'no device "tpu" here'),
        (["test_cswin", "--dtype", "float8"], 'no dtype "float8"; there are float32, bfloat16, float16'),
        (["test_cswin", "--rounds", "0"], "0 rounds: at least 1"),
        (["test_cswin", "--batch", "0"], "a batch of 0: at least 1"),
    ],
)
def test_what_cannot_be_is_an_error_that_says_what_can(arguments, message):
    with pytest.raises(ValueError, match=message):
        tool.main(arguments)


@pytest.mark.parametrize("size", ["0", "64x", "a", "1x2x3"])
def test_a_size_that_is_none_is_a_usage_error(size, capsys):
    with pytest.raises(SystemExit):
        tool.main(["test_cswin", "--size", size])
    assert f"{size} is no size" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--train"], ["--dtype", "bfloat16"], ["--channels-last"], ["--train", "--compile"]])
def test_modes(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(measure.torch, "compile", lambda model: model)  # what inductor does is not ours to test
    assert tool.main(["test_cswin", "--size", "32", "--rounds", "1", *flags, "--output", str(tmp_path)]) == 0
    about = json.loads((tmp_path / "profile.json").read_text())["about"]
    assert about["step"] == ("forward and backward" if "--train" in flags else "forward")
    assert about["compiled"] == ("--compile" in flags)


def test_names():
    found = profiling.resolve(["cswin_?", "resnet18", "cswin_t"])
    assert found == ["cswin_b", "cswin_l", "cswin_s", "cswin_t", "resnet18"]
    assert profiling.resolve(["biformer_small"]) == ["biformer_small"]


def test_as_a_command_it_leaves_the_standard_library_alone():
    """From tools/, cProfile's `import profile` finds this file; it has to get the standard library's."""
    code = "import sys; sys.path.insert(0, 'tools'); import cProfile, profile; print(profile.run, profile.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("<function run at") and str(ROOT) not in done.stdout
    done = subprocess.run([sys.executable, "tools/profile.py", "biformr"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith('error: no model fits "biformr"')


def test_the_interval_of_a_median_covers_it_as_often_as_it_says():
    random.seed(0)
    hits = 0
    for _ in range(2000):
        low, high = measure.median_interval(sorted(random.gauss(0, 1) for _ in range(11)))
        hits += low <= 0 <= high
    assert 0.94 <= hits / 2000 <= 0.995
    assert measure.median_interval([3.0]) == (3.0, 3.0)


def test_exponents_of_a_power_law():
    rows = [profiling.Row("m", n, 2 * n, 1, median=3e-6 * (2 * n * n) ** 1.5, memory=7.0) for n in (32, 64, 100)]
    time, memory = profiling.fits(rows)
    assert time.exponent == pytest.approx(1.5) and time.factor == pytest.approx(3e-6)
    assert memory.exponent == pytest.approx(0, abs=1e-9)
    assert not profiling.fits(rows[:1])


def test_the_pareto_front():
    points = [(1, 70), (2, 80), (2, 75), (3, 79), (4, 81), (5, 81)]
    assert plots.pareto(points) == [(1, 70), (2, 80), (4, 81)]


def test_models_take_turns(monkeypatch):
    turns = []
    monkeypatch.setattr(measure, "_seconds", lambda model, x, setup: turns.append(type(model).__name__) or 1.0)
    rows, peak = profiling.profile(["test_cswin", "resnet18"], [(32, 32)], [1], profiling.Setup(rounds=5))
    assert all(set(turns[i : i + 2]) == {"CSWin", "ResNet"} for i in range(0, 12, 2)) and len(turns) == 12
    assert math.isfinite(peak) and statistics.mean(row.median for row in rows) == 1.0
    assert rows[0].peak_share == pytest.approx(flops.count(measure.timm.create_model("test_cswin"), 32).gmacs / peak)

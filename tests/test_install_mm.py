"""tools/install_mm.sh: what it says where something is missing, and what it does, with stand-ins for Python and g++."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tools" / "install_mm.sh"

# A Python that has torch, pip and, once "installed", the packages: files in its folder say what there is.
PYTHON = """#!/bin/bash
here=$(dirname "$0")
echo "$*" >> "$here/calls"
case "$*" in
    *version_info*) [ ! -e "$here/old" ] ;;
    --version) echo "Python 3.9.1" ;;
    "-c import torch") [ ! -e "$here/no_torch" ] ;;
    "-m pip --version") [ ! -e "$here/no_pip" ] ;;
    *only-binary*) [ -e "$here/wheel" ] && touch "$here/mmcv" ;;
    *no-binary*)
        if [ -e "$here/fails" ]; then cat "$here/fails"; exit 1; fi
        "$CXX" -std=c++17 x.cpp
        rm -f "$here/broken"
        touch "$here/mmcv" ;;
    *"pip install onedl-mmengine"*) touch "$here/mm" ;;
    *"pip install"*) ;;
    "- onedl-mmengine"*) [ -e "$here/mm" ] ;;
    "- onedl-mmcv"*) [ -e "$here/mmcv" ] ;;
    -) [ ! -e "$here/broken" ] || { echo "ImportError: undefined symbol"; exit 1; } ;;
    *is_available*) [ -e "$here/cuda" ] && echo 1 || echo 0 ;;
    *CUDA_HOME*) exit 1 ;;
    *"(2, 14)"*) [ ! -e "$here/torch213" ] ;;
esac
"""
COMPILER = """#!/bin/bash
echo "$*" >> "$(dirname "$0")/compiled"
case "$*" in *-fsyntax-only*) [ ! -e "$(dirname "$0")/old_compiler" ] ;; esac
"""


@pytest.fixture
def run(tmp_path):
    """Runs the script with the stand-in; names are of files for it. Gives (status, output)."""
    for name, text in (("python", PYTHON), ("g++", COMPILER)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(*there: str, compiler: bool = True, **env: str) -> tuple[int, str]:
        for name in there:
            (tmp_path / name).touch()
        env = dict(os.environ, TMPDIR=str(tmp_path), CXX=str(tmp_path / "g++") if compiler else "none", **env)
        if not compiler:  # of all that the script needs, no compiler
            (tmp_path / "bin").mkdir()
            for tool in (
                "bash",
                "cat",
                "rm",
                "mktemp",
                "dirname",
                "touch",
                "tail",
                "grep",
                "awk",
                "nproc",
                "chmod",
                "env",
            ):
                (tmp_path / "bin" / tool).symlink_to(f"/usr/bin/{tool}")
            env["PATH"] = str(tmp_path / "bin")
        done = subprocess.run(["bash", SCRIPT, str(tmp_path / "python")], capture_output=True, text=True, env=env)
        return done.returncode, done.stdout + done.stderr

    return run


def test_nothing_is_installed_twice(run, tmp_path):
    status, output = run("wheel")
    assert status == 0 and "installed onedl-mmcv==2.3.6 from a wheel, its operators run" in output
    (tmp_path / "calls").unlink()
    status, output = run()
    assert status == 0 and "is there, its operators run" in output
    assert "install" not in (tmp_path / "calls").read_text()


@pytest.mark.parametrize("standard", ["c++20", "c++17"])
def test_without_a_wheel_it_compiles_in_the_standard_of_torchs_headers(standard, run, tmp_path):
    status, output = run(*(["torch213"] if standard == "c++17" else []))
    assert status == 0 and "compiled onedl-mmcv==2.3.6, its operators run" in output
    assert re.findall(r"-std=(\S+)", (tmp_path / "compiled").read_text().splitlines()[-1])[-1] == standard
    call = next(line for line in (tmp_path / "calls").read_text().splitlines() if "no-binary" in line)
    assert "--no-build-isolation" in call


def test_a_wheel_of_another_torch_is_replaced(run):
    status, output = run("wheel", "broken")
    assert status == 0
    assert "the wheel of onedl-mmcv==2.3.6 does not fit this torch: ImportError: undefined symbol" in output
    assert "compiled onedl-mmcv" in output


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ("old", "Python 3.9.1 of .* is too old: these packages need Python 3.10"),
        ("no_torch", "has no torch, which mmcv is compiled against: .* -m pip install torch"),
        ("no_pip", "has no pip: .* -m ensurepip"),
        ("old_compiler", "knows no C[+][+]20, which torch's headers need: g[+][+] 11"),
        ("cuda", "nvcc, which compiles mmcv for it, is missing:\n.*CUDA toolkit"),
    ],
)
def test_what_is_missing_is_told(there, message, run):
    status, output = run(there)
    assert status == 1 and re.search(message, output), output


def test_no_compiler_is_told(run):
    status, output = run(compiler=False)
    assert status == 1 and "no C++ compiler (g++ or clang++) to compile mmcv with: apt install g++" in output


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("g++: fatal error: Killed signal terminated program cc1plus", "ran out of memory: MAX_JOBS=1"),
        ("OSError: No space left on device", "the disk is full"),
        ("ERROR: No matching distribution found for onedl-mmcv", "is the package index reachable"),
        ("fatal error: Python.h: No such file", "apt install python3-dev"),
        ("error: expected ;", "compiling mmcv failed; its last lines are above"),
    ],
)
def test_a_failed_compilation_is_explained(log, message, run, tmp_path):
    (tmp_path / "fails").write_text(f"{log}\n")
    status, output = run()
    assert status == 1 and message in output and log in output
    assert Path(re.search(r"whole log is (\S+)", output)[1]).read_text() == f"{log}\n"


def test_a_python_that_is_not_there(tmp_path):
    done = subprocess.run(["bash", SCRIPT, str(tmp_path / "no")], capture_output=True, text=True)
    assert done.returncode == 1 and "no Python at" in done.stderr
    done = subprocess.run(["bash", SCRIPT, "--help"], capture_output=True, text=True)
    assert done.returncode == 1 and "usage: tools/install_mm.sh [PYTHON]" in done.stderr


def test_the_packages_are_those_of_setup_py():
    wanted = re.findall(r"^MM\w+=(onedl-\S+)", SCRIPT.read_text(), re.MULTILINE)
    assert [w for w in wanted if "mmcv" not in w] == re.findall(r'"(onedl-[^"]+)"', (ROOT / "setup.py").read_text())


def test_the_real_python_has_operators_that_run():
    pytest.importorskip("mmcv", reason="mmcv is not installed: tools/install_mm.sh")
    done = subprocess.run(["bash", SCRIPT, sys.executable], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "is there, its operators run" in done.stdout, done.stdout + done.stderr

#!/usr/bin/env bash
# Installs OpenMMLab's detection and segmentation packages, as maintained today, beside a torch that is there.
#
#     tools/install_mm.sh [PYTHON]     PYTHON: by default .venv/bin/python, or else python
#
# mmcv has compiled operators. A wheel is taken if pip finds one (PIP_FIND_LINKS=FOLDER names more places to look) and
# its operators run; otherwise it is compiled, half an hour on two cores. MAX_JOBS limits compilers at work at once,
# FORCE_CUDA=1 compiles for CUDA where no GPU is in sight. Run again, it only checks.
set -euo pipefail

MMENGINE=onedl-mmengine==0.10.12
MMCV=onedl-mmcv==2.3.6
MMDET=onedl-mmdetection==3.5.1
MMSEG=onedl-mmsegmentation==1.4.2

fail() {
    printf 'install_mm: %s\n' "$@" >&2
    exit 1
}

if [ $# -gt 1 ] || [[ "${1:-}" == -* ]]; then
    fail "usage: tools/install_mm.sh [PYTHON]"
elif [ $# = 1 ]; then
    python=$1
elif [ -x .venv/bin/python ]; then
    python=.venv/bin/python
else
    python=python
fi
command -v "$python" >/dev/null || fail "no Python at $python: name one, as in tools/install_mm.sh .venv/bin/python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$python" --version) of $python is too old: these packages need Python 3.10 or newer"
"$python" -c 'import torch' 2>/dev/null ||
    fail "$python has no torch, which mmcv is compiled against: $python -m pip install torch torchvision, then this again"
"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip: $python -m ensurepip, then this again"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# the versions asked for are there
installed() {
    "$python" - "$@" <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version

for wanted in sys.argv[1:]:
    name, _, number = wanted.partition("==")
    try:
        if version(name) != number:
            sys.exit(1)
    except PackageNotFoundError:
        sys.exit(1)
PYTHON
}

# mmcv's compiled operators import and compute what they should, on the CPU and on a GPU if there is one
operators_run() {
    "$python" - >"$work/operators" 2>&1 <<'PYTHON'
import torch
from mmcv.ops import nms, roi_align

for device in ["cpu", "cuda"][: 1 + torch.cuda.is_available()]:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]], device=device)
    kept = nms(boxes, torch.tensor([0.8, 0.9, 0.7], device=device), 0.5)[1].tolist()
    assert kept == [1, 2], f"nms on {device} keeps {kept}, not [1, 2]"
    ramp = torch.arange(8.0, device=device).repeat(1, 1, 8, 1)
    region = torch.tensor([[0.0, 2, 2, 6, 6]], device=device)
    means = roi_align(ramp, region, (1, 2), 1.0, 0, "avg", True).flatten().tolist()
    assert means == [2.5, 4.5], f"roi_align on {device} gives {means}, not [2.5, 4.5]"
PYTHON
}

pip_install() {
    "$python" -m pip install "$@" >"$work/pip" 2>&1 || {
        tail -n 5 "$work/pip" >&2
        fail "pip could not install ${*: -1}; its last lines are above"
    }
}

# flags of torch's own headers: C++20 from 2.14 on, where mmcv's setup.py says C++17; the last -std counts
use_cxx20() {
    "$python" -c 'import re, torch; v = re.match(r"(\d+)\.(\d+)", torch.__version__); raise SystemExit(tuple(map(int, v.groups())) < (2, 14))' ||
        return 0
    printf '#!/bin/sh\nexec %q "$@" -std=c++20\n' "$compiler" >"$work/g++"
    chmod +x "$work/g++"
    export CXX="$work/g++" NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:-} -std=c++20"
}

compile_mmcv() {
    local log="${TMPDIR:-/tmp}/install_mm.$$.log" compiler room wants_cuda
    compiler=$(command -v "${CXX:-g++}" || command -v clang++ || true)
    [ -n "$compiler" ] || fail "no C++ compiler (g++ or clang++) to compile mmcv with: apt install g++, or set CXX"
    echo 'int main() { return 0; }' >"$work/try.cpp"
    "$compiler" -std=c++20 -fsyntax-only "$work/try.cpp" 2>/dev/null ||
        fail "$compiler knows no C++20, which torch's headers need: g++ 11 or clang 14 do"
    wants_cuda=$("$python" -c 'import os, torch; print(int(torch.cuda.is_available() or os.getenv("FORCE_CUDA") == "1"))')
    if [ "$wants_cuda" = 1 ] && ! "$python" -c 'from torch.utils.cpp_extension import CUDA_HOME as c; raise SystemExit(c is None)'; then
        fail "torch uses CUDA, and nvcc, which compiles mmcv for it, is missing:" \
            "install the CUDA toolkit of torch's version, set CUDA_HOME, then this again"
    fi
    use_cxx20
    pip_install ninja packaging psutil 'setuptools>=77' wheel
    if [ -z "${MAX_JOBS:-}" ]; then # a compiler takes up to 2 GiB
        room=$(awk '/^MemAvailable/ { print int($2 / 2097152) }' /proc/meminfo 2>/dev/null || echo 2)
        MAX_JOBS=$(nproc 2>/dev/null || echo 2)
        [ "$room" -ge "$MAX_JOBS" ] || MAX_JOBS=$((room > 0 ? room : 1))
    fi
    export MAX_JOBS MMCV_WITH_OPS=1
    PATH="$(cd "$(dirname "$(command -v "$python")")" && pwd):$PATH" # ninja
    export PATH
    echo "install_mm: compiling $MMCV, $MAX_JOBS at once; log: $log"
    "$python" -m pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps \
        --no-binary onedl-mmcv --verbose "$MMCV" >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        if grep -qiE 'killed|cannot allocate|out of memory|bad_alloc' "$log"; then
            fail "a compiler ran out of memory: MAX_JOBS=1 tools/install_mm.sh; the whole log is $log"
        elif grep -q 'No space left' "$log"; then
            fail "the disk is full: compiling takes 2 GiB in ${TMPDIR:-/tmp}; the whole log is $log"
        elif grep -qE 'No matching distribution|Could not fetch|ConnectionError' "$log"; then
            fail "pip found no source of $MMCV: is the package index reachable? The whole log is $log"
        elif grep -q 'Python.h' "$log"; then
            fail "Python's headers are missing: apt install python3-dev; the whole log is $log"
        fi
        fail "compiling mmcv failed; its last lines are above, the whole log is $log"
    }
}

if ! installed "$MMENGINE" "$MMDET" "$MMSEG"; then
    echo "install_mm: installing $MMENGINE, $MMDET, $MMSEG"
    pip_install "$MMENGINE" "$MMDET" "$MMSEG"
fi
if installed "$MMCV" && operators_run; then
    echo "install_mm: $MMCV is there, its operators run"
    exit 0
fi
pip_install addict numpy opencv-python packaging Pillow pyyaml yapf # what mmcv needs
if "$python" -m pip install --only-binary onedl-mmcv --no-deps --force-reinstall "$MMCV" >"$work/pip" 2>&1; then
    if operators_run; then
        echo "install_mm: installed $MMCV from a wheel, its operators run"
        exit 0
    fi
    echo "install_mm: the wheel of $MMCV does not fit this torch: $(tail -n 1 "$work/operators")"
fi
compile_mmcv
operators_run || fail "mmcv was compiled, but its operators do not run: $(tail -n 1 "$work/operators")"
echo "install_mm: compiled $MMCV, its operators run"

"""The package as a whole: what importing it costs and prints, what the README promises, what the repository holds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python(code: str) -> subprocess.CompletedProcess:
    """`code` in a fresh interpreter, where warnings from our modules are errors."""
    command = [sys.executable, "-W", "error:::backbones", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def test_importing_it_is_silent_and_adds_little_to_timm():
    done = python(
        "import sys, time\n"
        "start = time.perf_counter(); import timm; timms = time.perf_counter() - start\n"
        "before = set(sys.modules)\n"
        "start = time.perf_counter(); import backbones; ours = time.perf_counter() - start\n"
        "added = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "assert added == {'backbones'}, added\n"
        "assert ours < 0.2 * timms, (ours, timms)\n"
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_it_works_without_triton():
    done = python(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'triton':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import backbones, timm, torch\n"
        "for name in backbones.list_models('test_*'):\n"
        "    timm.create_model(name)(torch.randn(2, 3, 64, 64)).sum().backward()\n"
    )
    assert done.stderr == ""


def test_the_readme_examples_run():
    example = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    done = python(example)
    assert done.stderr == ""
    said = re.findall(r"^#   (.*)", example, re.MULTILINE)
    assert done.stdout.splitlines()[-len(said) :] == said


def test_ci_runs_the_readmes_command():
    command = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()[-1]
    assert command.endswith("-m pytest")
    assert f"\n{command}\n" in README


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(arguments):
    done = subprocess.run([sys.executable, "-m", "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_names_a_path_of_somebodys_machine():
    inside = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=ROOT, capture_output=True, text=True)
    if inside.returncode or Path(inside.stdout.strip()) != ROOT:
        pytest.skip("not a git checkout")
    paths = rf"(^|[^A-Za-z0-9_.:/*-])/(home|mnt|root|tmp|Users|work)/[A-Za-z]|{re.escape(str(ROOT.parent))}/"
    found = subprocess.run(["git", "grep", "-nIE", paths], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == ""

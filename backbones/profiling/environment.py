"""What a measurement ran on."""

import platform
import re
from pathlib import Path

import timm
import torch


def environment(device: str) -> dict[str, str]:
    """The device by name, and the versions of what computes."""
    if torch.device(device).type == "cuda":
        device += f" ({torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda})"
    elif device == "cpu":
        device += f" ({_processor()}, {torch.get_num_threads()} threads)"
    return dict(device=device, torch=torch.__version__, timm=timm.__version__, python=platform.python_version())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()

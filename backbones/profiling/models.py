"""What is measured, by name: a model of timm's, or a detector or segmentor by its config file."""

from pathlib import Path

import timm
from torch import nn


def is_config(name: str) -> bool:
    return Path(name).suffix == ".py"


def create(name: str) -> nn.Module:
    """Raises what timm raises, and ValueError for a config that cannot be built."""
    if is_config(name):
        from ..dense.network import Network

        return Network(name)
    return timm.create_model(name)

"""Weights with provenance: downloading, recognising, converting, verifying and exporting checkpoints, all safely.

`python -m backbones.weights` is the command line. What is imported or downloaded lies, converted to our keys as
safetensors, in `folder()`, where `timm.create_model(..., pretrained=True)` finds it.
"""

from .cache import find, folder, imported
from .check import top1, verify
from .hub import export
from .importing import convert, import_file
from .matching import compare, recognise
from .read import Checkpoint, checkpoint
from .sources import Source, by_hand, source, sources
from .transfer import download, fetch

__all__ = [
    "Checkpoint",
    "Source",
    "by_hand",
    "checkpoint",
    "compare",
    "convert",
    "download",
    "export",
    "fetch",
    "find",
    "folder",
    "import_file",
    "imported",
    "recognise",
    "source",
    "sources",
    "top1",
    "verify",
]

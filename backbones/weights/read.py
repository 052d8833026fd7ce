"""Reading checkpoint files without executing anything that they hold."""

import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from timm.models import clean_state_dict
from torch import Tensor

MAX_BYTES = 16 * 2**30  # of a file and of what it unpacks to
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict")
PLAIN = ("state_dict", "model", "module", "net", "network")


class _Ignored:
    """Stands in for a class of another package that a checkpoint mentions beside its tensors."""

    def __init__(self, *args):
        pass

    def __new__(cls, *args):
        return super().__new__(cls)

    def __setstate__(self, state):
        pass


class _Dict:
    """Stands in for another package's dict."""

    def __new__(cls, *args):
        return OrderedDict()


_VALUES = (
    "argparse.Namespace",
    "_codecs.encode",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy.dtypes.Float32DType",
    "numpy.dtypes.Float64DType",
    "numpy.dtypes.Int64DType",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmcv.utils.config.Config",
    "mmengine.config.config.Config",
)
_DICTS = (
    "yacs.config.CfgNode",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
)
# what old checkpoints keep beside tensors, by name; stand-ins take its place, so nothing of these packages runs
SAFE_GLOBALS = [*((_Ignored, name) for name in _VALUES), *((_Dict, name) for name in _DICTS)]


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, by their keys in it, without wrappers."""

    tensors: dict[str, Tensor]
    averaged: bool = False  # exponential moving averages of the weights
    dense: bool = False  # the backbone of a detector or segmentor


def checkpoint(path: str | Path, ema: bool | None = None, max_bytes: int = MAX_BYTES) -> Checkpoint:
    """The state dict in a file of torch or safetensors.

    `ema`: averaged weights or plain ones; None takes the averaged ones if the file has them, as timm does.
    Raises ValueError naming a file that is missing, empty, cut off, a web page, an archive of other files, too large
    (`max_bytes`, also unpacked), that asks for code outside of a short list of names, or that holds no state dict.
    """
    return unwrap(load(path, max_bytes), ema, str(path))


def load(path: str | Path, max_bytes: int = MAX_BYTES) -> Any:
    """A file's content. Raises ValueError as `checkpoint` does."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no file {path}")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty")
    if size > max_bytes:
        raise ValueError(f"{path} has {size} bytes, more than the limit of {max_bytes}")
    with path.open("rb") as file:
        start = file.read(512)
    if re.match(rb"\s*<(!doctype|html|\?xml|head|body)", start, re.IGNORECASE):
        raise ValueError(f"{path} is a web page, not weights: open its link with a browser and save the file itself")
    if len(start) > 8 and start[8:9] == b"{":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
    if start.startswith(b"PK"):
        _check_archive(path, max_bytes)
    elif not start.startswith(b"\x80"):
        kind = "a gzip archive: unpack it first" if start.startswith(b"\x1f\x8b") else f"it begins with {start[:12]!r}"
        raise ValueError(f"{path} is no checkpoint: {kind}")
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if asks := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(f"{path} is refused: it asks for {asks[1]}, and nothing was executed") from error
        raise ValueError(f"{path} is refused, and nothing was executed: {_first_line(error)}") from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, struct.error) as error:
        raise ValueError(f"{path} is not a complete checkpoint: {_first_line(error)}") from error


def unwrap(content: Any, ema: bool | None = None, what: str = "the checkpoint") -> Checkpoint:
    """The state dict inside of training states, EMA choice, `module.` prefixes and detectors.

    Raises ValueError where there is none, or not the kind of weights that `ema` asks for.
    """
    averaged = False
    while isinstance(content, dict):
        found = [key for key in AVERAGED if isinstance(content.get(key), dict)]
        if found and ema is not False:
            averaged = True
        else:
            found = [key for key in PLAIN if isinstance(content.get(key), dict)]
        if not found:
            break
        content = content[found[0]]
    if ema and not averaged:
        raise ValueError(f"{what} has no averaged weights")
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{what} holds no state dict, but {type(content).__name__}")
    if strange := [key for key, value in content.items() if not torch.is_tensor(value)]:
        raise ValueError(f"{what} holds no state dict: {strange[0]!r} is {type(content[strange[0]])}")
    for key, value in content.items():
        if value.layout == torch.strided and value.numel() > value.untyped_storage().nbytes() // value.element_size():
            raise ValueError(f"{what} is refused: {key} claims {value.numel()} values, more than the file holds")
    counters = {"n_averaged", "steps"}
    if counters & content.keys() and all(key.startswith("module.") for key in content.keys() - counters):
        content = {key: value for key, value in content.items() if key not in counters}
    tensors = clean_state_dict(content)
    if all(key.startswith("model.") for key in tensors):
        tensors = {key.removeprefix("model."): value for key, value in tensors.items()}
    inside = {key.removeprefix("backbone."): v for key, v in tensors.items() if key.startswith("backbone.")}
    inside = {key.removeprefix("model."): v for key, v in inside.items()}  # of a ZooBackbone
    return Checkpoint(inside or tensors, averaged, dense=bool(inside))


def _check_archive(path: Path, max_bytes: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            names = [record.filename for record in records]
            if not any(name.endswith("data.pkl") for name in names):
                raise ValueError(f"{path} is an archive of {', '.join(names[:3])}: unpack it and take the file inside")
            unpacked = sum(record.file_size for record in records)
            if unpacked > max_bytes or any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise ValueError(
                    f"{path} is refused: {path.stat().st_size} bytes unpack to {unpacked}; torch.save does not compress"
                )
            if damaged := archive.testzip():  # torch does not check the sums that it writes
                raise ValueError(f"{path} is not a complete checkpoint: {damaged} is damaged")
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path} is not a complete checkpoint: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]

"""Vision backbones in timm's registry: `import backbones; timm.create_model("biformer_s")`."""

import importlib
import pkgutil

from . import ops
from ._accelerate import accelerate
from ._catalogue import info, list_models

__version__ = "0.1.0"
__all__ = ["accelerate", "info", "list_models", "ops"]

# every module that does not start with "_" is a family; importing it registers its models
for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_") and not _module.ispkg:
        importlib.import_module(f"{__name__}.{_module.name}")

"""The zoo's and timm's models in mmdet and mmseg: `custom_imports = dict(imports=["backbones.openmm"])` in a config.

Importing this enters in mmengine's registries, where mmdet and mmseg find them:

- `ZooBackbone`, a backbone: any model of timm's registry;
- `ZooModel`, a detector or segmentor whose necks and heads learn the backbone's channels by themselves;
- `LayerDecay`, a constructor of optimizers whose learning rates decrease layer by layer.

`backbones.openmm.criss_cross_head`, an import of its own, enters mmseg's CCNet head with our operator.
"""

try:
    import mmengine  # noqa: F401
except ImportError as error:
    raise ImportError(
        "backbones.openmm needs mmengine, and mmdet or mmseg: `bash tools/install_mm.sh` installs them"
    ) from error

from .backbone import ZooBackbone, channels
from .layer_decay import LayerDecay
from .model import zoo_model

__all__ = ["LayerDecay", "ZooBackbone", "channels", "zoo_model"]

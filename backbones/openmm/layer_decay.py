"""Learning rates that decrease from the head down to the stem."""

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from timm.models import group_parameters
from torch import nn

from .backbone import ZooBackbone


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecay(DefaultOptimWrapperConstructor):
    """mmengine's default constructor; `paramwise_cfg` also has `layer_decay`, a factor from 0 to 1.

    The learning rate of a ZooBackbone's n-th layer from the end, as the model's `group_matcher` groups them, is
    multiplied by `layer_decay ** n`, that of necks, heads and norms of maps is not. Other entries of `paramwise_cfg`
    multiply on top.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        decay = (self.paramwise_cfg or {}).get("layer_decay")
        if not isinstance(decay, (int, float)) or not 0 < decay <= 1:
            raise ValueError(f"LayerDecay needs paramwise_cfg=dict(layer_decay=...) above 0 and up to 1, not {decay}")

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", **kwargs) -> None:
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:
            return
        scales = _scales(module, self.paramwise_cfg["layer_decay"])
        if not scales:
            raise ValueError(f"LayerDecay: {type(module).__name__} has no ZooBackbone")
        for group in params:
            scale = scales.get(id(group["params"][0]), 1.0)
            group["lr"] = group.get("lr", self.base_lr) * scale


def _scales(module: nn.Module, decay: float) -> dict[int, float]:
    """The factor of every parameter, by its id, of the ZooBackbones inside."""
    scales = {}
    for backbone in module.modules():
        if isinstance(backbone, ZooBackbone):
            layers = group_parameters(backbone.model, backbone.model.group_matcher(), reverse=True)
            above = max(layers.values()) + 1
            named = backbone.model.named_parameters()
            scales |= {id(parameter): decay ** (above - layers[name]) for name, parameter in named}
    return scales

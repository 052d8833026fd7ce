"""Learning rates of the backbone: smaller than those of the rest, and smaller towards the stem."""

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from timm.models import group_parameters
from torch import nn

from .backbone import ZooBackbone


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecay(DefaultOptimWrapperConstructor):
    """mmengine's default constructor with two more entries of `paramwise_cfg`, for parameters of a ZooBackbone's model.

    `layer_decay`, a factor from 0 to 1: the learning rate of the n-th layer from the end, as the model's
    `group_matcher` groups them, is multiplied by `layer_decay ** n`. `backbone_lr_mult` multiplies those of all layers.
    What other entries (`custom_keys`, `norm_decay_mult` ...) say holds too, in the backbone as elsewhere.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        cfg = self.paramwise_cfg or {}
        if not cfg.keys() & {"layer_decay", "backbone_lr_mult"}:
            raise ValueError("LayerDecay needs paramwise_cfg=dict(layer_decay=...) or dict(backbone_lr_mult=...)")
        if not 0 < (decay := cfg.get("layer_decay", 1.0)) <= 1:
            raise ValueError(f"layer_decay={decay} must be above 0 and at most 1")

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", **kwargs) -> None:
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:
            return
        scales = self._scales(module)
        if not scales:
            raise ValueError(f"LayerDecay: {type(module).__name__} has no ZooBackbone")
        for group in params:
            scale = scales.get(id(group["params"][0]), 1.0)
            group["lr"] = group.get("lr", self.base_lr) * scale

    def _scales(self, module: nn.Module) -> dict[int, float]:
        """The factor of every parameter inside a ZooBackbone's model, by its id."""
        decay = self.paramwise_cfg.get("layer_decay", 1.0)
        whole = self.paramwise_cfg.get("backbone_lr_mult", 1.0)
        scales = {}
        for backbone in module.modules():
            if isinstance(backbone, ZooBackbone):
                layers = group_parameters(backbone.model, backbone.model.group_matcher(), reverse=True)
                end = max(layers.values()) + 1
                named = backbone.model.named_parameters()
                scales |= {id(parameter): whole * decay ** (end - layers[name]) for name, parameter in named}
        return scales

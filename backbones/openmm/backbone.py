"""Models of timm's registry as backbones of mmdet and mmseg."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from mmengine.registry import MODELS
from timm.layers import LayerNorm2d
from timm.models import group_parameters
from timm.models._features import FeatureGetterNet
from timm.models._hub import download_cached_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import _backbone, _catalogue
from .._fit import differences, in_own_keys, out_norms
from ..weights import matching, read


def channels(model: str, out_indices: Sequence[int] | None = None, **options) -> list[int]:
    """The channels of the maps that `ZooBackbone(model, out_indices=out_indices, options=options)` gives."""
    with torch.device("meta"):
        return _features(model, out_indices, options).feature_info.channels()


@MODELS.register_module()
class ZooBackbone(BaseModule):
    """A model of the zoo or of timm without its head: images (B, 3, H, W) to a tuple of maps (B, C, h, w).

    Args:
        model: its name, with or without a tag.
        pretrained: True for the weights of the name's tag (or the default ones), or a tag: of a classifier, or of a
            detector's or segmentor's backbone. Loaded by `init_weights`, which is when training begins: a detector that
            is only tested never asks for them.
        checkpoint: instead of `pretrained`, a file: an official checkpoint of the model, of a detector or segmentor
            around it, or timm's; `init_cfg=dict(type="Pretrained", checkpoint=...)` says the same.
        out_indices: the maps to give; None: those that `features_only=True` gives, mostly one per stage.
        frozen_stages: -1: none; 0: the stem does not train; n: the stem and the first n stages.
        norm_eval: batch norms keep their running statistics in training.
        drop_path_rate: of stochastic depth; None: the model's own default.
        grad_checkpointing: computes the inside of blocks again in the backward pass, to save memory.
        out_norm: None or "layer": a layer norm of every map, which most official detectors and segmentors add.
        out_norm_eps: its epsilon.
        options: other arguments of the model's constructor.

    State dicts of official detectors and segmentors load as ours do, `load_checkpoint` and `load_from` included: their
    backbone's keys, norms of maps among them, are translated.

    Raises ValueError that names the argument and what would work.
    """

    def __init__(
        self,
        model: str,
        pretrained: bool | str = False,
        checkpoint: str | None = None,
        out_indices: Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        drop_path_rate: float | None = None,
        grad_checkpointing: bool = False,
        out_norm: str | None = None,
        out_norm_eps: float = 1e-6,
        options: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ):
        if isinstance(init_cfg, dict) and init_cfg.get("type") == "Pretrained":
            if more := init_cfg.keys() - {"type", "checkpoint"}:
                raise ValueError(f"init_cfg has {', '.join(sorted(more))}: give type and checkpoint only")
            if checkpoint:
                raise ValueError(f"checkpoint={checkpoint!r} and init_cfg={dict(init_cfg)}: give one of them")
            checkpoint, init_cfg = init_cfg["checkpoint"], None
        if pretrained and checkpoint:
            raise ValueError(f"pretrained={pretrained!r} and checkpoint={checkpoint!r}: give one of them")
        if isinstance(pretrained, str) and "." in model:
            raise ValueError(f"pretrained={pretrained!r} and model={model!r} both name a tag: give one of them")
        if out_norm not in (None, "layer"):
            raise ValueError(f'out_norm={out_norm!r} must be None or "layer"')
        super().__init__(init_cfg)
        self._name = f"{model}.{pretrained}" if isinstance(pretrained, str) else model
        self._pretrained, self._checkpoint = bool(pretrained), checkpoint
        self._options = dict(options or {})
        if drop_path_rate is not None:
            self._options["drop_path_rate"] = drop_path_rate
        features = _features(model, out_indices, self._options)
        self.out_indices = features.out_indices
        self.channels, self.strides = features.feature_info.channels(), features.feature_info.reduction()
        self.model = features.model
        norms = [LayerNorm2d(n, eps=out_norm_eps) if out_norm else nn.Identity() for n in self.channels]
        self.out_norms = nn.ModuleList(norms)
        self.norm_eval = norm_eval
        if grad_checkpointing:
            _checkpoint_gradients(self.model, model)
        self._frozen = _freeze(self.model, frozen_stages, model)
        self.register_load_state_dict_pre_hook(_translate)

    @property
    def family_model(self) -> str | None:
        """The zoo's name of the model; None for one of timm's that the zoo knows nothing of."""
        base = self._name.partition(".")[0]
        base = _backbone.ALIASES.get(base, base)
        return base if base in _catalogue._families() else None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.model.forward_intermediates(x, indices=self.out_indices, output_fmt="NCHW", intermediates_only=True)
        return tuple(norm(x) for norm, x in zip(self.out_norms, maps, strict=True))

    def train(self, mode: bool = True) -> "ZooBackbone":
        super().train(mode)
        if mode:
            for name in self._frozen:
                self.model.get_submodule(name).eval()
            for module in self.modules() if self.norm_eval else ():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Loads `pretrained` or `checkpoint`, once. Raises ValueError if there are no weights, or others."""
        first = not self.is_init
        super().init_weights()
        if first and (self._pretrained or self._checkpoint):
            self._load()
            if hasattr(self, "_params_init_info"):
                update_init_info(self, f"Loaded from {self._checkpoint or self._name}")

    def _load(self) -> None:
        file = self._checkpoint or self._dense_file()
        if file is None:
            loaded = _features(self._name, self.out_indices, self._options, pretrained=True)
            self.model.load_state_dict(loaded.model.state_dict())
            return
        checkpoint = read.checkpoint(file)
        if checkpoint.dense:
            try:
                self.load_state_dict(checkpoint.tensors)
            except RuntimeError as error:
                raise ValueError(f"{file} does not fit {self._name}: {error}") from error
        elif self.family_model:
            overlay = dict(file=str(file))
            loaded = _features(
                self._name, self.out_indices, self._options, pretrained=True, pretrained_cfg_overlay=overlay
            )
            self.model.load_state_dict(loaded.model.state_dict())
        else:
            with torch.device("meta"):
                whole = timm.create_model(self._name, **self._options).state_dict()
            head = whole.keys() - self.model.state_dict().keys()
            if problems := differences(checkpoint.tensors, whole, head):
                raise ValueError(f"{file} does not fit timm's {self._name}:\n" + "\n".join(problems))
            self.model.load_state_dict({key: v for key, v in checkpoint.tensors.items() if key not in head})

    def _dense_file(self) -> str | Path | None:
        """The file of a detector's or segmentor's checkpoint, if the tag is that of one."""
        name, _, tag = self._name.partition(".")
        if not tag or not self.family_model:
            return None
        source = _backbone._dense_source(name, tag, timm.list_pretrained(f"{name}.*"))
        if source is None:
            return None
        where = _backbone._where_to_load(source)
        return where.get("file") or download_cached_file(where["url"])


def _features(model: str, out_indices: Sequence[int] | None, options: dict, **weights) -> FeatureGetterNet:
    """timm's wrapper around the model, cut after the last of the maps."""
    base = model.partition(".")[0]
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), 3)
        raise ValueError(f'no model "{base}" in timm\'s registry' + (f": {', '.join(near)}?" if near else ""))
    if out_indices is not None:
        options = dict(options, out_indices=tuple(out_indices))
    try:
        return timm.create_model(model, features_only=True, feature_cls="getter", **options, **weights)
    except AssertionError as error:
        raise ValueError(f"out_indices={out_indices} of {model}: {error}") from error


def _checkpoint_gradients(model: nn.Module, name: str) -> None:
    try:
        model.set_grad_checkpointing(True)
    except (AssertionError, AttributeError) as error:
        raise ValueError(f"grad_checkpointing=True: {name} does not support it") from error


def _freeze(model: nn.Module, stages: int, name: str) -> list[str]:
    """Turns off the gradients of the stem and the first `stages` stages; the modules that have none left."""
    layers = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    matched = sorted(set(layers.values()))
    if not -1 <= stages <= matched[-1]:
        raise ValueError(f"frozen_stages={stages}: {name} has {matched[-1]} stages; -1 freezes nothing, 0 the stem")
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(layers[key] > stages)
    return [
        key
        for key, module in model.named_modules()
        if (parameters := list(module.parameters())) and not any(p.requires_grad for p in parameters)
    ]


def _translate(self: ZooBackbone, state_dict: dict, prefix: str, *_) -> None:
    """Puts an official detector's or segmentor's backbone in a state dict into our keys, before it is loaded."""
    inside = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    own = self.model.state_dict()
    if not self.family_model or not inside or inside.keys() & {f"model.{key}" for key in own}:
        return
    tensors = in_own_keys(inside, own, self.model, _catalogue.remaps()[self.family_model])
    of_maps = out_norms(tensors, matching.keys(self.family_model))
    norms = _by_output(self, tensors, of_maps)
    cut = matching.keys(self.family_model) - own.keys()
    rest = {key: value for key, value in tensors.items() if key not in of_maps and key not in cut}
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    for key in inside:
        del state_dict[prefix + key]
    state_dict.update({f"{prefix}{key}": value for key, value in norms.items()})
    state_dict.update({f"{prefix}model.{key}": value for key, value in (counters | rest).items()})


def _by_output(self: ZooBackbone, tensors: dict[str, Tensor], keys: set[str]) -> dict[str, Tensor]:
    """The norms of the maps in our keys, `out_norms.0.weight` and so on, from names that end in their numbers.

    Of norms of all stages, those of the maps that are given are taken.
    """
    layers = sorted({int(re.search(r"(\d+)\D*$", key)[1]) for key in keys})
    if len(layers) > len(self.channels):
        layers = [layers[i] for i in self.out_indices if i < len(layers)]
    return {
        f"out_norms.{layers.index(layer)}.{key.rpartition('.')[2]}": tensors[key]
        for key in keys
        if (layer := int(re.search(r"(\d+)\D*$", key)[1])) in layers
    }

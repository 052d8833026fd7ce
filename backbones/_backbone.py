"""What timm asks of a hierarchical backbone, written once for every family."""

import contextlib
import functools
import pickle
import re
import sys
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import torch
from timm.layers import ClassifierHead, trunc_normal_
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
    generate_default_cfgs,
    list_pretrained,
    register_model,
    resolve_pretrained_cfg,
)
from timm.models._features import feature_take_indices
from timm.models._hub import check_cached_file
from timm.models._pretrained import PretrainedCfg
from timm.models._registry import _deprecated_models, _model_entrypoints
from torch import Tensor, nn

from ._fit import classifier_keys, differences, head_keys, in_own_keys, out_norms

if TYPE_CHECKING:
    from .weights.sources import Source

MIN_SIZE = 32

ALIASES: dict[str, str] = {}  # official long name -> the zoo's name, filled by register_family


class Stage(nn.Module):
    """A downsampling of a map (B, C, H, W), blocks on (B, H, W, C), checkpointed on request, and a norm on that."""

    def __init__(self, downsample: nn.Module, blocks: list[nn.Module], norm: nn.Module | None = None):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.Identity() if norm is None else norm
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x).permute(0, 2, 3, 1).contiguous()  # free when the map is channels_last
        if self.grad_checkpointing and self.training:
            x = checkpoint_seq(self.blocks, x)
        else:
            x = self.blocks(x)
        return self.norm(x).permute(0, 3, 1, 2)


class Backbone(nn.Module):
    """stem -> stages -> norm -> pool -> linear; every feature map is (B, C, H, W).

    A family passes its own `stem`, `stages` and `norm`; `dims[i]` is the width after stage i, `reductions[i]` how many
    pixels a side its tokens stand for (by default each stage but the first halves the resolution). `norm` gives
    `num_features` channels, by default the last stage's.
    `stages[i].blocks[j]` are what layer decay and gradient checkpointing count.
    Any input of at least 32 x 32 runs; smaller ones, and a wrong number of channels, raise ValueError.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: list[nn.Module],
        norm: nn.Module,
        dims: tuple[int, ...],
        *,
        in_chans: int = 3,
        stem_stride: int = 4,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        num_features: int | None = None,
        reductions: tuple[int, ...] | None = None,
    ):
        super().__init__()
        self.in_chans, self.num_classes, self.drop_rate = in_chans, num_classes, drop_rate
        self.num_features = num_features or dims[-1]
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.norm = norm
        self._set_head(global_pool)
        reductions = reductions or tuple(stem_stride * 2**i for i in range(len(dims)))
        self.feature_info = [
            dict(num_chs=dim, reduction=reduction, module=f"stages.{i}")
            for i, (dim, reduction) in enumerate(zip(dims, reductions, strict=True))
        ]
        self.apply(_init_linear)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(self.stages(self._embed(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x, pre_logits=pre_logits)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """timm's contract: the maps after stages `indices` (an int: the last that many; None: all).

        `norm` applies the final norm to the last stage's map; `stop_early` skips the stages after the last one asked
        for; `output_fmt` can only be "NCHW". Returns the maps if `intermediates_only`, else (final features, maps).
        """
        _check_format(output_fmt)
        wanted, last = feature_take_indices(len(self.stages), indices)
        maps = []
        x = self._embed(x)
        final = len(self.stages) - 1
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if i in wanted:
                maps.append(self.norm(x) if norm and i == final else x)
        if intermediates_only:
            return maps
        return (self.norm(x) if i == final else x), maps

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drops the stages that `indices` do not need; returns the indices kept.

        The norm goes on request, and always with the last stage; the head on request, and always when the width of
        what it sees changes.
        """
        wanted, last = feature_take_indices(len(self.stages), indices)
        shorter = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        width = self.num_features
        if prune_norm or shorter:
            self.norm = nn.Identity()
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or shorter or self.num_features != width:
            self.reset_classifier(0, "")
        return wanted

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head for `num_classes` (0: none); `global_pool` "" keeps the map, None keeps the pooling."""
        like = next(self.parameters())
        self.num_classes = num_classes
        self._set_head(self.head.global_pool.pool_type if global_pool is None else global_pool)
        self.head.train(self.training).to(device=like.device, dtype=like.dtype).apply(_init_linear)

    def _set_head(self, global_pool: str) -> None:
        self.head = ClassifierHead(self.num_features, self.num_classes, global_pool, self.drop_rate)
        self.head_hidden_size = self.num_features * self.head.global_pool.feat_mult()

    def group_matcher(self, coarse: bool = False) -> dict:
        """Names to layers, for layer-wise learning rates."""
        if coarse:
            return dict(stem=r"^stem", blocks=r"^stages\.(\d+)")
        blocks = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        norms = [(r"^stages\.(\d+)\.norm", (99998,)), (r"^norm", (99999,))]
        return dict(stem=r"^stem", blocks=blocks + norms)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters, beyond biases and other vectors, that take no weight decay: none, unless a family has some."""
        return set()

    def _embed(self, x: Tensor) -> Tensor:
        return self.stem(_checked(x, self.in_chans).contiguous(memory_format=torch.channels_last))


class Checked:
    """Before a model class of timm's among the bases: its bad input is a ValueError here, as everywhere in the zoo."""

    def forward_features(self, x: Tensor) -> Tensor:
        return super().forward_features(_checked(x, self.in_chans))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        **options,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """timm's contract; `options` are the class's own."""
        _check_format(output_fmt)
        x = _checked(x, self.in_chans)
        return super().forward_intermediates(x, indices, norm, stop_early, output_fmt, intermediates_only, **options)

    def no_weight_decay(self) -> set[str]:
        """Parameters, beyond biases and other vectors, that take no weight decay: none."""
        return set()


def _checked(x: Tensor, in_chans: int) -> Tensor:
    if x.ndim != 4 or x.shape[1] != in_chans:
        raise ValueError(f"expected images (B, {in_chans}, H, W), got {tuple(x.shape)}")
    if x.shape[2] < MIN_SIZE or x.shape[3] < MIN_SIZE:
        raise ValueError(
            f"an input of {x.shape[2]} x {x.shape[3]} is too small: at least {MIN_SIZE} x {MIN_SIZE} pixels"
        )
    return x


def _check_format(output_fmt: str) -> None:
    if output_fmt != "NCHW":
        raise ValueError(f'output_fmt must be "NCHW", not "{output_fmt}"')


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def register_family(
    model: type[nn.Module],
    variants: dict[str, dict],
    weights: dict[str, dict],
    remap: Callable[[dict, nn.Module], dict],
    aliases: dict[str, str],
    first_conv: str | tuple[str, ...],
    out_indices: tuple[int, ...] = (0, 1, 2, 3),
) -> dict[str, Callable[..., nn.Module]]:
    """Enters every variant in timm's registry; returns name -> entrypoint for the family module's globals.

    `variants` maps names to constructor arguments. `weights` maps tags (`name.tag`) to timm pretrained cfgs: `url`
    where a direct link exists, else `origin_url`, the page where a person finds the file; a variant's name without a
    tag is the cfg of one that has no weights. `aliases` maps the official long names to ours; timm creates them, and
    its listings show each model once. `remap` turns an official state dict into one with our keys and leaves unknown
    keys as they are. `first_conv` is timm's cfg entry: the convolutions of the image. `out_indices` are the maps that
    `features_only` gives.
    """
    module = sys.modules[model.__module__]
    common = dict(
        input_size=(3, 224, 224),
        pool_size=(7, 7),
        min_input_size=(3, MIN_SIZE, MIN_SIZE),
        classifier="head.fc",
        first_conv=first_conv,
    )
    module.default_cfgs = generate_default_cfgs(
        {name: common for name in variants if not any(tag.split(".")[0] == name for tag in weights)}
        | {tag: {**common, **cfg} for tag, cfg in weights.items()}
    )

    def entrypoint(name: str, target: str, arch: dict) -> Callable[..., nn.Module]:
        def build(
            pretrained: bool = False,
            pretrained_cfg: str | dict | None = None,
            pretrained_cfg_overlay: dict | None = None,
            img_size: int | tuple[int, int] | None = None,
            **kwargs,
        ) -> nn.Module:
            overlay = dict(pretrained_cfg_overlay or {})
            headless = kwargs.get("features_only", False)
            dense = _dense_source(target, pretrained_cfg, weights)
            if dense:
                if pretrained and not headless:
                    raise _no_classifier(dense)
                pretrained_cfg = None
            cfg = resolve_pretrained_cfg(target, pretrained_cfg, overlay)
            if pretrained and not isinstance(pretrained_cfg, dict) and not _SOURCES & overlay.keys():
                overlay |= _where_to_load(dense or _source(target, cfg))
                cfg = resolve_pretrained_cfg(target, pretrained_cfg, overlay)
            if img_size is not None:  # every size runs; this is what timm's data pipeline is told
                overlay["input_size"] = (cfg.input_size[0], *_sides(img_size))
            load = _StrictLoader(remap, headless)
            try:
                with _safe_globals(pretrained):
                    return build_model_with_cfg(
                        model,
                        target,
                        pretrained,
                        pretrained_cfg=pretrained_cfg,
                        pretrained_cfg_overlay=overlay,
                        pretrained_filter_fn=load,
                        feature_cfg=dict(out_indices=out_indices, feature_cls="getter"),
                        **{**arch, **kwargs},
                    )
            except (OSError, EOFError, RuntimeError, LookupError, pickle.UnpicklingError) as error:
                if not (pretrained and cfg.file):
                    raise
                reason = "no such file" if isinstance(error, FileNotFoundError) else repr(error)
                raise ValueError(f"cannot read {cfg.file} as a checkpoint: {reason}") from error

        build.__name__ = build.__qualname__ = name
        build.__module__ = module.__name__
        return register_model(build)

    entrypoints = {name: entrypoint(name, name, arch) for name, arch in variants.items()}
    for alias, name in aliases.items():
        entrypoints[alias] = entrypoint(alias, name, variants[name])
        _deprecated_models[alias] = name  # timm's listings leave these out
    ALIASES.update(aliases)
    return entrypoints


def adopt(names: tuple[str, ...]) -> None:
    """Lets timm's own models load what those of the zoo load: official files, and what lies in our cache.

    timm's entrypoints stay what builds them. A checkpoint from a file is read safely and compared strictly first.
    """
    for name in names:
        _model_entrypoints[name] = _adopted(name, _model_entrypoints[name])


def _adopted(name: str, entrypoint: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    @functools.wraps(entrypoint)
    def build(
        pretrained: bool = False,
        pretrained_cfg: str | dict | None = None,
        pretrained_cfg_overlay: dict | None = None,
        **kwargs,
    ) -> nn.Module:
        overlay = dict(pretrained_cfg_overlay or {})
        if pretrained and not isinstance(pretrained_cfg, dict):
            dense = _dense_source(name, pretrained_cfg, list_pretrained(f"{name}.*") if pretrained_cfg else ())
            if dense:
                if not kwargs.get("features_only", False):
                    raise _no_classifier(dense)
                pretrained_cfg = None
            if not _SOURCES & overlay.keys():
                overlay |= _in_cache(dense or _source(name, resolve_pretrained_cfg(name, pretrained_cfg, overlay)))
            if file := overlay.pop("file", None):
                overlay["state_dict"] = _fitting(file, name)
        return entrypoint(
            pretrained=pretrained, pretrained_cfg=pretrained_cfg, pretrained_cfg_overlay=overlay or None, **kwargs
        )

    return build


def _in_cache(source: "Source") -> dict:
    """timm's overlay for weights in our cache; none for those that timm finds by itself."""
    from .weights import cache
    from .weights.sources import by_hand

    if path := cache.find(source.name):
        return dict(file=str(path))
    if source.dense:
        how = f"run `python -m backbones.weights download {source.name}` first" if source.url else by_hand(source)
        raise ValueError(how)
    return {}


def _fitting(file: str, name: str) -> dict[str, Tensor]:
    """The tensors of a file in the keys of timm's model `name`. Raises ValueError if they do not fit."""
    from .weights import importing, matching, read

    checkpoint = read.checkpoint(file)
    tensors, problems = matching.compare(checkpoint, name)
    if problems:
        raise ValueError(f"the checkpoint does not fit {name}:\n{importing.misfit(checkpoint, name)}")
    return {key: value for key, value in tensors.items() if key not in out_norms(tensors, matching.keys(name))}


def rename_keys(state_dict: dict, *rules: tuple[str, str | Callable[[re.Match], str]]) -> dict:
    """The state dict with every key rewritten by `re.sub` with each (pattern, replacement) in turn."""

    def rename(key: str) -> str:
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        return key

    return {rename(key): value for key, value in state_dict.items()}


_SOURCES = {"file", "url", "state_dict", "hf_hub_id"}  # where timm can be told to load from


def _source(model: str, cfg: PretrainedCfg) -> "Source":
    """The published checkpoint of a timm cfg, with what the catalogue knows of it."""
    from .weights.sources import Source, sources

    tag = cfg.tag or ""
    known = {source.tag: source for source in sources(model)}
    return known.get(tag) or Source(model, tag, dict(url=cfg.url, download_page=None if cfg.url else cfg.origin_url))


def _dense_source(model: str, tag: str | dict | None, classifiers: Collection[str]) -> "Source | None":
    """The detector's or segmentor's checkpoint that a tag names, if it is none of the `classifiers` (`model.tag`)."""
    if not isinstance(tag, str) or f"{model}.{tag}" in classifiers:
        return None
    from .weights.sources import sources

    return next((source for source in sources(model) if source.dense and source.tag == tag), None)


def _no_classifier(source: "Source") -> ValueError:
    return ValueError(f"{source.name} is a backbone without classifier: add features_only=True")


def _where_to_load(source: "Source") -> dict:
    """timm's overlay for weights: the file in our cache, or the direct link, which timm itself downloads."""
    from huggingface_hub import constants

    from .weights import cache
    from .weights.sources import by_hand
    from .weights.transfer import offline

    if path := cache.find(source.name):
        return dict(file=str(path))
    if not source.url:
        raise ValueError(by_hand(source))
    if constants.HF_HUB_OFFLINE and not check_cached_file(source.url):
        raise ValueError(offline(source))
    return dict(url=source.url) if source.dense else {}


def _sides(img_size: int | tuple[int, int]) -> tuple[int, int]:
    sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(sides) != 2 or min(sides) < MIN_SIZE:
        raise ValueError(f"img_size={img_size} must be one side or (height, width) of at least {MIN_SIZE} pixels")
    return sides


def _safe_globals(pretrained: bool) -> contextlib.AbstractContextManager:
    """What torch may meet in old checkpoints while timm reads one."""
    if not pretrained:
        return contextlib.nullcontext()
    from .weights.read import SAFE_GLOBALS

    return torch.serialization.safe_globals(SAFE_GLOBALS)


class _StrictLoader:
    """timm's `pretrained_filter_fn`: official or own keys to own keys, every difference an error that lists it."""

    def __init__(self, remap: Callable[[dict, nn.Module], dict], headless: bool):
        self.remap, self.headless = remap, headless

    def __call__(self, state_dict: dict, model: nn.Module) -> dict:
        from .weights import matching, read

        own, cfg = model.state_dict(), model.pretrained_cfg
        name = cfg["architecture"]
        checkpoint = read.unwrap(state_dict)
        if checkpoint.dense and not self.headless:
            raise ValueError(f"the checkpoint is that of a detector or segmentor: load {name} with features_only=True")
        tensors = in_own_keys(checkpoint.tensors, own, model, self.remap)
        head = classifier_keys(model)
        rows = {len(tensors[key]) for key in head & tensors.keys()}
        problems = [
            f"it has {n} classes, its cfg says {cfg['num_classes']}: add num_classes={n} to pretrained_cfg_overlay"
            for n in rows - {cfg["num_classes"] + (cfg.get("label_offset") or 0)}
            if not self.headless
        ]
        ignored = head if self.headless or model.num_classes != cfg["num_classes"] else set()
        if model.in_chans != cfg["input_size"][0]:
            convs = cfg["first_conv"]  # timm adapts them
            ignored = ignored | {f"{conv}.weight" for conv in ([convs] if isinstance(convs, str) else convs)}
        if checkpoint.dense:
            norms = out_norms(tensors, own)
            tensors = {key: value for key, value in tensors.items() if key not in norms}
            ignored = ignored | head_keys(own) | {k for k in own if k.startswith("norm.") and k not in tensors}
        if found := differences(tensors, own, ignored):
            problems += found
            others = [other for other in matching.recognise(checkpoint) if other != name]
            if others:
                problems.insert(0, f"it is that of {' or '.join(others)}")
        if problems:
            raise ValueError(f"the checkpoint does not fit {name}:\n" + "\n".join(problems))
        counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
        return counters | tensors

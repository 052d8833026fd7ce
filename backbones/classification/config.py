"""What a run can be told: a YAML file of sections, then `section.key=value` overrides; anything unknown is an error.

The dataclasses are the schema: names, types, defaults. A file may start from another: `base: other.yaml`.
"""

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

CLIP_MODES = ("norm", "value", "agc")
INTERPOLATIONS = (None, "bilinear", "bicubic", "random")


@dataclass
class Model:
    name: str = ""  # any model that timm.create_model knows
    pretrained: bool = False
    file: str | None = None  # weights to start from, instead of the published ones
    file_classes: int | None = None  # classes of that file; None: a checkpoint of tools/train.py says it, else 1000
    num_classes: int | None = None  # None: as many as the data have
    in_chans: int = 3
    drop_rate: float | None = None  # None: the model's own
    drop_path_rate: float | None = None
    kwargs: dict = field(default_factory=dict)  # further arguments of the model


@dataclass
class Data:
    root: str = ""  # a folder of splits: folders of class folders, or .tar files of them
    dataset: str = ""  # timm's dataset name: "" for folders and tars, "hfds/NAME", "torch/cifar10" ...
    train_split: str = "train"
    val_split: str = "validation"
    download: bool = False
    input_size: int | None = None  # None: the model's own
    interpolation: str | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    crop_pct: float | None = None
    batch_size: int = 128  # of one process and one forward pass
    val_batch_size: int | None = None
    workers: int = 4
    skip_unreadable: bool = False  # else an image that cannot be read ends the run and is named


@dataclass
class Aug:
    enabled: bool = True
    scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    ratio: list[float] = field(default_factory=lambda: [3 / 4, 4 / 3])
    hflip: float = 0.5
    color_jitter: float = 0.4
    auto_augment: str | None = None
    random_erasing: float = 0.0
    repeats: int = 0  # repeated augmentation, several processes only
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.1


@dataclass
class Optim:
    opt: str = "adamw"
    lr: float = 1e-3  # of the whole batch; not scaled
    weight_decay: float = 0.05
    momentum: float = 0.9
    layer_decay: float | None = None
    clip_grad: float | None = None
    clip_mode: str = "norm"  # norm, value or agc


@dataclass
class Sched:
    sched: str = "cosine"
    epochs: int = 300
    warmup_epochs: int = 5
    cooldown_epochs: int = 0
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5


@dataclass
class Run:
    output: str = ""  # the run's folder; "": runs/<name of the config>
    resume: bool = False  # go on from the last complete checkpoint in output, if there is one
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda ...
    amp: str | None = None  # bf16 or fp16
    accumulate: int = 1  # forward passes of one optimiser step
    ema: float | None = None  # decay of an exponential moving average of the weights
    ema_warmup: bool = False
    compile: bool = False
    channels_last: bool = False
    checkpoints: int = 2  # how many of the best to keep, besides the last


@dataclass
class Config:
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    aug: Aug = field(default_factory=Aug)
    optim: Optim = field(default_factory=Optim)
    sched: Sched = field(default_factory=Sched)
    run: Run = field(default_factory=Run)
    expect: str = ""  # the published result that this recipe belongs to; for people


def load(path: str | Path, overrides: typing.Sequence[str] = ()) -> Config:
    """The file's config with `section.key=value` overrides. Raises ValueError naming what is wrong and what works."""
    config = Config()
    for values in _files(Path(path)):
        _update(config, values)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f'"{override}" is no override: write section.key=value')
        *sections, leaf = key.split(".")
        try:
            values = {leaf: yaml.safe_load(value)}
        except yaml.YAMLError as error:
            raise ValueError(f'"{value}" of {key} is not YAML: {error}') from error
        for section in reversed(sections):
            values = {section: values}
        _update(config, values)
    for key, value in (("model.name", config.model.name), ("data.root", config.data.root or config.data.dataset)):
        if not value:
            raise ValueError(f"{key} is missing: set it in {path} or add {key}=VALUE")
    _check(config)
    config.run.output = config.run.output or str(Path("runs") / Path(path).stem)
    return config


def _check(config: Config) -> None:
    """Raises ValueError for values of the right type that cannot work."""
    data, aug, optim, sched, run = config.data, config.aug, config.optim, config.sched, config.run
    twice = sorted({f.name for f in dataclasses.fields(Model)} & config.model.kwargs.keys())
    mixes = bool(aug.mixup or aug.cutmix)
    for name, value, works, wanted in (
        ("model.kwargs", twice, not twice, "without keys of model itself"),
        ("data.batch_size", data.batch_size, data.batch_size > 0, "at least 1"),
        ("data.batch_size", data.batch_size, not mixes or data.batch_size % 2 == 0, "even for mixup and cutmix"),
        ("data.interpolation", data.interpolation, data.interpolation in INTERPOLATIONS, INTERPOLATIONS),
        ("aug.scale", aug.scale, len(aug.scale) == 2, "[least, most]"),
        ("aug.ratio", aug.ratio, len(aug.ratio) == 2, "[least, most]"),
        ("optim.clip_mode", optim.clip_mode, optim.clip_mode in CLIP_MODES, CLIP_MODES),
        ("sched.sched", sched.sched, sched.sched != "plateau", "a schedule of updates; plateau is none"),
        ("sched.epochs", sched.epochs, sched.epochs > 0, "at least 1"),
        ("run.accumulate", run.accumulate, run.accumulate > 0, "at least 1"),
        ("run.checkpoints", run.checkpoints, run.checkpoints > 0, "at least 1"),
        ("run.ema", run.ema, run.ema is None or 0 <= run.ema < 1, "from 0 to less than 1"),
    ):
        if not works:
            raise ValueError(f"{name} must be {wanted}, not {value!r}")


def dump(config: Config) -> str:
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def _files(path: Path, above: tuple[Path, ...] = ()) -> list[dict]:
    """The file's content, after that of the file it is based on."""
    if path.resolve() in above:
        raise ValueError(f"{path} is based on itself: {' > '.join(p.name for p in (*above, path))}")
    if not path.is_file():
        raise ValueError(f"no config file {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {values!r}, not sections of keys")
    base = values.pop("base", None)
    return [*(_files(path.parent / base, (*above, path.resolve())) if base else []), values]


def _update(config: typing.Any, values: dict, prefix: str = "") -> None:
    hints = typing.get_type_hints(type(config))
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in hints:
            raise ValueError(_unknown(name))
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ValueError(f"{name} is a section, not {value!r}: its keys are {', '.join(_keys(hints[key]))}")
            _update(getattr(config, key), value, f"{name}.")
        elif hints[key] is dict and isinstance(value, dict):
            setattr(config, key, getattr(config, key) | value)
        else:
            setattr(config, key, _typed(value, hints[key], name))


def _keys(section: type) -> list[str]:
    return [f.name for f in dataclasses.fields(section)]


def _unknown(name: str) -> str:
    """The error for a key that does not exist: the nearest that does, by its last part first."""
    leaves: dict[str, list[str]] = {}
    for section, hint in typing.get_type_hints(Config).items():
        leaves.setdefault(section, []).append(section)
        for key in _keys(hint) if dataclasses.is_dataclass(hint) else ():
            leaves.setdefault(key, []).append(f"{section}.{key}")
    near = difflib.get_close_matches(name.rsplit(".", 1)[-1], leaves, n=1, cutoff=0.5)
    if near:
        return f'unknown key "{name}": did you mean {" or ".join(leaves[near[0]])}?'
    return f'unknown key "{name}"; there are {", ".join(key for keys in leaves.values() for key in keys)}'


def _typed(value: typing.Any, hint: typing.Any, name: str) -> typing.Any:
    """`value` as `hint` wants it: whole numbers are floats too, and so is 1e-3, which YAML takes for text."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        if option is types.NoneType and value is None:
            return None
        if typing.get_origin(option) is list and isinstance(value, list):
            (item,) = typing.get_args(option)
            return [_typed(v, item, f"{name}[{i}]") for i, v in enumerate(value)]
        if option is float and not isinstance(value, bool) and isinstance(value, (int, float, str)):
            try:
                return float(value)
            except ValueError:
                continue
        if isinstance(option, type) and isinstance(value, option) and not (option is int and isinstance(value, bool)):
            return value
    wanted = " or ".join("null" if o is types.NoneType else getattr(o, "__name__", str(o)) for o in options)
    raise ValueError(f"{name} must be {wanted}, not {value!r}")

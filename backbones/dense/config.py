"""Configs of mmdet and mmseg, with every name and key checked before anything is built."""

import ast
import contextlib
import difflib
import importlib
import inspect
import typing
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from . import mm

BUILT_OTHERWISE = ("norm_cfg", "conv_cfg", "act_cfg", "upsample_cfg", "padding_cfg", "roi_layer", "nms")
READ_BY_RUNNER = dict(  # besides what the class takes
    optim_wrapper={"constructor", "paramwise_cfg"},
    param_scheduler={"convert_to_iter_based"},
    default_hooks={"priority"},
    custom_hooks={"priority"},
)
PACKAGES = ("mmengine", "mmdet", "mmseg")


def load(path: str | Path, overrides: Sequence[str] = (), data: str | Path | None = None):
    """The file's mmengine Config with `key.key=value` overrides, and `data` in place of its data_root.

    Raises ValueError naming the file and what is wrong: a key or a name that does not exist, with the nearest that
    does; classes that the model, the training and the validation data do not agree on.
    """
    mm.require()
    from mmengine.config import Config

    if not Path(path).is_file():
        raise ValueError(f"no config file {path}")
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is Python: it can raise anything
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    register(cfg)
    update(cfg, path, overrides, data)
    return cfg


def update(cfg, path: str | Path, overrides: Sequence[str] = (), data: str | Path | None = None) -> None:
    """Puts `data` in place of the data_root and overrides keys; then checks all. Raises ValueError as `load` does."""
    if data is not None:
        replace_root(cfg, str(data))
    for override in overrides:
        key, value = _parsed(override)
        _check_override(cfg, key)
        cfg.merge_from_dict({key: value})
    check(cfg, path)


def register(cfg) -> None:
    """Fills the registries that the config's names come from. Raises ValueError where its package is not installed."""
    scope = cfg.get("default_scope")
    if scope not in ("mmdet", "mmseg"):
        raise ValueError(f'default_scope is mmdet or mmseg, not "{scope}"')
    names = {scope} | {name.split(".")[0] for _, name, _ in _typed(cfg) if isinstance(name, str) and "." in name}
    packages = sorted(names & {"mmdet", "mmseg"})
    mm.require(*packages)
    from mmengine.registry import init_default_scope

    from . import amp, reproducible  # noqa: F401  what the tools put into configs

    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(None),
    ):  # about optional packages, and a scope that changes
        warnings.simplefilter("ignore")
        for package in packages:
            importlib.import_module(f"{package}.utils").register_all_modules(init_default_scope=False)
        init_default_scope(scope)


def replace_root(cfg, root: str) -> None:
    """`root` wherever the config's data_root stands: in data sets, and at the start of evaluators' files."""
    old = cfg.get("data_root")
    if old is None:
        raise ValueError("the config has no data_root to replace: set the data sets' own by overrides")
    root = root.rstrip("/") + "/"
    for node, _ in dictionaries(cfg):
        for key, value in node.items():
            if isinstance(value, str) and (value == old or value.startswith(old.rstrip("/") + "/")):
                node[key] = root + value[len(old.rstrip("/")) + 1 :]
            elif isinstance(value, str) and value == old.rstrip("/"):
                node[key] = root


def check(cfg, path: str | Path) -> None:
    """Raises ValueError for keys and names that do not exist, and for classes that do not agree."""
    known = runner_keys()
    for key in cfg:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.85)
        if key not in known and near and not near[0].startswith(key):
            raise ValueError(f'{path}: unknown key "{key}": did you mean {near[0]}?')
    for node, where in dictionaries(cfg):
        if where.split(".")[0] in known and (problem := _problem(node, where, cfg.default_scope)):
            raise ValueError(f"{path}: {problem}")
    _check_classes(cfg, path)


def datasets(cfg, splits: Iterable[str] = ("train", "val", "test")) -> Iterator[tuple[str, typing.Any, type]]:
    """(path in the config, config, class) of the data sets under wrappers that repeat or join them."""
    for split in splits:
        loader = cfg.get(f"{split}_dataloader")
        if not loader:
            continue
        for node, where in dictionaries(loader.get("dataset", {}), f"{split}_dataloader.dataset"):
            if "type" in node and ("ann_file" in node or "data_prefix" in node):
                yield where, node, find(node["type"], cfg.default_scope)


def class_names(dataset, cls: type) -> tuple[str, ...] | None:
    """Names of the classes that a data set's config, or else its class, says."""
    given = (dataset.get("metainfo") or {}).get("classes")
    names = given if given is not None else getattr(cls, "METAINFO", {}).get("classes")
    if isinstance(names, str):  # a file, a name a line
        names = Path(names).read_text(encoding="utf-8").split("\n")
    return tuple(names) if names is not None else None


def find(name: typing.Any, scope: str) -> typing.Any:
    """What is registered under `name`, or stands at its import path. Raises ValueError with names near it."""
    if not isinstance(name, str):
        return name
    packages, bare = (scope, "mmengine"), name
    first, _, rest = name.partition(".")
    if first in PACKAGES and "." not in rest:
        packages, bare = (first,), rest
    names: dict[str, typing.Any] = {}
    for registry in _registries(packages):
        names = registry.module_dict | names
    if bare in names:
        return names[bare]
    if "." in name:
        with contextlib.suppress(ImportError, AttributeError):
            module, _, attribute = name.rpartition(".")
            return getattr(importlib.import_module(module), attribute)
    near = difflib.get_close_matches(bare, names, n=3)
    hint = f": did you mean {' or '.join(near)}?" if near else f"; {scope} and mmengine have no such name"
    raise ValueError(f'nothing is registered as "{name}"{hint}')


def runner_keys() -> set[str]:
    """Keys of a config's top level that mmengine's Runner reads."""
    from mmengine.runner import Runner

    extra = {"default_scope", "custom_imports", "runner_type", "find_unused_parameters", "sync_bn", "compile"}
    return (set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"}) | extra


def _parsed(override: str) -> tuple[str, typing.Any]:
    key, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f'"{override}" is no override: write key.key=value')
    try:
        return key, ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    try:
        return key, yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f'"{text}" of {key} is neither Python nor YAML: {error}') from error


def _check_override(cfg, key: str) -> None:
    """Raises ValueError for a key that the config does not have, or that nothing reads."""
    first, *rest = key.split(".")
    if first not in runner_keys():
        if first == "data_root":
            raise ValueError("data_root has been copied into the data sets: use --data FOLDER")
        if first in cfg:
            readers = "train_dataloader.dataset, model, ..."
            raise ValueError(
                f'"{first}" is a name inside the config file, copied where it is used: set it in {readers}'
            )
        near = difflib.get_close_matches(first, sorted(runner_keys() & set(cfg)), n=1)
        raise ValueError(f'unknown key "{key}"' + (f": did you mean {near[0]}?" if near else ""))
    node, walked = cfg, ""
    for i, part in enumerate([first, *rest]):
        last = i == len(rest)
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise ValueError(f'unknown key "{key}": {walked} has items 0 to {len(node) - 1}')
            node = node[int(part)]
        elif isinstance(node, dict) or i == 0:
            if part not in node:
                if last and (i == 0 or "type" in node or walked.endswith("_dataloader")):
                    return  # checked with the whole config
                near = difflib.get_close_matches(part, list(node), n=1)
                known = f"did you mean {walked}.{near[0]}?" if near else f"{walked} has {', '.join(node)}"
                raise ValueError(f'unknown key "{key}": {known}')
            node = node[part]
        elif node is None:
            return
        else:
            raise ValueError(f'unknown key "{key}": {walked} is {node!r}')
        walked = f"{walked}.{part}".lstrip(".")


def _problem(node, where: str, scope: str) -> str | None:
    """What is wrong with the name or the keys of one dictionary."""
    leaf = where.rsplit(".", 1)[-1]
    if leaf in ("train_dataloader", "val_dataloader", "test_dataloader"):
        return _unknown_key(node, where, _dataloader_keys())
    if "type" not in node:
        return None
    if leaf in BUILT_OTHERWISE:
        return _unregistered(node, where, scope)
    try:
        built = find(node["type"], scope)
    except ValueError as error:
        return f"{where}: {error}"
    if node["type"] == "ZooModel" and "method" in node:  # builds what its method names
        parts = {key: value for key, value in node.items() if key != "method"}
        return _problem(parts | dict(type=node["method"]), where, scope)
    keys = _parameters(built)
    extra = READ_BY_RUNNER.get(where.split(".")[0], set())
    return _unknown_key(node, where, keys | extra | {"type", "_scope_"}) if keys is not None else None


def _unregistered(node, where: str, scope: str) -> str | None:
    import mmcv.ops

    if hasattr(mmcv.ops, str(node["type"])):
        return None
    try:
        find(node["type"], scope)
    except ValueError as error:
        return f"{where}: {error}"
    return None


def _unknown_key(node, where: str, known: set[str]) -> str | None:
    for key in node:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known - {'_scope_'}))}"
            return f'{where}: unknown key "{key}" of {node.get("type", "a data loader")}; {hint}'
    return None


def _parameters(built: typing.Any) -> set[str] | None:
    """Names that a class or function takes, where **kwargs goes to the class below; None if it takes any."""
    names: set[str] = set()
    for layer in inspect.getmro(built) if inspect.isclass(built) else (built,):
        function = layer.__dict__.get("__init__") if inspect.isclass(layer) else layer
        if function is None:
            continue
        parameters = inspect.signature(function).parameters.values()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)} - {"self"}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names
    return None


def _dataloader_keys() -> set[str]:
    from torch.utils.data import DataLoader

    extra = {"dataset", "num_batch_per_epoch", "disable_subprocess_warning"}
    return (set(inspect.signature(DataLoader.__init__).parameters) - {"self"}) | extra


def _registries(packages: Iterable[str]) -> Iterator[typing.Any]:
    from mmengine.registry import Registry

    for package in packages:
        for value in vars(importlib.import_module(f"{package}.registry")).values():
            if isinstance(value, Registry) and value.scope == package:
                value.import_from_location()
                yield value


def dictionaries(node: typing.Any, where: str = "") -> Iterator[tuple[typing.Any, str]]:
    """Every dictionary inside, with its path."""
    if isinstance(node, dict) or hasattr(node, "merge_from_dict"):
        yield node, where
        items = list(node.items())
    elif isinstance(node, (list, tuple)):
        items = list(enumerate(node))
    else:
        return
    for key, value in items:
        yield from dictionaries(value, f"{where}.{key}".lstrip("."))


def _typed(cfg) -> Iterator[tuple[typing.Any, typing.Any, str]]:
    for node, where in dictionaries(cfg):
        if "type" in node:
            yield node, node["type"], where


def _check_classes(cfg, path: str | Path) -> None:
    """Raises ValueError unless training, validation and test data, and the model's heads, have the same classes."""
    found = [(where, names) for where, dataset, cls in datasets(cfg) if (names := class_names(dataset, cls))]
    for where, names in found[1:]:
        first, other = found[0]
        if names != other:
            differing = sorted(set(names) ^ set(other))
            raise ValueError(
                f"{path}: {first} has {len(other)} classes, {where} has {len(names)}; "
                f"{'not in both: ' + ', '.join(differing[:10]) if differing else 'in another order'}"
            )
    if not found:
        return
    where, names = found[0]
    for node, head in dictionaries(cfg.get("model", {}), "model"):
        for key in ("num_classes", "num_things_classes"):
            count = node.get(key)
            if key == "num_classes" and "num_things_classes" in node:
                continue
            if isinstance(count, int) and "backbone" not in head and count != len(names):
                raise ValueError(
                    f"{path}: {head}.{key} is {count}, {where} has {len(names)} classes: "
                    f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
                )

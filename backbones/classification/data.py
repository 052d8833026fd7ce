"""Datasets and loaders, by timm, that name what is wrong instead of skipping it."""

import logging
from pathlib import Path

import torch
from PIL import Image
from timm.data import ImageDataset, ImageNetInfo, Mixup, create_dataset, create_loader, resolve_data_config
from timm.data.dataset_factory import _search_split

from .config import Aug, Config, Data

_logger = logging.getLogger(__name__)
# what PIL raises for broken images, besides OSError
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
DATASETS = ("hfds", "hfids", "tfds", "torch", "wds")


class StrictImageDataset(ImageDataset):
    """timm's dataset, but an image that cannot be read is a ValueError that names it.

    With `skip_unreadable` it is a warning that names it; in training the next image takes its place, in validation
    it gets the target SKIPPED, which does not count.
    """

    SKIPPED = -1
    skip_unreadable = training = False

    def __getitem__(self, index: int) -> tuple:
        for i in range(len(self)):
            turn = (index + i) % len(self)
            stream, target, *_ = self.reader[turn]
            try:
                with stream:
                    image = Image.open(stream).convert(self.input_img_mode)
            except UNREADABLE as error:
                problem = f"cannot read image {self.filename(turn)}: {error}"
                if not self.skip_unreadable:
                    raise ValueError(f"{problem}; remove it or set data.skip_unreadable=true") from error
                _logger.warning("skipped: %s", problem)
                if self.training:
                    continue
                image, target = Image.new(self.input_img_mode, (64, 64)), self.SKIPPED
            return self.transform(image), target
        raise ValueError(f"none of {len(self)} images can be read")


def dataset(data: Data, split: str, training: bool, batch_size: int, seed: int = 0) -> torch.utils.data.Dataset:
    """The split as timm reads it. Raises ValueError naming a folder that is missing or has no images."""
    prefix = data.dataset.partition("/")[0]
    if data.dataset and prefix.lower() not in DATASETS:  # timm would read data.root as folders
        raise ValueError(f'data.dataset "{data.dataset}" must start with {"/, ".join(DATASETS)}/, or be "" for folders')
    root = _split_root(Path(data.root), split) if not data.dataset else Path(data.root)
    try:
        made = create_dataset(
            data.dataset,
            root=str(root) if data.root else None,
            split=split or "train",
            search_split=bool(data.dataset),
            is_training=training,
            batch_size=batch_size,
            seed=seed,
            download=data.download,
        )
    except (RuntimeError, FileNotFoundError, AssertionError) as error:
        raise ValueError(f"no {split} images in {root}: {error}") from error
    if type(made) is ImageDataset:
        made = StrictImageDataset(data.root, reader=made.reader)
        made.skip_unreadable, made.training = data.skip_unreadable, training
    return made


def _split_root(root: Path, split: str) -> Path:
    """The folder or tar of a split; "" is `root` itself. timm takes `root` for a split that it does not find."""
    if not root.exists():
        raise ValueError(f"no data at {root}")
    tar = root / f"{split}.tar"
    if not split or root.is_file() or tar.is_file():
        return tar if tar.is_file() else root
    found = Path(_search_split(str(root), split))
    if found == root:
        raise ValueError(f'no "{split}" in {root}; there are {", ".join(sorted(p.name for p in root.iterdir())[:10])}')
    return found


def class_names(data: torch.utils.data.Dataset) -> list[str] | None:
    """The names of a dataset's classes in order, where it knows them."""
    reader = getattr(data, "reader", data)
    mapping = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    if mapping:
        return [str(name) for name, _ in sorted(mapping.items(), key=lambda item: item[1])]
    names = getattr(reader, "classes", None)  # torchvision's data sets
    return list(names) if names else None


def imagenet_names() -> list[str]:
    imagenet = ImageNetInfo("imagenet-1k")
    return [imagenet.index_to_description(i) for i in range(imagenet.num_classes())]


def preprocessing(data: Data, model: torch.nn.Module, in_chans: int) -> dict:
    """Input size, mean, std, interpolation and crop: the data's, or else the model's own."""
    given = {key: getattr(data, key) for key in ("interpolation", "crop_pct") if getattr(data, key) is not None}
    given |= {key: tuple(getattr(data, key)) for key in ("mean", "std") if getattr(data, key) is not None}
    if data.input_size is not None:
        given["input_size"] = (in_chans, data.input_size, data.input_size)
    given["in_chans"] = in_chans
    return resolve_data_config(given, model=model)


def loader(made, cfg: dict, batch_size: int, workers: int, device: torch.device, aug: Aug | None = None, **kw):
    """timm's loader; with `aug`, for training."""
    training = {}
    if aug is not None:
        training = dict(
            is_training=True,
            no_aug=not aug.enabled,
            scale=aug.scale,
            ratio=aug.ratio,
            hflip=aug.hflip,
            color_jitter=aug.color_jitter,
            auto_augment=aug.auto_augment,
            re_prob=aug.random_erasing,
            re_mode="pixel",
            num_aug_repeats=aug.repeats,
        )
    if made is not None and hasattr(made, "input_img_mode"):
        made.input_img_mode = "L" if cfg["input_size"][0] == 1 else "RGB"
    return create_loader(
        made,
        input_size=cfg["input_size"],
        batch_size=batch_size,
        interpolation=cfg["interpolation"],
        mean=cfg["mean"],
        std=cfg["std"],
        crop_pct=cfg["crop_pct"],
        num_workers=workers,
        device=device,
        use_prefetcher=device.type == "cuda",
        pin_memory=device.type == "cuda",
        persistent_workers=False,  # fresh workers every epoch: a resumed run draws what an uninterrupted one does
        **training,
        **kw,
    )


def mixup(config: Config, num_classes: int) -> Mixup | None:
    aug = config.aug
    if not aug.mixup and not aug.cutmix:
        return None
    return Mixup(aug.mixup, aug.cutmix, label_smoothing=aug.smoothing, num_classes=num_classes)

"""Predictions drawn on their images."""

from pathlib import Path

import mmcv
import mmengine
from mmengine.hooks import Hook
from mmengine.structures import BaseDataElement

THRESHOLD = 0.3


def draw(visualizer, path: str | Path, sample: BaseDataElement, to: Path, truth: bool, threshold: float) -> None:
    """Draws a sample's prediction on the image at `path`; with `truth`, beside what is right."""
    image = mmcv.imfrombytes(mmengine.fileio.get(str(path)), channel_order="rgb")
    options = dict(pred_score_thr=threshold) if "pred_instances" in sample else {}
    visualizer.add_datasample(
        to.stem, image, data_sample=sample, draw_gt=truth, show=False, out_file=str(to), **options
    )


class PicturesHook(Hook):
    """The first `most` test images of this process as PNGs, what is right on the left, the prediction on the right."""

    def __init__(self, folder: Path, most: int, threshold: float = THRESHOLD):
        self.folder, self.most, self.threshold, self.drawn = folder, most, threshold, 0

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        runner.visualizer.dataset_meta = runner.test_dataloader.dataset.metainfo
        for sample in outputs:
            if self.drawn == self.most:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            to = self.folder / f"{Path(sample.img_path).stem}.png"
            draw(runner.visualizer, sample.img_path, sample, to, True, self.threshold)
            self.drawn += 1

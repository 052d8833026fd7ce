"""Random numbers that are the same in a run that was interrupted and resumed as in one that was not."""

import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import FUNCTIONS, HOOKS


@HOOKS.register_module()
class ReproducibleHook(Hook):
    """Draws anew, from the seed and the iteration, at every point where a resumed run begins.

    Those points are the start of an epoch and, in runs counted by iterations, checkpoints and validations; there, data
    loading starts anew too, as it does in a resumed run. Data must be loaded by processes that do not outlive an epoch
    (`persistent_workers=False`) and are seeded by `seed_worker`.
    """

    priority = "LOWEST"  # after CheckpointHook

    def __init__(self, seed: int):
        self.seed = seed
        self.saved = False

    def before_train(self, runner) -> None:
        self._draw_anew(runner.iter)

    def before_train_epoch(self, runner) -> None:
        self.saved = False  # a checkpoint of the epoch before
        self._draw_anew(runner.iter)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        self.saved = True

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self.saved:
            self._begin_anew(runner, runner.iter + 1)
        self.saved = False

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        self._begin_anew(runner, runner.iter)  # the best checkpoint so far is saved here, and is the last one too
        self.saved = False

    def _begin_anew(self, runner, iteration: int) -> None:
        loop = runner.train_loop
        if hasattr(loop, "dataloader_iterator"):
            loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)
            loop.dataloader_iterator.skip_iter(iteration)
        self._draw_anew(iteration)

    def _draw_anew(self, iteration: int) -> None:
        state = np.random.SeedSequence([self.seed, iteration, get_rank()]).generate_state(1)[0]
        seed_all(int(state))


@FUNCTIONS.register_module()
def seed_worker(worker: int) -> None:
    """Seeds a data loading process by what its parent drew: another seed in every epoch, rank and process."""
    seed_all(torch.initial_seed() % 2**32)


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

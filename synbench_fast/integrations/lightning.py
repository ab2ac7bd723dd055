"""A callback of Lightning's Trainer that scores the encoder while it is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from synbench_fast.integrations import missing
from synbench_fast.integrations.monitor import Monitor

try:
    from lightning.pytorch.callbacks import Callback
except ImportError as error:
    raise missing("lightning", "lightning", error) from None

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["SynBenchCallback"]


class SynBenchCallback(Monitor, Callback):
    """Scores the encoder every `every` steps of `trainer.global_step`; arguments are those of `Monitor`.

    Numbers go to all loggers of the trainer at once, whatever its `log_every_n_steps`, and to its
    `callback_metrics`, where ModelCheckpoint and EarlyStopping find them.

    All ranks score, on the same samples, and rank 0 logs. The others would wait for rank 0 at the next step in any
    case, and a sharded module (FSDP) needs all of them in its forward pass. There is no further communication.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begin(pl_module, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.due(trainer.global_step):
            numbers = self._log(trainer, pl_module)
            if numbers is not None:
                pl_module.log_dict(numbers, logger=False, on_step=True, on_epoch=False, batch_size=1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.due_at_end(trainer.global_step):
            self._log(trainer, pl_module)

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float] | None:
        step = trainer.global_step
        numbers = self.measure(pl_module, step)
        if numbers is not None:
            for logger in trainer.loggers:  # their own decorators leave the other ranks out
                logger.log_metrics(numbers, step=step)
        return numbers

"""A callback of the Trainer of transformers that scores the encoder while it is trained."""

from __future__ import annotations

from typing import Any

from synbench_fast.integrations import missing
from synbench_fast.integrations.monitor import Monitor

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise missing("transformers", "hf", error) from None

__all__ = ["SynBenchCallback"]


class SynBenchCallback(Monitor, TrainerCallback):
    """Scores the encoder every `every` steps of `state.global_step`; arguments are those of `Monitor`, and

    Args:
        trainer: the Trainer, which hands callbacks everything but itself. With it numbers are logged by
            `trainer.log`, which reaches every tracker in `report_to`; without they are in `state.log_history` (and
            trainer_state.json) alone.

    All ranks score, on the same samples, and trackers log on rank 0 as always. The others would wait for rank 0 at
    the next step in any case, and a sharded module (FSDP, DeepSpeed) needs all of them in its forward pass.
    """

    def __init__(self, *arguments: Any, trainer: Any = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begin(kwargs["model"], state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.due(state.global_step):
            self._log(state, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.due_at_end(state.global_step):
            self._log(state, kwargs["model"])

    def _log(self, state: Any, model: Any) -> None:
        numbers = self.measure(model, state.global_step)
        if numbers is None:
            return
        if self.trainer is not None:
            self.trainer.log(numbers)
        else:
            state.log_history.append({**numbers, "epoch": state.epoch, "step": state.global_step})

"""The callbacks in Lightning's Trainer and in that of transformers: numbers logged, training untouched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import PATIENCE, refused
from torch import Tensor, nn

# Both libraries warn of their own settings and of each other's versions.
pytestmark = pytest.mark.filterwarnings("ignore")

SHAPE = (3, 8, 8)
NAME = "synbench/score_eps0_a0.6"


def backbone() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(72, 12),
    )  # fmt: skip


def items(count: int = 24) -> list[tuple[Tensor, int]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(SHAPE, generator=generator), i % 2) for i in range(count)]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


class TestLightning:
    @staticmethod
    def run(folder: Path, callback: Any, *more: Any, resume_from: Path | None = None, **options: Any) -> Any:
        lightning = pytest.importorskip(
            "lightning", reason="lightning is not installed", exc_type=ImportError
        )
        from lightning.pytorch.loggers import CSVLogger

        class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.backbone, self.head = backbone(), nn.Linear(12, 2)
                self.backbone[1].eval()

            def training_step(self, batch: Any, number: int) -> Tensor:
                x, y = batch
                return nn.functional.cross_entropy(self.head(self.backbone(x)), y)

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

        torch.manual_seed(0)
        module = Module()
        loader = torch.utils.data.DataLoader(items(), batch_size=2, shuffle=True)
        trainer = lightning.Trainer(
            **{
                "accelerator": "cpu", "devices": 1, "max_epochs": 1, "accumulate_grad_batches": 2,
                "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
                "default_root_dir": folder, "logger": CSVLogger(folder, name="", version=""), **options,
            },
            callbacks=[one for one in (callback, *more) if one is not None],
        )  # fmt: skip
        trainer.fit(module, loader, ckpt_path=resume_from)
        return trainer

    def callback(self, **options: Any) -> Any:
        pytest.importorskip("lightning", reason="lightning is not installed", exc_type=ImportError)
        from synbench_fast.integrations.lightning import SynBenchCallback

        return SynBenchCallback(
            **{"encoder": "backbone", "input_shape": SHAPE, "every": 4, "scales": 5, "samples": 40, **options}
        )

    def test_logged_and_undisturbed(self, tmp_path: Path) -> None:
        alone = self.run(tmp_path / "alone", None)
        state = torch.get_rng_state()
        callback = self.callback(strict=True)
        watched = self.run(tmp_path / "watched", callback)
        same(alone.lightning_module.state_dict(), watched.lightning_module.state_dict())
        assert torch.equal(torch.get_rng_state(), state)
        assert [step for step, _ in callback.history] == [4, 6]  # 12 batches, 6 steps, the last at the end
        lines = (tmp_path / "watched" / "metrics.csv").read_text(encoding="utf-8").splitlines()
        rows = [dict(zip(lines[0].split(","), one.split(","), strict=True)) for one in lines[1:]]
        found = {int(row["step"]): float(row[NAME]) for row in rows if row.get(NAME)}
        expected = {step: curve.scores[0].score for step, curve in callback.history}
        assert found == pytest.approx(expected, rel=1e-5)
        assert float(watched.callback_metrics[NAME]) == pytest.approx(expected[4], rel=1e-5)

    def test_steps_of_a_resumed_training_are_counted_on(self, tmp_path: Path) -> None:
        first, second = self.callback(every=3), self.callback(every=3)
        trainer = self.run(tmp_path, first, max_steps=4, max_epochs=-1)
        trainer.save_checkpoint(tmp_path / "four.ckpt")
        self.run(tmp_path, second, resume_from=tmp_path / "four.ckpt", max_steps=8, max_epochs=-1)
        assert [step for step, _ in first.history] == [3, 4]
        assert [step for step, _ in second.history] == [6, 8]

    def test_checkpoints_can_go_by_it(self, tmp_path: Path) -> None:
        pytest.importorskip("lightning", reason="lightning is not installed", exc_type=ImportError)
        from lightning.pytorch.callbacks import ModelCheckpoint

        keep = ModelCheckpoint(tmp_path / "best", monitor=NAME, mode="max", every_n_train_steps=4)
        callback = self.callback()
        self.run(tmp_path, callback, keep, enable_checkpointing=True)
        assert float(keep.best_model_score) == pytest.approx(callback.history[0][1].scores[0].score, rel=1e-5)

    def test_a_misspelt_encoder_ends_it_before_the_first_step(self, tmp_path: Path) -> None:
        with refused("encoder: expected an attribute of Module, got 'backbon'", "did you mean backbone?"):
            self.run(tmp_path, self.callback(encoder="backbon"))

    @staticmethod
    def broken(module: nn.Module) -> Any:
        return lambda x: module.backbone(x) * float("nan")  # type: ignore[operator]

    def test_a_failure_is_survived(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        alone = self.run(tmp_path, None)
        callback = self.callback(encoder=self.broken)
        watched = self.run(tmp_path, callback)
        same(alone.lightning_module.state_dict(), watched.lightning_module.state_dict())
        lines = [one for one in caplog.messages if one.startswith("synbench: ")]
        assert [one.split(":")[1] for one in lines] == [" no score at step 4", " no score at step 6"]
        with refused("features: expected finite values"):
            self.run(tmp_path, self.callback(encoder=self.broken, strict=True))


class TestTransformers:
    @staticmethod
    def run(folder: Path, make: Any, resume_from: Path | None = None, **options: Any) -> Any:
        pytest.importorskip("accelerate", reason="accelerate, which the Trainer needs, is not installed")
        transformers = pytest.importorskip("transformers", reason="transformers is not installed")

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.backbone, self.head = backbone(), nn.Linear(12, 2)

            def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
                logits = self.head(self.backbone(x))
                return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

        torch.manual_seed(0)
        arguments = transformers.TrainingArguments(**{
            "output_dir": str(folder), "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
            "max_steps": 6, "learning_rate": 0.1, "optim": "sgd", "report_to": [], "save_strategy": "no",
            "use_cpu": True, "disable_tqdm": True, "logging_steps": 3, "seed": 7, **options,
        })  # fmt: skip
        data = [{"x": x, "labels": y} for x, y in items()]
        trainer = transformers.Trainer(model=Model(), args=arguments, train_dataset=data)
        if make is not None:
            trainer.add_callback(make(trainer))
        trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
        return trainer

    def test_logged_and_undisturbed(self, tmp_path: Path) -> None:
        alone = self.run(tmp_path, None)
        from transformers import TrainerCallback

        from synbench_fast.integrations.transformers import SynBenchCallback

        seen: list[tuple[int, float]] = []

        class Tracker(TrainerCallback):  # type: ignore[misc]
            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
                if NAME in logs:
                    seen.append((state.global_step, logs[NAME]))

        budget = {"every": 4, "scales": 5, "samples": 40, "strict": True}

        def make(trainer: Any) -> Any:
            trainer.add_callback(Tracker())
            return SynBenchCallback("backbone", SHAPE, trainer=trainer, **budget)

        watched = self.run(tmp_path, make)
        same(alone.model.state_dict(), watched.model.state_dict())
        history = [one for one in watched.state.log_history if NAME in one]
        assert [one["step"] for one in history] == [4, 6]
        assert seen == [(one["step"], one[NAME]) for one in history]
        losses = [one["loss"] for one in watched.state.log_history if "loss" in one]
        assert losses == [one["loss"] for one in alone.state.log_history if "loss" in one]

        by_itself = self.run(tmp_path, lambda trainer: SynBenchCallback("backbone", SHAPE, **budget))
        assert [one for one in by_itself.state.log_history if NAME in one] == history
        assert json.dumps(history)

    def test_a_failure_is_survived(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        alone = self.run(tmp_path, None)
        from synbench_fast.integrations.transformers import SynBenchCallback

        def broken(model: nn.Module) -> Any:
            return lambda x: model.backbone(x) * float("nan")  # type: ignore[operator]

        watched = self.run(
            tmp_path, lambda trainer: SynBenchCallback(broken, SHAPE, every=4, trainer=trainer)
        )
        same(alone.model.state_dict(), watched.model.state_dict())
        lines = [one for one in caplog.messages if one.startswith("synbench: ")]
        assert [one.split(":")[1] for one in lines] == [" no score at step 4", " no score at step 6"]
        assert not [one for one in watched.state.log_history if NAME in one]

    def test_steps_of_a_resumed_training_are_counted_on(self, tmp_path: Path) -> None:
        pytest.importorskip("transformers", reason="transformers is not installed")
        from synbench_fast.integrations.transformers import SynBenchCallback

        made: list[Any] = []

        def make(trainer: Any) -> Any:
            made.append(SynBenchCallback("backbone", SHAPE, every=3, scales=5, samples=40, strict=True))
            return made[-1]

        self.run(tmp_path, make, max_steps=4, save_strategy="steps", save_steps=4)
        self.run(tmp_path, make, resume_from=tmp_path / "checkpoint-4", max_steps=8)
        assert [[step for step, _ in one.history] for one in made] == [[3, 4], [6, 8]]


RANK = """
import sys, warnings, logging
warnings.filterwarnings("ignore")
logging.disable(logging.INFO)
import torch, lightning
from pathlib import Path
from test_integrations_callbacks import NAME, SHAPE, TestLightning
folder = Path(sys.argv[1])
watch = sys.argv[2] == "watched"
from lightning.pytorch.strategies import DDPStrategy
callback = TestLightning().callback(strict=True, every=2) if watch else None
trainer = TestLightning.run(
    folder, callback, strategy=DDPStrategy(process_group_backend="gloo"), devices=2, use_distributed_sampler=True
)
assert trainer.world_size == 2
torch.save(trainer.lightning_module.state_dict(), folder / f"{sys.argv[2]}-{trainer.global_rank}.pt")
if watch:
    scores = [(step, curve.scores[0].score) for step, curve in callback.history]
    torch.save(scores, folder / f"scores-{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="lightning is not installed", exc_type=ImportError)
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys\nsys.path[:0] = {[str(Path(__file__).parents[1]), *sys.path]!r}\n{RANK}",
        encoding="utf-8",
    )
    running = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), kind], stderr=subprocess.PIPE, text=True
        )
        for kind in ("alone", "watched")
    ]
    for one in running:
        _, text = one.communicate(timeout=PATIENCE)
        assert one.returncode == 0, text
    for rank in range(2):
        same(
            *(torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True) for kind in ("alone", "watched"))
        )
    scores = [torch.load(tmp_path / f"scores-{rank}.pt", weights_only=True) for rank in range(2)]
    assert scores[0] == scores[1] and [step for step, _ in scores[0]] == [2, 3]  # 6 batches of each

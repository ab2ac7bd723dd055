"""The examples of docs/harnesses.md that need a library's trainer or another package around them."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from synbench_fast.encoders.base import Request

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "harnesses.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```py\n(.*?)^```$", PAGE, re.M | re.S)
NAME = "synbench/score_eps0_a0.6"

# The libraries warn of their own settings and of each other's versions.
pytestmark = pytest.mark.filterwarnings("ignore")


def example(part: str, **given: Any) -> dict[str, Any]:
    (code,) = [one for one in EXAMPLES if part in one]
    names: dict[str, Any] = {"__name__": "example", **given}
    exec(compile(code, "docs/harnesses.md", "exec"), names)
    return names


def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="lightning is not installed", exc_type=ImportError)

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(
                nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            )
            self.head = nn.Linear(16, 2)

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            x, y = batch
            return nn.functional.cross_entropy(self.head(self.backbone(x)), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    names = example("integrations.lightning import")
    callback = names["callback"]
    items = [(torch.rand(3, 8, 8), i % 2) for i in range(4)]
    trainer = lightning.Trainer(
        **{**names["trainer_options"], "max_steps": 2}, accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Classifier(), torch.utils.data.DataLoader(items, batch_size=2))
    assert [step for step, _ in callback.history] == [2]


def test_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate", reason="accelerate, which the Trainer needs, is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.chdir(tmp_path)
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )  # fmt: skip
    data = [{"pixel_values": torch.rand(3, 8, 8), "labels": i % 2} for i in range(32)]
    arguments = transformers.TrainingArguments(
        output_dir="out", max_steps=6, report_to=[], save_strategy="no"
    )
    trainer = transformers.Trainer(
        model=transformers.ViTForImageClassification(config), args=arguments, train_dataset=data
    )
    example("integrations.transformers import", trainer=trainer)
    trainer.train()
    assert [one["step"] for one in trainer.state.log_history if NAME in one] == [3, 6]


def test_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("mylab.encoders")
    vars(module).update(example("# mylab/encoders.py", build=lambda name: nn.Identity()))
    monkeypatch.setitem(sys.modules, "mylab", types.ModuleType("mylab"))
    monkeypatch.setitem(sys.modules, "mylab.encoders", module)
    source = module.source
    assert source.list() == ["small", "large"]
    assert source.loader()(Request("mylab:small", "small")).input_shape == (3, 224, 224)
    shrunk = example("# mylab/estimators.py")["shrunk"]
    assert (shrunk.name, shrunk.halves, shrunk.unbiased) == ("shrunk", 1, True)


def test_keys_and_names_on_the_page() -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is not installed", exc_type=ImportError)
    from synbench_fast.integrations.lm_eval import READ
    from synbench_fast.plugins import GROUPS

    rows = PAGE.split("| key | meaning |")[1].split("\n\n")[0].splitlines()[2:]
    keys = [key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(keys) == sorted(["tokens", "pool", *READ])
    assert all(f"synbench_fast.{group}" in PAGE for group in GROUPS)

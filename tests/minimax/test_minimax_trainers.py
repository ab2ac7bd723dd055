"""What docs/minimax.md says of Lightning, and its example for the Hugging Face Trainer, against plain torch."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from synbench_fast.minimax import TaskRobustLoss, patch_losses, patch_regions, token_classes, token_losses

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "minimax.md").read_text(encoding="utf-8")
# Both libraries warn of their own settings and of each other's versions.
pytestmark = pytest.mark.filterwarnings("ignore")


def example() -> dict[str, Any]:
    """The names that the page's only example of a trainer defines."""
    (code,) = re.findall(r"^```py\n(.*?)^```$", PAGE, re.M | re.S)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "docs/minimax.md", "exec"), names)
    return names


def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="lightning is not installed", exc_type=ImportError)

    class Masked(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(16, 16)
            self.robust = TaskRobustLoss(["middle", "border"], temperature=0.1, accumulation=2)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            patches, hidden = batch
            prediction = self.net(patches * ~hidden[..., None])
            losses, counts = patch_losses(prediction, patches, patch_regions(4, 4, "rings"), 2, mask=hidden)
            return self.robust(losses, counts).objective

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    module = Masked()
    plain = copy.deepcopy(module.net)
    items = [(torch.rand(8, 16, 16), torch.rand(8, 16) < 0.5) for _ in range(8)]
    loader = torch.utils.data.DataLoader(items, batch_size=None, shuffle=False)
    lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, accumulate_grad_batches=2, max_epochs=1,
    ).fit(module, loader)  # fmt: skip

    robust = TaskRobustLoss(2, temperature=0.1, accumulation=2)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for number, (patches, hidden) in enumerate(items):
        prediction = plain(patches * ~hidden[..., None])
        losses = patch_losses(prediction, patches, patch_regions(4, 4, "rings"), 2, mask=hidden)
        (robust(*losses).objective / 2).backward()
        if number % 2:
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(module.net.state_dict(), plain.state_dict())
    torch.testing.assert_close(module.robust.state_dict(), robust.state_dict())
    assert robust.last_counts.min() > 0


def test_trainer(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate, which the Trainer needs, is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    names = example()
    vocabulary = ["[PAD]", "[MASK]", "the", "##s", "12", ".", "cat", "dog"]
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config)
    plain = copy.deepcopy(model)
    # One item many times, so that the order in which the Trainer draws them is of no account.
    item = {"input_ids": torch.tensor([1, 2, 1, 1, 6, 1]), "labels": torch.tensor([6, -100, 3, 4, -100, 5])}
    steps, rate = 3, 0.05
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=steps,
        learning_rate=rate, lr_scheduler_type="constant", optim="sgd", max_grad_norm=0.0, report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = names["RobustTrainer"](
        model=model, args=arguments, train_dataset=[item] * 16, eval_dataset=[item] * 2, vocabulary=vocabulary
    )
    trainer.train()

    table, robust = token_classes(vocabulary), TaskRobustLoss(5, temperature=0.5, accumulation=2)
    optimizer = torch.optim.SGD(plain.parameters(), lr=rate)
    batch = {key: torch.stack([value] * 2) for key, value in item.items()}
    for _ in range(steps):
        for _ in range(2):
            logits = plain(input_ids=batch["input_ids"]).logits
            (robust(*token_losses(logits, batch["labels"], table, 5)).objective / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(model.state_dict(), plain.state_dict())
    torch.testing.assert_close(trainer.robust.state_dict(), robust.state_dict(), equal_nan=True)
    assert trainer.robust.last_counts.tolist() == [4, 4, 4, 4, 0]

    before = copy.deepcopy(trainer.robust.state_dict())
    assert trainer.evaluate()["eval_loss"] > 0
    torch.testing.assert_close(trainer.robust.state_dict(), before, rtol=0, atol=0, equal_nan=True)


def test_the_whole_state_fits_into_a_models_checkpoint(tmp_path: Path) -> None:
    def made() -> nn.ModuleDict:
        return nn.ModuleDict({"net": nn.Linear(2, 2), "robust": TaskRobustLoss(2, mode="exponentiated")})

    first, second = made(), made()
    first["robust"](torch.tensor([1.0, 3.0]))
    torch.save(first.state_dict(), tmp_path / "model.pt")
    second.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    values = torch.tensor([1.0, 3.0])
    assert torch.equal(first["robust"](values).weights, second["robust"](values).weights)

"""Fine-tuning: one loop for every method, with the published benchmark's optimiser and schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.runtime.global_state import seeded, tf32_allowed
from synbench_fast.studies.cells import Unmeasurable
from synbench_fast.studies.inheritance.cells import TrainingSummary
from synbench_fast.studies.inheritance.data import Part
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.schedule import Training, steps_of

__all__ = ["Diverged", "Penalty", "Training", "fit", "predictions", "steps_of"]

Penalty = Callable[[Tensor, Tensor], Tensor]  # (images x, logits of the data set's classes) -> a scalar


class Diverged(Unmeasurable):
    """A fine-tuning that did not stay finite."""


def fit(
    model: Classifier,
    part: Part,
    training: Training,
    *,
    parameters: Iterable[nn.Parameter],
    seed: int,
    evaluating: Sequence[nn.Module] = (),
    penalty: Penalty | None = None,
) -> TrainingSummary:
    """Minimise cross-entropy over the data set's classes, plus `penalty`, by SGD on `parameters`, in place.

    Args:
        model: the classifier; it is in eval mode afterwards, and every parameter takes gradients again.
        part: to train on.
        training: optimiser and schedule.
        parameters: what moves; all others are held.
        seed: of the order of the samples and of whatever the network draws while training.
        evaluating: modules that stay in eval mode, so that running statistics do not move either.
        penalty: added to the loss of every batch.

    Raises:
        Diverged: the loss or a weight is not finite.
        SynbenchError: a network that normalises over the batch, and a last batch of a single image.
    """
    begun = time.perf_counter()
    moving = list(parameters)
    wanted = {id(one) for one in moving}
    for one in model.parameters():
        one.requires_grad_(id(one) in wanted)
    device = model.device
    total = steps_of(training, len(part))
    warmup = min(training.warmup, total // 10)

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    optimizer = torch.optim.SGD(
        moving, lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    generator = torch.Generator().manual_seed(seed)
    mixed = training.mixed_precision and device.type == "cuda"
    model.train()
    for module in evaluating:
        module.eval()
    mean_loss = math.nan
    products = nullcontext() if mixed else tf32_allowed(device, False)
    with seeded(seed), products, _same_convolutions(device):
        for epoch in range(training.epochs):
            order = torch.randperm(len(part), generator=generator)
            sums = torch.zeros((), dtype=torch.float64, device=device)
            for rows in torch.split(order, training.batch_size):
                x, y = part.load(rows).to(device), part.y[rows].to(device)
                with torch.autocast("cuda", dtype=torch.bfloat16) if mixed else nullcontext():
                    made = part.restrict(_logits(model, x, len(part), training.batch_size).float())
                    loss = functional.cross_entropy(made, y)
                    if penalty is not None:
                        loss = loss + penalty(x, made)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                sums += loss.detach().double() * len(rows)
            mean_loss = float(sums) / len(part)
            if not math.isfinite(mean_loss):
                raise Diverged(
                    f"lr: expected one at which the loss stays finite, got {training.lr:g} and a loss of "
                    f"{mean_loss} in epoch {epoch + 1}"
                )
    if not all(bool(one.isfinite().all()) for one in moving):
        raise Diverged(
            f"lr: expected one at which the weights stay finite, got {training.lr:g} and others in the last step"
        )
    model.eval()
    model.requires_grad_(True)
    return TrainingSummary(steps=total, loss=mean_loss, seconds=time.perf_counter() - begun)


def _logits(model: Classifier, x: Tensor, samples: int, batch_size: int) -> Tensor:
    try:
        logits: Tensor = model(x)
    except ValueError as error:  # of torch's batch normalisation, where a channel has one value
        if len(x) > 1:
            raise
        raise SynbenchError(
            f"batch_size: expected one that leaves more than 1 of {samples} images for the last batch, "
            f"got {batch_size}: {first_line(error)}"
        ) from None
    return logits


@contextmanager
def _same_convolutions(device: torch.device) -> Iterator[None]:
    """On a GPU, convolutions whose gradients are the same in every run; as before after."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def predictions(model: Classifier, part: Part, batch_size: int = 512) -> Tensor:
    """int64 [N] on the CPU: the predicted class of every image of a part, in eval mode and float32 throughout.

    Raises:
        Diverged: logits that are not finite, whose largest says nothing.
    """
    model.eval()
    found = []
    with torch.no_grad(), tf32_allowed(model.device, False):
        for rows in torch.split(torch.arange(len(part)), batch_size):
            logits = model(part.load(rows).to(model.device))
            if not logits.isfinite().all():
                raise Diverged(f"logits: expected finite ones, got {logits[~logits.isfinite()][0].item()}")
            found.append(part.predict(logits).cpu())
    return torch.cat(found)

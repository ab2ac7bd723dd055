"""What K-class statistics ask of a device: as many operations and waits for any number of classes and samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from synbench_fast.stats.discriminant import class_accuracy
from synbench_fast.stats.estimators import BUILT_IN
from synbench_fast.stats.multiclass import multiclass


class _Work(TorchDispatchMode):
    """Counts the operations that a device would be given, and what leaves it for the host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.operations = 0
        self.values: list[int] = []  # read at once, by a call
        for name in ("cpu", "numpy", "tolist"):
            monkeypatch.setattr(Tensor, name, self._counted(getattr(Tensor, name)))

    def _counted(self, method: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        def run(tensor: Tensor) -> Any:
            self.values.append(tensor.numel())
            return method(tensor)

        return run

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        if function is torch.ops.aten._local_scalar_dense.default:  # float(), int(), bool(), item()
            self.values.append(1)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("statistic", ["class_accuracy", "multiclass"])
def test_no_pair_and_no_sample_is_looked_at_by_itself(statistic: str) -> None:
    """On a GPU every operation is a launch and every value a wait: their numbers do not grow, and no feature leaves."""
    found = []
    for classes, each in ((3, 40), (24, 12)):
        labels = torch.arange(classes).repeat_interleave(each)
        generator = torch.Generator().manual_seed(classes)
        x = (
            torch.randn(len(labels), 15, generator=generator)
            + 2 * torch.randn(classes, 15, generator=generator)[labels]
        )
        with pytest.MonkeyPatch.context() as patch, _Work(patch) as work:
            if statistic == "class_accuracy":
                class_accuracy(x, labels)
            else:
                multiclass(x, labels, list(range(classes)), BUILT_IN["consistent"])
        assert max(work.values) <= max(classes**2, 15 * classes)
        found.append((work.operations, len(work.values)))
    assert found[0] == found[1]
    assert found[0][1] < 40, found

"""The classifier that is fine-tuned: an encoder with the linear head of its pre-training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from synbench_fast.encoders.weights import module_sha256
from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.results.files import replacing
from synbench_fast.runtime.optional import optional

__all__ = ["Classifier", "split_head"]


class Classifier(nn.Module):
    """Images [B, C, H, W] in [0, 1] -> normalise -> body [B, F] -> head [B, K].

    Args:
        body: the encoder, on normalised images; returns features [B, F].
        head: nn.Linear from F features to K classes.
        mean, std: normalisation per channel.
        shape: of one image, [C, H, W].
    """

    def __init__(
        self,
        body: nn.Module,
        head: nn.Linear,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        shape: tuple[int, int, int],
    ) -> None:
        super().__init__()
        self.body, self.head = body, head
        self.mean, self.std, self.input_shape = tuple(mean), tuple(std), shape
        self._mean: Tensor
        self._std: Tensor
        self.register_buffer("_mean", torch.tensor(self.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(self.std).view(-1, 1, 1), persistent=False)

    def normalise(self, x: Tensor) -> Tensor:
        normalised: Tensor = (x - self._mean) / self._std
        return normalised

    def features(self, x: Tensor) -> Tensor:
        """Features [B, F] of images [B, C, H, W]."""
        made: Tensor = self.body(self.normalise(x))
        if not isinstance(made, Tensor):  # with auxiliary classifiers, in training only
            raise SynbenchError(
                f"encoder: expected a network that returns a Tensor, in training too, got {type(made).__name__}"
            )
        return made

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.features(x))
        return made

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def clone(self) -> Classifier:
        """A copy that shares nothing, in eval mode, every parameter taking gradients."""
        made = copy.deepcopy(self).eval()
        return made.requires_grad_(True)

    def sha256(self) -> str:
        """Fingerprint of all weights."""
        return module_sha256(self)

    def save(self, path: str | Path) -> Path:
        """Write the weights as safetensors, without pickle; a save that was stopped leaves no file at `path`."""
        library = optional("safetensors.torch", "safetensors", "inherit")
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        with replacing(path) as temporary:
            try:
                library.save_file(state, str(temporary))
            except Exception as error:  # the library has errors of its own for a disk that is full
                raise SynbenchError(
                    f"{path}: expected a file that can be written, got: {first_line(error)}"
                ) from None
        return Path(path)

    def load(self, path: str | Path) -> Classifier:
        """Fill with weights that `save` wrote; names and shapes have to fit."""
        library = optional("safetensors.torch", "safetensors", "inherit")
        try:
            state = library.load_file(str(path))
            self.load_state_dict(state, strict=True)
        except Exception as error:
            raise SynbenchError(
                f"{path}: expected safetensors with the weights of this classifier, got {first_line(error)}"
            ) from None
        return self


def weighted_mean(models: Sequence[Classifier], weights: Sequence[float]) -> Classifier:
    """sum_i weights[i] * models[i] of all real and complex weights and statistics, summed in 64 bits a part.

    Weights that are 0 leave their model out and a single weight of 1 copies its model, both exactly. Integers (counts
    of batches) are the first model's.
    """
    used = [(one, weight) for one, weight in zip(models, weights, strict=True) if weight != 0]
    made = used[0][0].clone()
    if len(used) == 1 and used[0][1] == 1:
        return made
    states = [(one.state_dict(), weight) for one, weight in used]
    mixed: dict[str, Tensor] = {}
    for name, value in made.state_dict().items():
        if value.is_floating_point() or value.is_complex():
            wide = torch.complex128 if value.is_complex() else torch.float64
            parts = (weight * state[name].to(wide) for state, weight in states)
            total = sum(parts, torch.zeros((), dtype=wide))
            mixed[name] = torch.as_tensor(total).to(value.dtype)
        else:
            mixed[name] = value
    made.load_state_dict(mixed)
    return made


def split_head(
    module: nn.Module,
    classes: int,
    *,
    spec: str,
    mean: Sequence[float],
    std: Sequence[float],
    shape: tuple[int, int, int],
) -> Classifier:
    """A network x -> logits [B, classes] taken apart: its last nn.Linear of that many outputs is the head.

    Raises:
        SynbenchError: no such layer, or the network is not that layer applied to the features that reach it.
    """
    module = module.eval()
    found = [
        name
        for name, one in module.named_modules()
        if isinstance(one, nn.Linear) and one.out_features == classes
    ]
    if not found or found[-1] == "":
        sizes = sorted({one.out_features for one in module.modules() if isinstance(one, nn.Linear)})
        raise SynbenchError(
            f"encoder {spec}: expected a network that ends in nn.Linear with {classes} outputs, the number of classes "
            f"of the pre-training data, got linear layers with {', '.join(map(str, sizes)) or 'no'} outputs"
        )
    parent, _, child = found[-1].rpartition(".")
    owner: Any = module.get_submodule(parent)
    x = torch.linspace(-1, 1, 2 * shape[0] * shape[1] * shape[2]).view(2, *shape)
    try:
        with torch.no_grad():
            whole = module(x)
            head = getattr(owner, child)
            setattr(owner, child, nn.Identity())
            parts = head(module(x))
    except Exception as error:
        raise SynbenchError(
            f"encoder {spec}: forward failed on an input of shape {[2, *shape]} ({first_line(error)})"
        ) from error
    if parts.shape != whole.shape or not torch.allclose(parts, whole, rtol=1e-4, atol=1e-5):
        raise SynbenchError(
            f"encoder {spec}: expected logits that are {found[-1]} of the features, got a network that does more"
        )
    return Classifier(module, head, mean=mean, std=std, shape=shape).eval()

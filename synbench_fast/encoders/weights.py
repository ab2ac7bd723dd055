"""Local weights, read without executing code, and the fingerprint of what was loaded."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from synbench_fast.errors import SynbenchError, first_line

__all__ = [
    "existing_file",
    "file_sha256",
    "load_checkpoint",
    "parameter_count",
    "read_checkpoint",
    "state_sha256",
]

# Keys under which training scripts store the state dict, in the order they are tried.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "network",
    "net",
    "encoder",
    "backbone",
    "teacher",
)
_WRAPPED = 8  # wrappers around wrappers that are followed
# Parts of a checkpoint that an encoder without a classifier does not have.
HEADS = {
    "head",
    "heads",
    "head_dist",
    "fc",
    "classifier",
    "last_linear",
    "aux1",
    "aux2",
    "AuxLogits",
    "projector",
}
HEADS |= {"predictor", "decoder", "lm_head", "pooler", "mask_token"}


def existing_file(argument: str, path: str) -> Path:
    """`path` as an existing file, else a one-line error that names the argument."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise SynbenchError(f"{argument}: expected an existing file, got {path}")
    return file


def _foreign(error: Exception) -> str:
    """What else than tensors a pickle holds, in torch's words for it, such as argparse.Namespace."""
    named = re.search(r"\bGLOBAL ([\w.]+)", str(error))
    return f"it holds {named[1]}; save the state dict alone" if named else type(error).__name__


def _update(digest: Any, tensor: Tensor) -> None:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    if flat.numel():
        digest.update(flat.view(torch.uint8).numpy())


def state_sha256(state: Mapping[str, Any]) -> str:
    """sha256 over (name, dtype, shape, bytes) of the tensors of a state dict, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        if isinstance(tensor, Tensor):
            digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            _update(digest, tensor)
    return digest.hexdigest()


def file_sha256(paths: Iterable[Path]) -> str:
    """sha256 of the bytes of `paths`, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def read_checkpoint(path: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a saved state dict; wrappers like {'model': ...} are removed.

    Nothing in the file is executed: pickles go through torch.load(weights_only=True), which refuses anything
    but tensors and plain containers.
    """
    file = existing_file("checkpoint", path)
    content: Any
    if file.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise SynbenchError(
                f'checkpoint: reading {path} needs safetensors; pip install "synbench-fast[hf]"'
            ) from error
        try:
            content = load_file(file)
        except Exception as error:
            raise SynbenchError(
                f"checkpoint: expected a safetensors file, got {path} ({first_line(error)})"
            ) from error
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise SynbenchError(
                f"checkpoint: expected safetensors or a torch.save of a plain state dict, got {path}, "
                f"which cannot be read without executing code ({_foreign(error)})"
            ) from error
    for _ in range(_WRAPPED):  # a pickle may contain itself
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {
            key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)
        }
    if not tensors:
        raise SynbenchError(f"checkpoint: expected a state dict of named tensors, got {path} without any")
    return tensors


def _prefix(expected: set[str], found: Iterable[str]) -> str:
    """The prefix ('module.', 'backbone.', ...) with most of the expected keys; the shortest on a tie."""
    prefixes = {""}
    for key in found:
        parts = key.split(".")
        prefixes.update(".".join(parts[:depth]) + "." for depth in range(1, min(len(parts), 5)))
    available = set(found)
    return max(
        sorted(prefixes, key=lambda p: (len(p), p)),
        key=lambda p: sum(p + key in available for key in expected),
    )


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def load_checkpoint(
    module: nn.Module,
    path: str,
    spec: str,
    *,
    optional: str | None = None,
    unused: frozenset[str] = frozenset(),
) -> bool:
    """Fill `module` from a local file: every weight must be there, only a head may be left over.

    A common prefix of the file's keys is removed. Missing weights, other shapes or nothing in common are
    errors; left-over keys that do not look like a classifier, projection or decoder are a UserWarning.
    Keys below the submodule `optional` may be missing: False is returned if they were. Left-over keys with
    a part in `unused` (the text tower of a vision tower, say) are expected too.
    """
    tensors = read_checkpoint(path)
    expected = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    prefix = _prefix(set(expected), tensors)
    chosen = {key: tensors[prefix + key] for key in expected if prefix + key in tensors}
    if not chosen:
        raise SynbenchError(
            f"checkpoint: expected weights of {spec} (such as {_listed(sorted(expected))}), "
            f"got {path} with none of them (it has {_listed(sorted(tensors))})"
        )
    for key, value in chosen.items():
        if value.shape != expected[key].shape:
            raise SynbenchError(
                f"checkpoint: expected {prefix}{key} of shape {list(expected[key].shape)} for {spec}, "
                f"got {list(value.shape)} in {path}"
            )
    missing = sorted(key for key in expected if key not in chosen and not key.endswith("num_batches_tracked"))
    complete = True
    if optional is not None and any(key.startswith(f"{optional}.") for key in missing):
        missing = [key for key in missing if not key.startswith(f"{optional}.")]
        complete = False
    if missing:
        raise SynbenchError(
            f"checkpoint: expected all {len(expected)} weights of {spec}, got {path} without "
            + _listed(missing)
        )
    known = HEADS | unused
    left = sorted(
        key for key in tensors if key.removeprefix(prefix) not in chosen and not known & set(key.split("."))
    )
    if left:
        warnings.warn(f"checkpoint: {path} has keys that {spec} does not use: {_listed(left)}", stacklevel=2)
    module.load_state_dict(chosen, strict=False)
    return complete

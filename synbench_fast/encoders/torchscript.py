"""`torchscript:FILE`: an archive saved by torch.jit.save."""

from __future__ import annotations

import warnings

import torch

from synbench_fast.encoders.base import Loaded, Request
from synbench_fast.encoders.weights import existing_file, file_sha256
from synbench_fast.errors import SynbenchError, first_line

__all__ = ["load"]


def load(request: Request) -> Loaded:
    """The archive's forward. It is a program: it cannot run Python, but TorchScript operators can read and
    write files, so open only archives whose origin you trust.
    """
    request.refuse("random_init", "checkpoint", reason="the weights are those in the archive")
    file = existing_file("encoder", request.name)
    try:
        with warnings.catch_warnings():
            # Newer versions of torch announce the end of TorchScript on every load.
            warnings.filterwarnings("ignore", message=r".*torch\.jit", category=Warning)
            module = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise SynbenchError(
            f"encoder: expected a TorchScript archive, got {file} ({first_line(error)})"
        ) from error
    return Loaded(
        forward=module, module=module, name=request.name, input_shape=None, weights_sha256=file_sha256([file])
    )

"""`torchscript:FILE`: an archive saved by torch.jit.save."""

from __future__ import annotations

import warnings

import torch

from synbench_fast.encoders.base import Loaded, Request
from synbench_fast.encoders.weights import existing_file, file_sha256
from synbench_fast.errors import SynbenchError, first_line

__all__ = ["load"]


def load(request: Request) -> Loaded:
    """The archive's forward. It is a program, which begins to run while it is loaded: it cannot run Python, but
    TorchScript operators can read and write files. So it is opened only with trust_remote_code.
    """
    request.refuse("random_init", "checkpoint", reason="the weights are those in the archive")
    file = existing_file("encoder", request.name)
    if not request.trust_remote_code:
        raise SynbenchError(
            f"encoder {request.spec}: the archive is a program that can read and write files; expected "
            "--trust-remote-code (trust_remote_code=True) to run it, got False"
        )
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

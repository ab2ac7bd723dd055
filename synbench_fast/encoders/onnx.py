"""`onnx:FILE[?output=NAME]`: an ONNX graph, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synbench_fast.encoders.base import Loaded, Request
from synbench_fast.encoders.registry import require
from synbench_fast.encoders.weights import existing_file, file_sha256
from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.local_files import onnx_data

__all__ = ["load"]

_DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


class _Session:
    """One session per device; batches go through host memory, in the graph's own dtype."""

    def __init__(self, runtime: Any, file: Path, request: Request) -> None:
        self.runtime, self.file, self.spec = runtime, file, request.spec
        self.session: Any = None
        self.provider = ""
        self.place(torch.device("cpu"))
        session: Any = self.session
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise SynbenchError(
                f"encoder {self.spec}: expected a graph with one input, got {[one.name for one in inputs]}"
            )
        self.input = inputs[0]
        if self.input.type not in _DTYPES:
            raise SynbenchError(
                f"encoder {self.spec}: expected an input of type {' or '.join(_DTYPES)}, "
                f"got {self.input.type}"
            )
        self.dtype = _DTYPES[self.input.type]
        kinds = {one.name: one.type for one in session.get_outputs()}
        outputs = list(kinds)
        self.output = request.options.get("output", outputs[0])
        if self.output not in outputs:
            raise SynbenchError(
                f"encoder: expected an output out of {', '.join(outputs)} in {self.spec!r}, "
                f"got {self.output!r}" + suggest(self.output, outputs)
            )
        if not kinds[self.output].startswith("tensor("):
            raise SynbenchError(
                f"encoder {self.spec}: expected an output that is a tensor, got {self.output!r} of type "
                f"{kinds[self.output]}"
            )
        shape = list(self.input.shape)
        self.batch = shape[0] if shape and isinstance(shape[0], int) and shape[0] > 0 else None
        sizes = shape[1:]
        known = bool(sizes) and all(isinstance(n, int) and n > 0 for n in sizes)
        self.input_shape: tuple[int, ...] | None = tuple(sizes) if known else None

    def place(self, device: torch.device) -> None:
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.type, "")
        available = self.runtime.get_available_providers()
        if provider not in available:
            raise SynbenchError(
                f"device: expected one that onnxruntime serves here ({', '.join(available)}) "
                f"for {self.spec}, got {device}"
            )
        if provider == self.provider:
            return
        where: Any = provider if device.type == "cpu" else (provider, {"device_id": device.index or 0})
        try:
            self.session = self.runtime.InferenceSession(str(self.file), providers=[where])
        except Exception as error:
            raise SynbenchError(
                f"encoder: expected an ONNX file, got {self.file} ({first_line(error)})"
            ) from error
        self.provider = provider

    def __call__(self, x: Tensor) -> Tensor:
        values = x.detach().to("cpu", torch.float64 if self.dtype is np.float64 else torch.float32).numpy()
        values = np.ascontiguousarray(values, dtype=self.dtype)
        if self.batch is None:
            result = self._run(values)
        else:
            count = len(values)
            padding = np.zeros((-count % self.batch, *values.shape[1:]), self.dtype)
            padded = np.concatenate([values, padding])
            parts = [self._run(padded[i : i + self.batch]) for i in range(0, len(padded), self.batch)]
            result = np.concatenate(parts)[:count]
        if result.dtype == np.float16:
            result = result.astype(np.float32)
        return torch.from_numpy(result).to(x.device)

    def _run(self, values: Any) -> Any:
        return self.session.run([self.output], {self.input.name: values})[0]


def load(request: Request) -> Loaded:
    """Input shape from the graph; a fixed batch size in it is served by cutting and padding each batch.

    Features are the first output unless `?output=NAME` names another. The fingerprint covers the file and
    the files that its tensors lie in, as the graph names them.
    """
    request.refuse("random_init", "checkpoint", reason="the weights are those in the file")
    runtime = require("onnxruntime", "onnx", request.spec)
    file = existing_file("encoder", request.name)
    session = _Session(runtime, file, request)
    own, wanted = session.input_shape, request.input_shape
    if own is not None and wanted is not None and own != wanted:
        raise SynbenchError(
            f"input_shape: expected {own}, which {request.spec} fixes in its graph, got {wanted}"
        )
    return Loaded(
        forward=session,
        module=None,
        name=request.name,
        input_shape=own,
        weights_sha256=file_sha256([file, *onnx_data(file)]),
        place=session.place,
    )

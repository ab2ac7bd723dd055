"""`onnx:FILE[?output=NAME]`: an ONNX graph, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synbench_fast.encoders.base import Layout, Loaded, Request, check_rows
from synbench_fast.encoders.registry import require
from synbench_fast.encoders.weights import existing_file, file_sha256
from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.runtime.local_files import onnx_data, onnx_inner, onnx_parameters, onnx_pooled

__all__ = ["load"]

_DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
_IMAGE_CHANNELS = (1, 3, 4)


def _one_more_output(name: str) -> bytes:
    """What turns the tensor `name` into an output of a serialised graph that it follows.

    A message of Protocol Buffers may be cut into parts that stand one after the other: a reader merges them. The
    part is Model.graph.output.name, fields 7, 12 and 1 of onnx.proto.
    """
    part = name.encode()
    for field in (1, 12, 7):
        size, length = len(part), bytearray()
        while size > 127:
            length.append(size & 127 | 128)
            size >>= 7
        part = bytes([field << 3 | 2, *length, size]) + part
    return part


class _Session:
    """One session per device; batches go through host memory, in the graph's own dtype.

    `sizes` are those of one input, None where the graph leaves one open. Channels come first in them, as everywhere
    else here, also where the graph reads images with their channels last; such a graph is recognised by its sizes.
    """

    def __init__(self, runtime: Any, file: Path, request: Request) -> None:
        self.runtime, self.file, self.spec = runtime, file, request.spec
        self.session: Any = None
        self.provider = ""
        self.inner: str | None = None  # a tensor that the graph does not declare as an output
        self.place(torch.device("cpu"))
        wanted = request.options.get("output")
        if wanted is not None:
            self._provide(wanted)
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
        self.output = next(iter(kinds)) if wanted is None else wanted
        if not kinds[self.output].startswith("tensor("):
            raise SynbenchError(
                f"encoder {self.spec}: expected an output that is a tensor, got {self.output!r} of type "
                f"{kinds[self.output]}"
            )
        shape = [size if isinstance(size, int) and size > 0 else None for size in self.input.shape]
        self.batch = shape[0] if shape else None
        sizes = shape[1:]
        self.channels_last = (
            len(sizes) > 2 and sizes[-1] in _IMAGE_CHANNELS and sizes[0] not in _IMAGE_CHANNELS
        )
        self.sizes = (sizes[-1], *sizes[:-1]) if self.channels_last else tuple(sizes)

    def _provide(self, name: str) -> None:
        """Where `name` is an inner tensor, read the graph again with it as one more output."""
        declared = [one.name for one in self.session.get_outputs()]
        if name in declared:
            return
        inner = onnx_inner(self.file)
        if name not in inner:
            pooled = onnx_pooled(self.file)[:3]
            such = f" (pooled: {', '.join(pooled)})" if pooled else ""
            raise SynbenchError(
                f"encoder: expected an output out of {', '.join(declared)} in {self.spec!r}, or a tensor that "
                f"one of its nodes makes{such}, got {name!r}" + suggest(name, [*declared, *inner])
            )
        self.inner, self.provider = name, ""
        self.place(torch.device("cpu"))

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
            options = self.runtime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            source: str | bytes = str(self.file)
            if self.inner is not None:
                folder = "session.model_external_initializers_file_folder_path"
                options.add_session_config_entry(folder, str(self.file.absolute().parent))
                source = self.file.read_bytes() + _one_more_output(self.inner)
            self.session = self.runtime.InferenceSession(source, options, providers=[where])
        except Exception as error:
            raise SynbenchError(
                f"encoder: expected an ONNX file, got {self.file} ({first_line(error)})"
            ) from error
        self.provider = provider

    def __call__(self, x: Tensor) -> Tensor:
        values = x.detach().to("cpu", torch.float64 if self.dtype is np.float64 else torch.float32).numpy()
        if self.channels_last:
            values = np.moveaxis(values, 1, -1)
        values = np.ascontiguousarray(values, dtype=self.dtype)
        if self.batch is None:
            result = self._run(values)
        else:
            count, calls = len(values), max(1, -(-len(values) // self.batch))
            padding = np.zeros((calls * self.batch - count, *values.shape[1:]), self.dtype)
            parts = np.split(np.concatenate([values, padding]), calls)
            result = np.concatenate([self._run(part) for part in parts])[:count]
        if result.dtype == np.float16:
            result = result.astype(np.float32)
        return torch.from_numpy(result).to(x.device)

    def _run(self, values: Any) -> Any:
        made = self.session.run([self.output], {self.input.name: values})[0]
        check_rows(self.spec, made.shape, len(values))
        return made


def load(request: Request) -> Loaded:
    """Input shape from the graph; a fixed batch size in it is served by cutting and padding each batch.

    A graph that reads [B, height, width, channels] is given [B, channels, height, width] in that order, so that
    normalisation and patterns are per channel. onnxruntime works on as many CPU threads as torch does here.

    Features are the first output unless `?output=NAME` names another, or any tensor that a node of the graph makes:
    a detector's last block, say, with `pool` reducing its positions. The fingerprint covers the file and
    the files that its tensors lie in, as the graph names them.
    """
    request.refuse("random_init", "checkpoint", reason="the weights are those in the file")
    runtime = require("onnxruntime", "onnx", request.spec)
    file = existing_file("encoder", request.name)
    session = _Session(runtime, file, request)
    own, wanted = session.sizes, request.input_shape
    agrees = wanted is None or (
        len(wanted) == len(own) and all(size in (None, n) for size, n in zip(own, wanted, strict=True))
    )
    if own and not agrees:
        raise SynbenchError(
            f"input_shape: expected {str(own).replace('None', 'any')}, which {request.spec} fixes in its graph"
            + (", channels first," if session.channels_last else ",")
            + f" got {wanted}"
        )
    complete = tuple(size for size in own if size is not None)
    return Loaded(
        forward=session,
        module=None,
        name=request.name,
        input_shape=complete if complete and len(complete) == len(own) else None,
        weights_sha256=file_sha256([file, *onnx_data(file)]),
        parameters=onnx_parameters(file),
        layout=Layout(channels_last=session.channels_last),
        place=session.place,
    )

"""Local weights, read without executing code, and the fingerprint of what was loaded."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.runtime.local_files import file_sha256, split_checkpoint

__all__ = [
    "check_archive",
    "existing_file",
    "file_sha256",
    "load_checkpoint",
    "module_sha256",
    "parameter_count",
    "read_checkpoint",
    "state_sha256",
]

_COUNT = "num_batches_tracked"  # of a normalisation: any number will do, and none
_UNUSUAL = "quantised, sparse or empty"
_NESTED = 8  # containers within containers that are looked into for state dicts
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
    file = Path(os.path.expanduser(path))
    if not os.path.isfile(file):  # False for a name that no file can have
        raise SynbenchError(f"{argument}: expected an existing file, got {path}")
    return file


def _foreign(error: Exception) -> str:
    """What else than tensors a pickle holds, in torch's words for it, such as argparse.Namespace."""
    named = re.search(r"\bGLOBAL ([\w.]+)", str(error))
    return f"it holds {named[1]}; save the state dict alone" if named else type(error).__name__


def module_sha256(module: nn.Module) -> str:
    """`state_sha256` of all that a module computes with: its state dict, and what that leaves out.

    Beside the state dict stand parameters and buffers that are not in it, tensors and arrays in plain attributes
    (also in lists, tuples and dicts there, and in modules that hide in these), and the code of scripted and traced
    modules with its constants. What a hook computes anew in each forward pass (old weight normalisation) is left
    out. A module without any of these has the fingerprint of its state dict.
    """
    return state_sha256(_content(module, {}))


def state_sha256(state: Mapping[str, Any]) -> str:
    """sha256 over (name, dtype, shape, bytes) of the tensors of a state dict, sorted by name.

    Tensors inside tuples, lists, dicts and packed parameters count under names of their own; the parts of
    quantised, sparse and nested tensors and of subclasses do, too. Numbers and words count by their text.
    """
    digest = hashlib.sha256()
    for name, value in sorted(_leaves("", dict(state), {}), key=lambda leaf: leaf[0]):
        if isinstance(value, np.ndarray):
            digest.update(f"{name}\0{value.dtype.name}\0{value.shape}\0".encode())
            digest.update(value.astype(value.dtype.newbyteorder("=")).tobytes())
        elif isinstance(value, Tensor):
            digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            flat = value.detach().to("cpu").resolve_conj().resolve_neg().contiguous().reshape(-1)
            if flat.numel():
                digest.update(flat.view(torch.uint8).numpy().data)
        else:
            digest.update(f"{name}\0{type(value).__name__}\0{value!r}\0".encode())
    return digest.hexdigest()


def _content(module: nn.Module, seen: dict[int, Any]) -> dict[str, Any]:
    """Named values of a module and its submodules; `seen` holds containers and modules that were listed already."""
    content = dict(module.state_dict())
    parts = [
        (f"{name}." if name else "", part) for name, part in module.named_modules() if id(part) not in seen
    ]
    seen |= {id(part): part for _, part in parts}
    for prefix, part in parts:
        own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False), *vars(part).items()]
        left_out = {"_parameters", "_buffers", "_modules"}
        for hook in part._forward_pre_hooks.values():
            if type(hook).__module__.startswith("torch.nn.utils."):  # its product, an attribute
                left_out |= {getattr(hook, name, "") for name in ("name", "_tensor_name")}
        if isinstance(part, torch.fx.GraphModule):
            left_out.add("meta")
            content[f"{prefix}code"] = part.code
        elif isinstance(part, torch.jit.ScriptModule) and hasattr(part, "forward"):
            code, constants = part.code_with_constants
            content |= {f"{prefix}code": code, f"{prefix}constants": constants.const_mapping}
        for name, value in own:
            if name not in left_out and prefix + name not in content:
                content |= {
                    inside: leaf
                    for inside, leaf in _leaves(prefix + name, value, seen)
                    if isinstance(leaf, Tensor | np.ndarray)
                }
    return content


def _leaves(name: str, value: Any, seen: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    """Plain tensors, arrays, numbers and words inside a value, with their names."""
    if nn.parameter.is_lazy(value):
        raise SynbenchError(
            f"encoder: expected weights that have values, got {name} without; run a batch through it"
        )
    inside = _parts(value, seen)
    if inside is not None:
        seen[id(value)] = value
        for key, one in inside.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), one, seen)
    elif isinstance(value, Tensor):
        if not value.is_meta:
            yield name, value
    elif isinstance(value, np.ndarray):
        if value.dtype.kind in "biufc":
            yield name, value
    elif value is None or isinstance(
        value, bool | int | float | complex | str | bytes | bytearray | torch.dtype
    ):
        yield name, value
    elif isinstance(value, io.BytesIO):
        yield name, value.getvalue()


def _parts(value: Any, seen: dict[int, Any]) -> Mapping[Any, Any] | None:
    """What a container, a packed parameter or a tensor of a special kind consists of; None for plain values."""
    if id(value) in seen:
        return {}
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if isinstance(value, torch.ScriptObject):
        return {"packed": value.__getstate__()} if value._has_method("__getstate__") else {}  # type: ignore[attr-defined]
    if isinstance(value, nn.Module):
        return _content(value, seen)
    if not isinstance(value, Tensor):
        return None
    if hasattr(value, "__tensor_flatten__"):
        names, _ = value.__tensor_flatten__()
        return {"class": type(value).__name__, **{name: getattr(value, name) for name in names}}
    if value.is_quantized:
        scheme = value.qscheme()
        facts: dict[str, Any] = {"scheme": str(scheme), "integers": value.int_repr()}
        if scheme in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            return facts | {"scale": np.array([value.q_scale(), value.q_zero_point()])}
        scales, zeros = value.q_per_channel_scales(), value.q_per_channel_zero_points()
        return facts | {"axis": np.array(value.q_per_channel_axis()), "scales": scales, "zero_points": zeros}
    if value.is_nested:
        return dict(enumerate(value.unbind()))
    if value.layout is not torch.strided:
        if value.layout is torch._mkldnn:  # type: ignore[attr-defined]
            return {"dense": value.to_dense()}
        entries = value.detach().to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
        return {"shape": np.array(value.shape), "indices": entries.indices(), "values": entries.values()}
    return None


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def check_archive(argument: str, file: Path) -> None:
    """Refuse a small file of torch.save that would fill the memory, before torch unpacks it.

    The parts of such an archive are stored as they are, so together they are no larger than the file. A pickle
    may also ask for a bytearray of any length, which no weights need.
    """
    with file.open("rb") as stream:
        if stream.read(4) == b"PK\3\4":
            with zipfile.ZipFile(stream) as archive:
                parts = archive.infolist()
                size, held = sum(one.file_size for one in parts), file.stat().st_size
                if size > held or any(one.compress_type != zipfile.ZIP_STORED for one in parts):
                    raise SynbenchError(
                        f"{argument}: expected an archive as torch.save writes it, without compression, "
                        f"got {file}, whose {held} bytes unpack to {size}"
                    )
                pickles = [archive.read(one) for one in parts if one.filename.endswith(".pkl")]
                asks = any(b"\nbytearray\n" in one for one in pickles)
        else:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
                asks = text.find(b"\nbytearray\n") >= 0
    if asks:
        raise SynbenchError(f"{argument}: expected tensors and plain containers, got a bytearray in {file}")


def read_checkpoint(path: str) -> dict[str, dict[str, Tensor]]:
    """The dicts of named tensors in a safetensors file or a torch.save, by the keys that lead to each, with dots.

    A plain state dict has the key ''. Nothing in the file is executed: pickles go through
    torch.load(weights_only=True), which refuses anything but tensors and plain containers.
    """
    file = existing_file("checkpoint", str(split_checkpoint(path)[0]))
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
            check_archive("checkpoint", file)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = torch.load(file, map_location="cpu", weights_only=True)
        except SynbenchError:
            raise
        except Exception as error:
            raise SynbenchError(
                f"checkpoint: expected safetensors or a torch.save of a plain state dict, got {path}, "
                f"which cannot be read without executing code ({_foreign(error)})"
            ) from error
    groups = dict(_groups("", content, {}))
    if not groups:
        raise SynbenchError(f"checkpoint: expected a state dict of named tensors, got {path} without any")
    return groups


def _groups(keys: str, content: Any, seen: dict[int, Any]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dict of named tensors in nested containers, each container once: a pickle may contain itself."""
    if not isinstance(content, Mapping | list | tuple) or id(content) in seen or keys.count(".") >= _NESTED:
        return
    seen[id(content)] = content
    pairs = list(content.items()) if isinstance(content, Mapping) else list(enumerate(content))
    tensors = {key: value for key, value in pairs if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield keys, tensors
    for key, value in pairs:
        yield from _groups(f"{keys}.{key}" if keys else str(key), value, seen)


class _Candidate(NamedTuple):
    """Weights of the encoder as one place of a checkpoint has them: `group[prefix + key]` for each of its keys."""

    name: str  # of the place, as in FILE#NAME
    prefix: str
    group: dict[str, Tensor]
    chosen: dict[str, Tensor]

    def has(self, keys: Iterable[str], expected: Mapping[str, Tensor]) -> bool:
        """Whether all `keys` are there, in the shapes that are expected."""
        return all(key in self.chosen and self.chosen[key].shape == expected[key].shape for key in keys)

    def equals(self, other: _Candidate) -> bool:
        """Whether both have the same values, counts of batches apart: those do not reach the features."""
        shared = [key for key in self.chosen if key in other.chosen and not key.endswith(_COUNT)]
        pairs = [(self.chosen[key], other.chosen[key]) for key in shared]
        plain = all(_kind(one) == _kind(another) != _UNUSUAL for one, another in pairs)
        return plain and all(torch.equal(one, another) for one, another in pairs)


def _candidates(groups: Mapping[str, dict[str, Tensor]], expected: Mapping[str, Tensor]) -> list[_Candidate]:
    """Every place that has some of the expected keys, the one with most of them first, then the shallower one.

    A weight that has several names may be stored under one of them.
    """
    wanted = set(expected)
    depth = 1 + max((key.count(".") for key in wanted), default=0)
    found: list[_Candidate] = []
    for keys, group in groups.items():
        inside: dict[str, dict[str, Tensor]] = {}
        for name, value in group.items():
            parts = name.rsplit(".", depth)
            for first in range(len(parts)):
                key = ".".join(parts[first:])
                if key in wanted:
                    inside.setdefault(name.removesuffix(key), {})[key] = value
        for chosen in inside.values():
            stored = {id(expected[key]): value for key, value in chosen.items()}
            chosen |= {key: stored[id(one)] for key, one in expected.items() if id(one) in stored} | chosen
        found += [
            _Candidate(f"{keys}.{prefix}".strip("."), prefix, group, chosen)
            for prefix, chosen in inside.items()
        ]
    return sorted(found, key=lambda one: (-len(one.chosen), len(one.prefix)))


def _choose(
    found: list[_Candidate],
    key: str | None,
    needed: set[str],
    expected: Mapping[str, Tensor],
    path: str,
    spec: str,
) -> _Candidate:
    """The one place that has all `needed` weights, or the most of them; an error where several differ."""
    file = split_checkpoint(path)[0]
    if key is not None:
        exact = [one for one in found if one.name == key]
        named = exact or [one for one in found if f".{key}." in f".{one.name}."]
        if not named:
            names = [one.name for one in found]
            raise SynbenchError(
                f"checkpoint: expected weights of {spec} under {key!r} in {file}, which has them under "
                f"{_listed(names)}{suggest(key, names)}"
            )
        found = named
    whole = [one for one in found if one.has(needed, expected)]
    if not whole:
        return found[0]
    if any(not whole[0].equals(one) for one in whole[1:]):
        places = sorted(f"{file}#{one.name}" for one in whole)
        raise SynbenchError(
            f"checkpoint: expected one set of weights for {spec}, got {len(places)} that differ; "
            f"name one of {_listed(places, 8)}"
        )
    return whole[0]


def _kind(value: Tensor) -> str:
    """Values of one kind can stand for each other; those of 8 bits are meaningless without their scales."""
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        return _UNUSUAL
    if value.is_floating_point():
        return "floating-point" if value.itemsize > 1 else "8-bit floating-point"
    return "complex" if value.is_complex() else "bool" if value.dtype is torch.bool else "integer"


def _listed(keys: list[str], limit: int = 3) -> str:
    return ", ".join(keys[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")


def load_checkpoint(
    module: nn.Module,
    path: str,
    spec: str,
    *,
    optional: str | None = None,
    unused: frozenset[str] = frozenset(),
) -> bool:
    """Fill `module` from a local file: every weight must be there, only a head may be left over.

    `path` is FILE or FILE#KEY. Weights are looked for in all dicts of the file and behind any common prefix of
    their names; where several places have all of them and differ, KEY has to name one (a part of its name is
    enough, if no other place has it). Missing weights, other shapes, values of another kind (integers for
    floating-point weights) or nothing in common are errors; left-over keys that do not look like a classifier,
    projection or decoder are a UserWarning. Keys below the submodule `optional` may be missing: False is returned
    if they were. Left-over keys with a part in `unused` (the text tower of a vision tower, say) are expected too.
    """
    groups = read_checkpoint(path)
    expected: dict[str, Tensor] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise SynbenchError(
                f"checkpoint: expected None for {spec}, whose weights are packed ({name} is a "
                f"{type(value).__name__}), got {path}; let the factory load them"
            )
        expected[name] = value

    def is_optional(name: str) -> bool:
        return optional is not None and name.startswith(f"{optional}.")

    found = _candidates(groups, expected)
    if not found:
        names = sorted(next(iter(groups.values())))
        raise SynbenchError(
            f"checkpoint: expected weights of {spec} (such as {_listed(sorted(expected))}), "
            f"got {path} with none of them (it has {_listed(names)})"
        )
    parameters = {name for name, _ in module.named_parameters()}
    needed = {name for name in expected if name in parameters and not is_optional(name)} or set(expected)
    candidate = _choose(found, split_checkpoint(path)[1], needed, expected, path, spec)
    prefix, chosen = candidate.prefix, candidate.chosen
    _check_values(candidate, expected, path, spec)
    missing = sorted(name for name in expected if name not in chosen and not name.endswith(_COUNT))
    complete = not any(map(is_optional, missing))
    missing = [name for name in missing if not is_optional(name)]
    if missing:
        raise SynbenchError(
            f"checkpoint: expected all {len(expected)} weights of {spec}, got {path} without "
            + _listed(missing)
        )
    known = HEADS | unused
    others = {one.prefix + name for one in found if one.has(needed, expected) for name in one.chosen}
    left = sorted(
        name
        for name in candidate.group
        if name not in others and not known & set(name.split(".")) and name.removeprefix(prefix) not in chosen
    )
    if left:
        warnings.warn(f"checkpoint: {path} has keys that {spec} does not use: {_listed(left)}", stacklevel=2)
    try:
        module.load_state_dict(chosen, strict=False)
    except RuntimeError as error:
        raise SynbenchError(f"checkpoint: loading {path} into {spec} failed ({first_line(error)})") from error
    return complete


def _check_values(candidate: _Candidate, expected: dict[str, Tensor], path: str, spec: str) -> None:
    """SynbenchError unless shapes and kinds of values fit, and names of one weight have equal values."""
    prefix, chosen = candidate.prefix, candidate.chosen
    first: dict[int, str] = {}
    for name, value in chosen.items():
        if value.shape != expected[name].shape:
            raise SynbenchError(
                f"checkpoint: expected {prefix}{name} of shape {list(expected[name].shape)} for {spec}, "
                f"got {list(value.shape)} in {path}"
            )
        if _kind(value) != _kind(expected[name]) and not name.endswith(_COUNT):
            raise SynbenchError(
                f"checkpoint: expected {prefix}{name} of {_kind(expected[name])} values for {spec}, "
                f"got {value.dtype} in {path}"
            )
        same = first.setdefault(id(expected[name]), name)
        if same != name and not torch.equal(chosen[same], value):
            raise SynbenchError(
                f"checkpoint: expected equal {prefix}{same} and {prefix}{name}, which are one weight of {spec}, got two "
                f"that differ in {path}"
            )

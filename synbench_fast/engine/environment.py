"""Where this process runs: versions, processor, memory, GPUs, revision, and which backend serves what."""

from __future__ import annotations

import os
import platform
import subprocess
import warnings
from functools import cache
from importlib import metadata
from pathlib import Path

from synbench_fast import plugins
from synbench_fast.ops import dispatch
from synbench_fast.results.records import Environment, Gpu

__all__ = ["backends", "chosen_backends", "describe", "memory_bytes"]

_DISTRIBUTIONS = (
    "synbench-fast",
    "torch",
    "numpy",
    "triton",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "timm",
    "torchvision",
    "transformers",
    "safetensors",
    "open-clip-torch",
    "onnxruntime",
    "scikit-learn",
    "matplotlib",
    "typer",
    "rich",
)


def describe() -> Environment:
    """The environment as the result records it and `synbench-fast info` prints it. Imports torch."""
    import torch

    commit, dirty = _own_revision()
    gpus = []
    if _has_gpu():
        for index in range(torch.cuda.device_count()):
            one = torch.cuda.get_device_properties(index)
            gpus.append(
                Gpu(
                    name=one.name,
                    memory_bytes=one.total_memory,
                    compute_capability=f"{one.major}.{one.minor}",
                )
            )
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=_cpu_name(),
        cores=_cores(),
        memory_bytes=memory_bytes(),
        simd=_simd(),
        gpus=gpus,
        cuda=torch.version.cuda,
        versions=_versions() | plugins.used_distributions(),
        git_commit=commit,
        git_dirty=dirty,
    )


def backends() -> dict[str, dict[str, list[str]]]:
    """Operation -> device type -> backends available here, the one that "auto" takes first."""
    devices = ["cpu", *(["cuda"] if _has_gpu() else [])]
    return {
        operation: {device: dispatch.available(operation, device) for device in devices}
        for operation in dispatch.OPERATIONS
    }


def chosen_backends(device: str, backend: str = "auto") -> dict[str, str]:
    """Operation -> the backend that a run on torch device type `device` uses, for the `backend` asked for.

    score_auc gets one number per scale and budget, on the host wherever the features are.
    """
    return {
        operation: dispatch.resolve(operation, "cpu" if operation == "score_auc" else device, backend)
        for operation in dispatch.SCORING
    }


def _has_gpu() -> bool:
    """Whether torch can use one; what it has to say about a driver that it cannot use is for who asks for a GPU."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


# What follows is asked once: a process keeps the code it has loaded, and every score asks.


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine() or "unknown"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Physical memory, or the container's limit where that is lower; 0 where the system does not tell."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def _simd() -> str | None:
    try:
        from synbench_fast import _core
    except ImportError:
        return None
    return str(_core.simd_level())


@cache
def _own_revision() -> tuple[str | None, bool | None]:
    return _revision(Path(__file__).resolve().parent)


def _revision(package: Path) -> tuple[str | None, bool | None]:
    """(commit, uncommitted changes) of the checkout that tracks this package; None where there is none.

    A package installed in a virtual environment inside somebody's repository is not tracked there, and that
    repository's commit says nothing about it.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(package), "-c", "core.fsmonitor=false", *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return commit.strip() if commit else None, bool(status.strip()) if status is not None else None

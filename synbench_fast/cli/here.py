"""The verbs about this installation: ls, info, demo and bench."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer

from synbench_fast import arguments
from synbench_fast.cli.completion import encoder_names
from synbench_fast.cli.options import Output, output_options
from synbench_fast.cli.parsing import argument, command, directory, integer, option, panel, text
from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.messages import say

__all__ = ["bench", "benchmark_script", "demo", "info", "ls"]


@command(
    short_help="List what can be scored here.",
    examples=("synbench-fast ls", "synbench-fast ls 'timm:vit_small*'", "synbench-fast ls --format json"),
)
@argument(
    "pattern",
    text("[PATTERN]", encoder_names),
    "List only the names that match this shell pattern, or contain this text.",
)
@output_options("table", "json", quiet=False, traceback=False)
def ls(*, pattern: str | None, output: Output) -> None:
    """List what can be scored here."""
    from synbench_fast import plugins
    from synbench_fast.encoders.lists import list_file, list_names
    from synbench_fast.encoders.registry import REGISTRY, installed, list_encoders
    from synbench_fast.printable import print_json, print_table
    from synbench_fast.report.terminal import result_stream

    with result_stream() as stream:
        found = list_encoders(pattern)
        sources = [
            {
                "source": prefix,
                "usage": one.usage,
                "description": one.description,
                "installed": installed(prefix),
            }
            for prefix, one in REGISTRY.items()
        ]
        sources += [
            {"source": one.name, "usage": f"{one.name}:NAME", "description": _origin(one), "installed": True}
            for one in plugins.listing("encoders")
            if one.name not in REGISTRY
        ]
        if output.format == "json":
            print_json(stream, {"sources": sources, "lists": list_names(), "encoders": found})
        else:
            if pattern is None:
                rows: list[list[Any]] = [
                    [
                        one["usage"],
                        "yes" if one["installed"] else f'no: pip install "synbench-fast[{one["source"]}]"',
                        one["description"],
                    ]
                    for one in sources
                ]
                print_table(stream, ["source", "installed", "what"], rows, left=3)
                stream.write("\n")
                lists = [[one, str(list_file(one))] for one in list_names()]
                print_table(stream, ["list for --models", "file"], lists, left=2)
                stream.write("\n")
            stream.writelines(f"{one}\n" for one in found)
    if not found and pattern is not None:
        lacking = [one["source"] for one in sources if not one["installed"]]
        asked = [one for one in lacking if pattern.startswith(f"{one}:")]
        missing = "".join(
            f'; {one} is not installed: pip install "synbench-fast[{one}]"' for one in asked or lacking
        )
        raise SynbenchError(
            f"PATTERN: expected part of a name that `synbench-fast ls` lists, got {pattern!r}{missing}"
        )


@command(
    short_help="Print versions, devices and backends.",
    examples=("synbench-fast info", "synbench-fast info --format json"),
)
@output_options("table", "json", quiet=False, traceback=False)
def info(*, output: Output) -> None:
    """Print versions, devices and backends."""
    from synbench_fast import plugins
    from synbench_fast.engine import environment
    from synbench_fast.printable import print_json, print_table
    from synbench_fast.report.terminal import result_stream
    from synbench_fast.results.codec import encode

    with result_stream() as stream:
        here, backends, declared = environment.describe(), environment.backends(), plugins.listing()
        if output.format == "json":
            document = {**encode(here), "backends": backends}
            print_json(stream, document | ({"plugins": [vars(one) for one in declared]} if declared else {}))
            return
        gpus = [f"{one.name}, {one.memory_bytes / 2**30:.0f} GiB" for one in here.gpus]
        rows = [
            ["python", here.python],
            *([name, version] for name, version in here.versions.items()),
            ["platform", here.platform],
            ["processor", f"{here.cpu}, {here.cores} cores, SIMD {here.simd or 'none: core not built'}"],
            ["memory", f"{here.memory_bytes / 2**30:.1f} GiB"],
            ["GPU", "; ".join(gpus) or "none"],
            ["CUDA of torch", here.cuda or "none"],
            ["git commit", (here.git_commit or "none") + (" with changes" if here.git_dirty else "")],
            *(
                [operation, "; ".join(f"{device}: {', '.join(names)}" for device, names in served.items())]
                for operation, served in backends.items()
            ),
            *([f"{one.group}: {one.name}", _origin(one) + _unused(one)] for one in declared),
        ]
        print_table(stream, ["what", "here"], rows, left=2)


def _origin(one: Any) -> str:
    return f"{one.entry} of {one.distribution} {one.version}"


def _unused(one: Any) -> str:
    """A remark for a name that this package has itself."""
    from synbench_fast.checks import ESTIMATORS
    from synbench_fast.encoders.registry import REGISTRY
    from synbench_fast.tasks.suites import SUITES

    own: dict[str, Any] = {"encoders": REGISTRY, "tasks": SUITES, "estimators": ESTIMATORS}
    return ", not used: the name is built in" if one.name in own.get(one.group, ()) else ""


@command(
    short_help="Train, score and attack three small encoders in minutes.",
    examples=("synbench-fast demo", "synbench-fast demo --out story --seed 1"),
)
@panel(
    "Options",
    option("--out", directory(), "Write the plot and the results into this folder.", "synbench-demo"),
    option("--seed", integer(0, 2**32 - 1), "Set the seed of training, samples and attacks.", "0"),
)
def demo(*, out: str, seed: int) -> None:
    """Train, score and attack three small encoders in minutes, offline, on a CPU.

    It compares scores without data with the accuracy on real digits."""
    folder = arguments.folder("--out", out)
    from rich.console import Console

    from synbench_fast.demos.digits import render, run_demo
    from synbench_fast.report.terminal import result_stream

    with result_stream() as stream:
        report = run_demo(folder, seed=seed, progress=say)
        render(report, Console(file=stream, width=None if stream.isatty() else 120))


@command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    short_help="Check parity, then time the operations.",
)
def bench(context: typer.Context) -> int:
    """Check parity, then time the operations.

    Options are those of benchmarks/run.py."""
    script, checkout = benchmark_script(Path(__file__).resolve().parents[1])
    environment = dict(os.environ)
    if checkout is not None:  # the child must measure this package, whatever directory it starts in
        paths = [str(checkout), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run([sys.executable, str(script), *context.args], env=environment, check=False)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def benchmark_script(package: Path) -> tuple[Path, Path | None]:
    """(run.py, checkout root): beside the package in a checkout, else the copy that is installed with it."""
    root = package.parent
    if (root / "CMakeLists.txt").is_file() and (root / "benchmarks" / "run.py").is_file():
        return root / "benchmarks" / "run.py", root
    installed = package / "_benchmarks" / "run.py"
    if installed.is_file():
        return installed, None
    raise SynbenchError(f"bench: expected the benchmark suite in {installed.parent}, got none")

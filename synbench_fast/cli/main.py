"""The `synbench-fast` command. Standard output carries the result and nothing else; every error is one line.

Exit code 0 only if every encoder was scored, 1 if one was not, 2 for a usage error, 130 after Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from synbench_fast import arguments
from synbench_fast.arguments import UsageError
from synbench_fast.cli.compare import compare_command
from synbench_fast.cli.fleet import fleet_options, score_fleet, status_command
from synbench_fast.cli.help import Command
from synbench_fast.cli.inherit import inherit
from synbench_fast.cli.linear_probe import eps_star_command, probe
from synbench_fast.cli.options import (
    BatchSize,
    Center,
    Checkpoint,
    Device,
    Estimator,
    InputShape,
    Integral,
    Mean,
    OpsBackend,
    Pool,
    Preset,
    Prior,
    PublishedPreprocessing,
    Quiet,
    RandomInit,
    Samples,
    Scales,
    Seed,
    Std,
    TableOrJson,
    TrustRemoteCode,
    encoder_options,
    score_options,
)
from synbench_fast.cli.pretrain import pretrain
from synbench_fast.cli.report import export_command, report_command
from synbench_fast.cli.sensitivity import sensitivity_command
from synbench_fast.cli.supervision import supervised
from synbench_fast.cli.validate import validate
from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.runtime.messages import (
    fail,
    flushed,
    parser_message,
    print_trace,
    reason,
    say,
    standard_streams,
)

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """The command group, with every failure as one line on standard error and never a traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        standalone = extra.pop("standalone_mode", True)
        logging.getLogger("huggingface_hub.utils._http").addFilter(_worth_saying)
        extra |= {"standalone_mode": False, "prog_name": "synbench-fast"}
        with standard_streams():
            code = flushed(self._code(*args, **extra))
        if standalone:
            sys.exit(code)
        return code

    def _code(self, *args: Any, **extra: Any) -> Any:
        """The exit code of a command line."""
        try:
            code = super().main(*args, **extra)
        except (KeyboardInterrupt, typer.Abort):
            say("interrupted")
            code = 130
        except SystemExit as error:
            # Of the parser where the reader of standard output has gone, as in `synbench-fast ls | head`; else of code
            # that a spec names: whatever that says, no result is no success.
            code = 1 if isinstance(error.__context__, BrokenPipeError) else fail(first_line(error), 1)
        except UsageError as error:
            code = fail(str(error), 2)
        except SynbenchError as error:
            code = fail(str(error), 1)
        except Exception as error:
            if hasattr(error, "format_message"):
                code = fail(parser_message(error), 2)
            else:
                code = fail(first_line(error), 1)
        return code

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _interruptible():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _interruptible():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            arguments.choice("command", args[0], names)
        return super().resolve_command(ctx, args)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C, at which the parser would end without a word."""
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(130) from None


def _worth_saying(record: logging.LogRecord) -> bool:
    """Not the attempts of the hub's library: that it gave up, and why, is said once. Its own settings bring them back."""
    if os.environ.get("HF_HUB_VERBOSITY") or os.environ.get("HF_DEBUG"):
        return True
    return re.search(r"thrown while requesting|^Retrying in", record.getMessage()) is None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
    help="Judge pretrained representations without data: SynBench scores from synthetic Gaussian tasks.",
    epilog="To begin, without any library or download:\n\n\b\n"
    "  synbench-fast run builtin:conv --preset quick --input-shape 3,16,16",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's) and return its exit code."""
    ended = None
    try:
        command = typer.main.get_command(app)
        given = list(sys.argv[1:] if argv is None else argv)
        with standard_streams():
            ended = supervised() if argv is None and _runs_encoders(given) else None
        code = command.main(args=given, standalone_mode=False)
    except KeyboardInterrupt:
        say("interrupted")
        code = 130
    code = code if isinstance(code, int) else 0
    if ended is not None:
        ended(code)
    return code


def _runs_encoders(given: list[str]) -> bool:
    """Whether this command line runs code of encoders in its own process; a fleet has workers for that."""
    commands = ("run", "eps-star", "probe", "sensitivity", "validate", "inherit")
    fleet = any(one.partition("=")[0] == "--models" for one in given)
    return given[:1] != [] and given[0] in commands and not fleet and not {"--help", "-h"} & set(given)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        import synbench_fast

        print(f"synbench-fast {synbench_fast.__version__}")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


@app.command(cls=Command)
def run(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL...]", help="Encoders, such as timm:resnet50 (see `synbench-fast ls`)."
        ),
    ] = None,
    eps: Annotated[
        str,
        typer.Option(
            metavar="E,...", help="Budgets in [0, 1), in units of half the distance of the classes."
        ),
    ] = "0,0.2",
    thresholds: Annotated[
        str | None,
        typer.Option(
            metavar="A,...",
            help="Threshold accuracies in [0, 1); by default the paper's 0.6, 0.65, ..., 0.95, 0.99, "
            "of which the table shows the lowest.",
        ),
    ] = None,
    estimator: Estimator = "consistent",
    scales: Scales = None,
    samples: Samples = None,
    preset: Preset = "standard",
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="H",
            help="Add samples until no 95 % interval reaches further than H from its score, such as 0.01.",
        ),
    ] = None,
    average: Annotated[
        str,
        typer.Option(
            metavar="auto|sampled|published",
            help="Over the sampled scales, or by a smooth fit over the published 49 (as the presets quick and "
            "standard do).",
        ),
    ] = "auto",
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="SUITE|FILE.toml",
            help="Several tasks, their mean and the worst: published, patterns, covariances, priors, full, "
            "classes:K or a file; by default the published task alone.",
        ),
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            metavar="auto|float32|tf32|bfloat16|float16|float64",
            help="Of the forward pass; fp32, bf16, fp16 and fp64 mean the same.",
        ),
    ] = "auto",
    backend: OpsBackend = "auto",
    batch_size: BatchSize = "auto",
    compile: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Use torch.compile; by default where it repays itself."),
    ] = None,
    seed: Seed = "0",
    prior: Prior = "0.5",
    center: Center = "0.5",
    integral: Integral = "exact",
    input_shape: InputShape = None,
    mean: Mean = None,
    std: Std = None,
    pool: Pool = None,
    checkpoint: Checkpoint = None,
    random_init: RandomInit = False,
    published_preprocessing: PublishedPreprocessing = False,
    trust_remote_code: TrustRemoteCode = False,
    threads: Annotated[
        str | None,
        typer.Option(metavar="N", help="CPU threads; by default all, with --models 1 for each worker."),
    ] = None,
    fleet: Annotated[
        list[str] | None,
        typer.Option(
            "--models",
            metavar="FILE|GLOB",
            help="Many encoders (a file of specs, a pattern in quotes, checkpoints) into the run store --out; "
            "see docs/fleet.md.",
        ),
    ] = None,
    devices: Annotated[
        str | None, typer.Option(metavar="auto|cpu:N|cuda:I,...", help="With --models: where workers run.")
    ] = None,
    workers: Annotated[
        str | None, typer.Option(metavar="N", help="With --models: how many altogether.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="S", help="With --models: seconds for an encoder.")
    ] = None,
    retries: Annotated[
        str | None, typer.Option(metavar="N", help="With --models: after a crash; by default 2.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="auto|local|HOST:PORT", help="With --models: a Ray cluster.")
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --models: of another package, see docs/harnesses.md."),
    ] = None,
    journal: Annotated[
        str | None,
        typer.Option(
            metavar="auto|wal|delete",
            help="With --models: of the store; delete for a file system of a network.",
        ),
    ] = None,
    best: Annotated[
        str | None,
        typer.Option(
            metavar="K",
            help="With --models and --precision: only the best K; no more samples for those that are out.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Also write one JSON file per encoder into DIR; with --models the store."
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option("--format", metavar="table|json|csv", help="json: one document per line and encoder."),
    ] = "table",
    quiet: Quiet = False,
    traceback: Annotated[
        bool,
        typer.Option(
            "--traceback",
            help="Show where an unexpected error came from; with --models it is in the store's folder logs.",
        ),
    ] = False,
) -> None:
    """Score encoders. The result goes to standard output, progress to standard error."""
    if not models and not fleet:
        raise UsageError("MODEL: expected at least one encoder such as timm:resnet50, got none")
    models = models or []
    for model in models:
        if re.fullmatch(r"[-+0-9.,x/]+", model):  # `--eps 0 0.2` would score with the first number, then fail
            raise UsageError(
                f"MODEL: expected SOURCE:NAME, got {model!r}; several numbers are joined by commas, such as --eps 0,0.2"
            )
    many = fleet_options(
        fleet or [], out, device, devices=devices, workers=workers, timeout=timeout, retries=retries, ray=ray,
        journal=journal, best=best, executor=executor,
    )  # fmt: skip
    if checkpoint is not None and fleet:
        raise UsageError(f"--checkpoint: expected checkpoints in --models, got {checkpoint!r} beside it")
    if checkpoint is not None and len(models) > 1:
        raise UsageError(f"--checkpoint: expected a single MODEL to load it into, got {len(models)}")
    options = encoder_options(device, seed, input_shape, mean, std, pool, checkpoint, threads) | score_options(
        eps=eps, estimator=estimator, preset=preset, scales=scales, samples=samples, thresholds=thresholds,
        dtype=dtype, backend=backend, batch_size=batch_size, prior=prior, center=center, integral=integral,
    )  # fmt: skip
    options |= {
        "average": arguments.choice("--average", average, ("auto", "sampled", "published")),
        "random_init": random_init,
        "published_preprocessing": published_preprocessing,
        "trust_remote_code": trust_remote_code,
    }
    if compile is not None:
        options["compile"] = compile
    if precision is not None:
        options["precision"] = arguments.number("--precision", precision, above=0, below=1)
    if tasks is not None:
        from synbench_fast.tasks.suites import load_suite

        try:
            load_suite(tasks)
        except SynbenchError as error:
            text = str(error)
            raise UsageError(f"--{text}" if text.startswith("tasks: ") else f"--tasks: {text}") from None
        options["tasks"] = tasks
    kind = arguments.choice("--format", output, ("table", "json", "csv"))
    folder = None if out is None else arguments.folder("--out", out)
    if many and folder is not None:
        raise typer.Exit(score_fleet(fleet or [], models, options, many, kind, folder, quiet))
    raise typer.Exit(_score_all(models, options, kind, folder, quiet, traceback))


def _score_all(
    models: list[str], options: dict[str, Any], kind: str, folder: Path | None, quiet: bool, trace: bool
) -> int:
    """Score one after the other and deliver each; a failure or Ctrl-C keeps what is done. The exit code."""
    from synbench_fast.report.progress import Reporter
    from synbench_fast.report.terminal import result_stream, sink

    code = 0
    with result_stream() as stream:
        make_sink: Any = sink
        if "tasks" in options:
            from synbench_fast.report.suites import suite_sink as make_sink
        results = make_sink(kind, stream, every_threshold="thresholds" in options)
        reporter = Reporter(sys.stderr, quiet=quiet)
        try:
            for index, spec in enumerate(models):
                label = spec if len(models) == 1 else f"[{index + 1}/{len(models)}] {spec}"
                try:
                    with reporter.encoder(label) as advance:
                        result: Any
                        if "tasks" in options:
                            from synbench_fast.engine.suite import score_suite

                            result = score_suite(spec, progress=advance, **options)
                        else:
                            from synbench_fast.engine.score import score

                            result = score(spec, progress=advance, **options)
                except SystemExit as error:  # of the user's factory: it ends its encoder, not the others
                    code = fail(f"{spec}: {first_line(error)}", 1)
                    continue
                except Exception as error:
                    code = fail(reason(spec, error), 1)
                    if trace and not isinstance(error, SynbenchError):
                        print_trace(error)
                    continue
                for warning in result.warnings:
                    say(f"warning: {spec}: {warning}")
                results.add(result)
                if folder is not None:
                    try:
                        path = result.save(folder / result.file_name())
                    except SynbenchError as error:
                        code = fail(f"{spec}: {error}", 1)
                    else:
                        if not quiet:
                            say(f"wrote {path}")
        except KeyboardInterrupt:
            say("interrupted: what was finished is kept")
            code = 130
        finally:
            results.close()
    return code


app.command("compare", cls=Command)(compare_command)


@app.command("ls", cls=Command)
def list_command(
    pattern: Annotated[
        str | None, typer.Argument(metavar="[PATTERN]", help="Shell pattern or part of a name.")
    ] = None,
    output: TableOrJson = "table",
) -> None:
    """List what can be scored here."""
    kind = arguments.choice("--format", output, ("table", "json"))
    from synbench_fast import plugins
    from synbench_fast.encoders import list_encoders
    from synbench_fast.encoders.registry import REGISTRY, installed
    from synbench_fast.printable import print_json, print_table
    from synbench_fast.report.terminal import result_stream

    with result_stream() as stream:
        found = list_encoders(pattern)
        others = [one for one in plugins.listing("encoders") if one.name not in REGISTRY]
        if kind == "json":
            sources = [
                {
                    "source": prefix,
                    "usage": one.usage,
                    "description": one.description,
                    "installed": installed(prefix),
                }
                for prefix, one in REGISTRY.items()
            ] + [
                {
                    "source": one.name,
                    "usage": f"{one.name}:NAME",
                    "description": _of_plugin(one),
                    "installed": True,
                }
                for one in others
            ]
            print_json(stream, {"sources": sources, "encoders": found})
        else:
            if pattern is None:
                rows = [
                    [
                        one.usage,
                        "yes" if installed(prefix) else f'no: pip install "synbench-fast[{prefix}]"',
                        one.description,
                    ]
                    for prefix, one in REGISTRY.items()
                ]
                rows += [[f"{one.name}:NAME", "yes", _of_plugin(one)] for one in others]
                print_table(stream, ["source", "installed", "what"], rows, left=3)
                stream.write("\n")
            stream.writelines(f"{one}\n" for one in found)
    if not found and pattern is not None:
        raise SynbenchError(
            f"PATTERN: expected part of a name that `synbench-fast ls` lists, got {pattern!r}"
        )


@app.command(cls=Command)
def info(output: TableOrJson = "table") -> None:
    """Print versions, devices and backends."""
    kind = arguments.choice("--format", output, ("table", "json"))
    from synbench_fast import plugins
    from synbench_fast.engine import environment
    from synbench_fast.printable import print_json, print_table
    from synbench_fast.report.terminal import result_stream
    from synbench_fast.results.documents import encode

    with result_stream() as stream:
        here, backends, declared = environment.describe(), environment.backends(), plugins.listing()
        if kind == "json":
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
            *([f"{one.group}: {one.name}", _of_plugin(one) + _unused(one)] for one in declared),
        ]
        print_table(stream, ["what", "here"], rows, left=2)


def _of_plugin(one: Any) -> str:
    return f"{one.entry} of {one.distribution} {one.version}"


def _unused(one: Any) -> str:
    """A remark for a name that this package has itself."""
    from synbench_fast.checks import ESTIMATORS
    from synbench_fast.encoders.registry import REGISTRY
    from synbench_fast.tasks.suites import SUITES

    own: dict[str, Any] = {"encoders": REGISTRY, "tasks": SUITES, "estimators": ESTIMATORS}
    return ", not used: the name is built in" if one.name in own.get(one.group, ()) else ""


app.command("status", cls=Command)(status_command)
# The list of commands cuts longer lines off.
for _name, _command, _short in (
    ("sensitivity", sensitivity_command, "Say how scores and ranking move with the choices of a run."),
    ("eps-star", eps_star_command, "Find the budget with the largest score."),
    ("probe", probe, "Train robust linear probes on labelled data, attack them."),
    ("validate", validate, "Correlate scores with linear probes on labelled data."),
    ("inherit", inherit, "Measure what fine-tuning leaves of robustness."),
    ("pretrain", pretrain, "Compare minimax pre-training with the mean loss."),
    ("report", report_command, "Show stored results as a leaderboard and an HTML page."),
    ("export", export_command, "Hand stored results to MLflow, wandb or a model card."),
):
    app.command(_name, cls=Command, short_help=_short)(_command)


@app.command(cls=Command)
def demo(
    out: Annotated[str, typer.Option(metavar="DIR", help="Where the plot and results go.")] = "synbench-demo",
    seed: Annotated[str, typer.Option(metavar="N", help="Of training, samples and attacks.")] = "0",
) -> None:
    """The whole story in minutes, offline, on a CPU.

    Trains three small encoders, scores them without data and checks the scores against real accuracy."""
    chosen = arguments.integer("--seed", seed, low=0, high=2**32 - 1)
    folder = arguments.folder("--out", out)
    from rich.console import Console

    from synbench_fast.demos.digits import render, run_demo
    from synbench_fast.report.terminal import result_stream

    with result_stream() as stream:
        report = run_demo(folder, seed=chosen, progress=say)
        render(report, Console(file=stream, width=None if stream.isatty() else 120))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def bench(context: typer.Context) -> None:
    """Check parity, then time the operations.

    Options are those of benchmarks/run.py.
    """
    script, checkout = benchmark_script(Path(__file__).resolve().parent)
    environment = dict(os.environ)
    if checkout is not None:  # the child must measure this package, whatever directory it starts in
        paths = [str(checkout), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run([sys.executable, str(script), *context.args], env=environment, check=False)
    raise typer.Exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)


def benchmark_script(package: Path) -> tuple[Path, Path | None]:
    """(run.py, checkout root): beside the package in a checkout, else the copy that is installed with it."""
    root = package.parent
    if (root / "CMakeLists.txt").is_file() and (root / "benchmarks" / "run.py").is_file():
        return root / "benchmarks" / "run.py", root
    installed = package / "_benchmarks" / "run.py"
    if installed.is_file():
        return installed, None
    raise SynbenchError(f"bench: expected the benchmark suite in {installed.parent}, got none")

"""`run --models` and `status`: many encoders, many devices, one store."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from synbench_fast import arguments
from synbench_fast.arguments import UsageError
from synbench_fast.cli.options import TableOrJson
from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.messages import fail, say

__all__ = ["fleet_options", "score_fleet", "status_command"]


def fleet_options(
    models: list[str],
    out: str | None,
    device: str,
    *,
    devices: str | None,
    workers: str | None,
    timeout: str | None,
    retries: str | None,
    ray: str | None,
    journal: str | None,
    best: str | None = None,
    executor: str | None = None,
) -> dict[str, Any]:
    """The options of `run` that need --models, as `run_fleet` takes them; {} if there is no fleet."""
    given = {
        "--devices": devices, "--workers": workers, "--timeout": timeout, "--retries": retries, "--ray": ray,
        "--journal": journal, "--best": best, "--executor": executor,
    }  # fmt: skip
    if not models:
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name}: expected --models beside it, got {value!r} alone")
        return {}
    if out is None:
        raise UsageError("--out: expected a folder for the run store, got none")
    if device != "auto":
        raise UsageError(f"--device: expected --devices for several encoders, got {device!r}")
    from synbench_fast.fleet.database import JOURNALS
    from synbench_fast.fleet.executors import MOST_WORKERS

    options: dict[str, Any] = {"devices": devices or "auto", "ray": ray}
    if executor is not None:
        if ray is not None:
            raise UsageError(f"--executor: expected it without --ray, got both: {executor!r} and {ray!r}")
        from synbench_fast.fleet.launch import find_executor

        find_executor(executor)
        options["executor"] = executor
    if best is not None:
        options["best"] = arguments.integer("--best", best, low=1)
    if workers is not None:
        options["workers"] = arguments.integer("--workers", workers, low=1, high=MOST_WORKERS)
    if timeout is not None:
        options["timeout"] = arguments.number("--timeout", timeout, above=0, below=1e9)
    if retries is not None:
        options["retries"] = arguments.integer("--retries", retries, low=0)
    if journal is not None:
        options["journal"] = arguments.choice("--journal", journal, JOURNALS)
    return options


def score_fleet(
    models: list[str],
    architectures: list[str],
    options: dict[str, Any],
    fleet: dict[str, Any],
    kind: str,
    folder: Path,
    quiet: bool,
) -> int:
    """Score all of them into the store in `folder`, then print their results. The exit code."""
    from synbench_fast.config import ScoreConfig
    from synbench_fast.fleet.launch import run_fleet
    from synbench_fast.fleet.models import expand
    from synbench_fast.report.fleet import watching
    from synbench_fast.report.terminal import result_stream
    from synbench_fast.tasks.suites import load_suite

    named = expand(models, architectures)
    options = dict(options)
    tasks = options.pop("tasks", None)
    options.pop("device", None)
    config = ScoreConfig(**options)
    if "best" in fleet:
        if tasks is not None:
            raise UsageError(f"--best: expected one task, got --tasks {tasks}")
        if config.precision is None:
            raise UsageError("--best: expected --precision beside it, at which scoring ends")
    suite = None if tasks is None else load_suite(tasks)
    with result_stream() as stream:
        try:
            with _terminated(), watching(sys.stderr, quiet=quiet) as watch:
                if "best" in fleet:
                    from synbench_fast.fleet.racing import race

                    found = race(named, folder, config=config, report=watch.report, said=watch.said, **fleet)
                    return _deliver_best(found, stream, kind, folder, "thresholds" in options, quiet)
                jobs = run_fleet(
                    named,
                    folder,
                    config=config,
                    suite=suite,
                    report=watch.report,
                    said=watch.said,
                    **fleet,
                )
        except KeyboardInterrupt:
            say("interrupted: what was finished is kept, the same command goes on")
            return 130
        return _deliver(jobs, stream, kind, folder, suite is not None, "thresholds" in options, quiet)


def _deliver(
    jobs: list[Any], stream: Any, kind: str, folder: Path, suites: bool, every: bool, quiet: bool
) -> int:
    from synbench_fast.report.suites import suite_sink
    from synbench_fast.report.terminal import sink
    from synbench_fast.results.records import Result
    from synbench_fast.results.suite import SuiteResult

    code = 0
    results: Any = (suite_sink if suites else sink)(kind, stream, every_threshold=every)
    for job in jobs:
        if job.state == "done":
            path = folder / "results" / str(job.result)
            try:
                result: Any = (SuiteResult if suites else Result).load(path, own=True)
            except SynbenchError as error:
                code = fail(str(error), 1)
                continue
            for warning in result.warnings:
                say(f"warning: {job.name}: {warning}")
            results.add(result)
    results.close()
    failed = [job for job in jobs if job.state != "done"]
    for job in failed:
        reason = str(job.reason)
        code = fail(reason if job.name in reason else f"{job.name}: {reason}", 1)
    if not quiet:
        say(_summary(jobs, len(failed), folder))
    return code


def _summary(jobs: list[Any], failed: int, folder: Path) -> str:
    """How many are scored, and how many of them this run found so."""
    from synbench_fast.fleet.database import FILE

    before = sum(job.before for job in jobs)
    if before == len(jobs):
        what = "the encoder is" if before == 1 else f"all {before} encoders are"
        return f"nothing to do: {what} scored already in {folder / FILE}: {folder / 'results'}"
    earlier = f", {before} of them already before" if before else ""
    return (
        f"scored {len(jobs) - failed} of {len(jobs)} encoders{earlier}, {failed} failed: {folder / 'results'}"
    )


def _deliver_best(found: Any, stream: Any, kind: str, folder: Path, every: bool, quiet: bool) -> int:
    """The results of those left, the best first."""
    from synbench_fast.report.terminal import sink
    from synbench_fast.results.records import Result

    results = sink(kind, stream, every_threshold=every)
    for one in found.left:
        result = Result.load(folder / "results" / one.result, own=True)
        for warning in result.warnings:
            say(f"warning: {one.encoder}: {warning}")
        results.add(result)
    results.close()
    code = 0
    for spec, reason in found.failures.items():
        code = fail(reason if spec in reason else f"{spec}: {reason}", 1)
    if not quiet:
        for line in found.lines()[len(found.stages) :]:
            say(line)
    return code


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM, which batch systems send before they kill, ends a run as Ctrl-C does."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def status_command(
    folder: Annotated[str | None, typer.Argument(metavar="DIR", help="What --out was given.")] = None,
    output: TableOrJson = "table",
) -> None:
    """Say how far `run --models` is, from another shell or later."""
    if folder is None:
        raise UsageError("DIR: expected the folder of a run store, got none")
    kind = arguments.choice("--format", output, ("table", "json"))
    from synbench_fast.fleet.store import read_summary
    from synbench_fast.printable import print_json
    from synbench_fast.report.fleet import print_status
    from synbench_fast.report.terminal import result_stream

    summary = read_summary(os.fspath(folder))
    with result_stream() as stream:
        if kind == "json":
            print_json(stream, summary)
        else:
            print_status(stream, summary)

"""`run --models`: many encoders on many devices, into one store."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from synbench_fast.cli.options import Output, say_mistakes
from synbench_fast.config import ScoreConfig
from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.messages import fail, say

__all__ = ["score_fleet"]


def score_fleet(
    models: Sequence[str],
    architectures: Sequence[str],
    config: ScoreConfig,
    tasks: str | None,
    settings: dict[str, Any],
    folder: Path,
    every: bool,
    output: Output,
    further: Sequence[tuple[str, dict[str, Any]]] = (),
) -> int:
    """Score all of them into the store in `folder`, then print their results. The exit code.

    `settings` are those of run_fleet that the command line has; `every`: tables show every threshold. `further`:
    encoders of a file, with their own arguments.
    """
    from synbench_fast.fleet.launch import run_fleet
    from synbench_fast.fleet.models import expand
    from synbench_fast.report.fleet import watching
    from synbench_fast.report.terminal import result_stream
    from synbench_fast.tasks.suites import load_suite

    named = [*expand(models, architectures), *further]
    if code := say_mistakes(config, named):
        return code
    suite = None if tasks is None else load_suite(tasks)
    with result_stream() as stream:
        try:
            with _terminated(), watching(sys.stderr, quiet=output.quiet) as watch:
                common: dict[str, Any] = {"config": config, "report": watch.report, "said": watch.said}
                if "best" in settings:
                    from synbench_fast.fleet.racing import race

                    found = race(named, folder, **common, **settings)
                    return _deliver_best(found, stream, folder, every, output)
                jobs = run_fleet(named, folder, suite=suite, **common, **settings)
        except KeyboardInterrupt:
            say("interrupted: what was finished is kept, the same command goes on")
            return 130
        return _deliver(jobs, stream, folder, suite is not None, every, output)


def _deliver(jobs: list[Any], stream: Any, folder: Path, suites: bool, every: bool, output: Output) -> int:
    from synbench_fast.report.suites import suite_sink
    from synbench_fast.report.terminal import sink
    from synbench_fast.results.records import Result
    from synbench_fast.results.suite import SuiteResult

    code = 0
    results: Any = (suite_sink if suites else sink)(
        output.format, stream, every_threshold=every, wide=output.wide
    )
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
    missing = [job for job in jobs if job.state != "done"]
    for job in missing:
        reason = str(job.reason)
        code = fail(reason if job.name in reason else f"{job.name}: {reason}", 1)
    output.say(_summary(jobs, len(missing), folder))
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


def _deliver_best(found: Any, stream: Any, folder: Path, every: bool, output: Output) -> int:
    """The results of those left, the best first."""
    from synbench_fast.report.terminal import sink
    from synbench_fast.results.records import Result

    results = sink(output.format, stream, every_threshold=every, ordered=False, wide=output.wide)
    for one in found.left:
        result = Result.load(folder / "results" / one.result, own=True)
        for warning in result.warnings:
            say(f"warning: {one.encoder}: {warning}")
        results.add(result)
    results.close()
    code = 0
    for spec, reason in found.failures.items():
        code = fail(reason if spec in reason else f"{spec}: {reason}", 1)
    for line in found.lines()[len(found.stages) :]:
        output.say(line)
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

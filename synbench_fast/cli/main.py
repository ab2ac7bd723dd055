"""The `synbench-fast` command. Standard output carries the result and nothing else; every error is one line.

Exit code 0 only if every encoder was scored, 1 if one was not, 2 for a usage error, 130 after Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.main import get_command

from synbench_fast.arguments import UsageError
from synbench_fast.cli import here, labelled, linear_probe, stored
from synbench_fast.cli.completion import bash_words
from synbench_fast.cli.parsing import VARIABLE, Group, add, errors, one_line
from synbench_fast.cli.reproduce import reproduce
from synbench_fast.cli.run import run
from synbench_fast.cli.studies import study
from synbench_fast.cli.supervision import supervised
from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.runtime.messages import fail, flushed, say, standard_streams

__all__ = ["app", "commands", "main"]


PROGRAM = "synbench-fast"
MOVED = {
    **{name: f"study {name}" for name in ("eps-star", "sensitivity", "validate", "inherit", "pretrain")},
    "probe": "study linear-probe",
}


class _Commands(Group):
    """The command group, with every failure as one line on standard error and never a traceback."""

    moved = MOVED

    def main(self, *args: Any, **extra: Any) -> Any:
        extra |= {"prog_name": PROGRAM, "complete_var": VARIABLE}
        if VARIABLE in os.environ:  # a shell asks what could come next
            if os.environ[VARIABLE] == "complete_bash":
                bash_words()
            return super().main(*args, **extra)
        standalone = extra.pop("standalone_mode", True)
        logging.getLogger("huggingface_hub.utils._http").addFilter(_worth_saying)
        with standard_streams():
            code = flushed(self._code(*args, **extra, standalone_mode=False))
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
        except (
            SystemExit
        ) as error:  # from code that a spec names: whatever that says, no result is no success
            code = fail(first_line(error), 1)
        except UsageError as error:
            code = fail(str(error), 2)
        except SynbenchError as error:
            code = fail(str(error), 1)
        except errors.UsageError as error:
            code = fail(one_line(error), 2)
        except Exception as error:
            code = fail(first_line(error), 1)
        return code

    def make_context(self, *args: Any, **extra: Any) -> Any:
        try:
            with _ended():
                return super().make_context(*args, **extra)
        except SystemExit as error:  # of --install-completion and --show-completion
            raise typer.Exit(error.code if isinstance(error.code, int) else 0) from None

    def invoke(self, ctx: Any) -> Any:
        with _ended():
            return super().invoke(ctx)


@contextmanager
def _ended() -> Iterator[None]:
    """What the parser would end at in its own way: Ctrl-C, and a reader that has gone, as in `synbench-fast ls | head`."""
    try:
        yield
    except BrokenPipeError:
        raise typer.Exit(1) from None
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
    invoke_without_command=True,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
    help="Judge pretrained representations without data: SynBench scores from synthetic Gaussian tasks.",
    epilog="synbench-fast run builtin:conv --preset quick --input-shape 3,16,16",
    rich_markup_mode=None,  # whose import would take longer than all of help
)


@app.callback()
def _app(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        import synbench_fast

        print(f"{PROGRAM} {synbench_fast.__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


add(
    app, run, stored.compare, stored.report, stored.status, stored.export, here.ls, here.info, here.demo, here.bench
)  # fmt: skip
add(app, reproduce)
add(study, linear_probe.linear_probe, labelled.validate, labelled.inherit)
app.add_typer(study, name="study")
commands: Any = get_command(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's) and return its exit code."""
    ended = None
    try:
        given = list(sys.argv[1:] if argv is None else argv)
        with standard_streams():
            ended = supervised() if argv is None and _runs_encoders(given) else None
        code = commands.main(args=given, standalone_mode=False)
    except KeyboardInterrupt:
        say("interrupted")
        code = 130
    code = code if isinstance(code, int) else 0
    if ended is not None:
        ended(code)
    return code


def _runs_encoders(words: list[str]) -> bool:
    """Whether this command line runs code of encoders in its own process; a fleet has workers for that."""
    if {"--help", "-h"} & set(words) or any(one.partition("=")[0] == "--models" for one in words):
        return False
    studies = [name for name in commands.commands["study"].commands if name != "pretrain"]
    return words[:1] in (["run"], ["reproduce"]) or (
        words[:1] == ["study"] and words[1:2] != [] and words[1] in studies
    )

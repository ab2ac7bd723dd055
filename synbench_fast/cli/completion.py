"""Words that a shell completes the command line to, and what it has to read to do so. No torch is imported."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from synbench_fast import arguments, plugins
from synbench_fast.arguments import UsageError
from synbench_fast.cli.parsing import option, panel, text
from synbench_fast.runtime.messages import say

__all__ = ["PROGRAM", "VARIABLE", "completion_options", "encoder_names", "suite_names"]

PROGRAM = "synbench-fast"
VARIABLE = "_SYNBENCH_FAST_COMPLETE"  # set by the shell's script, which reads words from standard output
SUITES = (
    "published",
    "patterns",
    "covariances",
    "priors",
    "full",
)  # as in tasks/suites.py, which imports torch
SHELLS = ("bash", "zsh", "fish")


def encoder_names() -> list[str]:
    """Sources, and the encoders of this package: the names that need no library to be imported."""
    from synbench_fast.encoders.registry import BUILTIN, REGISTRY

    sources = dict.fromkeys([*REGISTRY, *plugins.names("encoders")])
    return [*(f"{one}:" for one in sources), *(f"builtin:{one}" for one in BUILTIN)]


def suite_names() -> list[str]:
    return [*SUITES, "classes:", *plugins.names("tasks")]


class _Bash(BashComplete):
    """Completion for bash, which takes `builtin:conv` for three words and replaces only the last one.

    The script hands over the line up to the cursor; what is printed leaves out what stands before the last colon.
    """

    source_template = r"""
%(complete_func)s() {
    local IFS=$'\n' line
    COMPREPLY=()
    while IFS= read -r line; do
        case "$line" in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            plain,*) line=${line#plain,}; COMPREPLY+=("$line"); [[ $line == *: ]] && compopt -o nospace ;;
        esac
    done < <(COMP_WORDS="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""
    _before = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)[1:]
        incomplete = "" if not words or line[-1:].isspace() else words.pop()
        self._before = incomplete[: incomplete.rfind(":") + 1]
        return words, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{str(item.value).removeprefix(self._before)}"


add_completion_class(_Bash)


def _script(shell: str) -> str:
    made = get_completion_class(shell)
    assert made is not None
    return made(click.Group(), {}, PROGRAM, VARIABLE).source().strip() + "\n"


def _install(shell: str) -> str:
    """Write the script where the shell reads it at its start; returns what was done."""
    home = Path.home()
    if shell == "fish":
        path, start = home / ".config/fish/completions" / f"{PROGRAM}.fish", None
    else:
        path, start = home / f".config/{PROGRAM}/complete.{shell}", home / f".{shell}rc"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_script(shell), encoding="utf-8")
    if start is None:
        return f"wrote {path}; a new shell completes {PROGRAM}"
    line = f". '{path}'\n"
    before = start.read_text(encoding="utf-8") if start.is_file() else ""
    if line not in before:
        start.write_text(
            before + ("" if before.endswith("\n") or not before else "\n") + line, encoding="utf-8"
        )
    return f"wrote {path}, which {start} reads; a new shell completes {PROGRAM}"


def _shell(name: str, value: str) -> str:
    if value != "auto":
        return arguments.choice(name, value, SHELLS)
    found = Path(os.environ.get("SHELL", "")).name
    if found not in SHELLS:
        raise UsageError(
            f"{name}: expected one of {', '.join(SHELLS)}, got none, and SHELL is {os.environ.get('SHELL', '')!r}"
        )
    return found


def _show(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value and not ctx.resilient_parsing:
        print(_script(_shell("--show-completion", value)), end="")
        ctx.exit()


def _put(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value and not ctx.resilient_parsing:
        shell = _shell("--install-completion", value)
        try:
            say(_install(shell))
        except OSError as error:
            raise UsageError(
                f"--install-completion: expected files that can be written, got {error.filename!r} ({error.strerror})"
            ) from None
        ctx.exit()


def completion_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--install-completion and --show-completion, each with the name of a shell or for the one of $SHELL."""
    common: dict[str, Any] = {"is_flag": False, "flag_value": "auto", "is_eager": True, "expose_value": False}
    shells = text("[bash|zsh|fish]", lambda: SHELLS)
    return cast(Callable[..., Any], panel(
        "Options",
        option("--install-completion", shells, "Install completion for a shell.", callback=_put, **common),
        option("--show-completion", shells, "Print the completion script of a shell.", callback=_show, **common),
    )(function))  # fmt: skip

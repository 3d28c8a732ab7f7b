"""``trimtab``: the composition root. Commands are in ``trimtab.commands``, one file each."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings

import typer

from trimtab.core.errors import TrimtabError, UserError

COMMANDS = (
    "train",
    "resume",
    "validate",
    "plugins",
    "describe",
    "schema",
    "data",
    "show",
    "generate",
    "label-ai",
    "score",
    "evaluate",
    "plot",
    "export",
    "env",
)
"""In the order of the help. ``NAME`` is the function of that name in ``trimtab.commands.NAME``, or
the ``app`` there, which groups commands. A module imports what is heavy inside its functions."""


def build() -> typer.Typer:
    """The command line. Only the commands' own files are imported."""
    app = typer.Typer(
        help="Align language models with objectives chosen by name.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in COMMANDS:
        module = importlib.import_module(f"trimtab.commands.{name.replace('-', '_')}")
        group = getattr(module, "app", None)
        if group is None:
            app.command(name)(getattr(module, name.replace("-", "_")))
        else:
            app.add_typer(group, name=name)
    return app


def main() -> None:
    """Run one command. Exit status: 0, 1 it failed, 2 bad input, 130 Ctrl-C, 143 SIGTERM."""
    signal.signal(signal.SIGTERM, _terminated)
    debug = os.environ.get("TRIMTAB_DEBUG") == "1"
    if not debug:
        warnings.formatwarning = _plain_warning
    try:
        build()(prog_name="trimtab")
    except KeyboardInterrupt:
        sys.exit(130)
    except _Terminated:
        sys.exit(143)
    except Exception as error:
        if debug:
            raise
        sys.exit(_report(error))


class _Terminated(BaseException):
    """SIGTERM came. Nothing that handles errors catches it."""


def _terminated(number: int, _: object) -> None:
    raise _Terminated


def _report(error: Exception) -> int:
    """Say what went wrong on stderr, and give the exit status."""
    if isinstance(error, TrimtabError):
        print(error, file=sys.stderr)
        return getattr(error, "exit_status", 2 if isinstance(error, UserError) else 1)
    print(
        f"this is a fault of trimtab or of a plugin: {type(error).__name__}: {error}\n"
        "Run it again with TRIMTAB_DEBUG=1 to see where.",
        file=sys.stderr,
    )
    return 1


def _plain_warning(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {message}\n"


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("trimtab"))
        raise typer.Exit()


def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Align language models with objectives chosen by name."""

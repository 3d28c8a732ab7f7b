"""``trimtab generate``: chat with a run, an adapter or a model, or sample from it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.commands import AsJson, quiet

if TYPE_CHECKING:
    from trimtab.sides import Answer

HELP = "Ctrl-C stops an answer, Ctrl-D ends. Commands: /new, /seed N, /temperature X, /quit"


def generate(
    where: Annotated[
        str, typer.Argument(metavar="DIR_OR_MODEL", help="A run, a PEFT folder, or a model.")
    ],
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Answer this.", show_default=False)
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Answer each line, or each `prompt` of a JSONL file."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="Beside it: start (of the run), none, or a DIR_OR_MODEL. A chat has the start.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longer answers are cut.", min=1)] = 128,
    temperature: Annotated[float, typer.Option(help="Divides the logits.", min=0.01)] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the samples.", min=0)] = 0,
    plain: Annotated[bool, typer.Option(help="Without the model's chat template.")] = False,
    as_json: AsJson = False,
) -> None:
    """Chat with a run beside what it started from, or sample answers to prompts.

    Without prompts each line is a turn of a chat; type /new, /seed N, /temperature X or /quit.
    With --json, one object a line: prompt, completion, truncated; and against, if there is one.
    """
    from trimtab.core.errors import UserError

    if prompts and prompt is not None:
        raise UserError("give --prompt TEXT or --prompts FILE, one of the two")
    asked = _read(prompts) if prompts else [] if prompt is None else [prompt]
    if not any(asked) and (prompts or prompt is not None):
        raise UserError(f"{prompts or '--prompt'} holds no prompt")
    piped = None if asked else _piped()
    quiet()
    from rich.console import Console

    from trimtab.chat import Chat, Columns, Lines, Records, converse, typed
    from trimtab.plugins.registry import Plugins
    from trimtab.sides import NONE, Settings, sides

    settings = Settings(seed, temperature, max_new_tokens, template=not plain)
    pair = sides(where, against or (NONE if asked else None), Plugins())
    if asked and len(pair) == 1 and not as_json:
        _print(asked, pair[0].answers(asked, settings))
        return
    console, echo = Console(highlight=False), bool(asked or piped)
    lines = Columns(console, echo=echo) if console.is_terminal else Lines()
    view = Records() if as_json else lines
    if asked:
        both = [side.answers(asked, settings) for side in pair]
        for text, *answers in zip(asked, *both, strict=True):
            view.turn(text, [side.label for side in pair], [answers])
        return
    chat = Chat(pair, settings)
    if piped is None:
        view.told(HELP)
    converse(chat, typed(chat) if piped is None else piped, view)


def _print(asked: list[str], answers: list[Answer]) -> None:
    for text, answer in zip(asked, answers, strict=True):
        typer.echo(answer.text if len(asked) == 1 else f"> {text}\n{answer.text}\n")


def _piped() -> Iterator[str] | None:
    """The lines of stdin; None where it is a terminal."""
    from trimtab.core.errors import UserError

    if sys.stdin.isatty():
        return None
    first = next(sys.stdin, None)
    if first is None:
        raise UserError(
            "nothing came by stdin: give --prompt TEXT or --prompts FILE, one of the two; or chat "
            "in a terminal"
        )
    return chain([first], sys.stdin)


def _read(file: Path) -> list[str]:
    from trimtab.core.errors import UserError

    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if file.suffix == ".jsonl":
            return [str(json.loads(line)["prompt"]) for line in lines]
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"cannot read prompts from {file}: {type(error).__name__}: {error}. "
            'It should be text, or JSONL with {"prompt": ...} in each line'
        ) from error
    return lines

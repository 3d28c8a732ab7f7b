"""``trimtab generate``: sample from a run, an adapter or a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from trimtab.commands import AsJson, quiet


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
    max_new_tokens: Annotated[int, typer.Option(help="Longer answers are cut.", min=1)] = 128,
    temperature: Annotated[float, typer.Option(help="Divides the logits.", min=0.01)] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the samples.", min=0)] = 0,
    plain: Annotated[bool, typer.Option(help="Without the model's chat template.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sample answers. With --json, one object a line: prompt, completion, truncated."""
    from trimtab.core.errors import UserError

    asked = _read(prompts) if prompts else [prompt] if prompt else []
    if not asked or (prompt and prompts):
        raise UserError("give --prompt TEXT or --prompts FILE, one of the two")
    quiet()
    from trimtab.core.finished import load_model
    from trimtab.core.policy import POLICY
    from trimtab.core.sampling import prompt_ids, sample, stop_ids, uniforms
    from trimtab.plugins.registry import Plugins

    model, tokenizer = load_model(where, Plugins())
    ids = [prompt_ids(tokenizer, text, chat=not plain) for text in asked]
    drawn = uniforms(seed, 0, range(len(ids)), max_new_tokens)
    with model.role(POLICY):
        stops = stop_ids(model.base, tokenizer)
        made = sample(model, ids, drawn, stops=stops, temperature=temperature)
    for text, completion in zip(asked, made, strict=True):
        answer = tokenizer.decode(completion.tokens, skip_special_tokens=True)
        if as_json:
            line = {"prompt": text, "completion": answer, "truncated": completion.truncated}
            typer.echo(json.dumps(line))
        else:
            typer.echo(answer if len(asked) == 1 else f"> {text}\n{answer}\n")


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

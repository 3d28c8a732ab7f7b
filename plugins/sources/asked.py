"""The prompts that an evaluation answers in place of those of the rows held out."""

from __future__ import annotations

from typing import Any

from trimtab.core.errors import UserError
from trimtab.core.source import Prompt, Setting
from trimtab.plugins.sources.answering import prompt_of
from trimtab.plugins.sources.corpus import read_corpus
from trimtab.plugins.sources.kinds import PROMPTS


def asked_apart(setting: Setting) -> list[Prompt]:
    """What ``data.eval_prompts`` holds out; nothing where it is null.

    It is held out as where that data set is trained on: what it holds out of its own, else
    ``data.holdout`` of its prompts.
    """
    name = setting.data.eval_prompts
    if name is None:
        return []
    own: dict[str, Any] = {
        "train": name,
        "eval": None,
        "columns": {},
        "convert": None,
        "limit": None,
    }
    corpus = read_corpus(setting.data.model_copy(update=own), PROMPTS, setting.tokenizer)
    corpus.check()
    if not corpus.held_out and setting.data.holdout:
        raise UserError(f"data.eval_prompts: {name} holds no prompts out")
    return [prompt_of(row) for row in corpus.held_out]

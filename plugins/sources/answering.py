"""Prompts of a data set, each answered by the policy with a group of completions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from trimtab.core.engine import Completion
from trimtab.core.policy import Policy
from trimtab.core.sampling import uniforms
from trimtab.core.source import Prompt, Setting
from trimtab.plugins.sources.load import Kept
from trimtab.plugins.sources.spelled import WrittenEncoder


def prompt_of(row: Kept) -> Prompt:
    """The row's prompt, with the columns beside it."""
    return Prompt(row.row, tuple(row.tokens.prompt), row.asked, row.columns or {})


def sampled(
    setting: Setting,
    prompts: Sequence[Prompt],
    *,
    seed: int,
    draw: int,
    stream: Callable[[int, int], int],
) -> list[list[Completion]]:
    """A group of completions for each prompt; this process samples its share of the groups.

    Completion c of prompt g is drawn by the stream ``stream(g, c)`` of draw number ``draw``.
    """
    size, rollout, engine = setting.group, setting.rollout, setting.engine
    assert engine is not None
    own = setting.processes.share(len(prompts)).tolist()
    made: dict[int, list[Completion]] = {}
    if own:
        streams = [stream(g, c) for g in own for c in range(size)]
        drawn = uniforms(seed, draw, streams, rollout.max_new_tokens)
        asked = [prompts[g].ids for g in own for _ in range(size)]
        found = engine.sample(asked, drawn, temperature=rollout.temperature)
        made = {g: list(found[i * size : (i + 1) * size]) for i, g in enumerate(own)}
    everywhere = {g: c for part in setting.processes.gather(made) for g, c in part.items()}
    return [everywhere[g] for g in range(len(prompts))]


def one_each(
    setting: Setting,
    prompts: Sequence[Prompt],
    *,
    most: int,
    seed: int,
    draw: int,
    streams: Sequence[int],
) -> list[Completion]:
    """One completion of each prompt, of at most ``most`` tokens, drawn by its own stream."""
    rollout = setting.rollout.model_copy(update={"max_new_tokens": most})
    alone = replace(setting, group=1, rollout=rollout)
    groups = sampled(alone, prompts, seed=seed, draw=draw, stream=lambda group, _: streams[group])
    return [completion for (completion,) in groups]


def unlimited(setting: Setting) -> WrittenEncoder:
    """For prompts that a maker has made longer than rows may be, of what a model wrote."""
    data = setting.data.model_copy(update={"max_prompt_tokens": sys.maxsize})
    return WrittenEncoder(setting.tokenizer, data)


def context_of(policy: Policy | None) -> int | None:
    """Tokens that the model has positions for, where it says so."""
    config = getattr(getattr(policy, "base", None), "config", None)
    found: int | None = None
    if config is not None:
        found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found

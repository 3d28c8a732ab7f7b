"""Policies to sample from side by side: a result and, by default, what it started from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.config import ModelConfig
from trimtab.core.errors import UserError
from trimtab.core.finished import is_run, load_together, policy_of, start_of
from trimtab.core.lm import LanguageModel
from trimtab.core.model import locate
from trimtab.core.policy import POLICY, REFERENCE
from trimtab.core.sampling import sample, stop_ids, stream, uniforms

RESULT, START, NONE = "result", "start", "none"
AGAINST = "against"
"""The role of the adapter that stands beside the result's, on the same base."""

Turn = Mapping[str, str]


@dataclass(frozen=True)
class Settings:
    """How answers are sampled."""

    seed: int = 0
    temperature: float = 1.0
    width: int = 128
    """Tokens of an answer at most."""

    template: bool = True
    """Ask by the model's chat template, where it has one."""


@dataclass(frozen=True)
class Answer:
    """What a side said."""

    text: str
    truncated: bool
    """Did it not end by itself?"""

    stopped: bool = False
    """Did the user end it?"""


@dataclass(frozen=True)
class Side:
    """One policy."""

    label: str
    model: LanguageModel
    tokenizer: Any
    role: str = POLICY

    @property
    def stops(self) -> frozenset[int]:
        """What ends an answer."""
        return stop_ids(self.model.base, self.tokenizer)

    @property
    def longest(self) -> int | None:
        """Tokens that the model has positions for, where it says so."""
        config = self.model.base.config.get_text_config()
        return getattr(config, "max_position_embeddings", None)

    def ids(self, turns: Sequence[Turn], settings: Settings) -> list[int]:
        """The tokens of a conversation, by the chat template; or of its texts, a line each."""
        if settings.template and self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(
                list(turns), tokenize=False, add_generation_prompt=True
            )
            return list(self.tokenizer(text, add_special_tokens=False).input_ids)
        return list(self.tokenizer("\n".join(turn["content"] for turn in turns)).input_ids)

    def answers(self, texts: Sequence[str], settings: Settings) -> list[Answer]:
        """One to each prompt; with the same seed, from the same random numbers on every side."""
        prompts = [self.ids([{"role": "user", "content": text}], settings) for text in texts]
        drawn = uniforms(settings.seed, 0, range(len(prompts)), settings.width)
        with self.model.role(self.role):
            made = sample(
                self.model, prompts, drawn, stops=self.stops, temperature=settings.temperature
            )
        return [Answer(self._text(each.tokens), each.truncated) for each in made]

    def says(self, prompt: Sequence[int], turn: int, settings: Settings) -> Iterator[Answer]:
        """The answer to the turn of that number as it grows."""
        drawn = uniforms(settings.seed, turn, [0], settings.width)
        stops, temperature = self.stops, settings.temperature
        tokens: list[int] = []
        with self.model.role(self.role):
            for token in stream(self.model, prompt, drawn, stops=stops, temperature=temperature):
                tokens.append(token)
                yield Answer(self._text(tokens), token not in stops)

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


def sides(where: str, against: str | None, registry: Any) -> list[Side]:
    """What ``against`` names, then the result; the result alone where it is ``none``.

    ``start`` is what a run started from, or a PEFT folder's base; None is that, if there is one.
    Both are on one base in memory where they have the same; a plain model, or an adapter alone, is
    held as the result's base is.
    """
    config, adapter = policy_of(where, registry)
    result = (RESULT, POLICY, adapter)
    if against == NONE:
        return _together(config, [result])
    started = against in (START, None)
    given = start_of(where, registry) if started else policy_of(str(against), registry)
    if given is None and against is None:
        return _together(config, [result])
    if given is None:
        raise UserError(
            f"{where} is a plain model, and has no start: give --against DIR_OR_MODEL, or none"
        )
    base, folder = given
    other = (START if started else str(against), AGAINST, folder)
    if _same(config, base, as_held=not started and not _of_run(str(against))):
        return _together(config, [other, result])
    return [*_together(base, [other]), *_together(config, [result])]


def _together(config: ModelConfig, asked: Sequence[tuple[str, str, Path | None]]) -> list[Side]:
    """Policies on one base: the label of each, its role, and its adapter if it has one."""
    folders = {role: folder for _, role, folder in asked if folder is not None}
    model, tokenizer = load_together(config, folders)
    bare = REFERENCE if folders else POLICY
    return [
        Side(label, model, tokenizer, role if role in folders else bare)
        for label, role, _ in asked
    ]


def _of_run(where: str) -> bool:
    """Is it a run's directory, or its adapter's?"""
    path = Path(where).expanduser()
    return is_run(path) or is_run(path.parent)


def _same(config: ModelConfig, other: ModelConfig, *, as_held: bool) -> bool:
    """The same base, held alike unless the other one does not say how."""
    if locate(config.name) != locate(other.name):
        return False
    held = (config.quantization, config.dtype, config.trust_remote_code)
    return as_held or held == (other.quantization, other.dtype, other.trust_remote_code)

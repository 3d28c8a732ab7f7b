"""The judge ``local``: any causal model in this process, or the run's own base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import model_validator

from trimtab.core.choices import option_logps
from trimtab.core.config import ModelConfig
from trimtab.core.errors import UserError
from trimtab.core.files import to_json
from trimtab.core.hookspecs import hookimpl
from trimtab.core.judge import JudgeSetting
from trimtab.core.lm import LanguageModel
from trimtab.core.memory import within_memory
from trimtab.core.model import (
    compute_dtype,
    device,
    load_base,
    load_tokenizer,
    locate,
    micro_tokens,
    most_read,
)
from trimtab.core.options import LocalPath, PositiveInt
from trimtab.core.policy import BASE
from trimtab.core.roles import Roles
from trimtab.core.sampling import sample, stop_ids, uniforms
from trimtab.core.seeds import mixed
from trimtab.plugins.judges.chat import ChatConfig, ChatJudge
from trimtab.plugins.judges.question import Answer, Question
from trimtab.plugins.judges.turns import TurnEncoder


class LocalConfig(ChatConfig):
    """Which model, and how it is held."""

    model: Annotated[str | None, LocalPath()] = None
    """A hub id, a folder, or the embedded model. null is the base that the run has in memory, with
    every adapter off: feedback of the model on itself, at no extra memory."""

    quantization: Literal["nf4", "int8", "none"] = "nf4"
    """How ``model`` is held."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of ``model`` and its computation; auto is bfloat16 on a GPU, float32 on a CPU."""

    trust_remote_code: bool = False
    """Run Python code that comes with ``model``."""

    micro_tokens: PositiveInt | None = None
    """Tokens read at a time; null is what the run reads, or what suits the device."""

    @model_validator(mode="after")
    def _says_how_a_model_is_held(self) -> Self:
        fields = type(self).model_fields
        for name in ("quantization", "dtype", "trust_remote_code"):  # a resolved file gives all
            if self.model is None and getattr(self, name) != fields[name].default:
                raise ValueError(
                    f"{name} is of the judge's own model, and this judge reads the run's base, "
                    "which the section model describes: name a model, or leave it out"
                )
        return self


@dataclass(frozen=True)
class _Asked:
    """A question as tokens."""

    question: Question
    prompt: Sequence[int]
    options: Sequence[Sequence[int]]
    most: int
    """Tokens of the answer, at most."""


class LocalJudge(ChatJudge[LocalConfig]):
    """A causal model in this process, loaded as trimtab loads any.

    Options are judged by their exact log-probs:

        log P(option) = sum over its tokens of log pi(token | the prompt, the tokens before)

    What it writes is drawn from a random stream that follows from the seed and the question: in
    float32 the same question gets the same text in any batch, order, process or resumed run. A
    question that is longer than the model can read is not answered, and says why.
    """

    name = "local"
    options = LocalConfig
    literal = True

    def __init__(self, config: LocalConfig) -> None:
        super().__init__(config)
        self.shares_base = config.model is None
        self._counts: Counter[str] = Counter()

    def check(self) -> None:
        if self.config.model is not None:
            locate(self.config.model)

    def open(self, setting: JudgeSetting) -> None:
        super().open(setting)
        self._model = self._own() if self.config.model is not None else self._shared()
        self._tokenizer = (
            setting.tokenizer
            if self.config.model is None
            else load_tokenizer(self.config.model, trust_remote_code=self.config.trust_remote_code)
        )
        self._stops = stop_ids(self._model.base, self._tokenizer)
        self._encoder = TurnEncoder(self._tokenizer)
        self._limit = most_read(self._model.base.config.get_text_config(), self._tokenizer)

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        self._keep_small()
        answers: dict[int, Answer] = {}
        choices: dict[int, _Asked] = {}
        texts: dict[tuple[int, float], dict[int, _Asked]] = {}
        for n, question in enumerate(questions):
            asked = self._asked_of(question)
            if (why := self._too_long(asked)) is not None:
                answers[n] = Answer(None, why=why)
            elif question.options:
                choices[n] = asked
            else:
                alike = texts.setdefault((question.max_tokens, question.temperature), {})
                alike[n] = asked
        with self._model.role(BASE):
            if choices:
                answers |= zip(choices, self._chosen(list(choices.values())), strict=True)
            for (most, temperature), some in texts.items():
                written = self._written(list(some.values()), most, temperature)
                answers |= zip(some, written, strict=True)
        return [answers[n] for n in range(len(questions))]

    def counts(self) -> dict[str, int]:
        found, self._counts = dict(self._counts), Counter()
        return found

    def describe(self) -> Mapping[str, Any]:
        """The model by its name and the hash of its weights, and how it is held and asked."""
        base, held = self._model.base, self._held()
        revision = getattr(base.config, "_commit_hash", None)
        shared = self.shares_base
        hashed = self.setting.policy if shared and self.setting.policy else self._model
        return {
            **super().describe(),
            "model": held.name,
            **({"revision": revision} if revision else {}),
            "weights": hashed.weights,
            "the_runs_base": shared,
            "quantization": held.quantization,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "turns": self._encoder.written,
        }

    def _held(self) -> ModelConfig:
        """The model that judges, as the section ``model`` would have it."""
        if self.config.model is None:
            return self.setting.model
        return ModelConfig(
            name=self.config.model,
            quantization=self.config.quantization,
            dtype=self.config.dtype,
            trust_remote_code=self.config.trust_remote_code,
        )

    def _own(self) -> LanguageModel:
        place, config = device(), self._held()
        model = LanguageModel(
            Roles(load_base(config, place), None, frozen=True),
            dtype=compute_dtype(config, place),
            micro_tokens=micro_tokens(self.config, place),
        )
        model.check_head()
        return model

    def _shared(self) -> LanguageModel:
        """The run's base, to be read with micro-batches of its own."""
        policy = self.setting.policy
        assert policy is not None
        if not policy.roles.base_stays:
            raise UserError(
                "the judge 'local' without a model reads the base that the run has in memory, and "
                "this run trains that base itself (model.adapter is null): give judge.model, or "
                "train an adapter"
            )
        return LanguageModel(
            policy.roles,
            dtype=policy.dtype,
            micro_tokens=self.config.micro_tokens or policy.micro_tokens,
        )

    def _keep_small(self) -> None:
        """After an out-of-memory of the run, the judge on its base reads no more at a time."""
        if self.shares_base and self.setting.policy is not None:
            less = min(self._model.micro_tokens, self.setting.policy.micro_tokens)
            self._model.micro_tokens = less

    def _asked_of(self, question: Question) -> _Asked:
        prompt = self._encoder.encode(question.turns)
        options = self._encoder.options(prompt, question.options)
        most = max(map(len, options)) if options else question.max_tokens
        return _Asked(question, prompt.ids, options, most)

    def _too_long(self, asked: _Asked) -> str | None:
        if len(asked.prompt) + asked.most <= self._limit:
            return None
        return (
            f"the question has {len(asked.prompt)} tokens and its answer may have {asked.most}, "
            f"and {self._held().name} reads {self._limit} at most"
        )

    def _chosen(self, some: Sequence[_Asked]) -> list[Answer]:
        """Of questions with options."""
        prompts, options = [one.prompt for one in some], [one.options for one in some]
        logps = within_memory(self._model, lambda: option_logps(self._model, prompts, options))
        self._counts.update(requests=len(some), prompt_tokens=sum(map(len, prompts)))
        return [
            Answer(None, dict(zip(one.question.options, of_one, strict=True)))
            for one, of_one in zip(some, logps, strict=True)
        ]

    def _written(self, some: Sequence[_Asked], most: int, temperature: float) -> list[Answer]:
        """Texts of up to so many tokens."""
        prompts = [one.prompt for one in some]
        drawn_NT = torch.zeros(len(some), most, dtype=torch.float64)
        if temperature:
            streams = [_stream(one.question) for one in some]
            drawn_NT = uniforms(mixed(self.setting.seed, "judge"), 0, streams, most)
        made = within_memory(
            self._model,
            lambda: sample(
                self._model, prompts, drawn_NT, stops=self._stops, temperature=temperature
            ),
        )
        self._counts.update(
            requests=len(some),
            prompt_tokens=sum(map(len, prompts)),
            completion_tokens=sum(len(one.tokens) for one in made),
        )
        return [self._said(one.tokens) for one in made]

    def _said(self, tokens: Sequence[int]) -> Answer:
        text = self._encoder.ended(self._tokenizer.decode(tokens, skip_special_tokens=True))
        return Answer(text) if text else Answer(None, why="it wrote nothing")


def _stream(question: Question) -> int:
    """The number of a question's random stream, by what is asked."""
    turns = [dict(turn) for turn in question.turns]
    return mixed(to_json([turns, question.max_tokens, question.temperature]))


@hookimpl
def provide_judges() -> list[type]:
    """Register local."""
    return [LocalJudge]

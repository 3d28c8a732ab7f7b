"""The sections of a run file, as frozen models. Plugins' own options are checked by their classes.

This module imports neither torch nor transformers: ``trimtab validate`` answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Le
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from trimtab.core.errors import suggestion
from trimtab.core.model_options import AdapterConfig as AdapterConfig
from trimtab.core.model_options import ModelConfig as ModelConfig
from trimtab.core.options import Config, LocalPath, PositiveFloat, PositiveInt, Share
from trimtab.core.training import TrainConfig, WatchConfig


class DataConfig(Config):
    """Where rows come from, and which of them are used."""

    train: Annotated[str | list[str], LocalPath()]
    """A file (JSON, JSONL, CSV, Parquet), a folder, a datasets id, or rotten-tomatoes[/view].

    ``stages.NAME`` is the data set that an earlier stage made. Of a list, the rows of all.
    """

    eval: Annotated[str | None, LocalPath()] = None
    """Held-out rows, as ``train``; null keeps ``holdout`` of the training rows, by prompt."""

    holdout: Share = 0.1
    """Share of the prompts kept aside for evaluation.

    Used when ``eval`` is null and the data has no split of its own.
    """

    eval_prompts: Annotated[str | None, LocalPath()] = None
    """A data set whose held-out prompts are answered in an evaluation; null answers those of the
    rows held out. For rows that were made of prompts: the prompts that none was made of."""

    limit: PositiveInt | None = None
    """Use only so many training rows, the first after shuffling."""

    eval_limit: PositiveInt | None = 256
    """Use only so many held-out rows."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Our name of a column -> its name in the file, such as ``prompt: question``."""

    convert: (
        Literal["pairs-to-labels", "rankings-to-pairs", "ratings-to-pairs", "votes-to-pairs"]
        | None
    ) = None
    """Make rows of another kind first; null reads them as they are.

    pairs-to-labels: what was chosen is desirable and what was rejected is not, two rows a pair.
    rankings-to-pairs: every comparison in a ranking that is no tie.
    ratings-to-pairs: two completions of a prompt, and P(one is rated higher) over the annotators
    who rated both, else over all pairs of their ratings.
    votes-to-pairs: all judgements of one pair as one, whose preference is the winner's share.
    """

    max_prompt_tokens: PositiveInt = 1024
    """Longer prompts are dropped or cut at their start."""

    max_completion_tokens: PositiveInt = 1024
    """Longer completions are dropped or cut at their end."""

    overlong: Literal["drop", "truncate"] = "drop"
    """What happens to what is longer. Every row is counted either way."""

    max_dropped: Annotated[float, Ge(0)] = 0.1
    """A larger share of dropped rows stops the run before it trains."""

    @field_validator("train")
    @classmethod
    def _names_a_table(cls, train: str | list[str]) -> str | list[str]:
        if not train:
            raise ValueError("this is empty: name the tables to train on")
        return train

    @property
    def tables(self) -> list[str]:
        """What ``train`` names."""
        return [self.train] if isinstance(self.train, str) else self.train

    @property
    def named(self) -> str:
        """What ``train`` names, in a word."""
        return " + ".join(self.tables)


class Selected(Config):
    """A plugin by name, with its options beside the name. The registry checks the options."""

    model_config = ConfigDict(extra="allow")

    name: str
    """Which plugin."""

    @property
    def options(self) -> dict[str, Any]:
        """What stands beside the name."""
        return dict(self.model_extra or {})


RESHAPING = frozenset(
    (
        "top_p",
        "top_k",
        "min_p",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "no_repeat_ngram_size",
    )
    + ("repetition_penalty", "presence_penalty", "frequency_penalty", "num_beams")
)
"""Settings of samplers elsewhere that draw from another distribution than the policy's."""


def _errors_at(model: str, said: Mapping[str, str]) -> ValidationError:
    """Errors at the keys' own places in the file."""
    errors: list[InitErrorDetails] = []
    for key, message in said.items():
        kind = PydanticCustomError("value_error", "{error}", {"error": message})
        errors.append(InitErrorDetails(type=kind, loc=(key,), input=None))
    return ValidationError.from_exception_data(model, errors)


OTHERWISE_DRAWN = (
    "this draws from another distribution than the policy's, and no log-prob of training "
    "would be that of what was drawn: use temperature, which is in all of them"
)


class RolloutConfig(Config):
    """How completions are sampled, in training and in evaluation, and what becomes of scores."""

    engine: Selected = Selected(name="transformers")
    """What generates in training: a name, or a name with options."""

    group: PositiveInt | None = None
    """Completions of each prompt; null is what the objective suggests."""

    max_new_tokens: PositiveInt = 64
    """Longer completions are cut, and count as truncated."""

    temperature: PositiveFloat = 1.0
    """Divides the logits, in every log-prob too."""

    reward_timeout: PositiveFloat = 600.0
    """Seconds that a reward may take for the completions of one step."""

    max_unscored: Annotated[float, Ge(0), Le(1)] = 0.1
    """A larger share of completions of a step that no reward could score stops the run."""

    @model_validator(mode="before")
    @classmethod
    def _engine_by_name(cls, given: Any) -> Any:
        """``engine: transformers`` is short for ``engine: {name: transformers}``."""
        if not isinstance(given, dict):
            return given
        if reshaping := sorted(RESHAPING & given.keys()):
            raise _errors_at(cls.__name__, dict.fromkeys(reshaping, OTHERWISE_DRAWN))
        if isinstance(given.get("engine"), str):
            return {**given, "engine": {"name": given["engine"]}}
        return given


class SelectedReward(Selected):
    """A reward by name, and what it counts among the others."""

    weight: float = 1.0
    """The rewards' scores are added up with these weights; 0 is only watched."""

    label: str | None = None
    """What the log calls it; null is its name."""

    clip: tuple[float, float] | None = None
    """Its scores are kept between these two, before they are weighted."""

    standardize: bool = False
    """Its scores less their running mean, by their running standard deviation, before clipping."""


class StreamSection(Config):
    """Rows of their own for one of the streams that an objective reads beside its batch."""

    data: DataConfig
    source: Selected | None = None
    rows: PositiveInt | None = None
    """In each step; null is ``train.rows``."""


NOTHING_TO_DO = "this is required, unless source names what makes a data set"


class RunFile(Config):
    """One run: what ``trimtab train`` reads, and what the resolved ``config.yaml`` holds."""

    model: ModelConfig = ModelConfig()
    data: DataConfig
    objective: Selected | None = None
    """What is learned; null makes a data set of what ``source`` gives, and trains nothing."""

    reward: list[SelectedReward] = Field(default_factory=list)
    reference: Selected = Selected(name="adapter_off")
    source: Selected | None = None
    judge: Selected | None = None
    rollout: RolloutConfig = RolloutConfig()
    streams: dict[str, StreamSection] = Field(default_factory=dict)
    """Data of the streams that an objective reads beside its batch, by their names."""

    train: TrainConfig = TrainConfig()
    watch: WatchConfig | None = None
    trackers: list[Selected] = Field(default_factory=list)
    plugins: list[str] = Field(default_factory=list)
    """Python files with plugins that are not installed, relative to this file."""

    run: str | None = None
    """Where the run directory is made; null makes one under ``runs/``."""

    @model_validator(mode="after")
    def _learns_or_makes(self) -> Self:
        if self.objective is None and self.source is None:
            raise _errors_at("RunFile", {"objective": NOTHING_TO_DO})
        return self

    @model_validator(mode="after")
    def _watches_a_reward(self) -> Self:
        labels = [reward.label or reward.name for reward in self.reward]
        if self.watch is not None and self.watch.reward not in labels:
            message = (
                f"no reward is labelled {self.watch.reward!r}."
                f"{suggestion(self.watch.reward, labels)} Rewards: {', '.join(labels) or 'none'}"
            )
            raise _errors_at("RunFile", {"watch": message})
        if self.watch is not None and not (self.train.eval_every and self.train.eval_samples):
            message = (
                "this is decided at evaluations along the way, on answers to held-out prompts: "
                "give train.eval_every, and train.eval_samples above 0"
            )
            raise _errors_at("RunFile", {"watch": message})
        return self

    @property
    def learns(self) -> Selected:
        """The objective of a run that trains."""
        assert self.objective is not None
        return self.objective

"""Trained reward models as rewards: ours, on the run's own base, or any sequence classifier.

N completions · R members of an ensemble.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge
from pydantic import Field, model_validator

from trimtab.core.batches import Demonstrations, sequences
from trimtab.core.config import ModelConfig
from trimtab.core.errors import UserError
from trimtab.core.finished import center_of, is_run, load_scorer, reward_members
from trimtab.core.hookspecs import hookimpl
from trimtab.core.lm import LanguageModel
from trimtab.core.model import compute_dtype, device, locate
from trimtab.core.options import Config, LocalPath
from trimtab.core.reward import Group, Reward, RewardSetting, Score
from trimtab.core.scoring import Scored, Scorer
from trimtab.plugins.rewards.sequence_classifier import SequenceClassifier


class RewardModelConfig(Config):
    """Which reward model, and what an ensemble says together: give ``from`` or ``model``."""

    from_: Annotated[str | None, LocalPath()] = Field(None, alias="from")
    """``stages.NAME``, a run of reward models, one member's folder in it, or a PEFT folder.

    On the run's own base it is one more adapter, and not one more model.
    """

    model: Annotated[str | None, LocalPath()] = None
    """Any sequence classifier of transformers: a hub id or a folder, with safetensors."""

    output_label: str | int | None = None
    """Which label of ``model`` is the score, by name or number, where it has several."""

    output: Literal["logit", "probability"] = "logit"
    """What of ``model`` is the score: the logit, or its sigmoid or softmax."""

    reads: Literal["conversation", "completion"] = "conversation"
    """What ``model`` is shown: the prompt with the completion, or the completion alone."""

    combine: Literal["mean", "min", "lower"] = "mean"
    """Of an ensemble's members: their mean, the least of them, or mean - k std over them."""

    k: Annotated[float, Ge(0)] = 1.0
    """Of ``combine: lower``. The standard deviation is unbiased."""

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.from_ is None) == (self.model is None):
            raise ValueError("give from (a run of ours) or model (a classifier), one of the two")
        if self.model is None and (self.output_label is not None or self.output != "logit"):
            raise ValueError("output_label and output are of model, and this reward gives from")
        return self


class RewardModel(Reward[RewardModelConfig]):
    """A reward model's score of each completion, less the center in its ``scores.json``.

    Exactly what ``trimtab score`` says of the same tokens. Members of an ensemble are combined as
    in Coste et al. 2023, arXiv:2310.02743; each is a part in the log.
    """

    name = "reward_model"
    options = RewardModelConfig
    interruptible = False
    independent = True

    def adapters(self, model: ModelConfig) -> Mapping[str, Path]:
        """The members, where they were trained on the base that the run has in memory."""
        if self.config.from_ is None or model.adapter is None:
            return {}
        trained_on, folders = self._members
        if locate(trained_on.name) != locate(model.name):
            return {}
        if _in_a_run(self._path) and _held(trained_on) != _held(model):
            return {}
        return {_role(folder): folder for folder in folders.values()}

    def open(self, setting: RewardSetting) -> None:
        self._setting = setting
        if self.config.model is not None:
            self._classifier = SequenceClassifier(
                self.config.model,
                setting,
                label=self.config.output_label,
                probability=self.config.output == "probability",
                prompted=self.config.reads == "conversation",
            )
            return
        self._shared = self.adapters(setting.model)
        _, folders = self._members
        if self._shared:
            policy = setting.policy
            own = LanguageModel(policy.roles, dtype=policy.dtype, micro_tokens=policy.micro_tokens)
            center = {_role(folder): center_of(folder) for folder in folders.values()}
            self._scorer = Scorer(own, setting.tokenizer, center)
            return
        self._scorer = load_scorer(str(self._path), _plugins())
        if self._scorer.tokenizer.get_vocab() != setting.tokenizer.get_vocab():
            raise UserError(
                f"reward_model: {self._path} was trained on {self._members[0].name!r}, which has "
                f"another vocabulary than {setting.model.name!r}: it would read other words. "
                "Export it (trimtab export), and give the folder as model"
            )

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        judge = self._ours if self.config.model is None else self._classifier.scores
        scores = iter(judge(groups))
        return [[next(scores) for _ in group.completions] for group in groups]

    def describe(self) -> Mapping[str, Any]:
        """Where the scores come from, and the center of each member."""
        if self.config.model is not None:
            return self._classifier.describe()
        config, folders = self._members
        return {
            "base": config.name,
            "on_the_runs_base": bool(self._shared),
            "members": {role: center_of(folder) for role, folder in folders.items()},
        }

    def _ours(self, groups: Sequence[Group]) -> list[Score]:
        """By the tokens that the policy read and sampled, the EOS action included."""
        sampled = [completion for group in groups for completion in group.sampled]
        if not sampled:
            return []
        model = self._scorer.model
        model.micro_tokens = min(model.micro_tokens, self._setting.policy.micro_tokens)
        batch = Demonstrations(
            sequences([one.prompt for one in sampled], [one.tokens for one in sampled])
        )
        scored = self._scorer.score(batch)["responses"]
        several = len(scored.members_RN) > 1
        return [
            Score(value, dict(zip(self._members[1], of_members, strict=True)) if several else {})
            if one.tokens
            else Score(None, why="it is empty")
            for one, value, of_members in zip(
                sampled,
                self._combined(scored),
                scored.members_RN.T.tolist(),
                strict=True,
            )
        ]

    def _combined(self, scored: Scored) -> list[float]:
        value_N = scored.mean_N
        if self.config.combine == "min":
            value_N = scored.members_RN.amin(0)
        elif self.config.combine == "lower":
            value_N = scored.mean_N - self.config.k * scored.spread_N
        values: list[float] = value_N.tolist()
        return values

    @property
    def _path(self) -> Path:
        return Path(str(self.config.from_)).expanduser()

    @cached_property
    def _members(self) -> tuple[ModelConfig, dict[str, Path]]:
        """The base that they were trained on, and each member's folder."""
        return reward_members(self._path, _plugins())


def _role(folder: Path) -> str:
    """One name for one folder, so that two rewards that read it share its adapter."""
    return f"reward_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"


def _in_a_run(path: Path) -> bool:
    """Is it known how its base was held? A PEFT folder alone does not say."""
    return any(is_run(home) for home in (path, path.parent, path.parent.parent))


def _held(model: ModelConfig) -> tuple[str, torch.dtype]:
    return model.quantization, compute_dtype(model, device())


def _plugins() -> Any:
    """What reads the run file of the run that trained the model."""
    from trimtab.plugins.registry import Plugins

    return Plugins()


@hookimpl
def provide_rewards() -> list[type]:
    """Register reward_model."""
    return [RewardModel]

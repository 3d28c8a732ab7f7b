"""Constitutional AI: revise by principles, fine-tune, then learn from what a judge prefers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab import (
    Around,
    Batch,
    Demonstrations,
    Labelled,
    Pairs,
    Part,
    Recipe,
    Rollouts,
    hookimpl,
)
from trimtab.core.recipe import OptionError
from trimtab.objectives.constitutional_options import ConstitutionalConfig
from trimtab.objectives.feedback_options import is_ours, option_of
from trimtab.objectives.feedback_stages import (
    candidates_part,
    check_no_proxy,
    check_nothing_fitted,
    fitted_with,
    given_of,
    gold,
    judge_of,
    labels_part,
    learning,
    proxy,
    reward_model_part,
    untimed,
)

OURS = "trimtab"
"""The constitution that comes with trimtab, where a path could stand."""

COMPARE = "compare"
"""What a judge is asked of a principle, also one that rates where either would do."""

CLAMP = (0.4, 0.6)
"""Of labels after reasoning, which makes a judge too sure: Bai et al. 2022, section 4.1."""

UNUSED = {
    "judged": (),
    "revisions": ("helpful", "fine_tune", "n", "labels"),
    "none": ("n", "labels", "optimizer", "reward_model", "eval"),
}
"""Options that nothing reads, by what ``pairs`` is."""


class Constitutional(Recipe[ConstitutionalConfig]):
    """Critique and revise by written principles, fine-tune on that, then learn from AI feedback.

    Bai et al. 2022, arXiv:2212.08073. A constitution is a list of principles, each with a critique
    request, a revision request and a comparison; they are drawn, and count, by weight.

    The stages: ``revise`` has the policy answer prompts of ``data``, and each answer criticized
    and revised, ``rounds`` times. ``fine-tune`` imitates the last revisions, with ``helpful``
    demonstrations if there are any. ``candidates`` are answers of the tuned policy, which
    ``labels`` has judged in pairs, as P(better) averaged over the principles. ``policy`` learns
    from these, or ``rm`` is fitted to them first and is then its reward.

    The rewards of the file measure, but for those that ask the judge again: drafts, revisions,
    how far labels agree with them, and the fine-tune in evaluations; all of them, ``policy``.
    An optimizer on rollouts adds them, by their weights, to the reward model's: ``weight: 0``
    watches. Without a section ``judge`` the run's own model judges, without its adapters.
    """

    name = "constitutional"
    options = ConstitutionalConfig

    def expand(self, around: Around) -> Sequence[Part]:
        around.refuse_source()
        for option in UNUSED[self.config.pairs]:
            if option in self.config.model_fields_set:
                raise OptionError(option, f"with pairs: {self.config.pairs} nothing reads it")
        return list(_Stages.of(self.config, around).parts())


@dataclass(frozen=True)
class _Stages:
    """The parts, and the choices that they share."""

    config: ConstitutionalConfig
    around: Around
    judge: Mapping[str, Any]
    imitation: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    learns_from: type[Batch]
    fit: Mapping[str, Any] | None
    """What the reward model learns with; None where none is fitted."""

    @classmethod
    def of(cls, config: ConstitutionalConfig, around: Around) -> _Stages:
        """Raises ``OptionError`` for an option that does not fit."""
        imitation = around.objective(
            config.fine_tune.objective, Demonstrations, option="fine_tune.objective"
        )
        optimizer = around.objective(config.optimizer, Pairs, Labelled, Rollouts)
        learns_from = around.learns_from(optimizer["name"])
        fit = None
        if learns_from is Rollouts:
            check_no_proxy(around)
            fit = fitted_with(around, config.reward_model)
        else:
            check_nothing_fitted(config, optimizer)
        return cls(config, around, judge_of(around), imitation, optimizer, learns_from, fit)

    def parts(self) -> Iterator[Part]:
        """In their order."""
        pairs = self.config.pairs
        yield self._revise()
        if pairs != "revisions":
            yield self._fine_tune()
        if pairs == "judged":
            yield self._candidates()
            yield self._labels()
        if pairs != "none":
            labels = "labels" if pairs == "judged" else "revise"
            if self.fit is not None:
                yield self._reward_model(self.fit, labels)
            yield self._policy(labels)

    def _revise(self) -> Part:
        config, around = self.config, self.around
        source = config.revise.model_dump(mode="json")
        if is_ours(config.revise):
            form = "pairs" if config.pairs == "revisions" else "revisions"
            ours = {
                "constitution": config.constitution,
                "rounds": config.rounds,
                "prompts": config.prompts,
                "form": form,
            }
            if source.get("form", form) != form:
                raise OptionError("revise.form", f"it follows from pairs: {config.pairs}")
            source = {**ours, **source}
        asked = option_of(config.revise, "by", "policy") != "policy"
        rollout = {k: v for k, v in around.section("rollout").items() if k != "group"}
        return Part(
            "revise",
            {
                **around.making(around.seed),
                "source": source,
                "rollout": rollout or None,
                "reward": gold(around) or None,
                "judge": self.judge if asked or gold(around) else None,
            },
        )

    def _fine_tune(self) -> Part:
        config, around = self.config, self.around
        made = ["stages.revise", *([config.helpful] if config.helpful else [])]
        return Part(
            "fine-tune",
            {
                **dict.fromkeys(("reference", "streams", "watch")),
                "objective": self.imitation,
                "data": around.learned_from(made, eval=config.fine_tune.eval),
                "model": self._tuned,
                "train": {**untimed(around), **given_of(config.fine_tune.train)},
                "reward": gold(around) or None,
                "judge": self.judge if gold(around) else None,
            },
        )

    def _candidates(self) -> Part:
        """Of the next prompts; of all prompts again, by another seed."""
        prompts, seed = self.config.prompts, self.around.seed
        kept = {k: v for k, v in self._tuned.items() if k not in ("start", "start_as")}
        return candidates_part(
            "candidates",
            self.around,
            n=self.config.n,
            model={**kept, "start": "stages.fine-tune"},
            seed=seed if prompts is not None else seed + 1,
            prompts=prompts,
            skip=prompts or 0,
        )

    def _labels(self) -> Part:
        config, around = self.config, self.around
        source, judge = config.labels.model_dump(mode="json"), dict(self.judge)
        by = option_of(config.labels, "by", "judge")
        if by == "judge":
            soft = self.learns_from is not Labelled  # a thumb is up or down
            ours = {"by": by, "constitution": config.constitution or OURS, "soft": soft}
            source = {**ours, **source}
            judge |= {"mode": COMPARE} if judge.get("mode") else {}
            if source["soft"] and judge.get("reason"):
                source = {"clamp": list(CLAMP), **source}
        if by == "reward" and not around.counting:
            raise OptionError(
                "labels.by", "the run file names no reward that counts: give reward: [{name: ...}]"
            )
        return labels_part(
            "labels",
            around,
            source,
            made="candidates",
            seed=around.seed,
            reward=(around.judging if by == "reward" else gold(around)) or None,
            judge=judge if by in ("judge", None) else None,
        )

    def _reward_model(self, fit: Mapping[str, Any], labels: str) -> Part:
        return reward_model_part(
            "rm",
            self.around,
            self.config.reward_model,
            fit,
            labels=labels,
            seed=self.around.seed,
            held_out=self.config.eval,
        )

    def _policy(self, labels: str) -> Part:
        around, model = self.around, self.around.section("model")
        if self.config.pairs == "judged":
            model["start"] = "stages.fine-tune"
        return Part(
            "policy",
            {
                "objective": self.optimizer,
                "model": model,
                "judge": self.judge if around.rewards else None,
                **learning(
                    around,
                    self.learns_from,
                    labels=labels,
                    held_out=self.config.eval,
                    rewards=[proxy(self.config.reward_model, "rm"), *around.rewards],
                ),
            },
        )

    @property
    def _tuned(self) -> dict[str, Any]:
        """The section ``model`` of the fine-tune."""
        return {**self.around.section("model"), **self.config.fine_tune.model}


@hookimpl
def provide_objectives() -> Sequence[type]:
    """Register constitutional."""
    return [Constitutional]

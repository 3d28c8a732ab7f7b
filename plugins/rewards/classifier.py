"""What people would say of a text, as a small classifier learned it from their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from trimtab.core.hookspecs import hookimpl
from trimtab.core.options import Config, LocalPath
from trimtab.core.reward import Group, Reward, RewardSetting, Score
from trimtab.plugins.rewards.labels import OURS, Labels, Text, labels

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

SEED = 0


class ClassifierConfig(Config):
    """What it is fitted on, and how."""

    data: Annotated[str, LocalPath()] = OURS
    """Unpaired labels: ``rotten-tomatoes/labels``, or a file with prompt, completion and label."""

    half: Literal["first", "second"] = "first"
    """Of the prompts. Two classifiers of different halves share no label, so that one can judge
    what was trained against the other.
    """

    model: Literal["logistic", "naive_bayes"] = "logistic"
    """logistic: regression on words and pairs of words. naive_bayes: on 3 to 6 characters."""

    score: Literal["logit", "probability"] = "logit"
    """Of the good label."""


class ClassifierReward(Reward[ClassifierConfig]):
    """The logit or the probability that people like the completion, whatever the prompt.

    It is fitted when the run starts, in seconds, and always alike. Prompts that are held out of
    training are in neither half; on their completions accuracy and AUC are measured.
    """

    name = "classifier"
    options = ClassifierConfig
    independent = True

    def open(self, setting: RewardSetting) -> None:
        found = labels(self.config.data, self.config.half)
        self._pipeline = PIPELINES[self.config.model]()
        self._pipeline.fit([t.text for t in found.fit], [t.good for t in found.fit])
        self._report = {**_counts(found), **self._measured(found.held_out)}

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        values = iter(self._scores([text for group in groups for text in group.completions]))
        return [[Score(next(values)) for _ in group.completions] for group in groups]

    def describe(self) -> Mapping[str, Any]:
        return {**self.config.model_dump(), **self._report}

    def _scores(self, texts: Sequence[str]) -> list[float]:
        if not texts:
            return []
        if self.config.score == "probability":
            return [float(p) for p in self._pipeline.predict_proba(texts)[:, 1]]
        return self._logits(texts)

    def _logits(self, texts: Sequence[str]) -> list[float]:
        if hasattr(self._pipeline, "decision_function"):
            return [float(x) for x in self._pipeline.decision_function(texts)]
        logps = self._pipeline.predict_log_proba(texts)
        return [float(good - bad) for bad, good in logps]

    def _measured(self, texts: Sequence[Text]) -> dict[str, Any]:
        """On held-out prompts; None where they do not have both labels."""
        from sklearn.metrics import roc_auc_score

        good = [text.good for text in texts]
        if len(set(good)) < 2:
            return {"accuracy": None, "auc": None}
        logits = self._logits([text.text for text in texts])
        right = sum((logit > 0) == mark for logit, mark in zip(logits, good, strict=True))
        return {"accuracy": right / len(good), "auc": float(roc_auc_score(good, logits))}


def _counts(found: Labels) -> dict[str, Any]:
    dropped = [{"row": row, "reason": reason} for row, reason in sorted(found.dropped.items())]
    return {"fitted_on": len(found.fit), "measured_on": len(found.held_out), "dropped": dropped}


def _logistic() -> Pipeline:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10, class_weight="balanced", max_iter=1000, random_state=SEED),
    )


def _naive_bayes() -> Pipeline:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    return make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 6), sublinear_tf=True),
        MultinomialNB(alpha=0.1, fit_prior=False),
    )


PIPELINES = {"logistic": _logistic, "naive_bayes": _naive_bayes}


@hookimpl
def provide_rewards() -> list[type]:
    """Register classifier."""
    return [ClassifierReward]

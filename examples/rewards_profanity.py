"""How clean a completion's words are, as a reward function: 1 - P(profane).

    pip install --no-deps alt-profanity-check==1.9.1 scikit-learn joblib

    reward: [{name: function, function: "rewards_profanity:clean", folder: examples, label: clean}]

alt-profanity-check (MIT) is a linear classifier of words with its weights in the wheel, which it
reads with joblib. It knows words, not meanings: a threat in polite words is clean to it, and a
policy that is trained on it learns which words to leave out. So measure with it, at weight 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def clean(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """1 - P(profane) of each completion. One without words is clean."""
    from profanity_check import predict_prob

    return [1.0 - float(each) for each in predict_prob([_text(each) for each in completions])]


def _text(completion: Any) -> str:
    """Of a text, or of turns."""
    if isinstance(completion, str):
        return completion
    return "\n".join(str(turn["content"]) for turn in completion)

"""Rewards for how long a completion is, and whether it ended."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from trl.rewards import get_soft_overlong_punishment

from trimtab.core.engine import Completion
from trimtab.core.reward import Group
from trimtab.plugins.rewards.length import LengthConfig, LengthReward
from trimtab.plugins.rewards.missing_eos import MissingEosConfig, MissingEosReward


def of_lengths(*lengths):
    """Completions of so many tokens; each is a letter and a space."""
    sampled = [Completion((1,), (5,) * n, truncated=n > 10) for n in lengths]
    return [Group("?", ["a " * n for n in lengths], sampled=sampled)]


def values(reward, lengths):
    (scores,) = reward.score(of_lengths(*lengths))
    return [score.value for score in scores]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"target": 8}, [-1.0, -0.5, 0.0, -0.125, -2.0]),
        ({"limit": 8}, [0.0, 0.0, 0.0, -0.125, -2.0]),
        ({"limit": 9, "buffer": 4}, [0.0, 0.0, -0.75, -1.0, -1.0]),
        ({"target": 16, "unit": "characters"}, [-1.0, -0.5, 0.0, -0.125, -2.0]),
        ({"target": 8, "unit": "words"}, [-1.0, -0.5, 0.0, -0.125, -2.0]),
    ],
    ids=str,
)
def test_a_length_is_worth_what_its_equation_says(options, expected):
    assert values(LengthReward(LengthConfig(**options)), [0, 4, 8, 9, 24]) == expected


def test_the_soft_overlong_punishment_is_that_of_trl():
    theirs = get_soft_overlong_punishment(max_completion_len=20, soft_punish_cache=8)
    ours = LengthReward(LengthConfig(limit=20, buffer=8))
    lengths = list(range(30))
    assert values(ours, lengths) == theirs(
        completions=[], completion_ids=[[5] * n for n in lengths]
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"target": 8, "limit": 8}, {"target": 8, "buffer": 4}, {"limit": 4, "buffer": 4}],
    ids=str,
)
def test_a_length_is_asked_for_in_one_way(options):
    with pytest.raises(ValidationError, match="give either|belongs to"):
        LengthConfig(**options)


def test_what_did_not_end_is_penalized():
    reward = MissingEosReward(MissingEosConfig(penalty=2.0))
    assert values(reward, [0, 10, 11]) == [0.0, 0.0, -2.0]

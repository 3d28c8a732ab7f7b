"""The source ``best``: what is kept of each prompt's completions."""

from __future__ import annotations

import pytest
from maker_fixtures import (
    all_of,
    assert_all_accounted_for,
    opened,
    prompts,
    read_again,
    setting,
)
from test_rollouts import Count

from trimtab.core.errors import UserError
from trimtab.plugins.makers.best import Best, BestConfig
from trimtab.plugins.sources.kinds import DEMONSTRATIONS


def test_the_best_of_each_prompt_is_kept_with_the_mean_of_all(tmp_path):
    given = setting(tmp_path, prompts(8), Count)
    rows, steps = all_of(opened(Best, BestConfig(), given))
    assert_all_accounted_for(steps, 8)
    samples: dict[int, list[float]] = {}
    for step in steps:
        for one in step.samples:
            if "left_out" not in one:
                samples.setdefault(one["row"], []).append(one["reward"])
    assert len(rows) == 8
    for row in rows:
        rewards = samples[row["answer"]]
        assert row["reward"] == max(rewards) == len(row["completion"])
        assert row["mean"] == pytest.approx(sum(rewards) / len(rewards))
        assert row["of"] == len(rewards)
    assert len(read_again(tmp_path, rows, DEMONSTRATIONS).train) == 8


@pytest.mark.parametrize("share, count", [(0.01, 1), (0.25, 2), (0.35, 3), (0.7, 6)])
def test_a_share_keeps_the_highest_rewards_in_their_order(tmp_path, share, count):
    given = setting(tmp_path, prompts(8), Count)
    some, steps = all_of(opened(Best, BestConfig(share=share), given))
    whole = [row for made in steps for row in made.rows]
    assert some == [row for row in whole if row in some] and len(some) == count
    least = min(row["reward"] for row in some)
    assert sum(row["reward"] > least for row in whole) < count


def test_what_is_below_the_least_is_dropped_with_its_number(tmp_path):
    given = setting(tmp_path, prompts(8), Count)
    whole = all_of(opened(Best, BestConfig(), given))[0]
    least = sorted(row["reward"] for row in whole)[4]
    rows, steps = all_of(opened(Best, BestConfig(least=least), given))
    assert rows == [row for row in whole if row["reward"] >= least]
    dropped = [one["row"] for step in steps for one in step.dropped]
    assert sorted(dropped) == sorted(row["answer"] for row in whole if row["reward"] < least)


def test_best_wants_rewards(tmp_path):
    with pytest.raises(UserError, match="the source 'best' chooses by reward"):
        opened(Best, BestConfig(), setting(tmp_path, prompts(3)))

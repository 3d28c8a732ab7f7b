"""Settings for makers of data sets, and their steps, that the tests of them share."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from data_fixtures import smollm, write_jsonl
from test_rollouts import Dice

from trimtab import Config
from trimtab.core.batches import Batch
from trimtab.core.config import DataConfig, RolloutConfig, SelectedReward
from trimtab.core.rewards import Member, Rewards
from trimtab.core.source import Setting
from trimtab.plugins.sources.corpus import read_corpus

ANSWERED = [
    {"prompt": f"Question {n}:", "responses": [f" a{n}", f" bb{n}", f" ccc{n * 7}"], "answer": n}
    for n in range(1, 9)
]


def prompts(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {n}:", "answer": n} for n in range(1, count + 1)]


def setting(tmp_path, rows, *rewards, weights=(), **changes: Any) -> Setting:
    """Of these rows, with a reward for each class."""
    table = write_jsonl(tmp_path / "rows.jsonl", rows)
    rollout = RolloutConfig(max_new_tokens=6, max_unscored=changes.pop("max_unscored", 1.0))
    members = [
        Member(cls(Config()), SelectedReward(name=cls.name, weight=weight))
        for cls, weight in zip(rewards, weights or [1.0] * len(rewards), strict=True)
    ]
    made = Setting(
        batch=Batch,
        data=DataConfig(train=table, holdout=0.0, max_dropped=0.9),
        tokenizer=smollm(),
        seed=3,
        rollout=rollout,
        rows=8,
        group=4,
        engine=Dice(Config()),
        rewards=Rewards(members, rollout) if members else None,
    )
    return replace(made, **changes)


def opened(maker, config, given: Setting):
    made = maker(config)
    made.open(given)
    return made


def all_of(maker, rows: int = 3, epochs: int = 1):
    """What it makes, so many rows at a time: the data set, and the steps."""
    steps = [maker.make(None, step, rows) for step in range(epochs * maker.steps(rows))]
    return list(maker.finish([row for made in steps for row in made.rows])), steps


def read_again(tmp_path, rows, kind):
    """The rows as a run reads them."""
    name = write_jsonl(tmp_path / "again.jsonl", rows)
    return read_corpus(DataConfig(train=name, holdout=0.0), kind, smollm())


def assert_all_accounted_for(steps, read: int) -> None:
    assert sum(made.read for made in steps) == read
    for made in steps:
        assert {one["row"] for one in made.dropped} <= set(range(1, 1000))
        json.dumps([*made.rows, *made.dropped, *made.samples, dict(made.counts)])

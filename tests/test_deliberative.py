"""The source ``deliberative``: reason over a specification, answer, keep what scores best."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from threading import Barrier
from types import SimpleNamespace

import pytest
import wording_engine
from data_fixtures import smollm
from maker_fixtures import (
    all_of,
    assert_all_accounted_for,
    opened,
    prompts,
    read_again,
    setting,
)
from test_rollouts import Count, Dice
from worlds import differences, lines

import trimtab
from trimtab import Config, Judge, Verdict
from trimtab.core.errors import UserError
from trimtab.core.processes import Processes
from trimtab.plugins.makers.deliberative import Deliberative, DeliberativeConfig
from trimtab.plugins.sources.kinds import DEMONSTRATIONS, RANKINGS

SPECIFICATION = "Answers are short. Answers are kind."


class Marks(Judge):
    """Rates by length, and says nothing of answers whose length is a multiple of ``refuses``."""

    name = "marks"
    options = Config
    refuses = 0

    def __init__(self) -> None:
        super().__init__(Config())
        self.asked = []
        self.requests = 0

    def compare(self, comparisons):
        raise NotImplementedError

    def score(self, ratings):
        self.asked += ratings
        self.requests += len(ratings)
        return [self._one(rating.completion) for rating in ratings]

    def counts(self):
        asked, self.requests = self.requests, 0
        return {"requests": asked}

    def _one(self, text):
        if self.refuses and len(text) % self.refuses == 0:
            return Verdict(None, ("hm",), why="it wrote no number")
        return Verdict(1 + len(text) / 10, (f"{len(text)} characters",))


class Heard(Dice):
    """Notes every prompt, as text, and how many tokens were to be drawn."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.heard = []

    def sample(self, prompts, uniform_NT, *, temperature):
        texts = [smollm().decode(prompt) for prompt in prompts]
        self.heard += [(text, uniform_NT.shape[1]) for text in texts]
        return super().sample(prompts, uniform_NT, temperature=temperature)


@pytest.fixture
def specification(tmp_path):
    path = tmp_path / "specification.md"
    path.write_text(SPECIFICATION + "\n")
    return str(path)


def deliberating(tmp_path, rows, specification, *, refuses=0, options=None, **changes):
    """The maker, its judge and its engine."""
    judge, engine = Marks(), Heard(Config())
    judge.refuses = refuses
    given = setting(tmp_path, rows, **{"judge": judge, "engine": engine, **changes})
    config = DeliberativeConfig(specification=specification, **(options or {}))
    return opened(Deliberative, config, given), judge, engine


def turned(count):
    """Prompts as turns, with a turn of the system."""
    return [
        {
            "prompt": [
                {"role": "system", "content": "You are a clerk."},
                {"role": "user", "content": f"Question {n}?"},
            ],
            "answer": n,
        }
        for n in range(1, count + 1)
    ]


def by_row(steps):
    """The samples of each row that were rated, in their order."""
    found = {}
    for step in steps:
        for one in step.samples:
            if one.get("score") is not None:
                found.setdefault(one["row"], []).append(one)
    return found


@pytest.mark.parametrize("rows", [prompts(8), turned(8)])
def test_the_best_answer_is_kept_without_its_reasoning(tmp_path, specification, rows):
    maker, _, _ = deliberating(tmp_path, rows, specification)
    made, steps = all_of(maker)
    assert_all_accounted_for(steps, 8)
    samples = by_row(steps)
    assert len(made) == 8
    for row in made:
        scores = [one["score"] for one in samples[row["answer"]]]
        best = samples[row["answer"]][scores.index(max(scores))]
        said = row["completion"]
        assert (said if isinstance(said, str) else said[0]["content"]) == best["completion"]
        assert (row["score"], row["of"]) == (max(scores), len(scores))
        assert row["mean"] == pytest.approx(sum(scores) / len(scores))
        assert row["prompt"] == rows[row["answer"] - 1]["prompt"]
        assert set(row) == {"prompt", "completion", "score", "mean", "of", "answer"}
        assert SPECIFICATION not in json.dumps(row)
    assert len(read_again(tmp_path, made, DEMONSTRATIONS).train) == 8


def test_the_policy_reads_the_specification_thinks_and_then_answers(tmp_path, specification):
    maker, judge, engine = deliberating(
        tmp_path, turned(2), specification, options={"reason_tokens": 5}, group=2
    )
    _, (step,) = all_of(maker, rows=2)
    thinking, answering = engine.heard[:4], engine.heard[4:]
    assert [width for _, width in engine.heard] == [5] * 4 + [6] * 4
    for (first, _), (second, _), sample in zip(thinking, answering, step.samples, strict=True):
        assert "You are a clerk." in first and SPECIFICATION in first
        assert f"Question {sample['row']}?" in first and "Do not answer yet" in first
        begun = first.removesuffix("<|im_start|>assistant\n")
        assert second.startswith(begun)
        assert f"Question {sample['row']}?\n\nNow answer this" in second
        assert sample["reasoning"] in second.removeprefix(begun)
        assert sample["prompt"].endswith("assistant\n") and SPECIFICATION not in sample["prompt"]
    assert {rating.question for rating in judge.asked} == {SPECIFICATION}
    assert all("Question" in rating.prompt for rating in judge.asked)


def test_what_the_judge_does_not_rate_is_counted_and_never_chosen(tmp_path, specification):
    maker, judge, _ = deliberating(tmp_path, prompts(8), specification, refuses=2)
    made, steps = all_of(maker)
    assert_all_accounted_for(steps, 8)
    refused = [one for one in judge.asked if len(one.completion) % 2 == 0]
    assert refused and not [row for row in made if row["score"] is None]
    assert all((len(row["completion"])) % 2 for row in made)
    counts = {name: sum(step.counts.get(name, 0) for step in steps) for name in steps[0].counts}
    assert (
        counts["answers that the judge did not rate"] == counts["judge/abstained"] == len(refused)
    )
    assert counts["judge/asked"] == counts["judge/requests"] == len(judge.asked)
    unrated = [one for step in steps for one in step.samples if one.get("why")]
    assert [one["why"] for one in unrated] == ["it wrote no number"] * len(refused)
    figures = maker.figures(counts)["judge"]
    assert figures["abstained"]["value"] == len(refused) / len(judge.asked)


def test_a_prompt_whose_answers_are_not_rated_is_dropped_with_its_number(tmp_path, specification):
    maker, _, _ = deliberating(tmp_path, prompts(4), specification, refuses=1)
    made, steps = all_of(maker)
    dropped = [one for step in steps for one in step.dropped]
    assert made == [] and sorted(one["row"] for one in dropped) == [1, 2, 3, 4]
    assert {one["reason"] for one in dropped} == {"the judge rated none of its answers"}


def test_what_is_below_the_least_is_dropped_with_its_number(tmp_path, specification):
    whole = all_of(deliberating(tmp_path, prompts(8), specification)[0])[0]
    least = sorted(row["score"] for row in whole)[4]
    options = {"least": least}
    maker, _, _ = deliberating(tmp_path, prompts(8), specification, options=options)
    made, steps = all_of(maker)
    assert made == [row for row in whole if row["score"] >= least]
    dropped = sorted(one["row"] for step in steps for one in step.dropped)
    assert dropped == sorted(row["answer"] for row in whole if row["score"] < least)


def test_all_answers_with_their_scores_are_a_ranking(tmp_path, specification):
    options = {"form": "ranked"}
    maker, _, _ = deliberating(tmp_path, prompts(8), specification, refuses=3, options=options)
    made, steps = all_of(maker)
    assert_all_accounted_for(steps, 8)
    samples = by_row(steps)
    for row in made:
        rated = samples[row["answer"]]
        assert row["responses"] == [one["completion"] for one in rated]
        assert row["scores"] == [one["score"] for one in rated]
        assert len(row["responses"]) == len(set(row["responses"])) >= 2
    assert len(read_again(tmp_path, made, RANKINGS).train) == len(made) > 0
    with pytest.raises(UserError, match=r"rollout\.group is 1, and 'deliberative' needs several"):
        deliberating(tmp_path, prompts(2), specification, options=options, group=1)


def test_rows_do_not_depend_on_how_many_are_made_at_a_time(tmp_path, specification):
    def made(rows):
        maker, _, _ = deliberating(tmp_path, prompts(7), specification, refuses=3)
        whole, steps = all_of(maker, rows=rows, epochs=2)
        return whole, [one for step in steps for one in step.samples]

    assert made(1) == made(3) == made(8)
    whole, _ = made(3)
    answers = {}
    for row in whole:
        answers.setdefault(row["answer"], []).append(row["completion"])
    assert any(len(set(both)) == 2 for both in answers.values())  # another epoch, other answers


class Drawn(Heard):
    """Notes the first random number of each completion."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.numbers = []

    def sample(self, prompts, uniform_NT, *, temperature):
        self.numbers += uniform_NT[:, 0].tolist()
        return super().sample(prompts, uniform_NT, temperature=temperature)


def test_no_two_thoughts_or_answers_share_a_random_stream(tmp_path, specification):
    engine = Drawn(Config())
    maker, _, _ = deliberating(tmp_path, turned(4), specification, engine=engine)
    all_of(maker, rows=3, epochs=2)
    assert len(engine.numbers) == len(set(engine.numbers)) == 2 * 4 * 4 * 2


class Together(Processes):
    """One of two, each in a thread of its own."""

    count = 2

    def __init__(self, rank, slots, barrier) -> None:
        self.rank, self.slots, self.barrier = rank, slots, barrier

    def gather(self, value):
        self.slots[self.rank] = value
        self.barrier.wait()
        found = list(self.slots)
        self.barrier.wait()
        return found


def test_two_processes_share_what_is_asked_and_all_get_all_rows(tmp_path, specification):
    whole = deliberating(tmp_path, prompts(5), specification, refuses=3)[0].make(None, 0, 5)
    slots, barrier = [None, None], Barrier(2, timeout=60)
    both = [
        deliberating(
            tmp_path,
            prompts(5),
            specification,
            refuses=3,
            processes=Together(rank, slots, barrier),
        )
        for rank in (0, 1)
    ]
    with ThreadPoolExecutor(2) as threads:
        made = list(threads.map(lambda one: one[0].make(None, 0, 5), both))
    assert made == [whole, whole]
    assert all(judge.asked and len(engine.heard) == 20 for _, judge, engine in both)
    assert sum(len(judge.asked) for _, judge, _ in both) == whole.counts["judge/asked"]


def test_a_prompt_that_does_not_fit_the_model_is_dropped_before_it_is_asked(
    tmp_path, specification
):
    rows = [*prompts(2), {"prompt": "Question " + "so " * 300, "answer": 3}]
    maker, _, engine = deliberating(tmp_path, rows, specification)
    config = SimpleNamespace(max_position_embeddings=420)
    policy = SimpleNamespace(base=SimpleNamespace(config=config))
    config.get_text_config = lambda: config
    made = maker.make(policy, 0, 8)
    (dropped,) = made.dropped
    assert dropped["row"] == 3 and dropped["reason"].endswith("longer than the model's context")
    assert sorted(row["answer"] for row in made.rows) == [1, 2]
    assert not [text for text, _ in engine.heard if "so so" in text]
    json.dumps(made.samples)


def test_rewards_of_the_run_see_the_answers_after_their_own_prompts(tmp_path, specification):
    judge = Marks()
    given = setting(tmp_path, prompts(4), Count, judge=judge)
    maker = opened(Deliberative, DeliberativeConfig(specification=specification), given)
    _, steps = all_of(maker)
    for step in steps:
        assert "reward" in step.metrics
        for one in step.samples:
            assert one["reward"] == len(one["completion"]) and "Question" in one["prompt"]


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "cannot be read as a specification: .*No such file"),
        (b" \n", "is empty: it is to say how answers are to be"),
        (b"\xff\xfe\x00a", "cannot be read as a specification"),
        (b"a" * 1_000_001, "is larger than 1000000 bytes: is it a specification"),
    ],
)
def test_a_specification_that_says_nothing_is_refused(tmp_path, text, said):
    path = tmp_path / "specification.md"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(UserError, match=said):
        deliberating(tmp_path, prompts(2), str(path))


def test_it_wants_a_judge_and_turns(tmp_path, specification):
    with pytest.raises(UserError, match=r"names none: give judge: \{name: local\}"):
        deliberating(tmp_path, prompts(2), specification, judge=None)
    plain = deepcopy(smollm())
    plain.chat_template = None
    with pytest.raises(UserError, match="tokenizer has no chat template"):
        deliberating(tmp_path, prompts(2), specification, tokenizer=plain)


def test_another_specification_is_another_data_set(tmp_path, specification):
    def described():
        return deliberating(tmp_path, prompts(2), specification)[0].describe()

    before = described()
    with open(specification, "a") as file:
        file.write("Answers are true.\n")
    after = described()
    assert {name for name in before if before[name] != after[name]} == {"specification_sha256"}


def run_file(world, folder, **changes):
    """Seven prompts, three at a time, on the small world; the run's own model judges."""
    (folder / "specification.md").write_text("Be kind.")
    source = {"name": "deliberative", "specification": str(folder / "specification.md")}
    return world.file(
        folder / "run.yaml",
        **{
            "objective": None,
            "source": {**source, "reason_tokens": 40},
            "judge": {"name": "local"},
            "data": {"train": str(world.demonstrations), "eval": None, "holdout": 0.0},
            "plugins": [wording_engine.__file__],
            "rollout": {"engine": "toys.words", "group": 2, "max_new_tokens": 40},
            "train": {"rows": 3, "epochs": 1},
            **changes,
        },
    )


class Stop:
    """Ends the process's run after a step, as a crash would."""

    @trimtab.hookimpl
    def step_ended(self, run, step, metrics):
        if step == 2:
            raise KeyboardInterrupt


def test_a_run_that_was_cut_off_goes_on_with_the_same_rows(world, tmp_path):
    whole = trimtab.train(run_file(world, tmp_path), run=tmp_path / "whole")
    rows, samples = lines(whole / "data/train.jsonl"), lines(whole / "samples.jsonl")
    assert len(rows) == 7 and len(samples) == 14
    assert all(1 <= one["score"] <= 10 and one["reasoning"] for one in samples)
    data = json.loads((whole / "data.json").read_text())
    assert data["judge"]["asked"] == 14 and data["judged_by"]["name"] == "local"
    with pytest.raises(KeyboardInterrupt):
        trimtab.train(tmp_path / "run.yaml", run=tmp_path / "run", observers=[Stop()])
    trimtab.api.resume(tmp_path / "run")
    assert differences(tmp_path / "run", whole) == []

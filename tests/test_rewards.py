"""What rewards make of a step's completions, and what becomes of their faults."""

from __future__ import annotations

import json
import math
import statistics
import sys
import threading
import time
from typing import ClassVar

import numpy as np
import pytest
import torch

from trimtab import Config, Reward, Score
from trimtab.core.config import RolloutConfig, SelectedReward
from trimtab.core.errors import RunError, UserError
from trimtab.core.guard import number
from trimtab.core.moments import Moments
from trimtab.core.processes import Processes
from trimtab.core.reward import Group
from trimtab.core.rewards import Member, Rewards

ALONE = Processes()
HUGE = 10**400


class Scripted(Reward[Config]):
    """Answers each completion with what a table of actions says of its text; else its length."""

    name = "scripted"
    options = Config
    independent = True

    def __init__(self, actions=None):
        super().__init__(Config())
        self.actions = actions or {}
        self.calls = 0

    def score(self, groups):
        self.calls += 1
        return [[self.one(text) for text in group.completions] for group in groups]

    def one(self, text):
        action = self.actions.get(text)
        value = action() if callable(action) else action
        return value if isinstance(value, Score) else Score(len(text) if action is None else value)


class Whole(Scripted):
    """Of those whose completions are scored together."""

    independent = False


def rewards(*members, **rollout):
    rollout = {"max_unscored": 1.0, "reward_timeout": 30.0, **rollout}
    made = [
        Member(reward, SelectedReward(name=f"r{i}", **section))
        for i, (reward, section) in enumerate(members)
    ]
    return Rewards(made, RolloutConfig(**rollout))


def groups(*texts):
    return [Group("?", list(each)) for each in texts]


def values(scores):
    return [[score.value for score in each] for each in scores]


def throw(error):
    raise error


def leave():
    sys.exit(3)


THREE = groups(["a", "bb", "ccc"], ["dddd", "bad", "ffffff"])
FAULTS = {
    "raises": (lambda: throw(ValueError("no such luck")), "it raised ValueError: no such luck"),
    "leaves": (leave, "it raised SystemExit: 3"),
    "interrupts": (lambda: throw(KeyboardInterrupt()), "it raised KeyboardInterrupt"),
    "none": (Score(None), "it could not judge"),
    "none with a reason": (Score(None, why="no gold answer"), "no gold answer"),
    "nan": (math.nan, "it answered nan"),
    "inf": (math.inf, "it answered inf, which is no finite float32"),
    "minus inf": (-math.inf, "it answered -inf, which is no finite float32"),
    "tensor nan": (lambda: torch.tensor(math.nan), "it answered nan"),
    "numpy inf": (lambda: np.float32("inf"), "it answered inf, which is no finite float32"),
    "beyond float32": (1e39, "it answered 1e+39, which is no finite float32"),
    "huge int": (HUGE, "it answered a huge int, which is no finite float32"),
    "bool": (True, "it answered True, a bool and no number"),
    "numpy bool": (lambda: np.bool_(False), "it answered False, a bool and no number"),
    "text": ("0.5", "it answered '0.5', a str and no number"),
    "complex": (1j, "it answered 1j, a complex and no number"),
    "list": (lambda: [1.0], "it answered [1.0], a list and no number"),
    "vector": (lambda: torch.ones(1), "it answered tensor([1.]), a Tensor and no number"),
}


@pytest.mark.parametrize("scaling", [{}, {"standardize": True}, {"clip": (-1.0, 1.0)}], ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_its_own_completion_and_no_other(fault, scaling):
    action, why = FAULTS[fault]
    faulty = rewards((Scripted({"bad": action}), scaling))
    sound = rewards((Scripted({"bad": Score(None)}), scaling))
    found = faulty.score(THREE, ALONE, learn=True)
    assert values(found) == values(sound.score(THREE, ALONE, learn=True))
    assert found[1][1].value is None and found[1][1].why == f"r0: {why}"
    scored = [v for each in values(found) for v in each if v is not None]
    assert len(scored) == 5 and all(map(math.isfinite, scored))
    assert faulty.state() == sound.state()
    (told,) = faulty.drain_faults()
    assert (told.label, told.why, told.rows, told.example) == ("r0", why, 1, "bad")
    assert not faulty.drain_faults()


@pytest.mark.parametrize(
    "answer",
    [None, 3.0, [], [[Score(0.0)]], [[1.0, 2.0, 3.0]] * 2, "no", {0: 1.0}],
    ids=["none", "float", "no groups", "a group", "floats", "text", "dict"],
)
def test_an_answer_of_the_wrong_shape_scores_nothing(answer):
    class Misshapen(Scripted):
        def score(self, groups):
            return answer

    found = rewards((Misshapen(), {})).score(THREE, ALONE)
    assert all(score.value is None and score.why for each in found for score in each)


def test_where_completions_are_scored_together_a_raise_costs_their_group():
    reward = Whole({"bad": lambda: throw(KeyError("bad"))})
    found = rewards((reward, {})).score(THREE, ALONE)
    assert values(found) == [[1.0, 2.0, 3.0], [None, None, None]]
    assert reward.calls == 3  # together, then each group


def test_a_call_that_raises_once_loses_nothing_and_is_told():
    class Shaky(Scripted):
        def score(self, groups):
            found = super().score(groups)
            return throw(OSError("no route")) if self.calls == 1 else found

    made = rewards((Shaky(), {}))
    assert values(made.score(THREE, ALONE)) == [[1, 2, 3], [4, 3, 6]]
    (told,) = made.drain_faults()
    assert told.rows == 0
    assert told.why == "it raised OSError: no route; asked again in parts, it answered"


@pytest.mark.parametrize(
    "given", [1, 1.0, np.float32(1), np.int64(1), np.array(1.0), torch.tensor(1), torch.ones(())]
)
def test_numbers_of_every_library_are_numbers(given):
    assert number(given) == 1.0 and type(number(given)) is float


def test_a_reward_that_hangs_is_left_behind_and_not_asked_while_it_does():
    free = threading.Event()
    reward = Scripted({"bad": lambda: free.wait(60) and None})
    made = rewards((reward, {}), reward_timeout=0.2)
    before = time.monotonic()
    late = made.score(THREE, ALONE)
    assert values(late) == [[None] * 3] * 2
    assert late[0][0].why == "r0: it took longer than 0.2 s (rollout.reward_timeout)"
    again = made.score(THREE, ALONE)
    assert again[0][0].why == "r0: it still hangs in an earlier call"
    assert reward.calls == 1 and time.monotonic() - before < 30
    hanging = [thread for thread in threading.enumerate() if thread.name == "scripted"]
    assert len(hanging) == 1 and hanging[0].daemon
    free.set()
    hanging[0].join(30)
    assert values(made.score(groups(["a"]), ALONE)) == [[1]]


def test_what_was_scored_before_the_time_was_over_counts():
    free = threading.Event()

    class Slow(Whole):
        def score(self, groups):
            self.calls += 1
            if len(groups) > 1:
                raise OSError("one at a time")
            if groups[0].completions == ["slow"]:
                free.wait(60)
            return [[self.one(text) for text in group.completions] for group in groups]

    made = rewards((Slow(), {}), reward_timeout=0.5)
    assert values(made.score(groups(["a"], ["slow"], ["ccc"]), ALONE)) == [[1], [None], [None]]
    free.set()


def test_what_cannot_be_interrupted_runs_in_the_main_thread_and_to_its_end():
    ran = []

    class Patient(Scripted):
        interruptible = False

        def score(self, groups):
            ran.append(threading.current_thread())
            time.sleep(0.1)
            return super().score(groups)

    made = rewards((Patient({"bad": lambda: throw(OSError())}), {}), reward_timeout=0.01)
    assert values(made.score(THREE, ALONE)) == [[1, 2, 3], [4, None, 6]]
    assert set(ran) == {threading.main_thread()}


@pytest.mark.parametrize("interruptible", [True, False])
def test_rewards_compute_without_gradient(interruptible):
    class Torchy(Scripted):
        def one(self, text):
            return Score(float(torch.is_grad_enabled()))

    reward = Torchy()
    reward.interruptible = interruptible
    assert values(rewards((reward, {})).score(groups(["a"]), ALONE)) == [[0.0]]
    assert torch.is_grad_enabled()


def test_a_run_stops_when_too_many_have_no_score_and_says_the_last_error():
    text = "x" * 150
    actions = {text: lambda: throw(ValueError("broken pipe"))}
    made = rewards((Scripted(actions), {}), max_unscored=0.25)
    made.score(groups(["a", "b", "c", text]), ALONE, learn=True)  # a quarter is not more
    made.drain_faults()
    with pytest.raises(RunError) as error:
        made.score(groups(["a", text]), ALONE, learn=True)
    said = str(error.value)
    assert "1 of 2 completions" in said and "max_unscored is 0.25" in said
    assert f"r0: it raised ValueError: broken pipe (1 unscored, such as '{'x' * 100}...')" in said


def test_the_share_of_unscored_is_that_of_all_calls_of_a_step():
    made = rewards((Scripted({"bad": math.nan}), {}), max_unscored=0.25)
    made.score(groups(["a", "b", "c"]), ALONE, learn=True)
    made.score(groups(["bad"]), ALONE, learn=True)
    with pytest.raises(RunError, match="2 of 5 completions"):
        made.score(groups(["bad"]), ALONE, learn=True)


def test_an_evaluation_counts_faults_but_never_stops():
    made = rewards((Scripted({"bad": math.nan}), {}), max_unscored=0.0)
    assert values(made.score(groups(["bad"]), ALONE)) == [[None]]
    assert [fault.rows for fault in made.drain_faults()] == [1]


def test_the_total_is_the_weighted_sum_and_each_part_has_its_name():
    parts = Score(2.0, {"logit": np.float32(0.5), "odd": math.nan, "none": None})
    made = rewards(
        (Scripted({"a": parts}), {"weight": 2.0, "label": "gold"}),
        (Scripted({"a": 5.0}), {"weight": -1.0, "clip": (-3.0, 3.0)}),
    )
    ((score,),) = made.score(groups(["a"]), ALONE)
    assert score.value == 2 * 2.0 - 3.0
    assert score.parts == {
        "gold": 2.0, "gold/logit": 0.5, "gold/odd": None, "gold/none": None, "r1": 5.0
    }  # fmt: skip
    json.dumps(score.parts, allow_nan=False)


def test_what_has_no_weight_is_watched_and_unscores_nothing():
    made = rewards((Scripted(), {}), (Scripted({"a": math.nan}), {"weight": 0.0}))
    ((score,),) = made.score(groups(["a"]), ALONE)
    assert score.value == 1.0 and score.parts == {"r0": 1.0, "r1": None}
    assert [fault.label for fault in made.drain_faults()] == ["r1"]


def test_a_sum_too_large_for_float32_is_no_score():
    made = rewards((Scripted({"a": 3e38}), {"weight": 10.0}))
    ((score,),) = made.score(groups(["a"]), ALONE)
    assert score.value is None and "3e+39" in str(score.why)
    assert [(fault.label, fault.rows) for fault in made.drain_faults()] == [("total", 1)]


def test_standardized_scores_use_all_scores_of_training_so_far():
    made = rewards((Scripted(), {"standardize": True}))
    seen: list[float] = []
    for texts in (["a", "bbb"], ["cc", "ddddddd"], ["e", "e"]):
        seen += map(len, texts)
        mean, std = statistics.mean(seen), statistics.stdev(seen)
        (found,) = values(made.score(groups(texts), ALONE, learn=True))
        assert found == pytest.approx([(len(text) - mean) / std for text in texts], abs=1e-12)
    state = made.state()
    (found,) = values(made.score(groups(["zzzzz"]), ALONE))
    assert found == pytest.approx([(5 - mean) / std], abs=1e-12)
    assert made.state() == state  # an evaluation teaches nothing


def test_running_statistics_go_on_from_a_checkpoint_to_the_bit():
    one, other = (rewards((Scripted(), {"standardize": True})) for _ in range(2))
    one.score(groups(["a", "bbb"], ["ccccccc"]), ALONE, learn=True)
    other.restore(json.loads(json.dumps(one.state())))
    more = groups(["dd", "eeeeeeeee"])
    assert values(one.score(more, ALONE, learn=True)) == values(
        other.score(more, ALONE, learn=True)
    )
    assert one.state() == other.state()


@pytest.mark.parametrize("same", [0.0, 0.1, -1e20, 1e-30])
def test_scores_without_spread_become_zero(same):
    made = rewards((Scripted({"a": same}), {"standardize": True}))
    for _ in range(3):
        (found,) = values(made.score(groups(["a"] * 7), ALONE, learn=True))
        assert found == pytest.approx([0.0] * 7, abs=max(1e-12, 1e-9 * abs(same)))
    assert values(rewards((Scripted(), {"standardize": True})).score(groups(["a"]), ALONE)) == [
        [0]
    ]


def test_moments_of_batches_are_those_of_all_numbers():
    numbers = [float(n**2 % 17) * 1e3 + 1e9 for n in range(40)]
    running = Moments()
    for start, end in ((0, 1), (1, 1), (1, 12), (12, 40)):
        running.merge(Moments.of(numbers[start:end]))
    assert running.count == 40
    assert running.mean == pytest.approx(statistics.mean(numbers), rel=1e-14)
    assert running.std == pytest.approx(statistics.stdev(numbers), rel=1e-10)


class Meeting:
    """What several processes, here threads, tell each other."""

    def __init__(self, count):
        self.barrier = threading.Barrier(count)
        self.told = [None] * count


class Party(Processes):
    def __init__(self, meeting, rank, count):
        self.meeting, self.rank, self.count = meeting, rank, count

    def gather(self, value):
        self.meeting.told[self.rank] = value
        self.meeting.barrier.wait(30)
        found = list(self.meeting.told)
        self.meeting.barrier.wait(30)
        return found


@pytest.mark.parametrize("count", [2, 3])
def test_the_number_of_processes_changes_no_score_and_no_statistic(count):
    texts = groups(["a", "bb"], ["bad", "dddd"])
    section = {"standardize": True, "clip": (-1.0, 1.0)}
    actions = {"bad": math.nan}
    single = rewards((Scripted(actions), section))
    expected = single.score(texts, ALONE, learn=True)
    meeting = Meeting(count)
    results = [None] * count

    def work(rank):
        reward = Scripted(actions)
        own = rewards((reward, section))
        found = own.score(texts, Party(meeting, rank, count), learn=True)
        results[rank] = (found, own.state(), own.drain_faults(), reward.calls)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    told = single.drain_faults()
    for rank, (found, state, faults, calls) in enumerate(results):
        assert (found, state, faults) == (expected, single.state(), told)
        assert calls == (1 if rank < len(texts) else 0)


def test_no_completions_need_no_reward():
    assert rewards((Scripted(), {"standardize": True})).score([], ALONE, learn=True) == []


def test_the_sections_are_checked():
    with pytest.raises(UserError, match="two rewards are called 'x'"):
        rewards((Scripted(), {"label": "x"}), (Scripted(), {"label": "x"}))
    with pytest.raises(UserError, match=r"clip \[1.0, -1.0\]"):
        rewards((Scripted(), {"clip": (1.0, -1.0)}))


def test_a_run_directory_is_told_what_the_rewards_are():
    class Known(Scripted):
        about: ClassVar = {"accuracy": 0.9}

        def describe(self):
            return self.about

    made = rewards((Known(), {"label": "gold", "weight": 2.0}))
    assert json.loads(json.dumps(made.describe())) == {
        "gold": {
            "name": "r0", "weight": 2.0, "clip": None, "standardize": False, "accuracy": 0.9
        }
    }  # fmt: skip

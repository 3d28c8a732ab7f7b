"""Plain functions as rewards: called as TRL calls its own."""

from __future__ import annotations

import math
import sys
import textwrap
import types

import pytest
from trl.rewards import get_soft_overlong_punishment, think_format_reward

from trimtab.core.config import RolloutConfig, SelectedReward
from trimtab.core.engine import Completion
from trimtab.core.errors import UserError
from trimtab.core.processes import Processes
from trimtab.core.reward import Group
from trimtab.core.rewards import Member, Rewards
from trimtab.plugins.rewards.function import FunctionConfig, FunctionReward

TURNS = [{"role": "user", "content": "How many?"}]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module, and returns its reward of the name ``f``."""

    def make(source, name="mine", **options):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        function = options.pop("function", f"{name}:f")
        reward = FunctionReward(FunctionConfig(function=function, folder=str(tmp_path), **options))
        reward.open(None)
        return reward

    path = list(sys.path)
    yield make
    sys.path[:] = path
    sys.modules.pop("mine", None)


def group(*texts, content=None, **columns):
    sampled = [Completion((5, 6), (7,) * len(text), False) for text in texts]
    return Group("as text", texts, columns, content, sampled)


def values(scores):
    return [[score.value for score in each] for each in scores]


def scored(reward, groups):
    """Through all that guards a run."""
    made = Rewards([Member(reward, SelectedReward(name="f"))], RolloutConfig(max_unscored=1.0))
    return made.score(groups, Processes()), made.drain_faults()


def test_a_function_is_given_lists_with_an_entry_a_completion(module):
    reward = module(
        """
        seen = []
        def f(prompts, completions, completion_ids, answer, **columns):
            seen.append((prompts, completions, completion_ids, answer, sorted(columns)))
            return [len(c) + a for c, a in zip(completions, answer)]
        """
    )
    groups = [
        group("a", "bb", answer=10, prompt="hidden"), group("ccc", answer=20, level="hard")
    ]  # fmt: skip
    assert values(reward.score(groups)) == [[11, 12], [23]]
    assert reward._function.__globals__["seen"] == [
        (
            ["as text"] * 3,
            ["a", "bb", "ccc"],
            [[7], [7, 7], [7, 7, 7]],
            [10, 10, 20],
            ["level", "log_extra", "log_metric"],
        )
    ]


def test_where_the_prompt_is_turns_so_is_the_completion(module):
    reward = module(
        """
        def f(prompts, completions, **_):
            for prompt, completion in zip(prompts, completions):
                assert prompt == [{"role": "user", "content": "How many?"}], prompt
                assert [turn["role"] for turn in completion] == ["assistant"]
                prompt.append(completion)  # it is its own to write into
            return [float(completion[0]["content"]) for completion in completions]
        """
    )
    turns = [dict(turn) for turn in TURNS]
    assert values(reward.score([group("3", "4", content=turns)])) == [[3, 4]]
    assert turns == TURNS


@pytest.mark.parametrize(
    "returned", ["list({})", "tuple({})", "torch.tensor({})", "np.array({})", "iter({})"]
)
def test_a_list_of_scores_may_be_of_any_kind(module, returned):
    head = "import torch, numpy as np\n"
    call = returned.format("[float(len(c)) for c in completions]")
    reward = module(f"{head}def f(completions):\n    return {call}")
    found, faults = scored(reward, [group("a", "bb")])
    assert values(found) == [[1, 2]] and not faults


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        ("None", "it returned NoneType, not a list of 2 scores"),
        ("1.0", "it returned float, not a list of 2 scores"),
        ("'12'", "it returned str, not a list of 2 scores"),
        ("{0: 1.0, 1: 2.0}", "it returned dict, not a list of 2 scores"),
        ("[1.0]", "it returned 1 scores for 2 completions"),
        ("[1.0] * 3", "it returned 3 scores for 2 completions"),
        ("[]", "it returned 0 scores for 2 completions"),
    ],
)
def test_an_answer_of_the_wrong_count_scores_nothing(module, returned, why):
    reward = module(f"def f(completions):\n    return {returned}")
    found, (fault,) = scored(reward, [group("a", "bb")])
    assert values(found) == [[None, None]]
    assert (fault.why, fault.rows) == (why, 2)


def test_none_is_no_score_and_no_fault_of_the_others(module):
    reward = module(
        "def f(completions):\n    return [None if c == 'x' else 1.0 for c in completions]"
    )
    assert values(scored(reward, [group("x", "y")])[0]) == [[None, 1.0]]


def test_a_function_gets_only_what_it_takes(module):
    reward = module("def f(completions, *, level='easy'):\n    return [len(x) for x in level]")
    assert values(reward.score([group("a", level="hard", other=1)])) == [[4]]


def test_an_async_function_is_waited_for_in_one_loop(module):
    reward = module(
        """
        import asyncio
        loops = set()
        async def f(completions, **_):
            loops.add(asyncio.get_running_loop())
            await asyncio.sleep(0)
            return [float(len(loops))] * len(completions)
        """
    )
    for _ in range(2):
        assert values(scored(reward, [group("a")])[0]) == [[1.0]]


def test_what_it_logs_becomes_parts(module):
    reward = module(
        """
        def f(completions, log_extra, log_metric):
            log_metric("level", 2.0)
            log_extra("size", [len(c) for c in completions])
            log_extra("text", list(completions))
            return [0.0 for _ in completions]
        """
    )
    ((one, other),), _ = scored(reward, [group("a", "bb")])
    assert one.parts == {"f": 0.0, "f/level": 2.0, "f/size": 1.0}
    assert other.parts["f/size"] == 2.0


def test_a_column_that_is_missing_is_named_with_those_there_are(module):
    reward = module("def f(completions, answer, **_):\n    return [0.0 for _ in completions]")
    found, (fault,) = scored(reward, [group("a", answers="4")])
    assert values(found) == [[None]]
    assert "takes 'answer', which is no column of the data. Did you mean 'answers'?" in fault.why


def test_functions_of_trl_run_unchanged():
    thought = FunctionReward(FunctionConfig(function="trl.rewards:think_format_reward"))
    thought.open(None)
    texts = ["<think>\nsure\n</think>\nYes.", "Yes."]
    expected = think_format_reward([[{"content": text}] for text in texts])
    assert values(thought.score([group(*texts, content=TURNS)])) == [expected] == [[1.0, 0.0]]
    args = {"max_completion_len": 8, "soft_punish_cache": 4}
    path = "trl.rewards:get_soft_overlong_punishment"
    overlong = FunctionReward(FunctionConfig(function=path, args=args))
    overlong.open(None)
    texts = ["x" * length for length in (3, 4, 6, 8, 9)]
    ids = [[7] * len(text) for text in texts]
    expected = get_soft_overlong_punishment(**args)(completions=texts, completion_ids=ids)
    assert values(overlong.score([group(*texts)])) == [expected]


def test_the_accuracy_reward_of_trl_runs_on_a_thread():
    pytest.importorskip("math_verify")
    accuracy = FunctionReward(FunctionConfig(function="trl.rewards:accuracy_reward"))
    accuracy.open(None)
    texts = [r"It is \boxed{\frac{1}{3}}", r"It is \boxed{\frac{1}{2}}"]
    found, faults = scored(accuracy, [group(*texts, content=TURNS, solution=r"\frac{1}{3}")])
    assert values(found) == [[1.0, 0.0]] and not faults


def test_the_main_thread_serves_functions_that_use_signals(module):
    source = """
        import signal
        def f(completions):
            signal.signal(signal.SIGALRM, signal.signal(signal.SIGALRM, signal.SIG_DFL))
            return [1.0 for _ in completions]
        """
    found, (fault,) = scored(module(source), [group("a")])
    assert values(found) == [[None]] and "main thread" in fault.why
    assert values(scored(module(source, main_thread=True), [group("a")])[0]) == [[1.0]]


def test_a_raise_costs_its_completion_or_its_group(module):
    source = "def f(completions):\n    return [1 / (c != 'bad') for c in completions]"
    groups = [group("a", "bad"), group("b", "c")]
    assert values(scored(module(source), groups)[0]) == [[1, None], [1, 1]]
    whole = module(source, whole_groups=True)
    assert values(scored(whole, groups)[0]) == [[None, None], [1, 1]]


def test_numbers_that_are_none_are_told_with_the_text(module):
    reward = module("def f(completions):\n    return [float(c) for c in completions]")
    found, faults = scored(reward, [group("1.5", "nan", "inf", "1e39", "text")])
    assert values(found) == [[1.5, None, None, None, None]]
    assert {fault.example for fault in faults} == {"nan", "inf", "1e39", "text"}
    assert sum(fault.rows for fault in faults) == 4 and math.isfinite(found[0][0].value)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("mine", "'mine' is not of the form module:callable"),
        ("mime:f", "no module 'mime' is installed, or in .*Did you mean 'mine'?"),
        ("mine:score", "'mine' has no 'score'. Did you mean 'scores'?"),
        ("mine:number", "'mine:number' is int, not a function"),
        ("broken:f", "importing 'broken' raised ZeroDivisionError: division by zero"),
        ("needy:f", "the module needs 'not_there', which is not installed"),
    ],
)
def test_what_cannot_be_imported_is_told_before_anything_runs(module, tmp_path, function, said):
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "needy.py").write_text("import not_there")
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        module("def scores(): ...\nnumber = 1", function=function)


def test_what_makes_the_function_is_told_apart_from_it(module):
    with pytest.raises(UserError, match="raised TypeError"):
        module("def f(completions): ...", args={"size": 1})
    with pytest.raises(UserError, match="made list, not a function"):
        module("def make():\n    return []", "other", function="other:make", args={})


def test_a_file_of_a_name_that_is_taken_is_found_all_the_same(module, monkeypatch):
    taken = types.ModuleType("mine")
    taken.f = None
    monkeypatch.setitem(sys.modules, "mine", taken)
    reward = module("def f(completions):\n    return [2.0 for _ in completions]")
    assert values(reward.score([group("a")])) == [[2.0]]

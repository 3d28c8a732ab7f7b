"""The kit for judges: each check finds its own judge at fault, and good ones pass."""

from __future__ import annotations

import json
import math
import textwrap

import pytest
from data_fixtures import write_jsonl
from judging import answering, quoted
from worlds import lines

from trimtab import Config, Judge, Verdict, train
from trimtab.core.checks import ConformanceError
from trimtab.core.judge import JudgeSetting
from trimtab.plugins.judges.prompts import load_templates
from trimtab.plugins.judges.question import Answer
from trimtab.plugins.registry import Plugins
from trimtab.testing import check_judge


class Shorter(Judge[Config]):
    """The shorter one is better; and what each test changes."""

    name = "test.shorter"
    options = Config

    def __init__(self, **changes):
        super().__init__(Config())
        for name, value in changes.items():
            setattr(self, name, value.__get__(self))

    def compare(self, comparisons):
        return [self.verdict(one) for one in comparisons]

    def score(self, ratings):
        return [self.rated(one) for one in ratings]

    def verdict(self, one):
        gap = len(one.second) - len(one.first)
        return Verdict(0.5 if gap == 0 else float(gap > 0))

    def rated(self, one):
        return Verdict(1.0 + len(one.completion))


def test_a_judge_that_keeps_the_contract_passes():
    check_judge(Shorter())


@pytest.mark.parametrize("options", [{}, {"reason": True}, {"disagreement": "average"}], ids=str)
def test_so_does_a_chat_judge_whatever_its_model_says(options):
    def soft(question):
        logs = {o: -len(quoted(question)[1]) / 9 - n / 3 for n, o in enumerate(question.options)}
        return Answer("So it is.", logs)

    for answer in (soft, lambda _: Answer(None), lambda q: Answer((*q.options, "x")[0])):
        check_judge(answering(answer, **options))


BROKEN = {
    "as many": ({"compare": lambda self, _: [Verdict(0.5)]}, "0 questions got 1 answers"),
    "no verdicts": ({"rated": lambda self, _: 3.0}, "1 questions got 1 answers: return a Verdict"),
    "no reason": ({"rated": lambda self, _: Verdict(None)}, "has no why: say why it abstains"),
    "no number": ({"rated": lambda self, _: Verdict(math.nan)}, "nan is no value"),
    "no share": ({"verdict": lambda self, _: Verdict(7.0)}, r"is 7.0: not in \[0, 1\]"),
    "one order": ({"verdict": lambda self, _: Verdict(1.0, orders=[1.0])}, "orders are two"),
    "a default": (
        {"verdict": lambda self, _: Verdict(0.5, orders=[None, 1.0])},
        "one of the orders was not read, and there is a value: abstain there",
    ),
    "always first": ({"verdict": lambda self, _: Verdict(1.0)}, "must add up to 1; ask in both"),
    "equal": (
        {
            "verdict": lambda self, one: (
                Verdict(1.0) if one.first == one.second else Shorter.verdict(self, one)
            )
        },
        "of two equal texts the first is better with P = 1.0, not 1/2",
    ),
    "company": (
        {"score": lambda self, ratings: [Verdict(float(len(ratings)))] * len(ratings)},
        "alone it says 1.0, and with others 4.0",
    ),
    "half": ({"counts": lambda self: {"requests": 0.5}}, "requests.* is 0.5: not a whole number"),
    "again": ({"counts": lambda self: {"requests": 9}}, "says {'requests': 9}: begin anew"),
    "no JSON": ({"describe": lambda self: {"at": {1}}}, r"describe\(\) is not JSON"),
    "nameless": ({"describe": lambda self: {}}, "does not say its name"),
    "writes": ({"write": lambda self, _: ["a"]}, r"two conversations got \['a'\]"),
}


@pytest.mark.parametrize(("changes", "said"), BROKEN.values(), ids=list(BROKEN))
def test_each_promise_that_is_not_kept_is_told(changes, said):
    with pytest.raises(ConformanceError, match=said):
        check_judge(Shorter(**changes))


def example(tmp_path):
    """The plugin in the docstring of ``Judge``, as a file."""
    code = Judge.__doc__.partition("or installed:\n")[2].partition("and is asked with")[0]
    path = tmp_path / "acme.py"
    path.write_text(textwrap.dedent(code))
    return path


def labelled(world, tmp_path, plugin, judge):
    """The data set that a stranger's judge makes of four rows, and what is recorded of it."""
    rows = [{"prompt": f"{n}?", "responses": ["a" * n, "bb", "ccc"]} for n in range(4, 8)]
    file = world.file(
        tmp_path / "run.yaml",
        objective=None,
        plugins=[str(plugin)],
        judge={"name": judge},
        source={"name": "labels", "by": "judge"},
        data={"train": write_jsonl(tmp_path / "rows.jsonl", rows), "eval": None, "holdout": 0.0},
        train={"epochs": 1},
    )
    made = train(file, tmp_path / "run")
    return lines(made / "data" / "train.jsonl"), json.loads((made / "data.json").read_text())


def test_the_judge_in_the_documentation_labels_a_data_set(world, tmp_path):
    made, described = labelled(world, tmp_path, example(tmp_path), "acme.shorter")
    assert sorted((row["prompt"], row["chosen"]) for row in made) == [
        (f"{n}?", "bb") for n in range(4, 8)
    ]
    assert {row["annotator"] for row in made} == {"judge:acme.shorter"}
    assert "acme.shorter" in json.dumps(described)


CHAT = """
from trimtab import hookimpl
from trimtab.plugins.judges.chat import ChatConfig, ChatJudge
from trimtab.plugins.judges.prompts import load_templates
from trimtab.plugins.judges.question import Answer

class Chat(ChatJudge[ChatConfig]):
    name = "acme.chat"
    options = ChatConfig

    def ask(self, questions):
        return [self.answer(*one.options, one.turns[-1]["content"]) for one in questions]

    def answer(self, one, two, content):
        _, _, _, first, second = content.split("[BEGIN ")
        return Answer(one if "bb" in first else two)

@hookimpl
def provide_judges():
    return [Chat]
"""


def test_a_strangers_chat_judge_writes_ask_alone_and_its_template_is_recorded(world, tmp_path):
    plugin = tmp_path / "acme.py"
    plugin.write_text(CHAT)
    made, described = labelled(world, tmp_path, plugin, "acme.chat")
    assert {row["chosen"] for row in made} == {"bb"} and len(made) == 4
    assert load_templates(None).sha256 in json.dumps(described)
    assert described["judge"]["agreement"]["value"] == pytest.approx(2 / 3)


def test_the_judge_in_the_documentation_conforms(tmp_path):
    registry = Plugins(builtin=[], installed=False)
    registry.add_file(example(tmp_path))
    judge = registry.make("judge", "acme.shorter", {})
    judge.open(JudgeSetting(None, None, 0))
    check_judge(judge)

"""Policies side by side: what each answers, what is told of it, and how a conversation goes on."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm
from rich.console import Console

from trimtab import api
from trimtab.chat import Chat, Columns, Lines, converse, typed
from trimtab.core.errors import UserError
from trimtab.core.roles import Roles
from trimtab.plugins.registry import Plugins
from trimtab.sides import AGAINST, Settings, sides

SETTINGS = Settings(seed=3, width=6)
ASKED = "Write review 3 of the movie Ran."


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("chat")


@pytest.fixture(scope="module")
def first(world, home):
    """A run from the base."""
    return api.train(world.file(home / "first.yaml", **world.learning("sft")), home / "first")


@pytest.fixture(scope="module")
def second(world, home, first):
    """A run from the first."""
    file = world.file(home / "second.yaml", model={"start": str(first)})
    return api.train(file, home / "second")


def alone(where: Path | str) -> str:
    """What a policy answers by itself."""
    (side,) = sides(str(where), "none", Plugins())
    (answer,) = side.answers([ASKED], SETTINGS)
    return answer.text


def said(where: Path | str, against: str | None = None) -> dict[str, str]:
    """What the sides answer, in one turn."""
    pair = sides(str(where), against, Plugins())
    answers = list(Chat(pair, SETTINGS).say(ASKED))[-1]
    return {side.label: answer.text for side, answer in zip(pair, answers, strict=True)}


def test_a_run_stands_beside_the_base_that_it_started_from(world, first):
    found = said(first)
    assert found == {"start": alone(world.model), "result": alone(first)}
    assert found["start"] != found["result"]
    assert said(first / "adapter") == found


def test_a_run_stands_beside_the_adapter_that_it_started_from(world, first, second):
    found = said(second)
    assert found == {"start": alone(first), "result": alone(second)}
    assert len({alone(world.model), *found.values()}) == 3


@pytest.mark.parametrize("way", ["stack", pytest.param("merge", marks=pytest.mark.slow)])
def test_what_is_below_a_new_adapter_is_the_start(world, home, first, way):
    model = {"start": str(first), "start_as": way}
    run = api.train(world.file(home / f"{way}.yaml", model=model), home / way)
    found = said(run)
    assert found == {"start": alone(first), "result": alone(run)}
    assert found["start"] != found["result"]


def test_any_model_stands_beside_a_run_on_one_base_where_they_have_the_same(world, first, second):
    for against in (str(world.model), str(first), str(first / "adapter")):
        pair = sides(str(second), against, Plugins())
        assert pair[0].model is pair[1].model, against
        assert said(second, against) == {against: alone(against), "result": alone(second)}
    other = sides(str(world.model), str(second), Plugins())
    assert other[0].role == AGAINST and other[0].model is other[1].model
    assert said(world.model, str(second)) == {
        str(second): alone(second),
        "result": alone(world.model),
    }


def test_a_run_that_is_held_otherwise_has_a_base_of_its_own(world, home, first):
    file = world.file(home / "nf4.yaml", **world.learning("sft"), model={"quantization": "nf4"})
    other = api.train(file, home / "nf4")
    pair = sides(str(first), str(other), Plugins())
    assert pair[0].model is not pair[1].model
    assert said(first, str(other)) == {str(other): alone(other), "result": alone(first)}


def test_where_all_weights_are_trained_the_start_is_a_model_of_its_own(world, home):
    changes = {**world.learning("sft"), "model": {"adapter": None}}
    whole = api.train(world.file(home / "whole.yaml", **changes), home / "whole")
    found = said(whole)
    assert found == {"start": alone(world.model), "result": alone(whole)}
    assert found["start"] != found["result"]


def test_a_plain_model_is_alone_unless_something_is_named(world):
    assert said(world.model) == {"result": alone(world.model)}
    with pytest.raises(UserError, match="is a plain model, and has no start: give --against"):
        sides(str(world.model), "start", Plugins())


def test_the_last_stage_of_a_pipeline_stands_beside_the_stage_that_it_started_from(world, home):
    file = world.file(home / "stages.yaml")
    settings = world.settings()
    stages = [
        {"name": "tune", **world.demonstrating()},
        {"name": "prefer", "model": {"start": "stages.tune"}, "objective": {"name": "dpo"}},
    ]
    del settings["objective"]
    file.write_text(json.dumps({**settings, "stages": stages}))
    run = api.train(file, home / "stages")
    tune, prefer = (alone(run / "stages" / name / "adapter") for name in ("tune", "prefer"))
    assert said(run) == {"start": tune, "result": prefer}


@pytest.fixture
def chat(first):
    return Chat(sides(str(first), None, Plugins()), SETTINGS)


def finish(chat: Chat, text: str) -> list[str]:
    return [answer.text for answer in list(chat.say(text))[-1]]


def test_each_side_goes_on_with_its_own_answers(chat):
    answers = finish(chat, "One")
    finish(chat, "Two")
    for talk, answer in zip(chat.talks, answers, strict=True):
        assert [turn["role"] for turn in talk] == ["user", "assistant"] * 2
        assert [talk[0]["content"], talk[1]["content"]] == ["One", answer]
    asked = [
        side.ids(talk[:3], SETTINGS) for side, talk in zip(chat.sides, chat.talks, strict=True)
    ]
    assert asked[0] != asked[1]
    assert chat.sides[0].tokenizer.decode(asked[0]) == (
        f"<turn>user<turn>One<end><turn>assistant<turn>{answers[0]}<end>"
        "<turn>user<turn>Two<end><turn>assistant<turn>"
    )


def test_without_a_template_the_texts_go_on(first):
    plain = Chat(sides(str(first), None, Plugins()), Settings(width=4, template=False))
    answers = finish(plain, "One")
    asked = [*plain.talks[0], {"role": "user", "content": "Two"}]
    ids = plain.sides[0].ids(asked, plain.settings)
    assert plain.sides[0].tokenizer.decode(ids) == f"One\n{answers[0]}\nTwo"


def test_the_same_seed_gives_the_same_answers_and_another_gives_others(chat):
    before = [finish(chat, ASKED), finish(chat, "Two")]
    assert chat.obey("/new") == "a new conversation"
    assert [finish(chat, ASKED), finish(chat, "Two")] == before
    chat.new()
    assert chat.obey("/seed 4") == "seed 4"
    assert finish(chat, ASKED) != before[0]
    chat.new()
    assert (
        chat.obey("/seed 3") == "seed 3" and chat.obey("/temperature 0.01") == "temperature 0.01"
    )
    cold = finish(chat, ASKED)
    chat.new()
    chat.obey("/seed 9")
    assert finish(chat, ASKED) == cold != before[0]


@pytest.mark.parametrize(
    "line, near",
    [
        ("/sed 3", "Did you mean '/seed'?"),
        ("/seed x", ""),
        ("/temperature inf", ""),
        ("/help", ""),
    ],
)
def test_what_is_no_command_is_explained(chat, line, near):
    with pytest.raises(UserError) as refused:
        chat.obey(line)
    assert str(refused.value).startswith(f"'{line}' is no command.")
    assert near in str(refused.value)
    assert str(refused.value).endswith("There is /new, /seed N, /temperature X, /quit")


def test_a_conversation_that_is_too_long_is_refused_and_not_remembered(chat):
    with pytest.raises(
        UserError, match=r"an answer of 6 .* more than the 4096 that start can read"
    ):
        chat.say("long " * 5000)
    assert chat.talks == [[], []] and chat.turn == 0


def test_ctrl_c_stops_one_answer_and_nothing_else(chat, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
    before = signal.getsignal(signal.SIGINT)
    turns = typed(chat)
    answers = []
    for answers in chat.say(next(turns)):
        if len(answers) == 1:
            signal.raise_signal(signal.SIGINT)
    stopped, whole = answers
    assert stopped.stopped and not whole.stopped
    assert len(stopped.text) < len(whole.text)
    assert chat.turn == 1 and list(turns) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_answers_stand_side_by_side_on_a_terminal(chat):
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    converse(chat, ["", "/seed 5", "Hello", "/oops", "/quit", "never read"], Columns(console))
    text = console.file.getvalue()
    assert "seed 5" in text and "'/oops' is no command." in text and "never" not in text
    head = next(line for line in text.splitlines() if "result" in line)
    assert "start" in head and len(head) == 60
    assert chat.turn == 1


def test_answers_stand_one_below_the_other_where_there_is_no_terminal(chat, capsys):
    converse(chat, ["Hello"], Lines())
    start, result = (talk[1]["content"] for talk in chat.talks)
    told = capsys.readouterr().out
    assert told.startswith(f"> Hello\nstart: {start}") and f"result: {result}" in told
    assert told.endswith("\n\n")


def test_no_more_than_one_base_is_loaded_for_two_adapters(second):
    start, result = sides(str(second), None, Plugins())
    assert start.model is result.model and isinstance(result.model.roles, Roles)
    assert sorted(result.model.roles.names) == ["against", "policy"]


def ok(*arguments: object, typed: str = "") -> str:
    ended = warm.trimtab(*arguments, typed=typed)
    assert ended.status == 0, ended.output
    return ended.output


def test_a_chat_is_piped_through_generate(first, world):
    asked = ("--max-new-tokens", 6, "--seed", 3)
    told = ok(
        "generate", first, *asked, "--json", typed=f"{ASKED}\nAgain?\n/new\n{ASKED}\n/quit\n"
    )
    records = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    assert [record["prompt"] for record in records] == [ASKED, "Again?", ASKED]
    assert records[0] == records[2]
    assert (records[0]["against"], records[0]["completion"]) == (alone(world.model), alone(first))
    (one,) = map(
        json.loads, ok("generate", first, *asked, "--json", "--prompt", ASKED).splitlines()
    )
    assert one.items() < records[0].items() and "against" not in one
    both = ok("generate", first, *asked, "--json", "--prompt", ASKED, "--against", "start")
    assert json.loads(both) == records[0]


def test_generate_shows_prompts_beside_their_answers(first, world, tmp_path):
    (tmp_path / "two.txt").write_text(f"{ASKED}\nOther?\n")
    asked = ("--prompts", tmp_path / "two.txt", "--max-new-tokens", 6, "--against", world.model)
    told = ok("generate", first, *asked)
    assert told.startswith(f"> {ASKED}\n{world.model}: ")
    assert told.count("\nresult: ") == 2


def test_nothing_to_answer_is_explained(first, tmp_path):
    (tmp_path / "none.txt").write_text("\n")
    for words, said in (
        ([], "nothing came by stdin: give --prompt TEXT or --prompts FILE"),
        (["--prompts", tmp_path / "none.txt"], "none.txt holds no prompt"),
        (["--prompt", ""], "--prompt holds no prompt"),
        (["--prompt", "a", "--prompts", "b"], "give --prompt TEXT or --prompts FILE, one of"),
    ):
        ended = warm.trimtab("generate", first, *words)
        assert ended.status == 2 and said in ended.output, ended.output


@pytest.mark.slow
def test_a_chat_in_a_terminal(first):
    """Ctrl-C while it answers, a second turn, and Ctrl-D."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "trimtab", "generate", str(first), "--max-new-tokens", "200"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        heard = b""

        def hear(text: bytes) -> None:
            nonlocal heard
            deadline = time.monotonic() + 60
            while text not in heard and time.monotonic() < deadline:
                heard += os.read(ours, 4096)
            assert text in heard, heard
            heard = heard.partition(text)[2]

        hear(b"Ctrl-D ends")
        hear(b"> ")
        os.write(ours, b"Hello\n")
        hear(b"start")
        process.send_signal(signal.SIGINT)
        hear(b"[stopped]")
        hear(b"> ")
        os.write(ours, b"/new\n")
        hear(b"a new conversation")
        hear(b"> ")
        os.write(ours, b"\x04")
        assert process.wait(timeout=30) == 0
    os.close(ours)

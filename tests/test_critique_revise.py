"""The source ``critique_revise``: what is asked, what becomes of it, and that nothing is lost."""

from __future__ import annotations

import copy
import json
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import yaml
from data_fixtures import smollm, turns, words
from maker_fixtures import all_of, assert_all_accounted_for, opened, prompts, read_again, setting
from pydantic import ValidationError
from test_rollouts import Count, Dice, Half

from trimtab import Config
from trimtab.core.engine import Completion
from trimtab.core.errors import UserError
from trimtab.core.judge import Judge
from trimtab.core.processes import Processes
from trimtab.plugins.constitutions import drawn, load_constitution
from trimtab.plugins.makers.critique_revise import CritiqueRevise, CritiqueReviseConfig
from trimtab.plugins.makers.effects import effects
from trimtab.plugins.makers.exchanges import Asked, Exchange, Renderer
from trimtab.plugins.sources.corpus import read_corpus
from trimtab.plugins.sources.kinds import DEMONSTRATIONS, PAIRS, PROMPTS

EOS = smollm().eos_token_id


@pytest.fixture
def constitution(tmp_path):
    """Three principles in few words."""
    principles = [
        {
            "id": name,
            "critique": f"Is it {name}?",
            "revise": f"Make it {name}.",
            "compare": f"Which is more {name}?",
            "weight": weight,
        }
        for name, weight in {"kind": 1.0, "brief": 2.0, "true": 3.0}.items()
    ]
    file = tmp_path / "constitution.yaml"
    file.write_text(yaml.safe_dump({"name": "three", "principles": principles}))
    return str(file)


@pytest.fixture
def options(constitution):
    def make(**given: Any) -> CritiqueReviseConfig:
        return CritiqueReviseConfig(constitution=constitution, **given)

    return make


def chatting(count: int) -> list[dict[str, Any]]:
    return [{"prompt": turns(f"Question {n}?"), "answer": n} for n in range(1, count + 1)]


def chains_of(steps) -> list[dict[str, Any]]:
    return [chain for made in steps for chain in made.chains]


def totals(steps) -> Counter[str]:
    return sum((Counter(made.counts) for made in steps), Counter())


class Tells(Dice):
    """Writes what it is asked last, and remembers all that it was asked."""

    def __init__(self, config):
        super().__init__(config)
        self.seen: list[str] = []

    def sample(self, prompts, uniform_NT, *, temperature):
        texts = [smollm().decode(prompt) for prompt in prompts]
        self.seen += texts
        said = [f"Said {len(text)}." for text in texts]
        ids = [smollm()(f"{text}<|im_end|>").input_ids for text in said]
        return [
            Completion(tuple(prompt), tuple(tokens), truncated=False)
            for prompt, tokens in zip(prompts, ids, strict=True)
        ]


# what is asked


def test_each_round_asks_for_a_critique_and_then_for_a_revision(tmp_path, options):
    given = setting(tmp_path, chatting(1), engine=Tells(Config()))
    made = opened(CritiqueRevise, options(rounds=2), given).make(None, 0, 1)
    (chain,) = made.chains
    template = smollm().apply_chat_template
    names = [each["principle"] for each in chain["rounds"]]
    assert len(set(names)) == 2
    expected, answer = [turns("Question 1?")], chain["draft"]
    for name, each in zip(names, chain["rounds"], strict=True):
        asked = turns("Question 1?", answer, f"Is it {name}?")
        more = turns("Question 1?", answer, f"Is it {name}?", each["critique"], f"Make it {name}.")
        expected += [asked, more]
        answer = each["revision"]
    assert answer == chain["final"]
    assert given.engine.seen == [
        template(each, tokenize=False, add_generation_prompt=True) for each in expected
    ]


def test_without_critique_the_revision_is_asked_for_at_once(tmp_path, options):
    given = setting(tmp_path, chatting(1), engine=Tells(Config()))
    made = opened(CritiqueRevise, options(critique=False), given).make(None, 0, 1)
    (chain,) = made.chains
    (name,) = [each["principle"] for each in chain["rounds"]]
    asked = turns("Question 1?", chain["draft"], f"Make it {name}.")
    last = smollm().apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert len(given.engine.seen) == 2 and given.engine.seen[1] == last
    assert chain["rounds"][0]["critique"] is None


def test_a_prompt_keeps_its_system_turn_and_its_template_options(tmp_path, options):
    system = [{"role": "system", "content": "Be a pirate."}, *turns("Where?")]
    given = setting(tmp_path, [{"prompt": system}], engine=Tells(Config()))
    made = opened(CritiqueRevise, options(), given).make(None, 0, 1)
    assert all("Be a pirate." in text for text in given.engine.seen)
    assert made.rows[0]["prompt"] == system


def test_a_prompt_of_plain_text_is_a_users_turn_where_there_are_turns(tmp_path, options):
    given = setting(tmp_path, prompts(1), engine=Tells(Config()))
    made = opened(CritiqueRevise, options(), given).make(None, 0, 1)
    draft, critique, revision = given.engine.seen
    assert draft == "Question 1:"
    assert "<|im_start|>user\nQuestion 1:<|im_end|>" in critique
    assert revision.startswith(critique)
    assert isinstance(made.rows[0]["completion"], str)


def test_a_model_without_turns_is_asked_in_plain_text_up_to_the_next_label(tmp_path):
    tokenizer = copy.deepcopy(smollm())
    tokenizer.chat_template = None
    given = setting(tmp_path, prompts(1), tokenizer=tokenizer)
    (row,) = read_corpus(given.data, PROMPTS, tokenizer).train
    critique = Exchange("critique", "Is it kind?", "No.")
    asked = Asked(row, " yes", [critique, Exchange("revision", "Make it kind.")])
    renderer = Renderer(given)
    (prompt,) = renderer.prompts([asked])
    assert tokenizer.decode(prompt.ids) == (
        "Question 1: yes\n\nCritique request: Is it kind?\n\nCritique: No.\n\n"
        "Revision request: Make it kind.\n\nRevision:"
    )
    assert renderer.reply(" Yes, dear.\n\nCritique request: What?") == "Yes, dear."


def test_an_answer_after_plain_text_begins_as_the_draft_did(tmp_path, options):
    tokenizer = copy.deepcopy(smollm())
    tokenizer.chat_template = None
    given = setting(tmp_path, prompts(30), tokenizer=tokenizer)
    rows, steps = all_of(opened(CritiqueRevise, options(), given))
    changed = [chain for chain in chains_of(steps) if chain["final"] != chain["draft"]]
    assert changed
    for chain in changed:
        lead, other = (len(text) - len(text.lstrip()) for text in (chain["draft"], chain["final"]))
        assert chain["draft"][:lead] == chain["final"][:other]


# what becomes of it


def test_every_prompt_has_a_chain_and_what_was_read_was_made_or_dropped(tmp_path, options):
    made = opened(CritiqueRevise, options(rounds=3), setting(tmp_path, chatting(40)))
    rows, steps = all_of(made, 7)
    assert_all_accounted_for(steps, 40)
    dropped = [one["row"] for step in steps for one in step.dropped]
    assert sorted([row["answer"] for row in rows] + dropped) == list(range(1, 41))
    assert sorted(chain["row"] for chain in chains_of(steps)) == list(range(1, 41))
    reasons = {one["reason"] for step in steps for one in step.dropped}
    assert "the draft cannot be read again: completion is empty" in reasons
    assert all(reason.startswith("the draft cannot be read again: ") for reason in reasons)


def test_what_cannot_be_used_leaves_the_answer_as_it_was_and_is_counted(tmp_path, options):
    made = opened(CritiqueRevise, options(rounds=3), setting(tmp_path, chatting(60)))
    rows, steps = all_of(made, 9)
    whys: Counter[str | None] = Counter()
    finals = {}
    for chain in chains_of(steps):
        answer = chain["draft"]
        for each in chain["rounds"]:
            assert each["kept"] == (each["why"] is None)
            answer = each["revision"] if each["kept"] else answer
            whys[each["why"]] += 1
        assert answer == chain["final"]
        finals[chain["row"]] = answer
    assert whys.keys() == {
        None,
        "the critique is empty",
        "the revision is empty",
        "the revision is truncated",
    }
    counts = totals(steps)
    assert counts["rounds"] == whys.total() == 3 * len(rows)
    assert counts["revisions kept"] == whys.pop(None)
    assert {name: counts[f"left as it was: {name}"] for name in whys} == whys
    for row in rows:
        assert row["completion"] == [{"role": "assistant", "content": finals[row["answer"]]}]


class Repeats(Dice):
    """Says the same whatever it is asked."""

    def sample(self, prompts, uniform_NT, *, temperature):
        tokens = tuple(smollm()("It rains.<|im_end|>").input_ids)
        return [Completion(tuple(prompt), tokens, truncated=False) for prompt in prompts]


def test_a_revision_that_is_the_draft_is_counted_and_makes_no_pair(tmp_path, options):
    given = setting(tmp_path, chatting(4), engine=Repeats(Config()))
    rows, steps = all_of(opened(CritiqueRevise, options(), given))
    assert totals(steps)["left as it was: the revision is the answer before it"] == 4
    assert totals(steps)["unchanged"] == 4 and len(rows) == 4
    rows, steps = all_of(opened(CritiqueRevise, options(form="pairs"), given))
    assert rows == [] and {one["row"] for s in steps for one in s.dropped} == {1, 2, 3, 4}
    assert {one["reason"] for s in steps for one in s.dropped} == {"no revision could be used"}


class Returns(Repeats):
    """Says one thing and another in turn, and says it of critiques too."""

    calls = 0

    def sample(self, prompts, uniform_NT, *, temperature):
        text = ("It rains.", "Why so?", "It snows.", "Why then?", "It rains.")[self.calls % 5]
        self.calls += 1
        tokens = tuple(smollm()(f"{text}<|im_end|>").input_ids)
        return [Completion(tuple(prompt), tokens, truncated=False) for prompt in prompts]


def test_revisions_that_end_with_the_draft_make_no_pair(tmp_path, options):
    given = setting(tmp_path, chatting(2), engine=Returns(Config()))
    made = opened(CritiqueRevise, options(form="pairs", rounds=2), given).make(None, 0, 2)
    assert [each["kept"] for chain in made.chains for each in chain["rounds"]] == [True] * 4
    assert not made.rows and len(made.dropped) == 2
    assert {one["reason"] for one in made.dropped} == {"the final answer is the draft"}


def test_rows_are_read_as_demonstrations_and_as_pairs_and_hold_no_critique(tmp_path, options):
    given = setting(tmp_path, chatting(30))
    for form, kind in {"revisions": DEMONSTRATIONS, "pairs": PAIRS}.items():
        rows, steps = all_of(opened(CritiqueRevise, options(form=form), given))
        again = read_again(tmp_path, rows, kind)
        assert len(again.train) == len(rows) > 10 and not again.faults()
        critiques = [r["critique"] for c in chains_of(steps) for r in c["rounds"] if r["critique"]]
        assert critiques and not any(text in json.dumps(rows) for text in critiques if text)
        if form == "pairs":
            by_row = {chain["row"]: chain for chain in chains_of(steps)}
            for row in rows:
                chain = by_row[row["answer"]]
                assert row["chosen"][0]["content"] == chain["final"]
                assert row["rejected"][0]["content"] == chain["draft"]


def test_truncated_drafts_can_be_dropped(tmp_path, options):
    given = setting(tmp_path, chatting(40))
    kept = all_of(opened(CritiqueRevise, options(), given))[1]
    dropped = all_of(opened(CritiqueRevise, options(truncated="drop"), given))[1]
    count = totals(kept)["truncated drafts"]
    assert count > 0 and totals(dropped)["truncated drafts"] == count
    reasons = Counter(one["reason"] for step in dropped for one in step.dropped)
    assert reasons["the draft is truncated"] == count


def test_a_prompt_whose_conversation_the_template_refuses_is_dropped(tmp_path, options):
    refusing = "{% if messages|length > 1 %}{{ raise_exception('one turn only') }}{% endif %}"
    template = words().chat_template
    tokenizer = copy.deepcopy(smollm())
    tokenizer.chat_template = template + refusing
    given = setting(tmp_path, prompts(3), tokenizer=tokenizer)
    made = opened(CritiqueRevise, options(), given).make(None, 0, 3)
    asked = [one for one in made.dropped if "completion is empty" not in one["reason"]]
    assert not made.rows and len(made.dropped) == 3 and asked
    for one in asked:
        assert one["reason"].startswith("the critique cannot be asked for: the chat template ref")
    for chain in made.chains:
        assert chain["dropped"] and not any(each["kept"] for each in chain["rounds"])


# random streams


def test_nothing_depends_on_how_many_prompts_are_taken_at_a_time(tmp_path, options):
    given = setting(tmp_path, chatting(10), Count)
    made = opened(CritiqueRevise, options(rounds=2), given)
    rows, steps = all_of(made, 10, epochs=2)
    samples = [one for step in steps for one in step.samples]
    for count in (1, 3, 4):
        other, others = all_of(made, count, epochs=2)
        assert other == rows and chains_of(others) == chains_of(steps)
        assert [one for step in others for one in step.samples] == samples
    drafts = [chain["draft"] for chain in chains_of(steps)]
    assert drafts[:10] != drafts[10:]
    numbers = [one["sample"] for one in samples]
    assert len(set(numbers)) == len(numbers)


def test_the_first_round_does_not_depend_on_how_many_there_are(tmp_path, options):
    given = setting(tmp_path, chatting(12))
    one, three = (
        opened(CritiqueRevise, options(rounds=rounds), given).make(None, 0, 12).chains
        for rounds in (1, 3)
    )
    for short, long in zip(one, three, strict=True):
        assert short["draft"] == long["draft"] and short["rounds"] == long["rounds"][:1]


def test_principles_follow_from_the_seed_and_the_prompts_place(tmp_path, options, constitution):
    given = setting(tmp_path, chatting(12))
    made = opened(CritiqueRevise, options(rounds=3), given)
    principles = load_constitution(constitution)
    for epoch in (0, 1):
        for place, chain in enumerate(made.make(None, epoch, 12).chains):
            names = [each["principle"] for each in chain["rounds"]]
            expected = [each.id for each in drawn(principles, 3, 3, "principle", epoch, place)]
            assert names == expected[: len(names)]


class Waiting(Exception):
    """A process is where it needs what the other one gathers."""


class Together(Processes):
    """One of two processes, which knows what both gathered so far."""

    count = 2

    def __init__(self, rank: int, gathered: list[list[Any]]) -> None:
        self.rank, self.gathered, self.at = rank, gathered, 0

    def gather(self, value):
        self.value, self.at = value, self.at + 1
        if self.at > len(self.gathered):
            raise Waiting
        return copy.deepcopy(self.gathered[self.at - 1])


def in_two(make) -> list[Any]:
    """What each of two processes makes: both begin anew with all that was gathered, until both
    come to the end."""
    gathered: list[list[Any]] = []
    while True:
        both, made = [Together(rank, gathered) for rank in (0, 1)], []
        for each in both:
            with suppress(Waiting):
                made.append(make(each))
        if len(made) == 2:
            return made
        assert not made
        gathered.append([each.value for each in both])


@pytest.mark.parametrize("by", ["policy", "judge"])
def test_two_processes_share_the_prompts_and_both_get_all(tmp_path, options, by):
    given = setting(tmp_path, chatting(5), Count, judge=Critic(Config()))
    config = options(rounds=2, by=by)
    whole = opened(CritiqueRevise, config, given).make(None, 0, 5)

    def make(processes):
        own = replace(given, processes=processes, judge=Critic(Config()), engine=Dice(Config()))
        return opened(CritiqueRevise, config, own).make(None, 0, 5)

    assert in_two(make) == [whole, whole]


# the judge


class Critic(Judge[Config]):
    """Says how long the last answer is; nothing of answers whose length divides by three."""

    name = "critic"
    options = Config

    def __init__(self, config):
        super().__init__(config)
        self.asked = 0

    def compare(self, comparisons):
        raise NotImplementedError

    def score(self, ratings):
        raise NotImplementedError

    def write(self, conversations):
        self.asked += len(conversations)
        lengths = [len(turns[-2]["content"]) for turns in conversations]
        return [f" {length} letters " if length % 3 else None for length in lengths]

    def counts(self):
        found, self.asked = self.asked, 0
        return {"requests": found}


def test_a_judge_may_criticize_and_what_it_does_not_criticize_stays(tmp_path, options):
    given = setting(tmp_path, chatting(30), judge=Critic(Config()))
    made = opened(CritiqueRevise, options(by="judge"), given)
    assert made.judges
    rows, steps = all_of(made, 7)
    rounds = [(c["draft"], each) for c in chains_of(steps) for each in c["rounds"]]
    for draft, each in rounds:
        length = len(draft.strip())
        assert each["critique"] == (f"{length} letters" if length % 3 else None)
        assert (each["why"] == "the judge wrote no critique") == (length % 3 == 0)
    counts = totals(steps)
    assert counts["judge/requests"] == counts["rounds"] == len(rows)
    silent = counts["left as it was: the judge wrote no critique"]
    assert silent == counts["judge/abstained"] > 0
    assert sum(step.metrics["judge/requests"] for step in steps) == len(rows)
    told = made.figures(counts)["judge"]
    assert told["requests"] == told["asked"] == len(rows)
    assert told["abstained"]["value"] == silent / len(rows)


def test_critiques_by_judge_need_one_that_writes(tmp_path, options):
    with pytest.raises(UserError, match=r"critiques by judge ask one: give judge: \{name"):
        opened(CritiqueRevise, options(by="judge"), setting(tmp_path, chatting(2)))

    class Mute(Critic):
        write = Judge.write

    given = setting(tmp_path, chatting(9), judge=Mute(Config()))
    with pytest.raises(UserError, match="the judge 'critic' compares and rates, and does not wri"):
        opened(CritiqueRevise, options(by="judge"), given).make(None, 0, 9)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"by": "judge", "critique": False}, "the judge writes critiques, and critique is false"),
        ({"by": "judge", "critique_tokens": 9}, "critique_tokens is of critiques that the policy"),
        ({"critique": False, "critique_tokens": 9}, "critique_tokens is of critiques that the po"),
        ({"rounds": 0}, "greater than 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        CritiqueReviseConfig(**given)


def test_a_faulty_constitution_is_told_at_once(tmp_path, options):
    file = tmp_path / "faulty.yaml"
    file.write_text("name: a\nprinciples: []\nmotto: b\n")
    with pytest.raises(UserError) as raised:
        opened(
            CritiqueRevise,
            CritiqueReviseConfig(constitution=str(file)),
            setting(tmp_path, chatting(1)),
        )
    assert len(str(raised.value).splitlines()) == 2


def test_critiques_have_a_limit_of_their_own(tmp_path, options):
    given = setting(tmp_path, chatting(20))
    chains = opened(CritiqueRevise, options(critique_tokens=1), given).make(None, 0, 20).chains
    critiques = [each["critique"] for chain in chains for each in chain["rounds"]]
    assert all(len(smollm()(text).input_ids) <= 1 for text in critiques if text)
    assert any(len(smollm()(chain["final"]).input_ids) > 2 for chain in chains)


# rewards and effects


def test_every_answer_is_scored_beside_the_others_of_its_prompt(tmp_path, options):
    given = setting(tmp_path, chatting(20), Count)
    made = opened(CritiqueRevise, options(rounds=3), given)
    rows, steps = all_of(made)
    for chain in chains_of(steps):
        if "dropped" in chain:
            assert chain["final_reward"] is None and chain["rounds"] == []
            continue
        answer = chain["draft"]
        assert chain["draft_reward"] == len(answer)
        for each in chain["rounds"]:
            answer = each["revision"] if each["kept"] else answer
            assert each["reward"] == len(answer)
        assert chain["final_reward"] == len(chain["final"])
    answers = sum(1 + sum(r["kept"] for r in c["rounds"]) for c in chains_of(steps))
    assert sum(len(step.samples) for step in steps) == answers
    assert {one["answer"] for step in steps for one in step.samples} >= {"draft", "revision 2"}
    for step in steps:
        scored = [chain for chain in step.chains if "dropped" not in chain]
        for name, which in {"reward_draft": "draft", "reward": "final"}.items():
            mean = sum(len(chain[which]) for chain in scored) / len(scored)
            assert step.metrics[name] == pytest.approx(mean)


def test_rewards_that_are_only_watched_are_told_each_by_itself(tmp_path, options):
    """Their sum is 0 whatever they say."""
    made = opened(CritiqueRevise, options(), setting(tmp_path, chatting(12), Count, weights=[0.0]))
    _, steps = all_of(made)
    chains = [chain for chain in chains_of(steps) if "dropped" not in chain]
    for chain in chains:
        assert "final_reward" not in chain and "reward" not in chain["rounds"][0]
        assert chain["draft_parts"] == {Count.name: len(chain["draft"])}
        assert chain["final_parts"] == {Count.name: len(chain["final"])}
    told = made.effects(chains_of(steps))["answers"]
    changed = [chain for chain in chains if chain["draft"].strip() != chain["final"].strip()]
    gains = [len(chain["final"]) - len(chain["draft"]) for chain in changed]
    assert told[f"reward/{Count.name}"]["value"] == pytest.approx(sum(gains) / len(gains))
    assert told[f"reward/{Count.name}"]["n"] == len(gains) and "reward" not in told


def test_an_answer_that_no_reward_can_score_makes_a_row_all_the_same(tmp_path, options):
    given = setting(tmp_path, chatting(20), Half)
    rows, steps = all_of(opened(CritiqueRevise, options(), given))
    unscored = [
        chain
        for chain in chains_of(steps)
        if "dropped" not in chain and chain["final_reward"] is None
    ]
    assert unscored and {chain["row"] for chain in unscored} <= {row["answer"] for row in rows}
    assert any(step.notes for step in steps)


def test_effects_are_told_by_principle_and_over_all_rounds():
    def round_of(principle, revision, reward, why=None):
        kept = why is None
        said = {"principle": principle, "critique": "c", "revision": revision, "kept": kept}
        return {**said, "why": why, "reward": reward}

    chains = [
        {
            "draft": "a b c d",
            "rounds": [round_of("x", "a b", 3.0), round_of("y", "a z", 2.0)],
            "final": "a z",
            "draft_reward": 1.0,
            "final_reward": 2.0,
        },
        {
            "draft": "p q",
            "rounds": [round_of("x", "", 5.0, "the revision is empty")],
            "final": "p q",
            "draft_reward": 5.0,
            "final_reward": 5.0,
        },
        {"draft": "", "rounds": [], "final": "", "dropped": "the draft cannot be read again"},
    ]
    found = effects(chains)
    # x: "a b c d" -> "a b": 2 words less; 2 M / T = 2 * 2 / 6; reward 1 -> 3; and one unchanged
    assert found["principles"]["x"] == {
        "drawn": 2,
        "changed": 0.5,
        "words": -2.0,
        "similarity": pytest.approx(2 / 3),
        "reward": {"value": 2.0, "low": 2.0, "high": 2.0, "n": 1},
    }
    # y: "a b" -> "a z": as many words; 2 * 1 / 4; the reward 3 -> 2
    assert found["principles"]["y"] == {
        "drawn": 1,
        "changed": 1.0,
        "words": 0.0,
        "similarity": 0.5,
        "reward": {"value": -1.0, "low": -1.0, "high": -1.0, "n": 1},
    }
    # "a b c d" -> "a z": 2 * 1 / 6
    assert found["answers"] == {
        "revised": 2,
        "changed": 0.5,
        "words": -2.0,
        "similarity": pytest.approx(1 / 3),
        "reward": {"value": 1.0, "low": 1.0, "high": 1.0, "n": 1},
    }
    without = effects([{"draft": "a", "rounds": [{**round_of("x", "b", None)}], "final": "b"}])
    assert "reward" not in without["principles"]["x"] and "reward" not in without["answers"]


def test_where_most_revisions_cannot_be_used_the_user_is_told(tmp_path, options):
    given = setting(tmp_path, chatting(12))
    short = replace(given, rollout=given.rollout.model_copy(update={"max_new_tokens": 1}))
    made = opened(CritiqueRevise, options(critique=False), short).make(None, 0, 12)
    left = [each["why"] for chain in made.chains for each in chain["rounds"]]
    cut = left.count("the revision is truncated")
    assert cut > len(left) / 2
    without = len(left) - left.count(None)
    assert made.notes == [
        f"{without} of {len(left)} revisions left the answer as it was, {cut} of them for this: "
        "the revision is truncated: raise rollout.max_new_tokens"
    ]

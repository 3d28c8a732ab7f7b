"""Constitutions: what a file may hold, how faults are told, and how principles are drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from trimtab.core.errors import UserError
from trimtab.core.yamlfile import MAX_BYTES
from trimtab.plugins.constitutions import OURS, Constitution, drawn, load_constitution

KIND = {
    "id": "kind",
    "critique": "Is it unkind?",
    "revise": "Make it kind.",
    "compare": "Which is kinder?",
}


def written(tmp_path: Path, text: str | bytes) -> str:
    file = tmp_path / "constitution.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(file)


def given(tmp_path: Path, *principles, **more) -> str:
    whole = {"name": "mine", "principles": list(principles), **more}
    return written(tmp_path, yaml.safe_dump(whole, sort_keys=False))


def faults(path: str) -> list[str]:
    with pytest.raises(UserError) as raised:
        load_constitution(path)
    return str(raised.value).replace(path, "FILE").splitlines()


def test_ours_is_read_by_its_name_and_without_one():
    ours = load_constitution(None)
    assert ours == load_constitution("trimtab") == load_constitution(str(OURS))
    assert 10 <= len(ours.principles) <= 14


def test_ours_covers_what_it_should_and_each_text_asks_something():
    ours = load_constitution(None)
    named = {principle.id for principle in ours.principles}
    assert named >= {"helpful", "truthful", "harmless", "not-sycophantic", "not-evasive"}
    assert named >= {"respectful", "private", "not-manipulative"}
    for principle in ours.principles:
        assert "?" in principle.critique and principle.compare.endswith("?")
        assert principle.revise.endswith("Write only the new answer.")
        assert principle.source is not None
    for column in ("critique", "revise", "compare"):
        texts = [getattr(principle, column) for principle in ours.principles]
        assert len(set(texts)) == len(texts)


def test_a_weight_is_one_and_a_source_is_unknown_where_the_file_is_silent(tmp_path):
    principle = load_constitution(given(tmp_path, KIND)).principles[0]
    assert (principle.weight, principle.source) == (1.0, None)
    voted = load_constitution(given(tmp_path, {**KIND, "weight": 12, "source": "votes"}))
    assert (voted.principles[0].weight, voted.principles[0].source) == (12.0, "votes")


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path):
    plain = load_constitution(given(tmp_path, KIND))
    marked = written(tmp_path, b"\xef\xbb\xbf" + Path(given(tmp_path, KIND)).read_bytes())
    assert load_constitution(marked) == plain


def test_every_fault_is_told_at_once_with_its_line(tmp_path):
    path = written(
        tmp_path,
        "name: ''\n"
        "motto: be good\n"
        "principles:\n"
        "  - id: kind\n"
        "    critque: Is it unkind?\n"
        "    revise: '  '\n"
        "    compare: Which is kinder?\n"
        "    weight: 0\n"
        "  - id: kind\n"
        "    critique: 3\n"
        "    revise: Make it kind.\n"
        "    compare: Which is kinder?\n",
    )
    assert faults(path) == [
        "FILE:1: name: this is empty",
        "FILE:2: motto: unknown key. Known: name, principles.",
        "FILE:4: principles.0.critique: this is required",
        "FILE:5: principles.0.critque: unknown key. Did you mean 'critique'? "
        "Known: id, critique, revise, compare, weight, source.",
        "FILE:6: principles.0.revise: this is empty",
        "FILE:8: principles.0.weight: must be greater than 0, not 0",
        "FILE:9: principles.1.id: another principle is called 'kind': at FILE:4",
        "FILE:10: principles.1.critique: wants text, not 3; quote it: '3'",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "FILE:1: yaml: a constitution holds 'name:' and 'principles:'"),
        ("- kind\n", "FILE:1: yaml: a constitution holds 'name:' and 'principles:'"),
        ("name: a\nprinciples: kind\n", "FILE:2: principles: wants a list, not the text 'kind'"),
        ("name: a\nname: b\n", "FILE:2: name: given twice: first at FILE:1. Keep one."),
        ("name: &a x\n", "FILE:1: name: the anchor &a is not allowed; leave it out"),
        (b"name: \xff\n", "FILE:1: yaml: this is not UTF-8 text"),
        ("#" * (MAX_BYTES + 1), "FILE:1: yaml: the file is larger than 1 MiB"),
    ],
)
def test_what_is_no_constitution_is_refused(tmp_path, text, said):
    assert faults(written(tmp_path, text)) == [said]


def test_at_least_one_principle_is_needed(tmp_path):
    assert faults(given(tmp_path)) == ["FILE:2: principles: this is empty"]


@pytest.mark.parametrize("weight", [-1, 0, ".inf", ".nan", "1.0e+308"])
def test_a_weight_is_a_positive_number_that_can_be_summed(tmp_path, weight):
    text = Path(given(tmp_path, KIND)).read_text() + f"  weight: {weight}\n"
    (said,) = faults(written(tmp_path, text))
    assert said.startswith("FILE:7: principles.0.weight: ")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the constitution .*gone\.yaml: No such"):
        load_constitution(str(tmp_path / "gone.yaml"))


def test_its_description_tells_any_change_of_its_words_and_weights(tmp_path):
    one = load_constitution(given(tmp_path, KIND)).describe()
    assert one == load_constitution(given(tmp_path, {**KIND, "weight": 1.0})).describe()
    changes = {"id": "good", "revise": "Be kind.", "compare": "Which?", "weight": 2.0}
    for key, value in changes.items():
        other = load_constitution(given(tmp_path, {**KIND, key: value})).describe()
        assert other["hash"] != one["hash"], key


# drawing


def constitution(**weights: float) -> Constitution:
    principles = [{**KIND, "id": name, "weight": weight} for name, weight in weights.items()]
    return Constitution.model_validate({"name": "mine", "principles": principles})


def test_principles_are_drawn_by_weight():
    weighed = constitution(a=1.0, b=2.0, c=5.0)
    first = Counter(drawn(weighed, 1, "stream", place)[0].id for place in range(8000))
    for name, expected in {"a": 1000, "b": 2000, "c": 5000}.items():
        assert abs(first[name] - expected) < 5 * expected**0.5


def test_none_comes_again_before_all_have_come_and_none_twice_in_succession():
    weighed = constitution(a=1.0, b=2.0, c=50.0)
    for place in range(200):
        names = [each.id for each in drawn(weighed, 9, place)]
        assert all(sorted(names[n : n + 3]) == ["a", "b", "c"] for n in (0, 3, 6))
        assert all(one != other for one, other in zip(names, names[1:], strict=False))


def test_the_only_principle_is_drawn_every_time():
    assert [each.id for each in drawn(constitution(a=1.0), 3, 0)] == ["a", "a", "a"]


def test_the_first_rounds_do_not_depend_on_how_many_there_are():
    ours = load_constitution(None)
    assert drawn(ours, 20, 3, "principle", 7)[:4] == drawn(ours, 4, 3, "principle", 7)
    assert drawn(ours, 4, 3, "principle", 7) != drawn(ours, 4, 4, "principle", 7)

"""YAML is read strictly, with the line of every value, and all of its faults at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.yamlfile import MAX_DEPTH, read, write


def faults(text):
    return [str(fault) for fault in read(text, "f")[1]]


def value(text):
    node, found = read(text, "f")
    assert found == []
    return node.plain()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("-1.", -1.0),
        ("3", 3),
        ("-3", -3),
        ("1_000", 1000),
        ("0x1F", 31),
        (".inf", float("inf")),
        ("true", True),
        ("no", False),
        ("off", False),
        ("yes", True),
        ("~", None),
        ("null", None),
        ("", None),
        ("'no'", "no"),
        ("'1'", "1"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1.5.3", "1.5.3"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("|\n  two\n  lines", "two\nlines"),
        ("[1, a, {b: c}]", [1, "a", {"b": "c"}]),
    ],
)
def test_values(text, expected):
    found = value(f"key: {text}")["key"]
    assert found == expected
    assert type(found) is type(expected)


def test_every_value_knows_its_line_and_path():
    node, _ = read("a:\n  b: 1\n  c:\n    - x\n    - d: 2\n", "run.yaml")
    deep = node.child("a").child("c").child(1).child("d")
    assert (str(deep.origin), deep.key, deep.text) == ("run.yaml:5", "a.c.1.d", "2")
    assert str(node.child("a").child("b").origin) == "run.yaml:2"
    assert node.child("b") is None and deep.child("x") is None
    assert node.child("a").child("c").child(2) is None


def test_all_faults_at_once():
    text = """\
a: 1
a: 2
b: &x 3
c: *x
d: !!str 4
<<: {a: 1}
no: 3
? [e]
: 4
5: six
---
f: 1
"""
    assert faults(text) == [
        "f:2: a: given twice: first at f:1. Keep one.",
        "f:3: b: the anchor &x is not allowed; leave it out",
        "f:4: c: the alias *x is not allowed; repeat the value",
        "f:5: d: the tag tag:yaml.org,2002:str is not allowed; leave it out",
        "f:6: yaml: the merge key << is not allowed; repeat the keys",
        "f:7: yaml: a key must be text; quote it: 'no'",
        "f:8: yaml: a key must be text",
        "f:10: yaml: a key must be text; quote it: '5'",
        "f:11: yaml: a second document starts here; give one",
    ]


def test_a_tag_constructs_nothing(tmp_path):
    made = tmp_path / "made"
    found = faults(f"a: !!python/object/apply:os.mkdir ['{made}']")
    assert found == [
        "f:1: a: the tag tag:yaml.org,2002:python/object/apply:os.mkdir is not allowed; "
        "leave it out"
    ]
    assert not made.exists()


def test_an_alias_bomb_is_refused_at_its_first_alias():
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    node, found = read("\n".join(lines), "f")
    assert str(found[2]) == "f:2: a1.0: the alias *a0 is not allowed; repeat the value"
    assert node.plain()["a39"] == [None, None]


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [1,\nb: }", "f:2: yaml: this is not YAML: while parsing a flow node, expected"),
        ("a: b\n\tc: d", "f:2: yaml: this is not YAML: while scanning for the next token"),
        ("a: \x01", "f:1: yaml: the character '\\x01' is not allowed"),
        ("b: 1\na: " + "9" * 5000, "f:2: a: 99999999999999999999 is not a number"),
    ],
)
def test_what_is_not_yaml(text, message):
    assert faults(text)[0].startswith(message)


def test_depth_is_limited():
    fits = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert faults(fits) == []
    assert "nested more than 50 deep" in faults("[" * 100_000)[0]


def test_an_empty_file_is_null():
    assert value("") is None
    assert value("# a comment\n") is None
    assert value("--- \na: 1\n...\n") == {"a": 1}


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.sampled_from(["no", "1e5", "1e-5", "0x1f", "~", "<<", "=", "2024-01-01", "1:30", "010"]),
)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)


@given(trees)
def test_what_is_written_is_read_back(tree):
    assert value(write(tree)) == tree
    assert repr(value(write(tree))) == repr(tree)  # 1 is not 1.0

"""Run files: every error at once, with its line, its key and what to write instead."""

import json
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import faults, reader
from made import plugins as made_plugins

from trimtab import load_run_file
from trimtab.core.config import RunFile
from trimtab.core.errors import UserError
from trimtab.core.runfile import KINDS, RunFileError, dump, dump_plan, load
from trimtab.core.runschema import run_schema

OBJECTIVES = ("trimtab.objectives.sft", "trimtab.objectives.dpo")
MINIMAL = "data: {train: pairs.jsonl}\nobjective: {name: plain}\n"
STAGED = """\
data: {train: pairs.jsonl}
objective: {name: plain, strength: 0.3}
train: {steps: 3}
stages:
  - name: first
    objective: {shape: square}
  - name: second
    model: {start: stages.first}
    objective: {name: other}
    train: {learning_rate: 1e-5}
"""


@pytest.fixture(scope="module")
def plugins():
    return made_plugins()


@pytest.fixture
def read(tmp_path, plugins, monkeypatch):
    """Load a text as run.yaml."""
    monkeypatch.chdir(tmp_path)
    return reader(plugins)


@pytest.fixture
def errors(read):
    """All that is wrong with a text."""
    return partial(faults, read)


def test_minimal(read):
    plan = read(MINIMAL)
    (stage,) = plan.stages
    assert (plan.path.name, plan.text, stage.name) == ("run.yaml", MINIMAL, None)
    assert stage.run.data.train == "pairs.jsonl"
    assert stage.run.objective.options == {
        "strength": 0.1,
        "shape": "round",
        "label": None,
        "steps": [],
    }
    assert stage.run.reference.options["strength"] == 0.1


def test_the_facade_composes_the_registry(tmp_path, plugins):
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    plan = load_run_file(path, ["train.steps=7"], plugins)
    assert plan.stages[0].run.train.steps == 7


def test_every_error_at_once(errors):
    text = """\
model: {name: no, quantization: no, dropuot: 0.1}
data: {train: 3}
objective:
  name: plain
  strength: "0.1"
  shape: sqare
  lable: x
reward:
  - {name: lenght}
  - {name: overlap, weight: heavy}
reference: adapter_off
train:
  steps: 3.5
  learning_rate: yes
  rows: 0
  seed: 1
  seed: 2
learning_rate: 1e-5
"""
    assert errors(text) == [
        "run.yaml:1: model.name: wants text, not no, which is YAML for false; quote it: 'no'",
        "run.yaml:1: model.quantization: wants 'nf4', 'int8' or 'none', not no, which is YAML "
        "for false. Did you mean 'none'?",
        "run.yaml:1: model.dropuot: unknown key. Known: name, start, start_as, quantization, "
        "dtype, adapter, gradient_checkpointing, prefix_sharing, trust_remote_code.",
        "run.yaml:2: data.train: wants text or a list, not 3; quote it: '3'",
        "run.yaml:5: objective.strength: wants a number, not the text '0.1'",
        "run.yaml:6: objective.shape: wants 'round', 'square' or 'none', not the text 'sqare'. "
        "Did you mean 'square'?",
        "run.yaml:7: objective.lable: unknown key. Did you mean 'label'? "
        "Known: strength, shape, label, steps, name.",
        "run.yaml:9: reward.0.name: no reward 'lenght'. Did you mean 'length'? "
        "Installed: length, overlap.",
        "run.yaml:10: reward.1.weight: wants a number, not the text 'heavy'",
        "run.yaml:11: reference: wants keys with values, such as {name: adapter_off}, "
        "not the text 'adapter_off'",
        "run.yaml:13: train.steps: wants a whole number, not 3.5",
        "run.yaml:14: train.learning_rate: wants a number, not yes, which is YAML for true",
        "run.yaml:15: train.rows: must be greater than 0, not 0",
        "run.yaml:17: train.seed: given twice: first at run.yaml:16. Keep one.",
        "run.yaml:18: learning_rate: unknown key. Did you mean 'train.learning_rate'? Known: "
        "model, data, objective, reward, reference, source, judge, rollout, streams, train, "
        "watch, trackers, plugins, run, stages.",
    ]


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "",
            ["run.yaml:1: data: this is required", "run.yaml:1: objective: this is required, un"],
        ),
        (
            "objective:\n  strength: 1\ndata: {eval: x}",
            [
                "run.yaml:1: objective.name: this is required",
                "run.yaml:3: data.train: this is req",
            ],
        ),
        ("- a", ["run.yaml:1: yaml: a run file holds sections such as 'objective:'"]),
        ("a: [", ["run.yaml:1: yaml: this is not YAML: "]),
        (
            MINIMAL + "model: {adapter: {targets: [q_proj, no]}}",
            ["run.yaml:3: model.adapter.targets.1: wants text, not no, which is YAML for false;"],
        ),
        (
            MINIMAL + "model: {adapter: {targets: 3}}",
            ["run.yaml:3: model.adapter.targets: wants 'all-linear' or a list, not 3"],
        ),
        (
            MINIMAL + "model:\n  adapter: null",
            ["run.yaml:3: model: adapter: null trains the base itself, and a quantized base"],
        ),
        (MINIMAL + "train: {steps: 1, epochs: 1}", ["run.yaml:3: train: give steps or epochs"]),
        (MINIMAL + "train:", ["run.yaml:3: train: wants keys with values, not null"]),
        (MINIMAL + "reward: {name: length}", ["run.yaml:3: reward: wants a list, not keys with"]),
        (
            MINIMAL + "train: {learning_rate: .inf}",
            ["run.yaml:3: train.learning_rate: wants a finite number, not .inf"],
        ),
        (MINIMAL + "plugins: [nothere.py]", ["run.yaml:3: plugins.0: the plugin file "]),
        (
            MINIMAL + "trackers: [{name: plain}]",
            ["run.yaml:3: trackers.0.name: no tracker 'plain': that name is of kind objective."],
        ),
    ],
)
def test_errors(errors, text, expected):
    found = errors(text)
    assert len(found) == len(expected)
    for error, start in zip(found, expected, strict=True):
        assert error.startswith(start)


def test_files_that_cannot_be_read(tmp_path, plugins):
    with pytest.raises(UserError, match="cannot read the run file .*: No such file or directory"):
        load(tmp_path / "nothere.yaml", (), plugins)
    path = tmp_path / "run.yaml"
    path.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(RunFileError, match="run.yaml:1: yaml: the file is larger than 1 MiB"):
        load(path, (), plugins)
    path.write_bytes(b"a: b\nc: \xff\n")
    with pytest.raises(RunFileError, match="run.yaml:2: yaml: this is not UTF-8 text"):
        load(path, (), plugins)


def test_overrides(read):
    text = MINIMAL + "reward: [{name: length}, {name: overlap}]\njudge: null\n"
    plan = read(
        text,
        "objective.strength=1e-3",
        "reward.0.weight=2",
        "reward.overlap.weight=3",
        "model.adapter.rank=4",
        "judge={name: local, label: 'no'}",
        "run=",
        "data.train=a=b",
    )
    run = plan.stages[0].run
    assert run.objective.options["strength"] == 1e-3
    assert [reward.weight for reward in run.reward] == [2.0, 3.0]
    assert run.model.adapter.rank == 4
    assert run.judge.options["label"] == "no"
    assert (run.run, run.data.train) == (None, "a=b")


@pytest.mark.parametrize(
    "override, message",
    [
        ("train.stpes=3", "train.stpes: unknown key. Did you mean 'steps'?"),
        ("trian.steps=3", "trian: unknown key. Did you mean 'train'?"),
        ("objective.strenght=3", "objective.strenght: unknown key. Did you mean 'strength'?"),
        ("objective.name=plian", "objective.name: no objective 'plian'. Did you mean 'plain'?"),
        ("train.steps=many", "train.steps: wants a whole number, not the text 'many'"),
        ("train.steps=[", "train.steps: this is not YAML: "),
        ("train.steps=*x", "train.steps: the alias *x is not allowed"),
        ("model.name=no", "model.name: wants text, not no, which is YAML for false; quote it: "),
        ("train.steps", "train.steps: write it as section.key=value"),
        (".steps=3", ".steps: write it as section.key=value"),
        ("=3", "key: write it as section.key=value"),
        ("objective.name.x=3", "objective.name.x: objective.name is 'plain', which has no 'x'"),
        (
            "reward.1.weight=2",
            "reward.1.weight: reward has 1 items, numbered from 0, and none is '1'.",
        ),
        ("reward.lenght.weight=2", "reward.lenght.weight: reward has 1 items, numbered from 0, "),
    ],
)
def test_wrong_overrides(errors, override, message):
    found = errors(MINIMAL + "reward: [{name: length}]", override)
    assert len(found) == 1
    assert found[0].startswith(f"--set {override}: {message}")


def test_stages(read):
    plan = read(STAGED, "stages.first.train.steps=9", "stages.1.train.seed=5")
    first, second = plan.stages
    assert (first.name, second.name) == ("first", "second")
    assert first.run.objective.options["shape"] == "square"
    assert first.run.objective.options["strength"] == 0.3
    assert second.run.objective.name == "other"
    assert second.run.objective.options["strength"] == 0.1  # another plugin: its own default
    assert (first.run.train.steps, second.run.train.steps) == (9, 3)
    assert (second.run.train.learning_rate, second.run.train.seed) == (1e-5, 5)
    assert second.run.model.start == "stages.first"


@pytest.mark.parametrize(
    "objective, source, said",
    [
        ("null", "dataset", "'dataset': it gives rows to train on, and makes no data set: name"),
        ("{name: dpo}", "best", "'best': it makes a data set, which 'dpo' cannot train on: write"),
        ("{name: dpo}", "rollouts", "'rollouts': it cannot make the Pairs that 'dpo' learns from"),
    ],
)
def test_a_source_that_does_not_fit(tmp_path, objective, source, said):
    path = tmp_path / "run.yaml"
    path.write_text(f"data: {{train: x}}\nobjective: {objective}\nsource:\n  name: {source}\n")
    with pytest.raises(RunFileError) as caught:
        load_run_file(path)
    (error,) = caught.value.errors
    assert error.startswith(f"{path}:4: source.name: {said}")


def test_a_stage_may_leave_out_what_the_file_has(read, tmp_path, plugins):
    text = """\
data: {train: pairs.jsonl}
objective: {name: plain}
watch: null
stages:
  - {name: make, objective: null, source: {name: rows}}
  - {name: learn, data: {train: stages.make}, source: null}
  - {name: both, data: {train: [stages.make, more.jsonl]}}
"""
    plan = read(text)
    make, learn, both = (stage.run for stage in plan.stages)
    assert (make.objective, make.source.name) == (None, "rows")
    assert (learn.objective.name, learn.source) == ("plain", None)
    assert both.data.tables == ["stages.make", "more.jsonl"]
    (tmp_path / "config.yaml").write_text(dump_plan(plan))
    assert load(tmp_path / "config.yaml", (), plugins).stages == plan.stages


def test_errors_of_stages(errors):
    text = """\
data: {train: pairs.jsonl}
train: {stpes: 3}
objective: {name: plain}
stages:
  - name: first
    model: {start: stages.second}
  - name: second
    model: {start: stages.frist}
    run: somewhere
  - name: Third
    train: {rows: -1}
  - name: first
  - objective: {name: plian}
    reward: [{name: length, from: stages.fourth}]
  - fifth
"""
    starts = [
        "run.yaml:2: train.stpes: unknown key. Did you mean 'steps'?",
        "run.yaml:6: stages.0.model.start: the stage 'second' does not come before this one",
        "run.yaml:8: stages.1.model.start: no stage is named 'frist'. Did you mean 'first'? "
        "Earlier stages: first.",
        "run.yaml:9: stages.1.run: 'run' belongs to the whole file; write it outside stages",
        "run.yaml:10: stages.2.name: a stage's name is lower-case letters, digits, - and _, a le",
        "run.yaml:11: stages.2.train.rows: must be greater than 0, not -1",
        "run.yaml:12: stages.3.name: two stages are named 'first'; rename one",
        "run.yaml:13: stages.4.name: this is required",
        "run.yaml:13: stages.4.objective.name: no objective 'plian'. Did you mean 'plain'?",
        "run.yaml:14: stages.4.reward.0.from: no stage is named 'fourth'.",
        "run.yaml:15: stages.5: wants keys with values, a name first",
    ]
    found = errors(text)
    assert len(found) == len(starts)
    for error, start in zip(found, starts, strict=True):
        assert error.startswith(start)


def test_a_stage_lacks_a_section(errors):
    found = errors("objective: {name: plain}\nstages:\n  - name: a\n  - name: b")
    assert found == [
        "run.yaml:3: stages.0.data: this is required",
        "run.yaml:4: stages.1.data: this is required",
    ]


@pytest.mark.parametrize("text", ["stages: []", "stages: {a: 1}", "stages:"])
def test_stages_are_a_list(errors, text):
    assert errors(MINIMAL + text) == ["run.yaml:3: stages: wants a list of stages"]


def test_local_plugins_are_relative_to_the_file(tmp_path):
    from test_registry import FILE

    (tmp_path / "mine.py").write_text(FILE.format(name="my.simple"))
    path = tmp_path / "run.yaml"
    path.write_text("data: {train: x}\nobjective: {name: my.simple}\nplugins: [./mine.py]\n")
    run = load(path, (), made_plugins()).stages[0].run
    assert run.plugins == [str(tmp_path / "mine.py")]
    again = tmp_path / "elsewhere" / "config.yaml"
    again.parent.mkdir()
    again.write_text(dump(run))
    assert load(again, (), made_plugins()).stages[0].run == run


texts = st.text(min_size=1, max_size=20) | st.sampled_from(["no", "1e5", "1", "null", "a: b"])
sections = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries(
            {"train": texts},
            optional={"eval": texts, "columns": st.dictionaries(texts, texts, max_size=3)},
        ),
        "objective": st.fixed_dictionaries(
            {"name": st.sampled_from(["plain", "other"])},
            optional={
                "strength": st.floats(1e-300, 1e300),
                "label": st.none() | texts,
                "shape": st.sampled_from(["round", "none"]),
                "steps": st.lists(st.integers(), max_size=3),
            },
        ),
    },
    optional={
        "reward": st.lists(
            st.fixed_dictionaries(
                {"name": st.just("length")}, optional={"weight": st.floats(-1e9, 1e9)}
            ),
            max_size=2,
        ),
        "model": st.fixed_dictionaries(
            {}, optional={"name": texts, "quantization": st.just("none"), "start": st.none()}
        ),
        "train": st.fixed_dictionaries(
            {}, optional={"epochs": st.integers(1, 10**30), "learning_rate": st.floats(1e-30, 1)}
        ),
        "run": st.none() | texts,
    },
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sections)
def test_a_dumped_run_loads_back_equal(tmp_path, plugins, given):
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(given))
    run = load(path, (), plugins).stages[0].run
    path.write_text(dump(run), encoding="utf-8")
    assert load(path, (), plugins).stages[0].run == run


def test_a_run_file_is_frozen(read):
    run = read(MINIMAL).stages[0].run
    assert isinstance(run, RunFile)
    with pytest.raises(ValueError, match="frozen"):
        run.train.steps = 3


def keys(schema, defs, path=()):
    """(path, key) of every property that the schema of a run file has."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].removeprefix("#/$defs/")]
    for key, inner in schema.get("properties", {}).items():
        yield path, key
        yield from keys(inner, defs, (*path, key))
    if "items" in schema:
        yield from keys(schema["items"], defs, (*path, 0))
    for choice in schema.get("anyOf", []):
        target = defs.get(choice.get("$ref", "").removeprefix("#/$defs/"), {})
        name = target.get("properties", {}).get("name", {}).get("const")
        yield from keys(choice, defs, (*path, name) if name else path)


def misspellings(key):
    """The key with each letter dropped, and with each two neighbours swapped."""
    for at in range(len(key)):
        yield key[:at] + key[at + 1 :]
        if key[at : at + 1] != key[at + 1 : at + 2] and at + 1 < len(key):
            yield key[:at] + key[at + 1] + key[at] + key[at + 2 :]


def run_with(path):
    """A run in which the section at this path exists, and that section."""
    run = {"data": {"train": "x"}, "objective": {"name": "plain"}}
    here, kind = run, None
    for part in path:
        if part == 0:
            here.append({})
            here = here[0]
        elif kind in KINDS:
            here["name"] = part
        else:
            listed = part in ("reward", "trackers")
            here[part] = [] if listed else dict(here.get(part) or {})
            here, kind = here[part], part
    return run, here


def test_every_key_misspelt_is_refused_and_suggested(tmp_path):
    plugins = made_plugins(OBJECTIVES)
    schema = run_schema(plugins)
    defs = schema["$defs"]
    names = {name for kind in KINDS.values() for name in plugins.names(kind)}
    path = tmp_path / "run.yaml"
    right = wrong = 0
    known = set(keys(defs["RunFile"], defs))
    for where, key in known:
        siblings = {other for place, other in known if place == where}
        for bad in set(misspellings(key)) - siblings:
            run, section = run_with(where)
            section[bad] = section.pop(key, 1)
            path.write_text(json.dumps(run))
            with pytest.raises(RunFileError) as caught:
                load(path, (), plugins)
            dotted = ".".join(map(str, (*[p for p in where if p not in names], bad)))
            said = f"{path}:1: {dotted}: unknown key. Did you mean '{key}'?"
            hit = any(error.startswith(said) for error in caught.value.errors)
            right, wrong = right + hit, wrong + (not hit)
    assert right + wrong > 500
    assert right >= 0.95 * (right + wrong), f"{wrong} of {right + wrong} without the suggestion"

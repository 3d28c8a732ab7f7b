"""The JSON Schema of run files agrees with the loader, for what a schema can say."""

import json

import pytest
import yaml
from jsonschema import Draft202012Validator
from made import plugins as made_plugins

from trimtab.core.runfile import dump, load
from trimtab.core.runschema import plugin_schema, run_schema

OBJECTIVES = ("trimtab.objectives.sft", "trimtab.objectives.dpo")
MINIMAL = "data: {train: pairs.jsonl}\nobjective: {name: plain}\n"
STAGED = """\
data: {train: pairs.jsonl}
objective: {strength: 0.3}
stages:
  - {name: first, objective: {name: plain, shape: square}}
  - {name: second, model: {start: stages.first}, objective: {name: other}, data: {limit: 3}}
"""
RICH = """\
model: {adapter: {targets: [q_proj], rank: 4}, quantization: none}
data: {train: pairs.jsonl, columns: {prompt: question}}
objective: {name: dpo, beta: 0.1, loss: ipo}
reward: [{name: length, weight: 2, strength: 1}]
judge: null
train: {steps: 3, learning_rate: 0.00001}
trackers: [{name: table}]
"""


@pytest.fixture(scope="module")
def plugins():
    return made_plugins(OBJECTIVES)


@pytest.fixture(scope="module")
def schema(plugins):
    return run_schema(plugins)


def errors(schema, text):
    value = text if isinstance(text, dict) else yaml.safe_load(text)
    return [error.message for error in Draft202012Validator(schema).iter_errors(value)]


def test_it_is_a_schema(schema):
    Draft202012Validator.check_schema(schema)
    json.dumps(schema)
    assert "{model}" not in json.dumps(schema)


@pytest.mark.parametrize("text", [MINIMAL, STAGED, RICH])
def test_what_loads_is_accepted(schema, plugins, tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    plan = load(path, (), plugins)
    assert errors(schema, text) == []
    for stage in plan.stages:
        assert errors(schema, dump(stage.run)) == []


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL + "trian: {}",
        MINIMAL + "train: {stpes: 1}",
        MINIMAL + "train: {steps: x}",
        MINIMAL + "train: {rows: 0}",
        MINIMAL + "model: {adapter: {rnk: 1}}",
        MINIMAL + "model: {quantization: nf5}",
        MINIMAL + "judge: {name: nobody}",
        MINIMAL + "trackers: {name: table}",
        "data: {train: x}\nobjective: {name: plian}",
        "data: {train: x}\nobjective: {name: plain, beta: 0.1}",  # the option of another
        "data: {train: x}\nobjective: {name: dpo, bta: 0.1}",
        "data: {train: x}\nobjective: {}",
        "objective: {name: plain}",
        STAGED + "  - {name: third, trian: {}}",
        STAGED + "  - {name: third, train: {stpes: 1}}",
        STAGED + "  - {name: Third}",
        STAGED + "  - {model: {start: stages.first}}",
    ],
)
def test_what_does_not_load_is_refused(schema, text):
    assert errors(schema, text)


def test_options_carry_their_descriptions(schema, plugins):
    beta = schema["$defs"]["objective.dpo"]["properties"]["beta"]
    assert beta["description"].startswith("Strength of the pull to the reference")
    assert (beta["default"], beta["exclusiveMinimum"]) == (0.1, 0)
    alone = plugin_schema("objective", "dpo", plugins.find("objective", "dpo"))
    assert alone["properties"]["beta"] == beta
    assert errors(alone, {"name": "dpo", "beta": 0.2}) == []
    assert errors(alone, {"name": "dpo", "bta": 0.2})


def test_without_plugins_of_a_kind_none_is_accepted():
    from trimtab.plugins.registry import Plugins

    schema = run_schema(Plugins((), installed=False))
    assert errors(schema, MINIMAL)

"""A stranger's objective trains though none of ours exists, and nothing of it is in the core."""

from __future__ import annotations

import json

import pytest
from wheels import SIMPO

from trimtab import hookimpl
from trimtab.api import train
from trimtab.core.runfile import RunFileError
from trimtab.plugins.registry import BUILTIN, Plugins

EXAMPLE = SIMPO / "src" / "trimtab_simpo" / "__init__.py"
OTHERS = [module for module in BUILTIN if not module.startswith("trimtab.objectives")]


@pytest.fixture
def strangers():
    """Our sources and references, and no objective but the example's."""
    registry = Plugins(OTHERS, installed=False)
    registry.add_file(EXAMPLE)
    return registry


def test_no_objective_of_ours_is_there(strangers, world, tmp_path):
    assert strangers.names("objective") == ["example.simpo"]
    with pytest.raises(RunFileError, match="no objective 'dpo'"):
        train(world.file(tmp_path / "run.yaml"), tmp_path / "run", registry=strangers)


def test_it_trains(strangers, world, tmp_path):
    seen = []

    class Watch:
        @hookimpl
        def step_ended(self, run, step, metrics):
            seen.append((step, metrics["loss"]))

        @hookimpl
        def run_ended(self, run, state):
            seen.append(state)

    file = world.file(tmp_path / "run.yaml", objective={"name": "example.simpo", "beta": 1.5})
    made = train(file, tmp_path / "run", registry=strangers, observers=[Watch()])
    assert (made / "adapter" / "adapter_model.safetensors").is_file()
    assert [step for step, _ in seen[:-1]] == [1, 2, 3, 4]
    assert seen[-1] == "finished"
    first, last = [json.loads(line) for line in (made / "evals.jsonl").read_text().splitlines()]
    assert {"loss", "accuracy_logp", "margin", "accuracy_implicit"} <= first.keys()
    assert last["accuracy_logp"]["n"] == 4


def test_a_plugin_may_carry_out_the_run_itself(strangers, world, tmp_path):
    class Elsewhere:
        @hookimpl
        def execute_run(self, run):
            return run.directory.path / "elsewhere"

    file = world.file(tmp_path / "run.yaml", objective={"name": "example.simpo"})
    made = train(file, tmp_path / "run", registry=strangers, observers=[Elsewhere()])
    assert made == tmp_path / "run" / "elsewhere"

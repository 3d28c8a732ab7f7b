"""The commands that load no model: what they print, where, and their exit status."""

import json
import os
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator

from trimtab import cli
from trimtab.core.errors import RunError, UserError
from trimtab.plugins.admission import KINDS

VALID = "data: {train: pairs.jsonl}\nobjective: {name: dpo, beta: 0.2}\n"
STAGED = """\
data: {train: pairs.jsonl}
stages:
  - {name: one, objective: {name: sft}}
  - {name: two, objective: {name: dpo}, model: {start: stages.one}}
"""


@pytest.fixture
def trimtab(monkeypatch, capsys):
    """Run a command in this process: its exit status, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(VALID)
    return path


def python(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from trimtab import cli\n"
        "sys.argv = ['trimtab', '--help']\n"
        "try: cli.main()\n"
        "finally: print([m for m in ('torch', 'transformers', 'pydantic') if m in sys.modules])"
    )
    done = python(code, COLUMNS="100")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f" {name} " in done.stdout for name in cli.COMMANDS)
    assert done.stdout.endswith("[]\n")


def test_run_files_are_read_without_torch():
    code = (
        "import sys, trimtab.core.runfile, trimtab.core.runschema, trimtab.plugins.registry\n"
        "assert 'torch' not in sys.modules"
    )
    assert python(code).returncode == 0


def test_validate(trimtab, run_file):
    assert trimtab("validate", run_file) == (
        0,
        f"dpo on pairs.jsonl, from smollm2-135m-instruct\n{run_file} is valid\n",
        "",
    )
    run_file.write_text(STAGED)
    code, out, _ = trimtab("validate", run_file)
    assert code == 0
    assert out.startswith("one: sft on pairs.jsonl, from smollm2-135m-instruct\ntwo: dpo on ")


def test_validate_prints_what_a_recipe_stands_for(trimtab, run_file):
    recipe = "objective: {name: best_of_n, n: 3}\nreward: [{name: length, limit: 5}]\n"
    run_file.write_text("data: {train: pairs.jsonl}\n" + recipe)
    code, out, _ = trimtab("validate", run_file)
    assert (code, out.splitlines()) == (
        0,
        [
            f"# {run_file} is valid. What it stands for (best_of_n expanded):",
            "reward:",
            "- {name: length, limit: 5}",
            "stages:",
            "  # sample-1: makes best of pairs.jsonl",
            "  - name: sample-1",
            "    data: {train: pairs.jsonl}",
            "    source: {name: best}",
            "    rollout: {group: 3}",
            "  # learn-1: sft on stages.sample-1, from smollm2-135m-instruct",
            "  - name: learn-1",
            "    data: {train: stages.sample-1, eval_prompts: pairs.jsonl}",
            "    objective: {name: sft}",
        ],
    )
    run_file.write_text(out)
    assert trimtab("validate", run_file)[0] == 0


def test_validate_tells_every_error(trimtab, run_file):
    run_file.write_text(VALID + "train: {stpes: 1}\n")
    code, out, err = trimtab(
        "validate", run_file, "--set", "objective.beta=x", "--set", "model.name=no"
    )
    assert (code, out) == (2, "")
    starts = [
        "--set model.name=no: model.name: wants text, not no, which is YAML for false; quote it",
        "--set objective.beta=x: objective.beta: wants a number, not the text 'x'",
        f"{run_file}:3: train.stpes: unknown key. Did you mean 'steps'?",
    ]
    for line, start in zip(sorted(err.splitlines()), starts, strict=True):
        assert line.startswith(start)


def test_a_missing_file_is_bad_input(trimtab, tmp_path):
    code, _, err = trimtab("validate", tmp_path / "nothere.yaml")
    assert code == 2
    assert err == (
        f"cannot read the run file {tmp_path / 'nothere.yaml'}: No such file or directory\n"
    )


def test_plugins(trimtab):
    code, out, _ = trimtab("plugins")
    assert code == 0
    assert out.splitlines()[0].split() == ["KIND", "NAME", "DISTRIBUTION", "VERSION", "STATE"]
    code, out, err = trimtab("plugins", "--json")
    found = json.loads(out)
    assert (code, err, found["api"]) == (0, "", 1)
    rows = {(row["kind"], row["name"]): row for row in found["plugins"]}
    assert rows["objective", "dpo"]["state"] == "ok"
    assert rows["objective", "dpo"]["distribution"] == "trimtab"
    keys = {"name", "kind", "distribution", "version", "state", "error"}
    assert all(set(row) == keys for row in found["plugins"])
    assert all(kind in KINDS for kind, _ in rows)


@pytest.mark.parametrize("name", ["dpo", "objective/dpo"])
def test_describe(trimtab, name):
    code, out, err = trimtab("describe", name)
    assert (code, err) == (0, "")
    assert out.startswith("objective/dpo   (trimtab ")
    for part in (
        "papers:  Rafailov et al. 2023, arXiv:2305.18290",
        "data:    Pairs",
        "needs:   reference",
        "  beta: number > 0; default 0.1\n      Strength of the pull to the reference",
    ):
        assert part in out


def test_describe_a_recipe_and_a_source_that_makes_data(trimtab):
    _, out, _ = trimtab("describe", "iterated")
    for part in (
        "makes:   stages, which trimtab validate prints",
        "  optimizer: objective by name, with its options or null; default null\n",
        "  reward_model: keys with values\n",
        "  reward_model.objective: objective by name",
        "papers:  Bai et al. 2022, arXiv:2204.05862",
    ):
        assert part in out
    _, out, _ = trimtab("describe", "source/labels")
    assert "makes:   a data set, in a stage without objective\n" in out
    code, out, _ = trimtab("describe", "iterated", "--json")
    Draft202012Validator.check_schema(json.loads(out))
    assert code == 0


def test_describe_as_a_schema(trimtab):
    code, out, _ = trimtab("describe", "objective/dpo", "--json")
    schema = json.loads(out)
    Draft202012Validator.check_schema(schema)
    assert code == 0
    assert schema["properties"]["beta"]["default"] == 0.1
    assert schema["x-trimtab"]["needs"] == ["reference"]
    assert schema["x-trimtab"]["papers"][0] == "Rafailov et al. 2023, arXiv:2305.18290"


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "dpoo",
            "no plugin 'dpoo'. Did you mean 'dpo'? 'trimtab plugins' lists what is installed.\n",
        ),
        ("objective/dpoo", "no objective 'dpoo'. Did you mean 'dpo'? Installed: "),
        ("objectiv/dpo", "no kind 'objectiv'. Did you mean 'objective'? Kinds: objective, reward"),
    ],
)
def test_describe_what_is_not_there(trimtab, name, message):
    code, out, err = trimtab("describe", name)
    assert (code, out) == (2, "")
    assert err.startswith(message)


def test_schema(trimtab):
    code, out, _ = trimtab("schema")
    assert code == 0
    Draft202012Validator.check_schema(json.loads(out))


def test_env_shows_no_secret(trimtab, monkeypatch, tmp_path):
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_hidden")
    code, out, _ = trimtab("env", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["caches"]["trimtab"] == str(tmp_path)
    assert found["packages"]["torch"].startswith("2.")
    assert found["threads"] >= 1
    assert "hf_hidden" not in out
    code, out, _ = trimtab("env")
    assert f"  trimtab       {tmp_path}\n" in out
    assert "hf_hidden" not in out


@pytest.mark.parametrize("arguments", [["nothere"], ["validate"], ["plugins", "--nothere"]])
def test_wrong_usage_is_bad_input(trimtab, arguments):
    code, out, err = trimtab(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: trimtab" in err


def test_version(trimtab):
    code, out, _ = trimtab("--version")
    assert (code, out.count(".")) == (0, 2)


@pytest.mark.parametrize(
    "error, code, message",
    [
        (UserError("wrong input"), 2, "wrong input\n"),
        (RunError("went wrong"), 1, "went wrong\n"),
        (KeyboardInterrupt(), 130, ""),
        (KeyError("x"), 1, "this is a fault of trimtab or of a plugin: KeyError: 'x'\nRun it"),
    ],
)
def test_errors_end_with_a_message_and_a_status(trimtab, monkeypatch, error, code, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("trimtab.plugins.registry.Plugins", fail)
    status, out, err = trimtab("plugins")
    assert (status, out) == (code, "")
    assert err.strip().startswith(message.strip())
    assert "Traceback" not in err


def test_debug_shows_where(trimtab, monkeypatch, tmp_path):
    monkeypatch.setenv("TRIMTAB_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["trimtab", "validate", str(tmp_path / "nothere.yaml")])
    with pytest.raises(UserError):
        cli.main()


def test_a_broken_plugin_elsewhere_is_a_plain_warning(tmp_path, run_file):
    (tmp_path / "wrong_plugin.py").write_text("import missing_module")
    info = tmp_path / "wrong-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[trimtab]\nwrong = wrong_plugin\n")
    code = "import sys; from trimtab import cli; cli.main()"
    command = [sys.executable, "-c", code, "validate", str(run_file)]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.count("warning: the plugin 'wrong' of wrong 1.5 is broken: ") == 1
    assert "warnings.warn" not in done.stderr

"""``trimtab data check``."""

from __future__ import annotations

import json

import pytest
from data_fixtures import write_jsonl
from typer.testing import CliRunner

from trimtab.commands.data import app
from trimtab.core.errors import UserError

GOOD = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}


def run(*arguments):
    result = CliRunner().invoke(app, ["check", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_json_counts_every_row(tmp_path):
    file = write_jsonl(tmp_path / "p.jsonl", [GOOD, {"prompt": "a"}, b"{", {**GOOD, "chosen": ""}])
    said = json.loads(run(file, "--json").stdout)
    assert said["read"] == said["kept"] + len(said["dropped"]) == 4
    assert [row["row"] for row in said["dropped"]] == [2, 3, 4]
    assert said["stops"] and said["tables"][0]["kind"] == "pairs"


def test_text_groups_by_reason(tmp_path):
    file = write_jsonl(tmp_path / "p.jsonl", [GOOD, {"prompt": "a"}, {"prompt": "b"}])
    assert run(file).stdout.splitlines()[:5] == [
        f"{file}: pairs, 3 rows read, 1 kept, 2 dropped",
        "       2  prompt only: there is no chosen and no rejected (row 2, 3)",
        "prompt tokens: median 3, p95 3, longest 3",
        "completion tokens: median 3, p95 3, longest 3",
        f"warning: {file}: rows of plain text, to which the model's chat template is not applied "
        "(it is to turns with role and content): 1",
    ]


def test_columns_and_kind_can_be_given(tmp_path):
    file = write_jsonl(tmp_path / "p.jsonl", [{"question": "a", "answer": " b"}])
    options = ("--column", "prompt=question", "--column", "completion=answer")
    assert "1 kept" in run(file, *options).stdout
    with pytest.raises(UserError, match="no kind of data 'pair'. Did you mean 'pairs'"):
        run(file, "--kind", "pair")
    assert run(file, "--column", "prompt").exit_code == 2


def test_a_run_file_is_checked_with_its_own_data_section(tmp_path):
    data = write_jsonl(tmp_path / "p.jsonl", [{**GOOD, "prompt": f"{n} is"} for n in range(20)])
    file = tmp_path / "run.yaml"
    file.write_text(f"data: {{train: {data}, holdout: 0.25}}\nobjective: {{name: dpo}}\n")
    said = json.loads(run(file, "--json").stdout)
    assert (said["read"], said["kept"], said["dropped"]) == (20, 20, [])

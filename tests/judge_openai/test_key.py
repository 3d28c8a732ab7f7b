"""The key is in the environment alone; and what is refused before anything is sent."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback

import pytest
from judge_openai.asking import question

from trimtab import load_run_file
from trimtab.core.errors import UserError
from trimtab.plugins.judges.openai_options import OpenAIConfig

KEY = "sk-very-secret-4711"


def test_the_key_is_sent_and_is_in_no_file_error_or_description(
    server, opened, tmp_path, monkeypatch
):
    monkeypatch.setenv("MY_KEY", KEY)
    judge = opened(api_key_env="MY_KEY")
    judge.ask([question()])
    assert server.keys == {f"Bearer {KEY}"}
    server.faults = lambda n, body: "400"  # it repeats the key
    with pytest.raises(UserError, match=r"Bearer \[the key\]") as caught:
        judge.ask([question(1)])
    told = "".join(traceback.format_exception(caught.value)) + json.dumps(judge.describe())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2 and KEY not in told
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def test_an_endpoint_elsewhere_wants_a_key(opened, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="the environment variable OPENAI_API_KEY is not set"):
        opened(base_url="http://example.invalid/v1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base_url": "http://me:secret@localhost/v1"}, "a name or a password in it"),
        ({"base_url": "localhost:80"}, "begins with http:// or https://"),
        ({"base_url": "http://localhost/v1?api-key=1"}, "has 'api-key' in it"),
        ({"extra": {"Authorization": "Bearer 1"}}, "has 'Authorization' in it"),
        ({"api_key_env": "sk-secret"}, "the name of an environment variable"),
        ({"cache": "answers"}, "wants an absolute path"),
    ],
)
def test_options_that_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        OpenAIConfig(model="small", **options)


def test_a_password_in_a_run_file_is_refused_without_being_repeated(world, tmp_path):
    judge = {"name": "openai", "model": "m", "base_url": "http://me:hunter2@localhost/v1"}
    with pytest.raises(UserError, match="a name or a password in it") as caught:
        load_run_file(world.file(tmp_path / "run.yaml", judge=judge))
    assert "hunter2" not in str(caught.value)


def test_the_package_that_it_wants_is_named(opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install 'trimtab\[judges\]'"):
        opened()


def test_the_client_is_not_imported_before_it_is_wanted():
    said = "import sys, trimtab.plugins.judges.openai; print('openai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

"""The script that makes a folder of a GGUF file."""

from __future__ import annotations

import pytest
from test_examples_data import script

from trimtab.core import embedded
from trimtab.core.files import sha256_of

model_from_gguf = script("model_from_gguf")


def test_it_wants_a_file_and_a_folder_that_is_not_there(tmp_path, capsys):
    for gguf, out, said in (
        (tmp_path / "none.gguf", tmp_path / "out", "there is no file"),
        (__file__, tmp_path, "is there already"),
    ):
        with pytest.raises(SystemExit):
            model_from_gguf.main([str(gguf), str(out)])
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_embedded_models_file_gives_the_embedded_model(tmp_path, capsys):
    model_from_gguf.main([str(embedded._gguf()), str(tmp_path / "out")])
    assert embedded.SHA256 in capsys.readouterr().out
    ours = embedded.converted()
    for file in ("model.safetensors", "tokenizer.json", "chat_template.jinja"):
        assert sha256_of(tmp_path / "out" / file) == sha256_of(ours / file)

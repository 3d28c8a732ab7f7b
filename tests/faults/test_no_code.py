"""Nothing that a run reads can run code: not a checkpoint, a model, an adapter or a data set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import warm
from faults.bombs import FORMS, Bomb
from faults.commands import file_of, mostly_slow, own, resume, to_its_end
from faults.damages import resealed
from worlds import differences

EACH_FORM = mostly_slow(*FORMS, quick=FORMS[:1])


def trained(file: Path, run: Path) -> tuple[int, str]:
    ended = warm.trimtab("train", file, "--run", run, **own(run))
    assert "Traceback" not in ended.output and "a fault of trimtab" not in ended.output
    return ended.status, " ".join(ended.output.split())


def refused(file: Path, run: Path, said: str) -> None:
    status, output = trained(file, run)
    assert status == 2 and said in output, output


def test_the_bombs_are_live(tmp_path):
    import pickle

    import torch
    import yaml

    for name in ("pickle", "torch", "yaml", "python"):
        bomb = Bomb(tmp_path / name)
        if name == "pickle":
            bomb.pickled(tmp_path / "file")
            pickle.loads((tmp_path / "file").read_bytes())
        elif name == "torch":
            bomb.saved_by_torch(tmp_path / "file")
            torch.load(tmp_path / "file", weights_only=False)
        elif name == "yaml":
            yaml.unsafe_load(bomb.in_yaml())
        else:
            exec(bomb.in_python())
        assert bomb.went_off


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize(
    "name",
    [
        *mostly_slow(
            "optimizer.safetensors",
            "roles/policy.safetensors",
            "run.json",
            quick=["optimizer.safetensors"],
        )
    ],
)
def test_a_checkpoint_with_a_manifest_that_fits(run, bomb, form, name):
    folder = run / "checkpoints/step-3"
    form(bomb, folder / name)
    resealed(folder, name)
    ended = warm.trimtab("resume", run, **own(run))
    said = " ".join(ended.output.split())
    assert ended.status == 1 and f"checkpoint {folder} is damaged: " in said, said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.bin", "rng_state.pth"])
def test_a_checkpoint_with_more_than_its_manifest_names(run, whole, bomb, name):
    bomb.saved_by_torch(run / "checkpoints/step-3" / name)
    assert f"{name} is not in its MANIFEST.json" in resume(run)
    assert differences(run, whole) == []


RUN_FILES = (
    "config.source.yaml",
    "config.yaml",
    "cost.json",
    "data.json",
    "env.json",
    "evals.jsonl",
    "metrics.jsonl",
    "reference_cache.json",
    "run.json",
    "run.lock",
    "samples.jsonl",
)


def test_the_files_of_a_run(stopped):
    assert sorted(path.name for path in stopped.iterdir() if path.is_file()) == sorted(RUN_FILES)


@pytest.mark.slow
@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize("name", RUN_FILES)
def test_the_files_of_a_run_directory(run, bomb, form, name):
    form(bomb, run / name)
    ended = warm.trimtab("resume", run, **own(run))
    assert "Traceback" not in ended.output and "a fault of trimtab" not in ended.output
    status = {"config.yaml": 2, "run.json": 1, "reference_cache.json": 1}.get(name, 0)
    assert ended.status == status, ended.output
    assert not status or name in ended.output


@pytest.mark.slow
@pytest.mark.parametrize("form", EACH_FORM)
def test_a_shard_of_the_reference_cache(run, whole, bomb, form):
    shard = min(Path(own(run)["TRIMTAB_CACHE"]).rglob("*.safetensors"))
    form(bomb, shard)
    assert f"{shard.name} is damaged" in resume(run)
    assert differences(run, whole) == []


TAGS = ("!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir")


@pytest.mark.parametrize("tag", mostly_slow(*TAGS, quick=TAGS[:1]))
def test_tags_in_run_files(world, run, whole, bomb, tmp_path, tag):
    file = world.file(tmp_path / "run.yaml")
    file.write_text(file.read_text() + bomb.in_yaml(tag))
    refused(file, tmp_path / "new", "tag")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config + bomb.in_yaml(tag))
    ended = warm.trimtab("resume", run, **own(run))
    assert ended.status == 2 and "tag" in ended.output, ended.output
    (run / "config.yaml").write_text(config)
    to_its_end(file_of(whole), run)


def start_of(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole / "adapter", tmp_path / "start")


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize(
    "name, said",
    mostly_slow(
        ("adapter_model.bin", "holds no adapter_model.safetensors"),
        ("adapter_model.safetensors", "cannot be read"),
        ("adapter_config.json", "holds no PEFT adapter"),
        quick=[("adapter_model.bin", "holds no adapter_model.safetensors")],
    ),
)
def test_an_adapter_to_start_from(world, whole, bomb, tmp_path, form, name, said):
    start = start_of(whole, tmp_path)
    if name == "adapter_model.bin":
        (start / "adapter_model.safetensors").unlink()
    form(bomb, start / name)
    refused(world.file(tmp_path / "run.yaml", model={"start": str(start)}), tmp_path / "run", said)
    ended = warm.trimtab("generate", start, "--prompt", "Hello")
    assert ended.status == 2 and said in " ".join(ended.output.split()), ended.output


@pytest.mark.slow
def test_an_adapter_that_names_a_module(world, whole, bomb, tmp_path):
    start = start_of(whole, tmp_path)
    (start / "bomb.py").write_text(bomb.in_python())
    change(start / "adapter_config.json", megatron_config={"a": 1}, megatron_core="bomb")
    file = world.file(tmp_path / "run.yaml", model={"start": str(start)})
    refused(file, tmp_path / "run", "they name code to run")


@pytest.mark.slow
def test_code_of_a_tokenizer_in_an_adapter_is_not_read(world, whole, bomb, tmp_path):
    start = start_of(whole, tmp_path)
    remote(start, bomb, "tokenizer_config.json", {"AutoTokenizer": [None, "bomb.Bomb"]})
    file = world.file(tmp_path / "run.yaml", model={"start": str(start)})
    assert trained(file, tmp_path / "run")[0] == 0


def change(file: Path, **changes: Any) -> None:
    """Of a JSON object."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def remote(folder: Path, bomb: Bomb, name: str, auto_map: dict[str, Any], **changes: Any) -> None:
    """Let a configuration name code beside it."""
    (folder / "bomb.py").write_text(bomb.in_python())
    change(folder / name, auto_map=auto_map, **changes)


@pytest.fixture
def model(world, tmp_path):
    """A copy of the model's folder."""
    return shutil.copytree(world.model, tmp_path / "model")


def with_model(world: Any, model: Path) -> Path:
    return world.file(model.parent / "run.yaml", model={"name": str(model)})


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize(
    "name",
    mostly_slow(
        "pytorch_model.bin",
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        quick=["pytorch_model.bin"],
    ),
)
def test_the_files_of_a_model(world, model, bomb, form, name):
    if name == "pytorch_model.bin":
        (model / "model.safetensors").unlink()
    form(bomb, model / name)
    refused(
        with_model(world, model), model.parent / "run", f"the model '{model}' cannot be loaded"
    )


@pytest.mark.slow
def test_a_real_model_in_pytorch_model_bin_is_not_loaded(world, model):
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    refused(with_model(world, model), model.parent / "run", "model.safetensors")


def test_code_of_a_model_of_an_unknown_type(world, model, bomb):
    auto_map = {"AutoConfig": "bomb.Bomb", "AutoModelForCausalLM": "bomb.Bomb"}
    remote(model, bomb, "config.json", auto_map, model_type="unknown-here")
    refused(with_model(world, model), model.parent / "run", "trust_remote_code")


@pytest.mark.slow
def test_code_of_a_model_of_a_known_type_is_passed_over(world, model, bomb):
    auto_map = {"AutoConfig": "bomb.Bomb", "AutoModelForCausalLM": "bomb.Bomb"}
    remote(model, bomb, "config.json", auto_map)
    assert trained(with_model(world, model), model.parent / "run")[0] == 0


def test_a_chat_template_that_reaches_for_python(world, model):
    template = "{% for m in messages %}{{ ''.__class__.__mro__ }}{{ m.content }}{% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    said = (
        "the chat template refuses it: access to attribute '__class__' of 'str' object is unsafe"
    )
    refused(with_model(world, model), model.parent / "run", said)


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_code_of_a_tokenizer(world, model, bomb, known):
    changes = {} if known else {"tokenizer_class": "UnknownHere"}
    auto_map = {"AutoTokenizer": ["bomb.Bomb", "bomb.Bomb"]}
    remote(model, bomb, "tokenizer_config.json", auto_map, **changes)
    status, said = trained(with_model(world, model), model.parent / "run")
    assert status == 0 or (status == 2 and "trust_remote_code" in said), said


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize(
    "name",
    mostly_slow(
        "rows.pkl", "rows.pt", "rows.arrow", "rows.jsonl", "rows.json", quick=["rows.pkl"]
    ),
)
def test_a_data_file(world, bomb, tmp_path, form, name):
    form(bomb, tmp_path / name)
    data = {"train": str(tmp_path / name), "eval": None}
    refused(world.file(tmp_path / "run.yaml", data=data), tmp_path / "run", name)


@pytest.mark.slow
@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv"])
def test_a_data_file_of_columns(world, bomb, tmp_path, form, name):
    form(bomb, tmp_path / name)
    data = {"train": str(tmp_path / name), "eval": None}
    status, said = trained(world.file(tmp_path / "run.yaml", data=data), tmp_path / "run")
    assert status == 2 and str(tmp_path) in said, said


@pytest.mark.slow
@pytest.mark.parametrize("form", EACH_FORM)
def test_a_folder_of_data(world, bomb, tmp_path, form):
    folder = tmp_path / "rows"
    folder.mkdir()
    form(bomb, folder / "train.pkl")
    (folder / "rows.py").write_text(bomb.in_python())
    data = {"train": str(folder), "eval": None}
    file = world.file(tmp_path / "run.yaml", data=data)
    refused(file, tmp_path / "run", "holds no data files to train on")
    (folder / "state.json").write_text("{}")
    form(bomb, folder / "data-00000-of-00001.arrow")
    refused(file, tmp_path / "again", "cannot be read as a saved dataset")


@pytest.mark.slow
def test_a_pickled_type_in_a_parquet_file(world, bomb, tmp_path):
    bomb.pickled(tmp_path / "pickle")
    named = {"ARROW:extension:name": "arrow.py_extension_type"}
    named["ARROW:extension:metadata"] = (tmp_path / "pickle").read_bytes()
    rows = [json.loads(line) for line in world.demonstrations.read_text().splitlines()]
    columns = [
        pa.field("prompt", pa.string(), metadata=named),
        pa.field("completion", pa.string()),
    ]
    table = pa.table(
        [[row[name][0]["content"] for row in rows] for name in ("prompt", "completion")],
        schema=pa.schema(columns),
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    data = {"train": str(tmp_path / "rows.parquet"), "eval": None}
    file = world.file(tmp_path / "run.yaml", data=data, objective={"name": "sft"})
    assert trained(file, tmp_path / "run")[0] in (0, 2)

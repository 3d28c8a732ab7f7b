"""What is installed: one import name, no tests, no links, and plugins that find us."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from wheels import ROOT, SIMPO, build, environment, run

import trimtab

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HATCH = PROJECT["tool"]["hatch"]["build"]
VIEW = ROOT / "src" / "trimtab"
FOLDERS = sorted(path.name for path in VIEW.iterdir() if path.is_symlink())


@pytest.mark.parametrize("name", [*FOLDERS, "tests"])
def test_folder_names_are_not_importable(name, tmp_path):
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({name!r}) is not None)"
    assert subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path).returncode == 0


def test_the_view_links_to_the_folders_that_archives_map():
    maps = HATCH["targets"]["wheel"]["sources"]
    assert maps == {"src/trimtab": "trimtab", **{name: f"trimtab/{name}" for name in FOLDERS}}
    for name in FOLDERS:
        assert os.readlink(VIEW / name) == f"../../{name}"
        assert (ROOT / name / "__init__.py").is_file()


def test_archives_leave_the_links_out():
    links = {f"/src/trimtab/{name}" for name in FOLDERS}
    assert links == {path for path in HATCH["exclude"] if path.startswith("/src/")}
    wheel = set(HATCH["targets"]["wheel"]["only-include"])
    assert wheel == {"src/trimtab", *FOLDERS}
    assert wheel < set(HATCH["targets"]["sdist"]["only-include"])


def test_constraints_pin_what_is_asked_for():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    pinned = {canonicalize_name(pin.name): pin for pin in pins}
    for pin in pins:
        assert re.fullmatch(r"==[^,*]+", str(pin.specifier)) and pin.url is None, pin
    asked = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["dev"],
    ]
    for requirement in map(Requirement, asked):
        pin = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(str(pin.specifier).removeprefix("==")), requirement


def test_every_public_name_exists():
    assert [name for name in trimtab.__all__ if getattr(trimtab, name, None) is None] == []


def test_importing_trimtab_does_not_import_torch():
    code = "import sys, trimtab; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Our source archive, and the wheel built from it."""
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def simpo(tmp_path_factory, archives):
    """The Python of an environment with our wheel and the example's."""
    _, wheel = build(SIMPO, tmp_path_factory.mktemp("simpo"))
    return environment(tmp_path_factory.mktemp("environment") / "venv", archives[1], wheel)


def python_files(folder):
    """Of the working tree, as paths from its root."""
    files = (ROOT / folder).rglob("*.py")
    return {str(path.relative_to(ROOT)) for path in files if "results" not in path.parts}


@pytest.mark.slow
def test_wheel_holds_one_name_and_all_of_the_code(archives):
    with zipfile.ZipFile(archives[1]) as wheel:
        names = set(wheel.namelist())
        links = [info.filename for info in wheel.infolist() if info.external_attr >> 28 == 0xA]
    version = PROJECT["project"]["version"]
    info = f"trimtab-{version}.dist-info"
    assert {name.split("/")[0] for name in names} == {"trimtab", info}
    assert links == []
    assert not [name for name in names if "tests/" in name or "results/" in name]
    assert {"trimtab/py.typed", f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"} <= names
    expected = {f"trimtab/{path}" for folder in FOLDERS for path in python_files(folder)}
    own = {path.removeprefix("src/") for path in python_files("src") if VIEW.name in path}
    own = {path for path in own if path.split("/")[1] not in FOLDERS}
    assert {name for name in names if name.endswith(".py")} == expected | own
    assert "trimtab/plugins/constitutions/trimtab.yaml" in names
    read = {f"trimtab/{path.relative_to(ROOT)}" for path in (ROOT / "plugins").rglob("*.yaml")}
    assert {name for name in names if name.endswith(".yaml")} == read and len(read) > 1


@pytest.mark.slow
def test_source_archive_holds_no_link(archives):
    with tarfile.open(archives[0]) as archive:
        members = archive.getmembers()
    assert [member.name for member in members if member.issym() or member.islnk()] == []
    tops = {Path(member.name).parts[1] for member in members}
    assert {"core", "objectives", "tests", "LICENSE", "pyproject.toml"} <= tops


@pytest.mark.slow
def test_wheels_are_found_by_name_in_a_fresh_environment(simpo, tmp_path):
    code = (
        "import trimtab, trimtab_simpo; from trimtab.plugins.registry import Plugins;"
        "made = Plugins().make('objective', 'example.simpo', {'gamma': 0.5});"
        "print(trimtab.__file__, type(made).__module__, made.config.gamma)"
    )
    file, module, gamma = run(simpo, "-W", "error", "-c", code, folder=tmp_path).split()
    assert simpo.parents[1] in Path(file).parents
    assert (module, gamma) == ("trimtab_simpo", "0.5")


@pytest.mark.slow
def test_the_installed_command_lists_the_example(simpo, tmp_path):
    listed = json.loads(run(simpo.parent / "trimtab", "plugins", "--json", folder=tmp_path))
    entry = next(one for one in listed["plugins"] if one["name"] == "example.simpo")
    assert (entry["kind"], entry["distribution"], entry["state"]) == (
        "objective",
        "trimtab-simpo",
        "ok",
    )


@pytest.mark.slow
def test_the_examples_own_tests_pass_there(simpo, tmp_path):
    tests = SIMPO / "tests"
    run(simpo, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", tests, tests, folder=tmp_path)


@pytest.mark.slow
def test_the_example_trains_there(simpo, tmp_path, world):
    file = world.file(tmp_path / "run.yaml", objective={"name": "example.simpo", "beta": 1.5})
    run(simpo.parent / "trimtab", "train", file, "--run", tmp_path / "run", folder=tmp_path)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "finished"
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()

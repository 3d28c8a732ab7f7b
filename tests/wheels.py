"""Wheels of this repository, and a fresh environment that has nothing else of ours."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIMPO = ROOT / "examples" / "trimtab-simpo"


def run(*command: str | Path, folder: Path) -> str:
    """The command's output; an error shows it."""
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(source: Path, folder: Path) -> tuple[Path, Path]:
    """The source archive, and the wheel that is built from it."""
    run(sys.executable, "-m", "build", "--no-isolation", "-o", folder, source, folder=folder)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def environment(folder: Path, *wheels: Path) -> Path:
    """The Python of a fresh environment with these wheels.

    Dependencies are the ones installed here, seen through a path file; an editable install of ours
    is not seen, because a path file is read in the environment's own folder only.
    """
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder.parent)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
    run(*pip, *wheels, folder=folder)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", where, folder=folder).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python

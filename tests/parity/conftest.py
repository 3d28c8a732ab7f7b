"""What every comparison with TRL starts from."""

from __future__ import annotations

import pytest
from tiny import save_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny model on disk."""
    return save_tiny(tmp_path_factory.mktemp("tiny"))

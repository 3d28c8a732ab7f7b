"""Constitutions: principles in a YAML file, each with a critique, a revision and a comparison."""

from trimtab.plugins.constitutions.constitution import (
    BUILT_IN,
    OURS,
    Constitution,
    Principle,
    load_constitution,
)
from trimtab.plugins.constitutions.drawing import drawn

__all__ = ["BUILT_IN", "OURS", "Constitution", "Principle", "drawn", "load_constitution"]

"""Constitutions: principles in a YAML file, each with a critique, a revision and a comparison."""

from trimtab.plugins.constitutions.constitution import (
    OURS,
    Constitution,
    Principle,
    load_constitution,
)

__all__ = ["OURS", "Constitution", "Principle", "load_constitution"]

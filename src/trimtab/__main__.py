"""``python -m trimtab``, for launchers of several processes."""

from trimtab.cli import main

main()

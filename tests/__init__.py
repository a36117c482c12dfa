"""A package, so that `python -m tests.…` finds it before a stray one that a dependency installs."""

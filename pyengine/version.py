"""The version, and the name that the package index knows this package by, each in the one place that has it."""

__version__ = "0.1.0"

DISTRIBUTION = "pyengine-transformer"
"""What `pip install` takes, and `[project] name`: on the index, `pyengine` is somebody else's package."""

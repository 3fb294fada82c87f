"""The model directory: what lies on disk, how it is written and read."""

from pyengine.modelfile.layout import PackedSpec, packed_specs
from pyengine.modelfile.reader import ModelDirectory, open_directory
from pyengine.modelfile.writer import write_directory

__all__ = ["ModelDirectory", "PackedSpec", "open_directory", "packed_specs", "write_directory"]

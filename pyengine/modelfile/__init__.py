"""The model directory: what lies on disk, how it is written and read."""

from pyengine.modelfile.layout import PackedSpec, packed_specs
from pyengine.modelfile.reader import ModelDirectory, ModelHead, open_directory, open_head, open_weights
from pyengine.modelfile.writer import write_directory

__all__ = [
    "ModelDirectory", "ModelHead", "PackedSpec", "open_directory", "open_head", "open_weights", "packed_specs",
    "write_directory",
]  # fmt: skip

"""Quantizing and packing: from a training checkpoint to a model directory. Installed as ``pyengine.quantize``.

The rest of pyengine never imports this package.
"""

from pyengine.quantize.cli import main
from pyengine.quantize.pipeline import Report, TensorReport, convert, measure

__all__ = ["Report", "TensorReport", "convert", "main", "measure"]

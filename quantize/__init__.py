"""From a training checkpoint to a model directory: quantizing and packing.

Installed as ``pyengine.quantize``; the rest of pyengine never imports it.
"""

from pyengine.quantize.cli import main
from pyengine.quantize.pipeline import Calibration, Report, TensorReport, convert, measure

__all__ = ["Calibration", "Report", "TensorReport", "convert", "main", "measure"]

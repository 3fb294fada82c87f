"""From a training checkpoint to a model directory: quantizing and packing.

Installed as ``pyengine.quantize``; the engine never imports it, only the commands that need it do.
"""

from pyengine.quantize.cli import main
from pyengine.quantize.packing import StoredTensor
from pyengine.quantize.pipeline import Calibration, Conversion, convert, measure

__all__ = ["Calibration", "Conversion", "StoredTensor", "convert", "main", "measure"]

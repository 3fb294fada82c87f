"""Readers of the files that training frameworks write: raw tensor names -> arrays that are read when asked.

``open_weights`` finds the weights in a checkpoint directory, whatever their container.
"""

from pyengine.checkpoints.open import open_weights
from pyengine.checkpoints.stored import StoredTensor

__all__ = ["StoredTensor", "open_weights"]

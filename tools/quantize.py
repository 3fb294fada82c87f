"""Convert a training checkpoint to a model directory: ``python tools/quantize.py CHECKPOINT -o OUT``.

The same command as ``pyengine quantize``; see ``--help``.
"""

import sys

from pyengine.quantize import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m pyengine.quantize`"""

from __future__ import annotations

import sys

from pyengine.quantize import main

if __name__ == "__main__":
    sys.exit(main())

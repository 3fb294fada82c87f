"""`python -m pyengine`"""

from __future__ import annotations

import sys

from pyengine.cli import main

if __name__ == "__main__":
    sys.exit(main())

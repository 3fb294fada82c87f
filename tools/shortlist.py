"""Build the shortlist of a model: ``python tools/shortlist.py DIR --source train.de --target train.en -o OUT``.

The same command as ``pyengine shortlist``; see ``--help``.
"""

import sys

from pyengine.cli import main

if __name__ == "__main__":
    sys.exit(main(["shortlist", *sys.argv[1:]]))

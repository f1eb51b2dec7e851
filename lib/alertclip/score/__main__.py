"""``python -m alertclip.score``."""

import sys

from alertclip.score.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m rlhf.tools`: how well model-written code is locked in here; exits with 0 if fully."""

import sys

from rlhf.tools.probe import probe

if __name__ == "__main__":
    level = probe()
    print("\n".join(level.lines()))
    sys.exit(not level.full)

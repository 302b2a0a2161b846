"""Ray processes, each around one engine."""

import os

from rlhf import imports

if os.environ.pop(imports.STARTING, None):  # ended by `actors.group.telling`
    imports.begin()

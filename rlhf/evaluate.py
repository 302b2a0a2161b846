"""`python -m rlhf.evaluate run=DIR [overrides]`: measures a finished run's policy again.

Overrides are those of `python -m rlhf`, such as `eval.num_prompts=2000`, another `data` or another
`judge`; `model.path` measures another model the same way. Prints the numbers, and writes them to
`evaluation.json` in the run directory.
"""

import json
import sys
from os.path import expanduser
from pathlib import Path

from rlhf import imports
from rlhf.launching.command_line import told
from rlhf.launching.configuration import Config, register_schemas
from rlhf.launching.overrides import as_hydra_reads
from rlhf.problems import InputError
from rlhf.storage.disk import write_atomically


def main() -> None:
    register_schemas()
    runs = [argument[4:] for argument in sys.argv[1:] if argument.startswith("run=")]
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("run=")]
    with told():
        if len(runs) != 1:
            raise InputError(["run=DIR: say which run, once: python -m rlhf.evaluate run=DIR"])
        if not runs[0]:
            raise InputError(["run=: is empty; name a run (is a variable of the shell unset?)"])
        directory = Path(expanduser(runs[0])).absolute()
        overrides = as_hydra_reads(overrides, Config)
        from rlhf.launching.evaluating import evaluate  # only now, as it takes its time

        metrics = evaluate(directory, overrides)
        for name, value in sorted(metrics.items()):
            print(f"{name:20} {value:.4f}")
        write_atomically(directory / "evaluation.json", json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    with imports.quick_end():
        main()

"""`python -m rlhf.chaos kill=rollout,policy,judge every=30 [SETTING=VALUE ...] [--json FILE] --
OVERRIDE ...`: does a run end as it would have, had nothing happened to it?

The run is made once unbroken, and then under random, seeded failures: `kill=` and `stop=` name the
roles whose processes get SIGKILL and SIGSTOP; every setting stands in rlhf/chaos/settings.py. At
the end weights, metrics and preferences are compared, and a table tells how long each failure took.
"""

import signal
import sys
from pathlib import Path

from rich.console import Console

from rlhf.chaos.settings import read_settings
from rlhf.launching.command_line import told
from rlhf.problems import InputError


def _tell(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    """Exit codes: 0 every run completed and is equal; 1 one is not; 2 the input was wrong."""
    with told():
        words = sys.argv[1:]
        own = words[: words.index("--")] if "--" in words else words
        file = None
        if "--json" in own:
            place = own.index("--json")
            if place + 1 == len(own):
                raise InputError(["--json: name a file behind it"])
            file = Path(words[place + 1]).expanduser()
            if not file.absolute().parent.is_dir():
                raise InputError([f"--json {file}: there is no directory {file.parent}"])
            del words[place : place + 2]
        settings, overrides = read_settings(words)
        from rlhf.chaos import trials  # only now, as it brings pyarrow

        # With this process ends what it has started.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        trials.require_room(settings)
        _tell(f"unbroken run, in {settings.dir}")
        expected = trials.unbroken(settings, overrides)
        done = []
        for trial in trials.trials(settings, overrides, expected, _tell):
            done.append(trial)
            if file is not None:
                trials.write_json(file, settings, overrides, expected, done)
        Console().print(trials.as_table(done))
        sys.exit(1 if any(one.problems for one in done) else 0)


if __name__ == "__main__":
    main()

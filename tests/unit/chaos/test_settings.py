"""What the command of failures understands, and what it refuses."""

import pytest

from rlhf.chaos.settings import Moment, read_settings
from rlhf.problems import InputError


def test_settings_stand_before_the_dashes_and_overrides_behind_them():
    words = "every=2.5 failures=3..6 seed=7 runs=2 at=saving dir=d -- experiment=demo seed=3"
    roles = ["kill=rollout,policy", "stop=judge"]
    settings, overrides = read_settings([*roles, *words.split()])
    assert settings.kill == ("rollout", "policy") and settings.stop == ("judge",)
    assert (settings.every, settings.failures, settings.at) == (2.5, (3, 6), Moment.saving)
    assert list(settings.seeds) == [7, 8] and settings.directory(7).name == "seed_7"
    assert overrides == ["experiment=demo", "seed=3"]
    assert read_settings(["kill=run", "failures=4", "--"])[0].failures == (4, 4)


@pytest.mark.parametrize(
    "words, problem",
    [
        ("kill=rollout experiment=demo", "--: is missing"),
        ("--", "kill=, stop=: nothing would happen"),
        ("kill=rollouts --", "kill=rollouts: no role is called rollouts; there are rollout"),
        ("kill=judge every=0 --", "every=0: must be a number of seconds above 0"),
        ("kill=judge every=nan --", "every=nan: must be a number"),
        ("kill=judge failures=6..3 --", "failures=6..3: must be a number of failures"),
        ("kill=judge runs=0 --", "runs=0: must be at least 1"),
        ("kill=judge at=noon --", "at=noon: must be one of any, publishing, saving"),
        ("kill=judge exact=yes --", "exact=yes: must be true or false"),
        ("kill=judge dir= --", "dir=: is empty"),
        ("kill=judge evry=3 --", "evry=3: there is no such setting; there are kill"),
        ("kill=judge -- run.dir=x", "run.dir=x: is for chaos to choose"),
        ("kill=judge -- cluster=auto", "cluster=auto: workers of a cluster that is joined"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(words, problem):
    with pytest.raises(InputError) as error:
        read_settings(words.split())
    (line,) = error.value.problems
    assert line.startswith(problem)

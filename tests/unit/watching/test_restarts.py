"""Workers that were lost: told one by one, and counted over the whole run."""

from rlhf.watching.metric_names import METRICS
from rlhf.watching.restarts import Counted, Restarts


class Publishes:
    async def publish(self, version: int) -> dict[str, float]:
        return {"weights/version": float(version)}


async def test_each_is_told_once_and_counted_by_its_role():
    told = []
    restarts = Restarts(["policy", "judge"], [], told.append)
    restarts.begin("judge", "judge-0", "judge-0 on node 7: killed")
    restarts.begin("judge.members.exact", "judge.members.exact-1", "out of memory")
    assert [alert.title for alert in told] == [
        "judge-0 was lost",
        "judge.members.exact-1 was lost",
    ]
    assert told[0].text == "judge-0 on node 7: killed; judge-0 is started anew (1 so far)"
    assert await Counted(Publishes(), restarts).publish(3) == {
        "weights/version": 3,
        "cluster/restarts_policy": 0,
        "cluster/restarts_judge": 2,
    }
    assert restarts.metrics().keys() <= METRICS.keys()
    restarts.give_up("judge-0", "judge-0 on node 7: killed (started anew 3 times in a row)", "why")
    assert (told[2].title, told[2].details) == ("judge-0 is gone", "why")
    assert told[2].text.endswith("killed (started anew 3 times in a row); nobody takes its place")
    assert restarts.metrics()["cluster/restarts_judge"] == 2


def test_a_run_that_goes_on_counts_on():
    records = [{"round": 4, "cluster/restarts_judge": 2.0}, {"round": 5, "policy/loss": None}]
    restarts = Restarts(["judge", "policy"], records, lambda _: None)
    restarts.begin("judge", "judge-0", "killed")
    assert restarts.metrics() == {"cluster/restarts_judge": 3, "cluster/restarts_policy": 0}

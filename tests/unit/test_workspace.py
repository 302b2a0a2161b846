"""The panels of a workspace, and how they reach wandb."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb_workspaces.workspaces import Workspace

from rlhf import workspace
from rlhf.problems import InputError
from rlhf.watching.metric_names import METRICS, ROLES
from rlhf.workspace import SECTIONS, build, metrics_of


def spec(built: Workspace) -> dict[str, Any]:
    """What wandb is sent."""
    return built._to_model().spec.model_dump(by_alias=True, exclude_none=True)["section"]


@pytest.fixture
def panels() -> dict[str, dict[str, Any]]:
    """By section and title."""
    return {
        f"{section['name']}: {panel['config']['chartTitle']}": panel["config"]
        for section in spec(build("me", "agon"))["panelBankConfig"]["sections"]
        for panel in section["panels"]
    }


def test_every_metric_is_in_one_panel():
    shown = [name for panels in SECTIONS.values() for one in panels for name in metrics_of(one)]
    assert sorted(shown) == sorted(METRICS)


def test_metrics_of_one_panel_have_one_unit():
    units = {
        (section, panel.title): {METRICS[name].unit for name in metrics_of(panel)} - {""}
        for section, panels in SECTIONS.items()
        for panel in panels
    }
    assert {title for title, found in units.items() if len(found) > 1} == set()


def test_sections_are_in_the_order_in_which_people_look(panels):
    titles = [key.partition(": ")[0] for key in panels]
    assert list(dict.fromkeys(titles)) == [
        "Evaluation", "Preferences", "Judge", "Policy", "Rollout", "Search trees", "Time",
        "Throughput", "System", "Weights",
    ]  # fmt: skip
    assert {panel["xAxis"] for panel in panels.values()} == {"round"}


def test_a_panel_of_families_has_those_too(panels):
    pattern = panels["Evaluation: By the gold judge"]["metricRegex"]
    for name in ("eval/gold_score_mean", "eval/gold_part_style", "eval/gold_share_rock"):
        assert re.fullmatch(pattern, name)
    assert not re.fullmatch(pattern, "eval/part_style")


def test_seconds_are_stacked_for_one_run(panels):
    seconds = panels["Time: Seconds by stage"]
    assert (seconds["plotType"], seconds["limit"]) == ("stacked-area", 1)
    assert seconds["metrics"][:4] == [
        f"time/{stage}_s" for stage in ("collect", "anchor", "update", "publish")
    ]
    assert "time/round_s" not in seconds["metrics"]  # their sum


def test_a_family_of_metrics_is_found_by_its_pattern(panels):
    answers = panels["Evaluation: Answers in a known game"]
    assert answers["metricRegex"] == "^eval/share_.*$" and answers["useMetricRegex"]
    memory = panels["System: Resident memory"]
    assert memory["metrics"] == [f"system/{role}_memory_bytes" for role in ROLES]


class Wandb:
    """A server of this test's own that takes views, as wandb's does."""

    def __init__(self) -> None:
        self.views: list[dict[str, Any]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                view = {"id": "1", "name": "nw-view"}
                answer: dict[str, Any] = {"viewer": {"id": "1", "username": "me", "entity": "me"}}
                if "upsertView" in asked["query"]:
                    owner.views.append(asked["variables"])
                    answer = {"upsertView": {"view": view, "inserted": True}}
                data = json.dumps({"data": answer}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wandb]:
    one = Wandb()
    thread = threading.Thread(target=one.http.serve_forever, args=(0.05,))
    thread.start()
    wandb.teardown()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{one.http.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    yield one
    wandb.teardown()
    one.http.shutdown()
    thread.join(10)
    one.http.server_close()


def test_the_view_is_saved_as_it_was_built(
    server: Wandb, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("sys.argv", ["workspace", "me/agon"])
    workspace.main()
    (view,) = server.views
    assert (view["entityName"], view["projectName"]) == ("me", "agon")
    assert (view["displayName"], view["type"]) == ("Agon", "project-view")
    sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == list(SECTIONS)
    assert "/me/agon?nw=" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["agon"], ["me/"], ["a/b/c"], ["me", "agon"]])
def test_it_says_how_it_is_used(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["workspace", *arguments])
    with pytest.raises(SystemExit) as stop:
        workspace.main()
    assert stop.value.code == 2
    assert "usage: python -m rlhf.workspace ENTITY/PROJECT" in capsys.readouterr().err


def test_without_an_account_it_says_what_to_do(server: Wandb, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(InputError, match=r"me/agon: wandb does not save the view .*wandb login"):
        workspace.save(build("me", "agon"))
    assert server.views == []

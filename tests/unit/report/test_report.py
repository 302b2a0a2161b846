"""The page of a run: what is on it, what may not get out of it, and what it says to bad input."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rlhf.diagnostics import DIAGNOSTICS, PAIR_METRICS
from rlhf.problems import InputError
from rlhf.report.page import MAX_POINTS, on_one_axis, page, thinned
from rlhf.report.plots import OTHER, sections
from rlhf.report.recipe import read_recipe
from rlhf.report.sample import (
    MAX_CHARACTERS,
    even_quotas,
    evenly_spaced,
    sample_preferences,
)
from rlhf.storage.store import SCHEMA, MetricsLog
from rlhf.watching.panels import GREEN, RED, read_curves

CONFIG = {
    "model": {"path": "tiny", "dtype": "float32"},
    "judge": {"api_key": "sk-planted", "check": "integer"},
    "weights": {"max_logprob_gap": None},
    "num_rounds": 5,
}
ATTACK = "</script><img src=x onerror=alert(1)><!--<script>"


def write_run(directory: Path, overrides: list[str] | None = None) -> MetricsLog:
    directory.mkdir(exist_ok=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    (directory / "overrides.yaml").write_text(yaml.safe_dump(overrides or []))
    return MetricsLog(directory / "metrics.jsonl")


def write_preferences(directory: Path, round: int, reasons: list[str | None], text: str = "a"):
    (directory / "preferences").mkdir(exist_ok=True)
    rows = [
        {
            "round": round,
            "prompt_id": f"{round}-{place}",
            "prompt": text,
            "prefix": "",
            "chosen": text,
            "rejected": "b",
            "judge": "j",
            "dropped": reason,
        }
        for place, reason in enumerate(reasons)
    ]
    file = directory / "preferences" / f"round_{round:06d}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file)


def shown(directory: Path) -> dict:
    """The data of the page."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page(directory))
    assert found
    return json.loads(found[1])


# --- metrics -----------------------------------------------------------------------------------


@given(
    st.sets(
        st.sampled_from(
            ["eval/sampled_accuracy", "eval/share_rock", "eval/exploitability", "policy/loss",
             "preference/dropped_tie", "preference/count", "time/collect_s", "time/elapsed_s",
             "weights/logprob_gap", "system/rollout_memory_bytes", "system/strange", "tree/size",
             "eval/exploitability_low", "eval/exploitability_high", "new/metric", "policy/kl"]
        ),
        min_size=1,
    )
)  # fmt: skip
def test_every_metric_is_in_a_plot_and_every_plot_has_metrics(names):
    curves = read_curves([{"round": 0, **dict.fromkeys(names, 0.5)}])
    plots = [plot for section in sections(curves, 1e-3) for plot in section.plots]
    assert {metric for plot in plots for metric in plot.metrics} == names
    assert all(plot.lines for plot in plots)


def test_a_documented_stage_is_not_among_the_others():
    names = ["policy/loss", "system/judge_memory_bytes", "system/policy_memory_bytes", "new/metric"]
    found = sections(read_curves([{"round": 0, **dict.fromkeys(names, 1.0)}]), None)
    assert [one.title for one in found] == ["Policy", "Machines", OTHER]
    (memory,) = found[1].plots
    assert [(line.metric, line.label) for line in memory.lines] == [
        ("system/judge_memory_bytes", "judge"),
        ("system/policy_memory_bytes", "policy"),
    ]


def test_a_diagnostic_is_drawn_as_its_file_says():
    names = [f"policy/{name}" for name in PAIR_METRICS]
    (policy,) = sections(read_curves([{"round": 0, **dict.fromkeys(names, 0.5)}]), None)
    assert [plot.title for plot in policy.plots] == [one.title for one in DIAGNOSTICS.values()]
    plots = {plot.title: plot for plot in policy.plots}
    sides = plots["Distance from the anchor"]
    assert [(line.label, line.color) for line in sides.lines] == [
        ("chosen", GREEN),
        ("rejected", RED),
    ]
    assert (plots["Accuracy on the pairs"].scale, sides.scale) == ("share", "linear")


def test_the_page_has_every_number_of_the_run(tmp_path: Path):
    log = write_run(tmp_path)
    log.write(-1, {"eval/sampled_accuracy": 0.25})
    log.write(0, {"policy/loss": 0.5, "time/round_s": 2.0, "rollout/num_tokens": 30})
    log.write(1, {"policy/loss": float("nan"), "policy/lr": float("inf"), "time/elapsed_s": 90.0})
    log.write(1, {"eval/sampled_accuracy": 0.75})
    data = shown(tmp_path)
    assert data["curves"]["eval/sampled_accuracy"] == {"rounds": [0, 2], "values": [0.25, 0.75]}
    assert data["curves"]["rollout/tokens_per_s"] == {"rounds": [1], "values": [15.0]}
    table = {metric["name"]: metric for metric in data["metrics"]}
    assert table["policy/lr"]["not_finite"] == 1 and table["policy/lr"]["last"] is None
    assert (table["policy/loss"]["last"], table["policy/loss"]["not_finite"]) == (0.5, 1)
    run = data["run"]
    assert run["headlines"] == [["sampled accuracy", ["25%", "75%"]]]
    assert (run["status"], run["rounds"], run["duration_s"]) == ("unfinished", 2, 90.0)


def test_a_killed_run_s_last_half_line_is_passed_over(tmp_path: Path):
    write_run(tmp_path).write(0, {"policy/loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 1, "policy/lo')
    assert shown(tmp_path)["curves"]["policy/loss"]["values"] == [0.5]


@pytest.mark.parametrize(("rounds", "status"), [(1, "stopped"), (9, "unfinished")])
def test_a_summary_is_believed_while_it_is_of_all_rounds(tmp_path: Path, rounds, status):
    write_run(tmp_path).write(0, {"policy/loss": 0.5})
    (tmp_path / "summary.json").write_text(json.dumps({"status": "stopped", "rounds": rounds}))
    assert shown(tmp_path)["run"]["status"] == status


def test_a_long_curve_is_thinned_to_means_of_neighbours():
    rounds = range(2 * MAX_POINTS + 1)
    curve = read_curves([{"round": r, "policy/loss": float(r)} for r in rounds])["policy/loss"]
    thin = thinned(curve)
    assert len(thin["rounds"]) <= MAX_POINTS
    assert (thin["rounds"][:2], thin["values"][:2]) == ([3, 6], [1.0, 4.0])
    assert thin["rounds"][-1] == rounds[-1] + 1


def test_a_long_stack_keeps_its_height():
    """What happens every few rounds counts in those where it does not."""
    rounds = range(10 * MAX_POINTS)
    records = [
        {"round": r, "time/collect_s": 5.0} | ({"time/evaluate_s": 21.0} if r % 7 == 6 else {})
        for r in rounds
    ]
    found = on_one_axis(read_curves(records), ["time/collect_s", "time/evaluate_s", "time/none_s"])
    thin = {name: thinned(curve) for name, curve in found.items()}
    assert thin["time/collect_s"]["rounds"] == thin["time/evaluate_s"]["rounds"]
    assert set(thin["time/collect_s"]["values"]) == {5.0}
    values = thin["time/evaluate_s"]["values"]
    assert sum(values) / len(values) == pytest.approx(3.0, rel=1e-3)
    assert on_one_axis(read_curves(records[:9]), ["time/collect_s", "time/evaluate_s"]) == {}


# --- the sample --------------------------------------------------------------------------------


@given(
    st.dictionaries(st.text(max_size=3), st.integers(1, 500), min_size=1, max_size=6),
    st.integers(1, 400),
)
def test_quotas_are_as_equal_as_can_be(counts, total):
    quotas = even_quotas(counts, total)
    assert quotas.keys() == counts.keys()
    assert sum(quotas.values()) == min(total, sum(counts.values()))
    cut = [quotas[name] for name in counts if quotas[name] < counts[name]]
    assert not cut or max(quotas.values()) - min(cut) <= 1


@given(st.integers(1, 10_000), st.data())
def test_places_are_different_and_from_all_parts(count, data):
    num = data.draw(st.integers(0, count))
    places = evenly_spaced(count, num).tolist()
    assert len(set(places)) == num
    for part, place in enumerate(places):
        assert part * count <= (place + 1) * num and place * num < (part + 1) * count


def test_the_sample_is_even_over_reasons_and_rounds(tmp_path: Path):
    for round in range(10):
        write_preferences(
            tmp_path, round, [None] * 30 + ["tie"] * 60 + ["identical"] * (round == 9)
        )
    sample = sample_preferences(tmp_path, num_rows=41)
    assert sample.num_preferences == 901
    by_reason = {
        reason: [row["round"] for row in sample.rows if row["dropped"] == reason]
        for reason in (None, "tie", "identical")
    }
    assert by_reason[None] == by_reason["tie"] == [r for r in range(10) for _ in range(2)]
    assert by_reason["identical"] == [9]


def test_a_small_run_is_shown_whole_and_in_order(tmp_path: Path):
    write_preferences(tmp_path, 0, ["tie", None, "tie"])
    write_preferences(tmp_path, 1, [])
    write_preferences(tmp_path, 2, [None])
    ids = [row["prompt_id"] for row in sample_preferences(tmp_path).rows]
    assert ids == ["0-0", "0-1", "0-2", "2-0"]


def test_a_long_text_is_cut_and_says_so(tmp_path: Path):
    write_preferences(tmp_path, 0, [None], text="x" * (MAX_CHARACTERS + 1234))
    text = sample_preferences(tmp_path).rows[0]["chosen"]
    assert text.startswith("x" * MAX_CHARACTERS) and "1,234 more" in text
    assert len(text) < MAX_CHARACTERS + 100


# --- what may not get out ----------------------------------------------------------------------


def test_texts_cannot_become_markup(tmp_path: Path):
    write_run(tmp_path).write(0, {"policy/loss": 0.5})
    write_preferences(tmp_path, 0, [None], text=ATTACK)
    plain = tmp_path.with_name("plain")
    write_run(plain).write(0, {"policy/loss": 0.5})
    write_preferences(plain, 0, [None])
    attacked, harmless = page(tmp_path), page(plain)
    assert "onerror" in attacked and ATTACK not in attacked
    assert attacked.count("<") == harmless.count("<")
    assert shown(tmp_path)["preferences"]["rows"][0]["chosen"] == ATTACK


def test_a_run_s_name_cannot_become_markup(tmp_path: Path):
    directory = tmp_path / "<img src=x>"
    write_run(directory).write(0, {"policy/loss": 0.5})
    assert "<img" not in page(directory)


def test_secrets_are_masked_wherever_they_were_written(tmp_path: Path):
    write_run(tmp_path, ["judge.api_key=sk-planted", "+x={api_key:sk-planted}"]).write(
        0, {"policy/loss": 0.5}
    )
    assert "sk-planted" not in page(tmp_path)
    assert shown(tmp_path)["settings"]["judge.api_key"] == "***"


# --- the configuration -------------------------------------------------------------------------


def test_what_differs_from_the_choices_defaults_is_told(tmp_path: Path):
    config = {**CONFIG, "num_rounds": 7, "objective": {"beta": 0.1}, "seed": 1}
    write_run(tmp_path, ["experiment=demo", "num_rounds=7", f"run.dir={tmp_path}"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    recipe = read_recipe(tmp_path)
    assert recipe.choices["algorithm"] == "online_rpo" and recipe.choices["model"] == "tiny"
    assert "num_rounds" in recipe.changed
    assert not {"objective.beta", "seed", "judge.check"} & set(recipe.changed)


def test_an_override_that_no_longer_exists_costs_only_the_choices(tmp_path: Path):
    write_run(tmp_path, ["no.such.key=1"]).write(0, {"policy/loss": 0.5})
    data = shown(tmp_path)
    assert data["run"]["choices"] == {} and data["settings"]["num_rounds"] == 5


# --- the command -------------------------------------------------------------------------------


def command(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "rlhf.report", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[3],
    )


def test_the_command_writes_the_page(tmp_path: Path):
    write_run(tmp_path).write(0, {"policy/loss": 0.5})
    done = command(tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert command(tmp_path, "--out", tmp_path / "nowhere" / "x.html").returncode == 2


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda run: None, "config.yaml: cannot be read"),
        (lambda run: write_run(run), "has no numbers yet"),
        (lambda run: (run / "config.yaml").write_text("[1"), "config.yaml: is no YAML"),
        (lambda run: (run / "config.yaml").write_text("1"), "config.yaml: must be a dict"),
    ],
)
def test_what_is_no_run_is_told(tmp_path: Path, prepare, told: str):
    prepare(tmp_path)
    with pytest.raises(InputError, match=re.escape(told)):
        page(tmp_path)


def test_damaged_files_are_named(tmp_path: Path):
    write_run(tmp_path).write(0, {"policy/loss": 0.5})
    write_preferences(tmp_path, 0, [None])
    file = tmp_path / "preferences" / "round_000000.parquet"
    whole = file.read_bytes()
    for damaged in (whole[:-9], bytes(255 - b for b in whole[:60]) + whole[60:]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"round_000000\.parquet: is damaged"):
            page(tmp_path)


def test_another_s_configuration_is_shown_as_far_as_it_goes(tmp_path: Path):
    log = write_run(tmp_path)
    log.write(0, {"policy/loss": 0.5, "weights/logprob_gap": 1e-7})
    for config in ("a: 1", "model: {dtype: fp8}", "when: 2026-01-01"):
        (tmp_path / "config.yaml").write_text(config)
        assert shown(tmp_path)["curves"]["policy/loss"]["values"] == [0.5]

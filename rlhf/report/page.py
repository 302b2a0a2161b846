"""One HTML file that holds a run: its numbers, a sample of its preferences, its configuration."""

import base64
import hashlib
import html
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

# Two pages of code of our own would draw lines as well, but neither zoom, hover, legends that
# filter, nor pictures to save; researchers know plotly's from wandb. It costs a page 5 MB.
from plotly.offline import get_plotlyjs

from rlhf.config.models import MAX_LOGPROB_GAP
from rlhf.problems import InputError
from rlhf.report.plots import sections
from rlhf.report.recipe import Recipe, read_recipe
from rlhf.report.sample import sample_preferences
from rlhf.storage.run_directory import read_summary
from rlhf.storage.store import read_metrics
from rlhf.watching.metric_names import describe
from rlhf.watching.metrics import run_summary
from rlhf.watching.panels import OUTCOMES, Curve, Curves, headlines, read_curves

MAX_POINTS = 2000
"""Of one curve; of a longer one each point is the mean of several neighbours."""
UNFINISHED = "unfinished"
"""The status of a run that goes on, or that was killed."""

Records = Sequence[Mapping[str, Any]]


def page(directory: Path) -> str:
    """The HTML of the run in `directory`, as far as it has come.

    It loads nothing and sends nothing. Raises InputError where there is no run, or one without any
    numbers yet.
    """
    recipe = read_recipe(directory)
    records = with_speed(_records(directory / "metrics.jsonl"))
    return render(f"{directory.absolute().name} · Agon", contents(directory, recipe, records))


def contents(directory: Path, recipe: Recipe, records: Records) -> dict[str, Any]:
    """Everything that the page shows, for JSON."""
    curves = read_curves(records)
    elapsed_s = max((record.get("time/elapsed_s") or 0.0 for record in records), default=0.0)
    summary = run_summary(records, _status(directory, records), elapsed_s)
    sample = sample_preferences(directory)
    length = max(len(curve.values) for curve in curves.values())
    shown = sections(curves, _max_logprob_gap(recipe))
    stacks = [plot for section in shown for plot in section.plots if plot.stacked]
    all_curves = dict(curves)
    for plot in stacks:
        all_curves |= on_one_axis(curves, [line.metric for line in plot.lines])
    return {
        "run": {
            "name": directory.absolute().name,
            "status": summary["status"],
            "choices": recipe.choices,
            "model": recipe.settings.get("model.path"),
            "rounds": summary["rounds"],
            "num_rounds": recipe.settings.get("num_rounds"),
            "duration_s": summary["time_s"]["total"],
            "headlines": headlines(curves),
            "counts": summary["counts"],
            "throughput": summary["throughput"],
            "made": time.strftime("%Y-%m-%d %H:%M"),
        },
        "sections": [asdict(section) for section in shown],
        "curves": {name: thinned(curve) for name, curve in all_curves.items()},
        "rounds_per_point": math.ceil(length / MAX_POINTS),
        "metrics": metric_table(records),
        "preferences": {"rows": sample.rows, "num_preferences": sample.num_preferences},
        "outcomes": _outcomes(),
        "settings": recipe.settings,
        "changed": recipe.changed,
    }


def render(title: str, data: Mapping[str, Any]) -> str:
    """The page's file. What is in `data` can become neither markup nor script."""
    # A date, of somebody's own key, is shown as it stands.
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=str)
    scripts = {"plotly": get_plotlyjs(), "script": _file("page.js")}
    parts = {
        "title": html.escape(title),
        # Nothing within a script element can begin without it, its end included.
        "data": text.replace("<", "\\u003c"),
        "style": _file("page.css"),
        # Only these two scripts run, whatever else should get into the page; nothing is loaded.
        "policy": f"default-src 'none'; script-src {' '.join(map(_hash, scripts.values()))}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'",
        **scripts,
    }
    return re.sub(r"{{(\w+)}}", lambda match: parts[match[1]], _file("page.html"))


def metric_table(records: Records) -> list[dict[str, Any]]:
    """Every metric that the run has, with its meaning and what became of it."""
    names = sorted({name for record in records for name in record if "/" in name})
    table = []
    for name in names:
        values = [record[name] for record in records if name in record]
        known = [value for value in values if value is not None]
        metric = describe(name)
        table.append(
            {
                "name": name,
                "meaning": metric.meaning if metric else "",
                "unit": metric.unit if metric else "",
                "first": known[0] if known else None,
                "last": known[-1] if known else None,
                "lowest": min(known, default=None),
                "highest": max(known, default=None),
                "not_finite": len(values) - len(known),
            }
        )
    return table


def with_speed(records: Records) -> Records:
    """With `rollout/tokens_per_s`, which `metrics.jsonl` leaves to its readers."""
    speeds = []
    for record in records:
        seconds, tokens = record.get("time/round_s"), record.get("rollout/num_tokens")
        speeds.append({"rollout/tokens_per_s": tokens / seconds} if seconds and tokens else {})
    return [{**speed, **record} for record, speed in zip(records, speeds, strict=True)]


def thinned(curve: Curve) -> dict[str, list[float]]:
    """At most `MAX_POINTS` points: neighbours' means, each at the last of their rounds."""
    num = math.ceil(len(curve.values) / MAX_POINTS)
    starts = np.arange(0, len(curve.values), num)
    ends = np.append(starts[1:], len(curve.values))
    means = np.add.reduceat(curve.values, starts) / (ends - starts)
    return {
        "rounds": curve.rounds[ends - 1].tolist(),
        "values": [float(f"{mean:.6g}") for mean in means],
    }


def on_one_axis(curves: Curves, names: Sequence[str]) -> Curves:
    """Of curves that are stacked and too long to be shown point by point, all in the same rounds,
    with 0 where one was not measured: the mean of neighbours then is of the same neighbours."""
    during = {name: curves[name].rounds > 0 for name in names if name in curves}
    known = {n: Curve(curves[n].rounds[at], curves[n].values[at]) for n, at in during.items()}
    rounds = np.unique(np.concatenate([[], *(curve.rounds for curve in known.values())]))
    if len(rounds) <= MAX_POINTS:
        return {}
    filled = {}
    for name, curve in known.items():
        values = np.zeros(len(rounds))
        values[np.searchsorted(rounds, curve.rounds)] = curve.values
        filled[name] = Curve(rounds.astype(int), values)
    return filled


def _records(metrics_jsonl: Path) -> Records:
    records = read_metrics(metrics_jsonl)
    if not read_curves(records):
        hint = "wait for the first round to end" if metrics_jsonl.exists() else "name another run"
        raise InputError([f"{metrics_jsonl}: has no numbers yet; {hint}"])
    return records


def _status(directory: Path, records: Records) -> str:
    file = directory / "summary.json"
    if not file.exists():
        return UNFINISHED
    summary = read_summary(directory)
    # A resumed run has the summary of its first part until it ends.
    is_whole = summary["rounds"] == sum(record["round"] >= 0 for record in records)
    return summary["status"] if is_whole else UNFINISHED


def _max_logprob_gap(recipe: Recipe) -> float | None:
    limit = recipe.settings.get("weights.max_logprob_gap")
    of_dtype = {dtype.value: gap for dtype, gap in MAX_LOGPROB_GAP.items()}
    return of_dtype.get(str(recipe.settings.get("model.dtype"))) if limit is None else limit


def _outcomes() -> dict[str, str]:
    """Labels by reason, "" being none."""
    names = {metric.removeprefix("preference/"): label for metric, (label, _) in OUTCOMES.items()}
    return {name.removeprefix("dropped_").replace("count", ""): names[name] for name in names}


def _file(name: str) -> str:
    return files("rlhf.report").joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"

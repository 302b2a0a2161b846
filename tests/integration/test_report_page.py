"""The page of a real run, in a real browser without a network."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from browser import Tab, opened
from commands import run

from rlhf.report.page import page
from rlhf.storage.store import round_files

GAME = Path(__file__).parents[2] / "conf" / "games" / "cycle.json"
SMALL_GAME = [
    "experiment=game", f"judge.game={GAME}", "num_rounds=12", "round.prompts=4", "round.epochs=1",
    "warmup.steps=60", "eval.num_prompts=64", "eval.every=4", "tracking=disabled",
    "model.num_layers=1", "model.width=64", "model.num_heads=2",
]  # fmt: skip
ATTACK = "</script><img src=x onerror=\"document.title='stolen'\"><b>bold</b>"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run, in whose first round the policy has written an attack."""
    directory = tmp_path_factory.mktemp("report") / "run"
    run(directory, *SMALL_GAME)
    file = round_files(directory)[0]
    table = pq.read_table(file)
    place = table.schema.get_field_index("chosen")
    texts = [ATTACK] * table.num_rows
    pq.write_table(table.set_column(place, table.schema.field(place), [texts]), file)
    (directory / "report.html").write_text(page(directory))
    return directory


@pytest.fixture
def tab(finished: Path, tmp_path: Path) -> Iterator[Tab]:
    with opened(finished / "report.html", tmp_path) as tab:
        tab.resize(1280, 900)
        yield tab


def look_at_each_plot(tab: Tab) -> int:
    """Scrolls to every plot until it is drawn; how many there are."""
    num_plots = tab.evaluate("document.querySelectorAll('.drawing').length")
    for place in range(num_plots):
        plot = f"document.querySelectorAll('.drawing')[{place}]"
        tab.evaluate(f"{plot}.scrollIntoView({{behavior: 'instant', block: 'center'}})")
        tab.wait_for(f"{plot}.querySelector('.main-svg .trace path') !== null")
    return num_plots


def test_every_plot_is_drawn_and_nothing_is_fetched(tab: Tab) -> None:
    assert look_at_each_plot(tab) > 20
    assert tab.complaints == []
    assert [url.partition(":")[0] for url in tab.requests] == ["file"]


def test_every_metric_is_named_on_the_page(tab: Tab, finished: Path) -> None:
    names = "[...document.querySelectorAll('.meanings code')].map((code) => code.textContent)"
    log = (finished / "metrics.jsonl").read_text()
    in_plots = set(tab.evaluate(names))
    assert {"policy/loss", "preference/count"} <= in_plots
    assert {name for name in log.split('"') if "/" in name} <= in_plots


def test_every_link_leads_to_its_own_section(tab: Tab) -> None:
    ids = "[...document.querySelectorAll('body [id]')].map((element) => element.id)"
    links = "[...document.querySelectorAll('nav a')].map((link) => link.hash.slice(1))"
    found, wanted = tab.evaluate(ids), tab.evaluate(links)
    assert len(found) == len(set(found))
    assert len(wanted) == len(set(wanted)) > 8 and set(wanted) <= set(found)


def test_a_zoom_reaches_all_plots_and_can_be_undone(tab: Tab) -> None:
    look_at_each_plot(tab)
    first, last = (f"document.querySelectorAll('.drawing')[{place}]" for place in (0, 5))
    tab.evaluate(f"void Plotly.relayout({first}, {{'xaxis.range[0]': 2, 'xaxis.range[1]': 5}})")
    tab.evaluate(f"{last}.scrollIntoView({{behavior: 'instant'}})")
    tab.wait_for(f"JSON.stringify({last}.layout.xaxis.range) === '[2,5]'")
    tab.evaluate("document.getElementById('whole').click()")
    tab.wait_for(f"{last}.layout.xaxis.range[1] > 12")
    assert tab.complaints == []


def test_preferences_can_be_filtered(tab: Tab) -> None:
    def choose(field: str, value: str) -> None:
        tab.evaluate(
            f"(() => {{ const field = document.getElementById('{field}'); field.value = '{value}';"
            "field.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )

    def matching() -> int:
        return int(tab.evaluate("document.getElementById('matching').value").split()[0])

    everything = matching()
    rounds = "[...new Set([...document.querySelectorAll('.pair header')]"
    rounds += ".map((head) => head.textContent.match(/round (\\d+)/)[1]))]"
    choose("round", "3")
    assert tab.evaluate(rounds) == ["3"]
    assert 0 < matching() < everything
    choose("outcome", "identical")
    tags = "[...new Set([...document.querySelectorAll('.tag')].map((tag) => tag.textContent))]"
    assert tab.evaluate(tags) == ["dropped: same text"]
    choose("round", "all")
    choose("outcome", "all")
    choose("text", "ONERROR")
    assert tab.evaluate(rounds) == ["0"]
    choose("text", "no text has this")
    assert (matching(), tab.evaluate("document.querySelectorAll('.pair').length")) == (0, 0)


def test_what_a_policy_wrote_stays_text(tab: Tab) -> None:
    texts = "[...document.querySelectorAll('.chosen pre')].map((pre) => pre.textContent)"
    assert ATTACK in tab.evaluate(texts)
    assert (
        tab.evaluate(
            "document.querySelectorAll('main img, main b:not(.choices b, h4 b, header b)').length"
        )
        == 0
    )
    assert tab.evaluate("document.title") == "run · Agon"
    # And if it were markup, it would do nothing.
    tab.evaluate(f"void document.body.insertAdjacentHTML('beforeend', {ATTACK!r})")
    tab.wait_for("document.querySelector('body > img') !== null")
    assert tab.evaluate("document.title") == "run · Agon"
    assert "Content Security Policy" in " ".join(tab.complaints)


def test_a_phone_shows_it_without_scrolling_sideways(tab: Tab) -> None:
    tab.resize(390, 800)
    look_at_each_plot(tab)
    tab.wait_for("document.documentElement.scrollWidth <= 390")
    widest = "Math.max(...[...document.querySelectorAll('.drawing svg.main-svg')]"
    tab.wait_for(f"{widest}.map((svg) => svg.getBoundingClientRect().right)) <= 390")

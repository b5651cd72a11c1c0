"""The report of a run: what it shows, that it is one safe file, and that it works in a browser."""

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, needs, script
from PIL import Image

import cnnjax
from cnnjax import SGD, Dataset, MLPConfig, SweepConfig, TrainConfig
from cnnjax.commands import report
from cnnjax.commands.shell import Typed
from cnnjax.config import Range
from cnnjax.data.cache import read_spec
from cnnjax.reports import Section, Shown, Table, write
from cnnjax.reports.page import as_json
from cnnjax.reports.run import Column
from cnnjax.runs import Calls, Event, Noted, Swept, result_of, write_report
from cnnjax.runs.records import Counts
from cnnjax.runs.report import BYTES
from cnnjax.runs.swept import LastStates
from cnnjax.sweeps import rank, trials

NASTY = "<script>alert('&amp;')</script>"
ONE = TrainConfig(MLPConfig(hidden=(8,)), SGD(learning_rate=0.1), data="digits", batch_size=32, epochs=3)
SWEEP = SweepConfig(
    replace(ONE, epochs=2), (("learning_rate", (0.001, 0.1, 1e30)), ("hidden", ((4, 4), (8, 8)))), seeds=2
)


class Page(HTMLParser):
    """The elements of a page, with their attributes and their text."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.data, self._open = "", "", [""]
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag if tag != "script" else dict(attrs).get("id") or tag)

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open[-1] == "data":
            self.data += data
        elif self._open[-1] not in ("script", "style"):
            self.text += " ".join(data.split()) + " "

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def check_page(path: Path) -> Page:
    """Checks that a page is one file: it loads nothing, says what its pictures show, and is small."""
    page = Page(path)
    assert path.stat().st_size < 5e6
    own = re.sub(r"<script>\n/\*.*?</script>", "", page.source, flags=re.DOTALL)  # without the libraries
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|url\(|@import|\bimport\(|\bfetch\(""", own)
    assert "default-src 'none'" in page.source
    for picture in page.of("img"):
        assert picture["alt"], picture
        assert str(picture["src"]).startswith("data:image/")
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert set(ids.values()) <= {1}
    for link in page.of("a"):
        assert str(link["href"]).removeprefix("#") in ids or (path.parent / str(link["href"])).is_file()
    return page


@pytest.fixture(scope="module")
def nasty(digits: Dataset) -> Dataset:
    """A few digits, whose first class has a name that would run as code."""
    splits = (cnnjax.Split(s.inputs[:n], s.labels[:n]) for s, n in zip(digits[2:5], (160, 60, 50), strict=True))
    return Dataset.of("small", (NASTY, *digits.classes[1:]), *splits)


@pytest.fixture(scope="module")
def swept(nasty: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "r"
    cnnjax.sweep(SWEEP, nasty, store=folder, lanes="1:1", pack="one")
    return folder


@pytest.fixture(scope="module")
def single(nasty: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single") / "r"
    cnnjax.fit(ONE, nasty, store=folder, lanes="1:1")
    return folder


def test_the_report_of_a_sweep_has_the_answer_first(swept: Path) -> None:
    page = check_page(swept / "report.html")
    best = json.loads((swept / "summary.json").read_text())["best"]
    rate, hidden = best["point"]["learning_rate"], best["point"]["hidden"]
    head = page.text[: page.text.index("Table")]
    assert f"Best of 6 points: learning rate {rate:g}, hidden {hidden}." in head
    assert (
        f"{100 * best['test_accuracy']['mean']:.2f} % ± {100 * best['test_accuracy']['std']:.2f} over 2 seeds" in head
    )
    assert "8 complete, 4 diverged" in head
    assert f"cnnjax.sweep(config, extend={str(swept)!r}, add_seeds=2)" in head
    assert "Not significantly different from the best: " in head
    assert "Warning: the best point is on the edge of the grid" in head
    assert "Started from Python" in page.text
    assert f"cnnjax.load_run({str(swept)!r})" in page.text


def test_the_charts_have_the_numbers_of_the_records(swept: Path) -> None:
    data = json.loads(check_page(swept / "report.html").data)
    names = [column["name"] for column in data["columns"]]
    rows = list(csv.DictReader((swept / "trials.csv").read_text().splitlines()))
    assert len(data["rows"]) == len(rows) == 12
    for row, values in zip(rows, data["rows"], strict=True):
        found = dict(zip(names, values, strict=True))
        assert row["status"] == found["status"]
        assert row["hidden"] == found["hidden"]
        assert float(row["learning_rate"]) == found["learning_rate"]
        if row["valid_accuracy"]:
            assert found["valid_accuracy"] == pytest.approx(100 * float(row["valid_accuracy"]), rel=1e-4)
    assert data["epochs"] == [1, 2]
    lines = [json.loads(line) for line in (swept / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name, curves in data["curves"].items():
            value = line[name] if line[name] is None else line[name] * (100 if name.endswith("accuracy") else 1)
            drawn = curves[line["trial"]][line["epoch"] - 1]
            assert drawn == (value if value is None else pytest.approx(value, rel=1e-4))


def test_the_report_of_a_run_shows_results_mistakes_and_settings(single: Path, nasty: Dataset) -> None:
    page = check_page(single / "report.html")
    found = json.loads((single / "summary.json").read_text())
    shown = [f"{100 * found['test_accuracy']:.2f} %", f"{found['test_loss']:.4g}", f"{found['parameters']:,}"]
    assert all(f" {word} " in page.text for word in [*shown, f"{found['seconds']['total']:.1f} s"])
    trained = cnnjax.load_run(single)
    probabilities = np.asarray(trained.probabilities(nasty.valid.inputs))
    wrong = probabilities.argmax(1) != nasty.valid.labels
    assert f"a wrong class for {wrong.sum()} of the 60 validation examples" in page.text
    thumbnails = [picture for picture in page.of("img") if "validation example" in str(picture["alt"])]
    assert len(thumbnails) == min(24, wrong.sum())
    surest = np.flatnonzero(wrong)[np.argmax(probabilities.max(1)[wrong])]
    assert str(thumbnails[0]["alt"]).startswith(f"validation example {surest}: ")
    assert "optimizer.learning_rate 0.1 peak learning rate" in page.text
    assert f"jax {json.loads((single / 'env.json').read_text())['packages']['jax']}" in page.text


def test_names_are_text(swept: Path, single: Path) -> None:
    for folder in (swept, single):
        page = check_page(folder / "report.html")
        assert NASTY not in page.source
        assert NASTY in page.text
        assert len(page.of("script")) == 4  # the data, two libraries, our own


def test_pictures_are_found_by_their_files(single: Path, nasty: Dataset, tmp_path: Path) -> None:
    folder = shutil.copytree(single, tmp_path / "r")
    Image.new("RGB", (4, 4)).save(folder / "figures" / "my-own.gif")
    (folder / "figures" / "damaged.png").write_bytes(b"\x00")
    (folder / "figures" / "large.png").write_bytes(b"\x89PNG" + bytes(BYTES))
    (folder / "figures" / "look.html").write_text("")
    report.main(report.Arguments(folder))
    page = check_page(folder / "report.html")
    assert "My own. The picture figures/my-own.gif." in page.text
    assert "Curves. Loss and metric over epochs." in page.text
    links = [link["href"] for link in page.of("a") if not str(link["href"]).startswith("#")]
    assert links == ["figures/look.html", "figures/damaged.png", "figures/large.png"]


def test_the_report_is_written_again_from_the_records(swept: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(swept, tmp_path / "r")
    before = check_page(folder / "report.html")
    (folder / "report.html").unlink()
    report.main(report.Arguments(folder))
    after = check_page(folder / "report.html")
    assert after.data == before.data
    start, end = (page.text.replace(str(swept), "").replace(str(folder), "") for page in (before, after))
    assert start.partition("Mistakes on")[0] == end.partition("Mistakes on")[0]
    assert "was trained on user-defined data small: give the preset that defines it with --preset FILE" in end


def test_the_data_of_the_run_are_missing_or_others(single: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The folder names digits, of which the run had a few."""
    folder = shutil.copytree(single, tmp_path / "r")
    data = json.loads((folder / "data.json").read_text())
    (folder / "data.json").write_text(json.dumps({**data, "name": "digits"}))
    report.main(report.Arguments(folder))
    reason = "does not show mistakes on the validation split: digits is not the data that the run was trained on"
    assert reason in check_page(folder / "report.html").text
    assert reason in capsys.readouterr().err


def test_a_run_in_progress_has_a_report_that_says_so(nasty: Dataset, tmp_path: Path) -> None:
    asked = iter([False] * 2)
    with pytest.raises(KeyboardInterrupt):
        cnnjax.sweep(SWEEP, nasty, store=tmp_path / "r", lanes="1:1", pack="one", stop=lambda: next(asked, True))
    assert not (tmp_path / "r" / "report.html").exists()
    report.main(report.Arguments(tmp_path / "r"))
    page = check_page(tmp_path / "r" / "report.html")
    assert "Not finished. This run has not finished, or is still in progress." in page.text
    assert f"cnnjax.sweep(config, store={str(tmp_path / 'r')!r}, resume=True)" in page.text
    assert not (tmp_path / "r" / "summary.json").exists()
    cnnjax.sweep(SWEEP, nasty, store=tmp_path / "r", lanes="1:1", pack="one", resume=True)
    assert "Not finished" not in check_page(tmp_path / "r" / "report.html").text


def test_a_run_without_an_epoch_has_nothing_to_report(nasty: Dataset, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as error:
        report.main(report.Arguments(tmp_path))
    assert error.value.code == 2


def test_a_report_that_cannot_be_written_loses_no_results(single: Path, nasty: Dataset, tmp_path: Path) -> None:
    folder = shutil.copytree(single, tmp_path / "r")
    (folder / "summary.json").unlink()  # as if killed before its end
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    events: list[Event] = []
    cnnjax.fit(ONE, nasty, store=folder, resume=True, lanes="1:1", progress=events.append)
    [note] = [event.message for event in events if isinstance(event, Noted)]
    assert note.startswith(f"{folder / 'report.html'} was not written (IsADirectoryError: ")
    assert note.endswith(f"`cnnjax report {folder}` writes it")
    before = json.loads((single / "summary.json").read_text())
    after = json.loads((folder / "summary.json").read_text())
    assert {**after, "seconds": 0} == {**before, "seconds": 0}


def test_a_thousand_trials_of_many_epochs_stay_small(swept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    for name in ("env.json", "data.json"):
        shutil.copy(swept / name, folder)
    data = json.loads((folder / "data.json").read_text())
    axes = (("learning_rate", Range(1e-4, 1, log=True)), ("momentum", Range(0, 0.9)))
    config = SweepConfig(replace(ONE, epochs=300), axes, points=1000, seeds=1)
    every = trials(config)
    names = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
    values = np.random.default_rng(0).uniform(0.1, 1, (len(every), 300, len(names)))
    rows = [
        {
            "trial": trial.number,
            "epoch": epoch,
            "step": 5 * epoch,
            **dict(zip(names, values[i, epoch - 1].tolist(), strict=True)),
        }
        for i, trial in enumerate(every)
        for epoch in range(1, 301)
    ]
    points = rank([result_of(trial, rows[300 * i + 299], Counts.recorded(data)) for i, trial in enumerate(every)])
    spec = read_spec(data)
    found = Swept(points, rows, LastStates((), lambda program: None, spec), {}, 0, config, spec)  # type: ignore[arg-type, return-value]
    write_report(folder, found, False, Calls(), lambda trial: None)  # type: ignore[arg-type, return-value]
    drawn = json.loads(check_page(folder / "report.html").data)
    assert [drawn["epochs"][0], drawn["epochs"][-1]] == [1, 300]
    assert len(drawn["rows"]) == 1000


@pytest.mark.parametrize(
    ("line", "seeds", "further"),
    [
        (
            "python experiments/sweep.py digits --seeds 3 --name r --lanes 1:1",
            "python experiments/sweep.py runs/r --add-seeds 3 --lanes 1:1",
            "python experiments/train.py runs/r --lanes 1:1 --resume --epochs 9 --allow-changes",
        ),
        (
            "python -m cnnjax sweep 'my net.py' --gamma 0 1 --data-dir d",
            "python -m cnnjax sweep runs/r --add-seeds 3 --preset 'my net.py' --data-dir d",
            "python -m cnnjax train runs/r --preset 'my net.py' --data-dir d --resume --epochs 9 --allow-changes",
        ),
        (
            "cnnjax merge runs/a runs/b --preset net.py --name r",
            "cnnjax sweep runs/r --add-seeds 3 --preset net.py",
            "cnnjax train runs/r --preset net.py --resume --epochs 9 --allow-changes",
        ),
    ],
)
def test_commands_follow_from_the_recorded_one(line: str, seeds: str, further: str) -> None:
    typed = Typed.recorded(line)
    assert typed.seeds(Path("runs/r"), 3) == seeds
    assert typed.further(Path("runs/r"), 9) == further


def test_values_are_written_by_the_kind_of_their_column() -> None:
    values = {"count": 61_706, "number": 0.0123456, "percent": 97.456, "text": "8,16"}
    written = [Column("", "", kind).write(value) for kind, value in values.items()]  # type: ignore[arg-type]
    assert written == ["61,706", "0.01235", "97.46", "8,16"]
    assert Column("", "", "number").write(None) == "-"
    assert Column("", "", "number").write("none") == "none"
    assert Table((), ()).rows == ()


def test_data_cannot_end_their_element() -> None:
    value = {"name": f"</script>{NASTY}"}
    assert "<" not in as_json(value)
    assert json.loads(as_json(value)) == value


def test_a_page_of_sections_is_one_file(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    shown = Shown(tmp_path / "a.png", "A", "What it is.", "a black square")
    sections = [Section(f"{i} {NASTY}", "One.\n\nTwo.", [shown]) for i in range(3)]
    page = check_page(write(tmp_path / "p.html", "Title", "Text.", sections))
    assert len(page.of("img")) == 3
    assert page.text.count("Two.") == 3
    assert NASTY not in page.source


# ------------------------------------------------------------------------- commands and presets


@pytest.mark.slow
def test_the_command_writes_the_report_of_a_user_s_network(tmp_path: Path) -> None:
    preset = tmp_path / "squeeze.py"
    source = (ROOT / "tests" / "presets" / "squeeze.py").read_text()
    source = source.replace('"""A squeeze', f'"""{NASTY} A squeeze', 1).replace(
        "how much less", f"{NASTY} how much less"
    )
    preset.write_text(source)
    shutil.copy(ROOT / "tests" / "presets" / "cells.py", tmp_path)
    words = ["--gamma", "0", "2", "--epochs", "2", "--seeds", "2", "--name", "r", "--quiet"]
    script("sweep", "squeeze.py", *words, cwd=tmp_path)
    folder = tmp_path / "runs" / "r"
    first = check_page(folder / "report.html")
    assert (
        script("report", "runs/r", "--preset", "squeeze.py", cwd=tmp_path).stdout.splitlines()[-1]
        == "runs/r/report.html"
    )
    again = check_page(folder / "report.html")
    assert first.data == again.data
    for page in (first, again):
        assert "SENetConfig" in page.text
        assert NASTY in page.text
        assert NASTY not in page.source
        assert "Most confident mistakes" in page.text or "wrong class for 0" in page.text
        assert f"experiments/sweep.py squeeze.py {' '.join(words)}" in page.text
    done = script("report", "runs/r", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "give the preset that defines it with --preset FILE" in done.stderr


@pytest.mark.slow
def test_a_regression_has_no_confusion(tmp_path: Path) -> None:
    preset = shutil.copy(ROOT / "tests" / "presets" / "angle.py", tmp_path)
    script("train", preset, "--epochs", "1", "--name", "r", "--quiet", cwd=tmp_path)
    page = check_page(tmp_path / "runs" / "r" / "report.html")
    assert "test degrees" in page.text
    assert "Mistakes" not in page.text
    assert all(shown["alt"] for shown in page.of("img"))


# ------------------------------------------------------------------------- in a browser

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = needs("chromium", "google-chrome")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=flags)
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page; in the end there must have been no message of its console, and no request but for itself."""
    contexts, troubles = [], []

    def visit(path: Path, width: int = 1280, height: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        allowed = ("data:", path.as_uri())
        page.on("request", lambda request: request.url.startswith(allowed) or troubles.append(request.url))
        page.goto(path.as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert troubles == []


def overflow(page: Any) -> int:
    """By how many pixels the page is wider than the screen."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["single", "swept"])
def test_a_report_is_accessible_and_fits(
    kind: str, width: str, scheme: str, opened: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(request.getfixturevalue(kind) / "report.html", *WIDTHS[width], color_scheme=scheme)
    page.locator(".chart svg").first.wait_for()
    for details in page.locator("details").all():
        details.evaluate("element => element.open = true")
    assert overflow(page) == 0
    faults = Axe().run(page).response["violations"]
    assert [fault for fault in faults if fault["impact"] in ("serious", "critical")] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["single", "swept"])
def test_a_report_is_printed(kind: str, opened: Callable[..., Any], request: pytest.FixtureRequest) -> None:
    page = opened(request.getfixturevalue(kind) / "report.html", color_scheme="dark")
    assert page.pdf()[:5] == b"%PDF-"
    page.set_viewport_size({"width": 720, "height": 1000})
    page.emulate_media(media="print")
    assert overflow(page) == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".controls").first.is_visible()


def tab_to(page: Any, selector: str) -> None:
    """Presses Tab until an element has the focus."""
    for _ in range(100):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab does not reach {selector}")


def column(page: Any, table: str, place: int) -> list[str]:
    """The texts of a column in the visible rows of a table."""
    cells = page.locator(f"#{table} tbody tr:not([hidden]) td:nth-child({place})")
    return cells.all_text_contents()


@pytest.mark.slow
def test_tables_are_sorted_and_filtered_by_keyboard(swept: Path, opened: Callable[..., Any]) -> None:
    page = opened(swept / "report.html")
    assert column(page, "points", 1) == list("123456")
    header = "#points th:nth-child(4) button"  # the mean accuracy
    tab_to(page, header)
    page.keyboard.press("Enter")
    assert page.locator("#points th:nth-child(4)").get_attribute("aria-sort") == "ascending"
    known = [float(value) for value in column(page, "points", 4) if value != "-"]
    assert known == sorted(known)
    page.keyboard.press("Space")
    assert page.locator("#points th:nth-child(4)").get_attribute("aria-sort") == "descending"
    assert page.locator("#points th[aria-sort]").count() == 1
    known = [float(value) for value in column(page, "points", 4) if value != "-"]
    assert known == sorted(known, reverse=True)
    assert column(page, "points", 4)[-1] == "-"  # diverged points come last in both orders
    page.locator("#table").click(position={"x": 2, "y": 2})
    tab_to(page, "#search")
    page.keyboard.type("8,8 0.1")
    assert column(page, "points", 3) == ["8,8"]
    assert page.locator("#count").text_content() == "1 of 6 points, 2 of 12 trials"
    assert page.locator("#curves g[aria-label=line] path").count() == 2
    tab_to(page, "#reset")
    page.keyboard.press("Enter")
    assert len(column(page, "points", 1)) == 6
    page.locator("#search").focus()
    tab_to(page, "select")
    page.keyboard.press("ArrowDown")
    assert set(column(page, "trials", 5)) == {"0.001"}


PLACE = """name => {
  const mark = document.querySelector(`#${name} g[aria-label=line] path, #${name} g[aria-label=dot] circle`);
  const box = mark.getBoundingClientRect();
  return mark.tagName === "path" ? [box.left, mark.getPointAtLength(0).y + mark.ownerSVGElement.getBoundingClientRect().top]
    : [box.left + box.width / 2, box.top + box.height / 2];
}"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["curves", "dots"])
def test_a_chart_says_its_values(name: str, swept: Path, opened: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = opened(swept / "report.html")
    chart = page.locator(f"#{name}")
    chart.scroll_into_view_if_needed()
    tip, reading = page.locator(f"#{name} g[aria-label=tip]"), page.locator(f"#{name} + output")
    chart.locator("svg").last.wait_for()
    page.mouse.move(*page.evaluate(PLACE, name))
    value = re.compile(r"validation accuracy \(%\) [\d.]+")
    expect(tip).to_have_text(value)
    expect(reading).to_have_text(value)
    page.mouse.move(0, 0)
    expect(reading).to_have_text("")
    chart.focus()
    page.keyboard.press("ArrowRight")
    expect(tip).to_have_text(value)
    expect(reading).to_have_text(re.compile(value.pattern + r", .*seed \d"))
    first = reading.text_content()
    page.keyboard.press("End")
    expect(reading).not_to_have_text(first)


@pytest.mark.slow
def test_axes_are_chosen(swept: Path, opened: Callable[..., Any]) -> None:
    page = opened(swept / "report.html")
    page.locator("#dots svg").last.wait_for()
    assert page.locator("#dots g[aria-label=dot] circle").count() == 8  # four diverged
    page.select_option("#dot-x", "hidden")
    page.select_option("#dot-y", "train_loss")
    page.select_option("#dot-color", "seed")
    assert "training loss" in page.locator("#dots").text_content()
    assert "8,8" in page.locator("#dots").text_content()
    page.select_option("#curve-y", "train_loss")
    page.locator("#log").uncheck()
    assert page.locator("#curves g[aria-label=line] path").count() >= 8


@pytest.mark.slow
def test_a_report_without_javascript_has_its_tables_and_pictures(swept: Path, opened: Callable[..., Any]) -> None:
    page = opened(swept / "report.html", java_script_enabled=False)
    assert page.locator("#points tbody tr").first.is_visible()
    assert page.locator("#pictures img").first.is_visible()
    assert not page.locator(".controls").first.is_visible()
    assert page.locator("noscript p").first.is_visible()

"""The page: what it holds, that it loads nothing, and that a browser sorts it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from made_records import record as make_record

from atlas_bench.artifacts.records import write_record
from atlas_bench.artifacts.schema import DepthScore, Record
from atlas_bench.cli.report import main

MakeRecord = Callable[..., Record]
WILD = '<script>alert("x")</script>&_$title'
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Those without which a browser as root or in a container does not start, or calls home.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three models, one with a wild name, with notes, depths and a run that did not finish."""
    folder = tmp_path_factory.mktemp("a folder")
    depths = [
        DepthScore("qa1", tokens, name, "exact_match", part / 2, (part + 1) / 2, 0.5 * part, 20)
        for tokens, name in ((1000, "1k"), (2000, "2k"))
        for part in range(2)
    ]
    records = [
        make_record("atlas", state_bytes=5000, depths=depths),
        make_record("titans", subtasks=("qa1", "qa10"), notes=[WILD], state_bytes=4000),
        make_record("transformer", scale=WILD, state_bytes=3000),
        make_record("transformer", lengths=[(0, "0k")], task="ruler"),
    ]
    for index, each in enumerate(records):
        run = folder / f"outputs/{index} {each.model}"
        write_record(each, run / "record.json")
        (run / "config.json").write_text(json.dumps(each.config))
        steps = [{"tokens": 2048 * step, "loss": 5 / step} for step in range(1, 50)]
        (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)))
    (folder / "outputs" / "killed").mkdir()
    (folder / "outputs" / "killed" / "metrics.jsonl").touch()
    assert main([str(folder / "outputs")]) == 0
    return folder / "outputs" / "report" / "report.html"


class Tags(HTMLParser):
    """All tags with their attributes, and whether they close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(report: Path) -> None:
    text = report.read_text()
    tags = Tags(text)
    assert tags.open == []
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not {tag for tag, _ in tags.found} & {"img", "iframe", "object", "audio", "video"}
    for tag, attributes in tags.found:
        assert "src" not in attributes
        target = attributes.get("href") or attributes.get("xlink:href") or "#"
        if target.startswith("#"):
            assert target == "#" or target[1:] in ids
        elif target.startswith("data:"):  # no icon; the scale of colours of a heat map
            assert (tag, target[:10]) in (("link", "data:,"), ("image", "data:image"))
        else:  # a file of a run, from where the page lies
            assert tag == "a"
            assert (report.parent / unquote(target)).is_file()
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", text)


def test_whatever_a_record_says_is_only_text(report: Path) -> None:
    text = report.read_text()
    assert sum(tag == "script" for tag, _ in Tags(text).found) == 1
    assert "alert" in text
    assert "<script>alert" not in text
    assert "&amp;_<wbr>$title" in text


def test_the_page_has_all_tables_plots_and_runs(report: Path) -> None:
    text = report.read_text()
    sections = re.findall(r'<h2 id="s\d+">(.*?)</h2>', text)
    assert sections == [
        *("babilong", "ruler", "Beside the papers", "Runs", "Configs", "Without a record"),
    ]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert captions == [
        "exact match over context length",
        "atlas tiny by depth of the answer",
        "training loss over tokens",
        "exact match over state size",
        "speed and memory over context length",
        "training loss over tokens",
        "speed and memory over context length",
    ]
    assert text.count('<svg viewBox="') == len(captions)
    assert text.count("<details id=") == 4
    assert "killed" in text
    assert "published metric (%)" in text.split("Other metrics")[1]
    assert "no replication" in text


# in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A headless Chromium: of this machine, or Playwright's own."""
    api = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with api.sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium on PATH and none of Playwright's own")
        started = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield started
        started.close()


def column(page, index: int) -> list[str]:
    """A column of the first table, without what stands small in its cells."""
    rows = page.locator("table").first.locator("tbody tr")
    texts = rows.evaluate_all("(rows, i) => rows.map(r => r.cells[i].firstChild.data)", index)
    return [text.strip() for text in texts]


def test_a_click_on_a_header_sorts(report: Path, browser) -> None:
    page = browser.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri())
    table = page.locator("table").first
    header = table.locator("thead th").nth(8)
    assert header.inner_text().strip() == "16k"
    assert column(page, 8) == ["90.0", "71.0", "18.0", "71.0"]
    header.locator("button").click()
    assert column(page, 8) == ["90.0", "71.0", "71.0", "18.0"]
    assert header.get_attribute("aria-sort") == "descending"
    header.locator("button").press("Enter")
    assert column(page, 8) == ["18.0", "71.0", "71.0", "90.0"]
    assert header.get_attribute("aria-sort") == "ascending"
    assert page.locator("#status").inner_text() == "sorted by 16k, ascending"
    table.locator("thead th").nth(1).locator("button").click()  # subtask
    assert column(page, 1) == ["qa1", "qa1", "qa1", "qa10"]
    assert table.locator("[aria-sort=ascending]").count() == 1
    page.locator("input").fill("TITANS qa10")
    assert table.locator("tbody tr:visible").count() == 1
    page.locator("input").fill("")
    page.locator("a[href='#config0']").first.click()
    assert page.locator("#config0").get_attribute("open") is not None
    assert requests == [report.as_uri()]
    assert complaints == []
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "dark")])
def test_it_fits_every_screen(
    report: Path, browser, tmp_path: Path, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(report.as_uri())
    picture = tmp_path / "page.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 50_000
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colours = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    light, dark = (sum(map(int, re.findall(r"\d+", colour))) for colour in colours)
    assert (light > 600 and dark < 150) if scheme == "light" else (light < 150 and dark > 600)
    # The first column stays where it is while a table is moved under it.
    scroll = page.locator(".scroll").first
    before = scroll.locator("tbody th").first.bounding_box()
    scroll.evaluate("element => { element.scrollLeft = 1000; }")
    after = scroll.locator("tbody th").first.bounding_box()
    assert after["x"] == pytest.approx(before["x"], abs=20)
    page.close()

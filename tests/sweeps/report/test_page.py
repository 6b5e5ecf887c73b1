"""The report in a browser: what it shows equals the table, without network and without errors."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pypdf
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.support.wait import WebDriverWait
from stored_sweeps import measured, store

from sweeps.interface import read_results
from sweeps.report import report_of
from sweeps.storage.table import ResultsFolder

HOSTILE = '<img src=x onerror="window.broken = true"></script><script>window.broken = true</script>{{ 7 * 7 }}'


class Browser:
    """A browser without a window.

    Args:
        chrome: Its driver.
    """

    def __init__(self, chrome: webdriver.Chrome) -> None:
        self.chrome = chrome

    def open(self, path: Path, width: int = 1400) -> None:
        """Open a page in a window of a width [pixels], and wait until its figures are drawn."""
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.chrome.get_log("performance"), self.chrome.get_log("browser")
        self.chrome.get(path.as_uri())
        WebDriverWait(self.chrome, 60).until(lambda _: self("document.documentElement.dataset.ready"))

    def __call__(self, expression: str, *arguments: Any) -> Any:
        """Return the value of a JavaScript expression."""
        return self.chrome.execute_script(f"return {expression}", *arguments)

    def until(self, expression: str, value: Any) -> None:
        """Wait until a JavaScript expression has a value."""
        WebDriverWait(self.chrome, 30).until(lambda _: self(expression) == value)

    def errors(self) -> list[str]:
        """Return the errors in the console since the page was opened."""
        return [entry["message"] for entry in self.chrome.get_log("browser") if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """Return the addresses of all requests since the page was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.chrome.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return [parameters["request"]["url"] for parameters in sent]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("chromedriver is not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield Browser(chrome)
    chrome.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> ResultsFolder:
    search = {"sampler": "random", "configurations": 10, "seeds": 3, "seed": 0}
    space = {"training.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
    return store(tmp_path_factory.mktemp("sweeps"), search=search, space=space)


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report_of([folder]))
    return path


def figure(browser: Browser, name: str) -> str:
    """Return an expression for the element of a figure."""
    return f"document.getElementById({json.dumps(name)})"


@pytest.mark.parametrize("width", [1400, 390])
def test_it_needs_no_network_and_fits_the_width(browser, page, width):
    browser.open(page, width)
    assert browser.requests() == [page.as_uri()]
    assert browser.errors() == []
    assert browser("document.documentElement.scrollWidth") <= width
    assert browser("document.querySelectorAll('.plot:not(.wide) .main-svg').length") > 0


def test_the_points_equal_the_table(browser, page, folder):
    browser.open(page)
    points = browser(
        "document.getElementById('s0-front-mi').data.filter(trace => trace.marker && trace.visible !== false)"
        ".flatMap(trace => [...trace.x].map((x, i) => [trace.meta, x, trace.y[i], trace.error_y.array[i]]))"
    )
    rows = read_results(Path(folder.results) / folder.sweep).runs
    groups = rows.groupby(["arm", "config_id"])
    expected = [[arm, group["mi"].mean(), group["nll_iw"].mean(), group["nll_iw"].sem()] for (arm, _), group in groups]
    assert len(points) == 20
    for point, row in zip(sorted(points), sorted(expected), strict=True):
        assert point[0] == row[0]
        assert point[1:] == pytest.approx(row[1:])


def test_a_point_shows_its_fields_and_seeds(browser, page, folder):
    browser.open(page)
    browser("document.getElementById('s0-front').scrollIntoView()")
    element = browser("document.querySelector('#s0-front-mi .points path.point')")
    ActionChains(browser.chrome).move_to_element(element).perform()
    browser.until("document.querySelectorAll('#s0-front-mi .hoverlayer .hovertext').length", 1)
    text = browser("document.querySelector('#s0-front-mi .hoverlayer .hovertext').textContent")
    assert all(word in text for word in ("training.learning_rate", "nll_iw", "seeds: "))


def test_the_legend_hides_an_arm_in_all_figures(browser, page):
    browser.open(page)
    visible = (
        "[...document.querySelectorAll('.plot')].filter(plot => plot.data)"
        ".map(plot => plot.data.filter(t => t.meta === 'beta' && t.visible !== false).length)"
        ".reduce((a, b) => a + b)"
    )
    shown = browser(visible)
    browser("document.querySelector('[data-arm=\"beta\"]').click()")
    assert shown > 4
    assert browser(visible) == 0
    browser("document.querySelector('[data-arm=\"beta\"]').click()")
    assert browser(visible) == shown


def test_single_seeds(browser, page):
    browser.open(page)
    shown = "document.getElementById('s0-front-mi').data.filter(t => /seeds$/.test(t.meta) && t.visible)"
    seeds = f"{shown}.map(t => t.x.length)"
    assert browser(seeds) == []
    browser("document.querySelector('[data-seeds]').click()")
    assert browser(seeds) == [30, 30]


def test_parallel_coordinates_are_drawn_when_an_arm_is_chosen(browser, page):
    browser.open(page)
    browser("document.getElementById('s0-fields').scrollIntoView()")
    drawn = "[...document.querySelectorAll('.choice:not([hidden]) .plot')].map(p => (p.data || [{}])[0].type)"
    browser.until(drawn, ["parcoords"])
    browser("(s => { s.selectedIndex = 1; s.dispatchEvent(new Event('change')) })(document.querySelector('select'))")
    browser.until("document.querySelector('.choice:not([hidden]) .plot').data !== undefined", True)
    labels = browser("document.querySelector('.choice:not([hidden]) .plot').data[0].dimensions.map(d => d.label)")
    assert labels == ["beta", "learning_rate (log)", "nll_iw", "mi"]


def test_the_printed_page_has_the_answer_and_the_sweep_file(browser, page):
    browser.open(page)
    pdf = pypdf.PdfReader(io.BytesIO(base64.b64decode(browser.chrome.print_page())))
    text = "".join(sheet.extract_text() for sheet in pdf.pages)
    assert 2 <= len(pdf.pages) <= 12
    assert "Collapsed" in text
    assert "sampler: random" in text


def test_texts_of_the_table_are_no_markup(browser, tmp_path):
    def measure(run):
        return measured(run) if run.seed else {"status": "failed", "stop_reason": HOSTILE, "torch_version": HOSTILE}

    path = tmp_path / "report.html"
    path.write_text(report_of([store(tmp_path / "results", measure)]))
    browser.open(path)
    assert not browser("window.broken")
    assert HOSTILE in browser("document.getElementById('s0-problems').textContent")
    assert HOSTILE in browser("document.getElementById('s0-provenance').textContent")


def test_two_sweeps_have_a_common_front(browser, tmp_path):
    first, second = (store(tmp_path / "results", name=name) for name in ("first", "second"))
    path = tmp_path / "report.html"
    path.write_text(report_of([first, second]))
    browser.open(path)
    assert browser.errors() == []
    arms = browser("document.getElementById('joint-front-mi').data.map(trace => trace.meta).filter(Boolean)")
    assert {"first: vae", "first: beta", "second: vae", "second: beta"} <= set(arms)
    browser('document.querySelector(\'[data-legend="s1"] [data-arm="beta"]\').click()')
    hidden = "document.getElementById('{}-front-mi').data.filter(t => t.meta === 'beta' && t.visible === false).length"
    assert [browser(hidden.format(view)) for view in ("s0", "s1")] == [0, 1]

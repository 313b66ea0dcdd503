"""The page as people meet it: in a real browser, live, with its buttons."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from node.db import jobs
from node.domain.job import JobState
from tests.web_scene import CANARY, Scene, fill, new_scene, served

pytestmark = pytest.mark.browser

CHROMIUM = Path("/usr/bin/chromium")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium without a window; a laptop without it skips, a CI machine fails."""
    if not CHROMIUM.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{CHROMIUM} is missing on a CI machine")
        pytest.skip(f"{CHROMIUM} is not installed")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """An empty node."""
    made = new_scene(tmp_path)
    yield made
    made.database.engine.dispose()


@pytest.fixture
def address(scene: Scene) -> Iterator[str]:
    """Where the page is."""
    with served(scene) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A fresh tab that fails its test when a script fails or the policy had to stop something."""
    context = browser.new_context(base_url=address)
    tab, complaints = _watched(context)
    yield tab
    context.close()
    assert complaints == []


def _watched(context: BrowserContext) -> tuple[Page, list[str]]:
    tab = context.new_page()
    complaints: list[str] = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    return tab, complaints


def live(page: Page) -> None:
    """Wait until the page says that it is live."""
    expect(page.get_by_role("status")).to_have_text("Live")


def test_a_job_changes_on_the_open_page(scene: Scene, page: Page) -> None:
    """Planned, running with its progress, done: each appears without a reload, and the row stays the same element."""
    page.goto("/")
    live(page)
    page.evaluate("window.neverReloaded = true")
    job_id = scene.job("CT thorax")
    row = page.locator(f"#job-{job_id}")
    expect(row).to_contain_text("Waiting")
    row.evaluate("row => { row.sameElement = true }")
    scene.clock.forward(seconds=1)
    job = scene.start()
    scene.clock.forward(seconds=1)
    scene.beat(job, 0.42, "splitting left from right")
    expect(row).to_contain_text("splitting left from right")
    expect(row.get_by_role("progressbar")).to_have_attribute("value", "0.42")
    scene.clock.forward(seconds=1)
    scene.finish(scene.publish(job))
    expect(row).to_contain_text("every peer has every result")
    expect(page.locator('[data-count="done"]')).to_have_text("1")
    assert page.evaluate("window.neverReloaded") is True
    assert row.evaluate("row => row.sameElement") is True


def test_new_jobs_come_on_top_and_ended_ones_leave_their_filter(scene: Scene, page: Page) -> None:
    """Rows keep the order of planning, also where the page puts them in itself."""
    first, second = scene.job("first"), scene.job("second")
    page.goto("/?group=active")
    live(page)
    scene.clock.forward(seconds=1)
    third = scene.job("third")
    expect(page.locator(".jobs tbody tr")).to_have_count(3)
    order = page.locator(".jobs tbody tr").evaluate_all("rows => rows.map(row => row.id)")
    assert order[0] == f"job-{third}"
    assert set(order[1:]) == {f"job-{first}", f"job-{second}"}
    scene.end(scene.start(), JobState.FAILED, "no memory")
    expect(page.locator(f"#job-{third}")).to_have_count(0)
    expect(page.locator(".jobs tbody tr")).to_have_count(2)


def test_the_buttons_cancel_a_job_and_run_it_again(scene: Scene, page: Page) -> None:
    """From the table with the mouse, then from the job's page with the keyboard."""
    job_id = scene.job()
    page.goto("/")
    page.locator(f"#job-{job_id}").get_by_role("button", name="Cancel").click()
    expect(page).to_have_url(f"{page.url.split('/job/')[0]}/job/{job_id}")
    expect(page.locator(".now")).to_contain_text("cancelled by web")
    button = page.get_by_role("button", name="Run again")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".now")).to_contain_text("waits for a free worker")
    expect(page.locator(".story")).to_contain_text("The job was started again")
    with scene.database.reading() as session:
        assert jobs.get(session, job_id).state is JobState.PENDING


def test_a_row_does_not_move_under_a_pointer_on_its_button(scene: Scene, page: Page) -> None:
    """While the pointer is on Cancel, a new job that would push the row down waits; then it comes."""
    job_id = scene.job("first")
    page.goto("/")
    live(page)
    page.locator(f"#job-{job_id}").get_by_role("button", name="Cancel").hover()
    scene.clock.forward(seconds=1)
    with page.expect_response("**/jobs?group=all"):
        scene.job("second")
    expect(page.get_by_role("status")).to_have_text("Held while you point at a button")
    expect(page.locator(".jobs tbody tr")).to_have_count(1)
    page.mouse.move(5, 5)
    expect(page.locator(".jobs tbody tr")).to_have_count(2)
    live(page)


def test_a_page_that_is_brought_up_to_date_keeps_focus_and_pictures(scene: Scene, page: Page) -> None:
    """Nothing flickers and no keyboard user is thrown back to the top when something else on the page changes."""
    job_id = scene.job()
    scene.pictures(job_id, "axial")
    page.goto(f"/job/{job_id}")
    page.evaluate("document.querySelector('.pictures img').same = document.querySelector('button').same = true")
    page.get_by_role("button", name="Cancel").focus()
    live(page)
    scene.start()
    expect(page.locator(".now")).to_contain_text("starting the model")
    expect(page.locator(".story li")).to_have_count(3)
    assert page.evaluate("document.querySelector('.pictures img').same && document.activeElement.same") is True


def test_text_from_outside_does_nothing(scene: Scene, page: Page) -> None:
    """A script as study description and reason is read by people, and run by nobody, first shown or brought later."""
    page.goto("/")
    live(page)
    scene.job(CANARY)
    scene.end(scene.start(), JobState.FAILED, CANARY)
    expect(page.locator(".jobs .why").first).to_have_text(CANARY)
    page.locator(".jobs .name").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(CANARY)
    assert "owned" not in page.title()
    assert page.locator("main script, main img[src=x]").count() == 0


def test_the_page_says_when_the_connection_is_lost(scene: Scene, browser: Browser) -> None:
    """Nobody should trust an old table at night: it says so, and from when it is."""
    scene.job()
    with served(scene) as address:
        context = browser.new_context(base_url=address)
        page = context.new_page()
        page.goto("/")
        live(page)
    expect(page.get_by_role("status")).to_contain_text("Connection lost; trying again. What you see is from")
    context.close()


def test_the_page_works_without_scripts(scene: Scene, browser: Browser, address: str) -> None:
    """Everything but liveness: the table, and a button; the page says that it is not live."""
    job_id = scene.job()
    context = browser.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    expect(page.get_by_text("Not live: reload to see what is new")).to_be_visible()
    page.locator(f"#job-{job_id}").get_by_role("button", name="Cancel").click()
    expect(page.locator(".now")).to_contain_text("cancelled by web")
    context.close()


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (400, 800)])
def test_no_page_is_wider_than_its_window(scene: Scene, page: Page, width: int, height: int) -> None:
    """On a desk and on a phone: nobody scrolls sideways, and pictures load."""
    ids = fill(scene)
    page.set_viewport_size({"width": width, "height": height})
    paths = ["/", "/studies", f"/job/{ids['done']}", f"/job/{ids['parked']}"]
    for path in paths:
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    page.goto(paths[2])
    live(page)
    pictures = page.locator(".pictures img")
    expect(pictures).to_have_count(4)
    pictures.last.scroll_into_view_if_needed()
    expect(pictures.last).to_have_js_property("naturalWidth", 240)


def test_every_colour_of_a_pill_can_be_read(scene: Scene, browser: Browser, address: str) -> None:
    """Text on each pill keeps a contrast of 4.5 to 1 (WCAG 2.2, 1.4.3), by day and by night."""
    fill(scene)
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        context = browser.new_context(base_url=address, color_scheme=scheme)
        page = context.new_page()
        page.goto("/")
        worst = page.locator(".pill").evaluate_all(_WORST_CONTRAST)
        context.close()
        assert worst >= 4.5, scheme


_WORST_CONTRAST = """pills => {
  const light = colour => colour.match(/[0-9.]+/g).slice(0, 3).map(Number).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  return Math.min(...pills.map(pill => {
    const style = getComputedStyle(pill);
    const [a, b] = [light(style.color), light(style.backgroundColor)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
}"""

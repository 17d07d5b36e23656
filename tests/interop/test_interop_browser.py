"""The bridge's page in a real Chromium: the demo's traces are found, opened and shown."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from tests.interop.peers import CACHE
from tests.interop.sending import post
from tests.support.bridge_process import Setup, running
from tests.support.received import read_truth
from tests.support.senders import BOUTIQUE, recorded_lines
from tests.support.sink import running_sink

playwright = pytest.importorskip("playwright.async_api", reason="no playwright: `make interop` installs it")

CHROMIUM = shutil.which("chromium")
SCREENSHOTS = CACHE / "screenshots"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
TRACES = len({origin.trace for origin in read_truth(BOUTIQUE / "truth.csv").values()})
WAIT_MS = 30_000
LOOK_AGAIN_S = 0.1

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian's package chromium)")


@asynccontextmanager
async def page_of(address: str, **options: Any) -> AsyncIterator[Any]:
    """A page that was opened; what it complains about on its console fails the test."""
    complaints: list[str] = []
    async with playwright.async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        context = await browser.new_context(**options)
        page = await context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(f"http://{address}/")
        yield page
        await browser.close()
    assert complaints == []


@asynccontextmanager
async def bridge_with_traces(folder: Path) -> AsyncIterator[str]:
    """Address of the page of a bridge through which the demo's traces went."""
    async with (
        running_sink() as sink,
        running(Setup(folder, window="2s").export_to("one", "otlp_grpc", sink.grpc_port)) as bridge,
    ):
        await post(recorded_lines("agent"), f"http://{bridge.address('otlp_http')}")
        yield bridge.address("web")


async def kept(address: str, traces: int) -> None:
    """Return once the page has so many traces to show."""
    with anyio.fail_after(WAIT_MS / 1000):
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"http://{address}/api/status") as answer:
                    if (await answer.json())["kept_traces"] >= traces:
                        return
                await anyio.sleep(LOOK_AGAIN_S)


async def photograph(page: Any, name: str) -> None:
    """Keep a picture for whoever looks at the run."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_traces_are_found_opened_and_shown(tmp_path: Path, scheme: str) -> None:
    """By mouse: search, open, look at an edge's evidence, go to the map."""
    async with bridge_with_traces(tmp_path) as address, page_of(address, color_scheme=scheme) as page:
        await page.get_by_role("heading", name="In and out").wait_for()
        await kept(address, TRACES)
        await photograph(page, f"now-{scheme}")
        await page.get_by_role("link", name="Traces", exact=True).click()
        await page.get_by_label("Service").fill("checkoutservice")
        await page.get_by_role("button", name="Search").click()
        await page.get_by_role("link", name="frontend:").first.wait_for()
        await photograph(page, f"traces-{scheme}")
        await page.get_by_role("link", name="frontend:").first.click()
        await page.locator("button.span").first.wait_for()
        shown = await page.locator("button.span").count()
        trace_id = await page.locator("code").inner_text()
        trace = await page.evaluate(f"fetch('/api/traces/{trace_id}').then(a => a.json())")
        assert shown == trace["spans"] > 1
        await page.locator("button.span").nth(2).click()
        assert "TCP sequence numbers" in await page.locator(".detail").inner_text()
        await photograph(page, f"trace-{scheme}")
        await page.get_by_role("link", name="Links", exact=True).click()
        await page.get_by_role("cell", name="thread", exact=True).wait_for()
        await photograph(page, f"links-{scheme}")
        await page.get_by_role("link", name="Services", exact=True).click()
        await page.locator("svg.map").wait_for()
        assert await page.locator("svg.map rect").count() == len(await services(page))
        await photograph(page, f"services-{scheme}")


async def services(page: Any) -> list[dict[str, Any]]:
    """Services as the API names them."""
    found: list[dict[str, Any]] = await page.evaluate(
        "fetch('/api/services').then(a => a.json()).then(m => m.services)"
    )
    return found


async def test_keys_and_a_phone_are_enough(tmp_path: Path) -> None:
    """Without a mouse, and without anything beyond the edge of a narrow screen."""
    narrow = {"width": 390, "height": 844}
    async with bridge_with_traces(tmp_path) as address, page_of(address, viewport=narrow, is_mobile=True) as page:
        await kept(address, TRACES)
        await page.keyboard.press("3")
        await page.locator("a.row").first.wait_for()
        await page.keyboard.press("j")
        await page.keyboard.press("Enter")
        await page.locator("button.span").first.wait_for()
        await page.keyboard.press("j")
        await page.keyboard.press("Enter")
        await page.locator(".detail").wait_for()
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await photograph(page, "phone-trace")
        for key in "124":
            await page.keyboard.press(key)
            await page.locator("main h2").first.wait_for()
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), key
        await photograph(page, "phone-services")

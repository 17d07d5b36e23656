"""The bridge's page in a real Chromium: the demo's traces are found, opened and shown."""

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.interop.demo_bridge import bridge_with_traces, kept
from tests.interop.peers import CACHE, PEERS

playwright = pytest.importorskip("playwright.async_api", reason="no playwright: `make interop` installs it")

CHROMIUM = shutil.which("chromium")
SCREENSHOTS = CACHE / "screenshots"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
WAIT_MS = 30_000
AXE = PEERS["axe"]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
URL = "http://jaeger.invalid/trace/{trace_id}"
TOKEN = "a-token-of-the-browser-test"  # noqa: S105

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian's package chromium)")


@asynccontextmanager
async def page_of(address: str, *, refusals: bool = False, **options: Any) -> AsyncIterator[Any]:
    """A page that was opened; what it complains about on its console fails the test, but for `refusals`: browsers
    tell of each 401."""
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
    assert [text for text in complaints if not (refusals and "401" in text)] == []


async def photograph(page: Any, name: str) -> None:
    """Keep a picture for whoever looks at the run."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_traces_are_found_opened_and_shown(tmp_path: Path, scheme: str) -> None:
    """By mouse: search, open, look at an edge's evidence, go to the map."""
    async with bridge_with_traces(tmp_path) as address, page_of(address, color_scheme=scheme) as page:
        await page.get_by_role("heading", name="In and out").wait_for()
        await kept(address)
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
        await kept(address)
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


async def test_a_trace_is_copied_and_opened_in_the_backend(tmp_path: Path) -> None:
    """The clipboard has OTLP as any backend takes it, and without one there is a file; the link is the template's."""
    allowed = {"permissions": ["clipboard-read", "clipboard-write"]}
    async with bridge_with_traces(tmp_path, web=f'trace_url = "{URL}"') as address:
        await kept(address)
        async with page_of(address, **allowed) as page:
            shown, trace_id = await open_first(page)
            link = page.get_by_role("link", name="Open in the backend")
            assert await link.get_attribute("href") == URL.replace("{trace_id}", trace_id)
            await page.get_by_role("button", name="Copy as OTLP JSON").click()
            await page.get_by_role("button", name="Copied").wait_for()
            assert spans_of(await page.evaluate("navigator.clipboard.readText()")) == [trace_id] * shown
        async with page_of(address) as page:
            shown, trace_id = await open_first(page)
            refuse = "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no clipboard')); }"
            await page.evaluate(refuse)
            async with page.expect_download() as download:
                await page.get_by_role("button", name="Copy as OTLP JSON").click()
            saved = await (await download.value).path()
            assert spans_of(await anyio.Path(saved).read_text()) == [trace_id] * shown


async def open_first(page: Any) -> tuple[int, str]:
    """Open the newest trace; how many spans it shows, and its id."""
    await page.get_by_role("link", name="Traces", exact=True).click()
    await page.locator("a.row").first.click()
    await page.locator("button.span").first.wait_for()
    return await page.locator("button.span").count(), await page.locator("code").inner_text()


def spans_of(text: str) -> list[str]:
    """Trace ids of an OTLP request, one for each span."""
    groups = json.loads(text)["resourceSpans"]
    return [span["traceId"] for group in groups for scope in group["scopeSpans"] for span in scope["spans"]]


async def test_the_page_asks_for_a_token(tmp_path: Path) -> None:
    """Once, and again after a wrong one; whichever header it has to go into."""
    web = f'tokens = ["{TOKEN}"]\nauth_header = "X-Api-Key"'
    async with bridge_with_traces(tmp_path, web=web) as address, page_of(address, refusals=True) as page:
        await page.get_by_role("textbox", name="Token").fill("wrong")
        await page.keyboard.press("Enter")
        await page.get_by_role("textbox", name="Token").fill(TOKEN)
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="In and out").wait_for()
        await page.reload()
        await page.get_by_role("heading", name="In and out").wait_for()


async def test_the_skip_link_keeps_the_view(tmp_path: Path) -> None:
    """It leads to what the view shows, not to another view."""
    async with bridge_with_traces(tmp_path) as address, page_of(address) as page:
        await kept(address)
        await page.get_by_role("link", name="Services", exact=True).click()
        await page.locator("svg.map").wait_for()
        await page.get_by_role("link", name="Skip to content").focus()
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"
        assert page.url.endswith("#/services")


@pytest.mark.skipif(bool(AXE.missing()), reason=AXE.missing())
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everybody_can_use_it(tmp_path: Path, scheme: str) -> None:
    """No view breaks a rule of axe-core: contrast, names, roles, order of headings, keyboard."""
    async with (
        bridge_with_traces(tmp_path) as address,
        page_of(address, color_scheme=scheme, bypass_csp=True, reduced_motion="reduce") as page,
    ):
        await kept(address)
        await page.add_script_tag(path=AXE.path)
        broken = {}
        for view, heading in (("now", "Exporters"), ("links", "How sure"), ("services", "Calls"), ("traces", "Found")):
            await page.evaluate(f"location.hash = '#/{view}'")
            await page.get_by_role("heading", name=heading).wait_for()
            await page.locator("main table").first.wait_for()
            broken[view] = await violations(page)
        await open_first(page)
        await page.locator("button.span").nth(2).click()
        broken["trace"] = await violations(page)
    assert {view: found for view, found in broken.items() if found} == {}


async def violations(page: Any) -> list[str]:
    """Rules that the page breaks at present, each with where."""
    found = await page.evaluate(f"axe.run(document, {{runOnly: {json.dumps(RULES)}}})")
    return [f"{rule['id']}: {[node['html'][:200] for node in rule['nodes'][:3]]}" for rule in found["violations"]]

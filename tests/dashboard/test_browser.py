"""The page in a real browser: what another process does appears, the buttons do what they say, and strangers stay outside.

Chromium and its driver are those of the system (Debian: chromium, chromium-driver). Nothing is downloaded. With PARKIT_SCREENSHOTS=FOLDER the
pictures of the docs are written there.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import parkit
from parkit import Dict, LifoQueue, Log, Process, Queue
from tests.conftest import Script, Spawn
from tests.dashboard.conftest import DEADLINE, Dashboard
from tests.dashboard.test_watch import OTHER, tell
from tests.pool.conftest import Pool

pytestmark = [pytest.mark.browser, pytest.mark.processes]

POOL_SIZE = 2
PICTURES = os.environ.get("PARKIT_SCREENSHOTS")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--window-size=1280,900",
)


@pytest.fixture(autouse=True)
def no_leaks(libuv_is_warm: None) -> Iterator[None]:
    """Take the place of the search for leaks after each test: processes of the browser come and go. It is searched when the browser has quit."""
    yield
    parkit_close()


def parkit_close() -> None:
    from parkit_async._core.registry import close_all

    close_all()


LOOK = """
const done = arguments[arguments.length - 1];
const look = () => {
  let value = null;
  try { value = (%s); } catch { return; }
  if (value) { observer.disconnect(); done(value); }
};
const observer = new MutationObserver(look);
observer.observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
look();
"""


class Browser:
    """A real browser with one page, as its user sees it."""

    def __init__(self, profile: Path) -> None:
        found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
        missing = [name for name, path in found.items() if path is None]
        assert not missing, f"{' and '.join(missing)} cannot be found on PATH; install them, on Debian by: apt-get install chromium chromium-driver"
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(found["chromium"])
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver: Any = webdriver.Chrome(options=options, service=Service(str(found["chromedriver"])))
        self.driver.set_script_timeout(DEADLINE)
        self.driver.set_page_load_timeout(DEADLINE)

    def look(self, dark: bool = False, width: int = 1280, height: int = 900) -> None:
        """Have the window a size, and the system a taste."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, address: str) -> None:
        """Open an address; nothing of an earlier page stays."""
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(address)

    def run(self, code: str) -> Any:
        """Run JavaScript in the page; return what it returns."""
        return self.driver.execute_script(code)

    def until(self, condition: str) -> Any:
        """Return the value of a JavaScript expression as soon as it is true, looked at whenever the page changes."""
        from selenium.common.exceptions import JavascriptException, TimeoutException

        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                return self.driver.execute_async_script(LOOK % condition)
            except (JavascriptException, TimeoutException):
                # Where a click leads to another page, that ends what runs in this one; the driver tells it at once, as either of the two.
                if time.monotonic() >= deadline:
                    raise

    def click(self, selector: str) -> None:
        """Click at an element as soon as it is there, as a user does: it must be seen and not be covered."""
        from selenium.webdriver.common.by import By

        self.until(f"document.querySelector({json.dumps(selector)}) !== null")
        element = self.driver.find_element(By.CSS_SELECTOR, selector)
        self.run("document.documentElement.style.scrollBehavior = 'auto'")
        self.driver.execute_script("arguments[0].scrollIntoView({ block: 'center' })", element)
        element.click()

    def press(self, key: str) -> None:
        """Press a key, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(key).perform()

    def errors(self) -> list[str]:
        """Return what the browser complains about since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def picture(self, path: Path, whole: bool = False) -> None:
        """Save what the page looks like."""
        import base64

        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            width, height = self.run("return [innerWidth, document.documentElement.scrollHeight]")
            options["clip"] = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        path.write_bytes(base64.b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    os.environ["SE_OFFLINE"] = "true"
    before = set(psutil.Process().children(recursive=True))
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.driver.quit()
    _, left = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - before, DEADLINE)
    assert not left, f"the browser has left {left}"


@pytest.fixture
def page(shared_browser: Browser, dashboard: Dashboard) -> Browser:
    """The page of the module's dashboard, in a browser, live."""
    shared_browser.look()
    shared_browser.open(dashboard.address)
    shared_browser.until("document.querySelector('.connection.live')")
    return shared_browser


@pytest.fixture
def other(spawn: Spawn) -> Script:
    """Another process, which does what it is told."""
    return spawn(OTHER, env={"PARKIT_SYNCHRONOUS": "off"})


def row(name: str) -> str:
    """Return the JavaScript for a process's row."""
    return f"[...document.querySelectorAll('#process-rows tr')].find((tr) => tr.querySelector('.name').textContent === {name!r})"


def card(name: str) -> str:
    """Return the JavaScript for a namespace's card."""
    return f"document.querySelector('.card[aria-label={name}]')"


def depth_of(name: str) -> str:
    """Return the JavaScript for the depth of a queue that is shown."""
    found = f"[...document.querySelectorAll('#queue-rows tr')].find((tr) => tr.querySelector('.name').textContent === {name!r})"
    return f"{found}.querySelector('.depth').textContent"


def speak() -> None:
    """Say something, and then whatever comes from a queue."""
    print("ready", flush=True)
    words: Queue[str] = Queue("shop/words")
    while (word := words.get()) != "end":
        print(word, flush=True)


def fail() -> None:
    raise ValueError("<img src=x onerror=alert(1)>")


# Each panel shows what another process does.


def test_queues_and_overview(page: Browser, other: Script) -> None:
    tell(other, "orders = Queue('shop/orders')")
    page.until(f"{depth_of('shop/orders')} === '0'")
    tell(other, "orders.put_many([1, 2, 3])")
    page.until(f"{depth_of('shop/orders')} === '3'")
    page.until("document.querySelector('#queue-rows svg').getAttribute('aria-label') === 'now 3, at most 3'")
    page.until("[...document.querySelectorAll('.tile')].find((tile) => tile.textContent.includes('Queued items')).textContent.includes('3')")
    assert "V" in page.run("return document.querySelector('#queue-rows .steps').getAttribute('d')")
    tell(other, "orders.drop()")
    page.until("document.querySelectorAll('#queue-rows tr').length === 0")
    tell(other, "orders = Queue('shop/orders')")
    page.until("document.querySelector('#queue-rows svg').getAttribute('aria-label') === 'now 0, at most 0'")  # what was dropped is forgotten
    assert page.errors() == []


def test_what_is_not_shown_is_counted(page: Browser, other: Script) -> None:
    tell(other, "many = lambda name, number: [Process(f'{name}/p{at}', target=abs) for at in range(number)]")
    tell(other, "with transaction('shop'): many('shop', 160)")
    tell(other, "with transaction('mill'): many('mill', 201)")
    page.until("document.querySelector('#process-note').textContent === '61 older processes not shown.'")
    assert page.run("return document.querySelectorAll('#process-rows tr').length") == 300
    page.run("const search = document.querySelector('#search'); search.value = 'none'; search.dispatchEvent(new Event('input'))")
    page.until("document.querySelector('#process-note').textContent === 'None is like that. 1 older process not shown.'")
    tell(other, "with transaction('mill'): [Log(f'mill/log{at}') for at in range(201)]")
    page.until("document.querySelector('#log-note').textContent === '1 more log not shown.'")
    assert page.errors() == []


def test_processes_workers_and_output(page: Browser) -> None:
    process = Process("shop/speak", target=speak)
    process.start()
    page.until(f"{row('shop/speak')}.querySelector('.status').textContent === 'running'")
    page.until("document.querySelector('.worker.busy').textContent.includes('shop/speak')")
    page.run(f"{row('shop/speak')}.querySelector('button.name').click()")
    page.until("document.querySelector('#drawer').open && document.querySelector('#drawer-output').textContent === 'ready\\n'")
    Queue[str]("shop/words").put("<b>tea</b>")
    page.until("document.querySelector('#drawer-output').textContent === 'ready\\n<b>tea</b>\\n'")
    assert page.run("return document.querySelector('#drawer-output b')") is None
    Queue[str]("shop/words").put("end")
    page.until("document.querySelector('#drawer-state').textContent === 'finished'")
    page.until("document.querySelector('#drawer-facts').textContent.includes('resultNone')")
    page.press("\ue00c")  # Escape
    page.until("!document.querySelector('#drawer').open")
    Process("shop/fail", target=fail).start()
    page.until(f"{row('shop/fail')}.querySelector('.problem').textContent === 'ValueError: <img src=x onerror=alert(1)>'")
    page.run(f"{row('shop/fail')}.querySelector('button.name').click()")
    page.until("!document.querySelector('#drawer-failure').hidden && document.querySelector('#drawer-failure').textContent.includes('Traceback')")
    assert page.run("return document.querySelector('img[src=x]')") is None
    page.click("#drawer-close")
    page.click("#statuses [data-key=failed]")
    page.until("document.querySelectorAll('#process-rows tr').length === 1")
    assert page.errors() == []


def test_logs(page: Browser, other: Script) -> None:
    tell(other, "import logging; logging.getLogger('shop').addHandler(parkit.SyslogHandler()); logging.getLogger('shop').error('no <b>tea</b>')")
    page.until("[...document.querySelectorAll('#log-choice option')].some((option) => option.value === '__syslog__/syslog')")
    page.until("document.querySelector('#log-lines .line.error .message').textContent.includes('no <b>tea</b>')")
    assert page.run("return getComputedStyle(document.querySelector('.line.error .level')).color") == "rgb(180, 35, 24)"
    tell(other, "logging.getLogger('shop').warning('beware')")
    page.until("document.querySelector('#log-lines .line.warning').textContent.includes('beware')")
    tell(other, "sales = Log('shop/sales'); sales.append({'tea': 3})")
    page.until("[...document.querySelectorAll('#log-choice option')].some((option) => option.value === 'shop/sales')")
    page.run("const choice = document.querySelector('#log-choice'); choice.value = 'shop/sales'; choice.dispatchEvent(new Event('change'))")
    page.until("document.querySelector('#log-lines').textContent.includes(\"{'tea': 3}\")")
    assert page.errors() == []


def test_a_stream_that_was_refused_is_taken_up_again(page: Browser, other: Script) -> None:
    """As when a proxy says 502 while the dashboard is started again: a browser does not ask a second time by itself."""
    tell(other, "sales = Log('shop/sales'); sales.append('tea')")
    page.until("[...document.querySelectorAll('#log-choice option')].some((option) => option.value === 'shop/sales')")
    page.run("window.Real = EventSource; window.EventSource = class extends Real { constructor() { super('/nowhere'); } }")
    page.run("const choice = document.querySelector('#log-choice'); choice.value = 'shop/sales'; choice.dispatchEvent(new Event('change'))")
    page.until("document.querySelector('#log-lines').childElementCount === 0 && performance.getEntriesByName(`${location.origin}/nowhere`).length")
    tell(other, "speak = Process('shop/speak', target=abs)")
    page.until(row("shop/speak"))
    page.run(f"{row('shop/speak')}.querySelector('button.name').click()")
    page.until("document.querySelector('#drawer-state').textContent === 'not followed any more'")
    page.press("\ue00c")  # Escape
    page.run("window.EventSource = Real")
    tell(other, "sales.append('salt')")
    page.until("document.querySelector('#log-lines').textContent.includes('salt')")


def test_namespaces_waiters_and_snapshots(page: Browser, other: Script) -> None:
    tell(other, "parkit.set_namespace_size('lab', 1 << 20); stock = Dict('lab/stock')")
    page.until(f"{card('lab')}.textContent.includes('of 1.0 MiB')")
    tell(other, "stock['big'] = bytes(880_000)")
    page.until(f"{card('lab')}.querySelector('.bar.warn') && {card('lab')}.textContent.includes('85.')")
    page.until("document.querySelector('.tile.warn').textContent.includes('fullest: lab')")
    tell(other, "import threading; from parkit import snapshot; orders = Queue('lab/orders'); seen = snapshot('lab'); seen.__enter__()")
    Dict[str, int]("lab/stock")["small"] = 1
    page.until(f"{card('lab')}.textContent.includes('1 snapshot') && {card('lab')}.textContent.includes('process {other.pid}')")
    page.until("document.querySelector('#overview').textContent.includes('Oldest snapshot')")
    tell(other, "seen.__exit__(None, None, None); waiting = threading.Thread(target=orders.get, daemon=True); waiting.start()")
    while not parkit_waits("lab"):
        pass
    page.click("#refresh")
    page.until(f"{card('lab')}.textContent.includes('lab/orders (items): {other.pid}')")
    Queue[int]("lab/orders").put(1)
    page.until(f"{card('lab')}.textContent.includes('waitingnobody')")
    assert page.errors() == []


def parkit_waits(name: str) -> bool:
    from parkit_async._core import inspection
    from parkit_async._core.registry import open_namespace

    return any(waiter.events == ["items"] for waiter in inspection.waiters(open_namespace(name)))


# The buttons do what they say, and ask first.


def test_a_process_is_terminated_and_forgotten(page: Browser) -> None:
    process = Process("shop/speak", target=speak)
    process.start()
    page.until(f"{row('shop/speak')}.querySelector('.status').textContent === 'running'")
    page.click("#process-rows button[aria-label='Terminate shop/speak']")
    assert page.until("document.querySelector('#confirm').open && document.querySelector('#confirm-text').textContent").startswith(
        "SIGTERM goes to process"
    )
    assert page.run("return document.activeElement.id") == "confirm-cancel", "the safe answer has the focus"
    page.click("#confirm-cancel")
    page.until("!document.querySelector('#confirm').open")
    assert process.status == "running"
    page.click("#process-rows button[aria-label='Terminate shop/speak']")
    page.click("#confirm-ok")
    page.until("document.querySelector('.toast').textContent === 'shop/speak was asked to end.'")
    page.until(f"{row('shop/speak')}.querySelector('.status').textContent === 'crashed'")
    assert process.exitcode == -signal.SIGTERM
    page.click("#process-rows button[aria-label='Forget shop/speak']")
    page.click("#confirm-ok")
    page.until("document.querySelector('#process-note').textContent.includes('no processes')")
    assert not process.exists and page.errors() == []


def test_the_pool_is_resized_and_cleaned(page: Browser) -> None:
    Process("shop/one", target=abs, args=(1,)).start()
    page.until(f"{row('shop/one')}.querySelector('.status').textContent === 'finished'")
    page.click("#pool-actions [data-key=Resize]")
    page.until("document.querySelector('#confirm').open && document.activeElement.id === 'confirm-number'")
    page.run("document.querySelector('#confirm-number').value = 1")
    page.click("#confirm-ok")
    page.until("document.querySelector('#overview').textContent.includes('of 1 worker wanted')")
    assert parkit.get_pool_size() == 1
    page.click("#clean")
    page.until("document.querySelector('#confirm-text').textContent.includes('1 process')")
    page.click("#confirm-ok")
    page.until("document.querySelectorAll('#process-rows tr').length === 0")
    assert list(parkit.processes()) == []
    page.click("#pool-actions [data-key=Resize]")
    page.until("document.activeElement.id === 'confirm-number'")
    page.run("document.querySelector('#confirm-number').value = 5000")
    page.press("\ue007")  # Enter
    assert page.run("return document.querySelector('#confirm').open"), "so many are not allowed"
    page.click("#confirm-cancel")
    page.until("!document.querySelector('#confirm').open")
    assert parkit.get_pool_size() == 1
    page.click("#pool-actions [data-key=Resize]")
    page.until("document.activeElement.id === 'confirm-number'")
    page.run(f"document.querySelector('#confirm-number').value = {POOL_SIZE}")
    page.press("\ue007")
    page.until("document.querySelector('#overview').textContent.includes('of 2 workers wanted')")
    assert parkit.get_pool_size() == POOL_SIZE and page.errors() == []


def test_what_a_button_has_done_is_said_where_one_looks(page: Browser) -> None:
    process = Process("shop/speak", target=speak)
    process.start()
    page.until(f"{row('shop/speak')}.querySelector('.status').textContent === 'running'")
    page.run(f"{row('shop/speak')}.querySelector('button.name').click()")
    page.click("#drawer-actions [data-key=Kill]")
    page.click("#confirm-ok")
    page.until("document.querySelector('.toast').textContent === 'shop/speak is killed.'")
    assert page.run("return document.querySelector('.toast').matches('#drawer[open] *')"), "beside an open dialog it is inert"
    page.click("#drawer-close")
    page.until("!document.querySelector('#drawer').open && document.querySelector('body > #toasts')")
    assert process.join(DEADLINE) and page.errors() == []


def test_the_pool_is_stopped_and_started(shared_browser: Browser, swept: None, own_pool: Pool, start_dashboard: Callable[..., Dashboard]) -> None:
    page = shared_browser
    page.open(start_dashboard().address)
    page.until("document.querySelector('#pool').textContent.includes('not running')")
    page.click("#pool-actions [data-key='Start pool']")
    page.click("#confirm-ok")
    page.until("document.querySelectorAll('.worker.idle').length === 2")
    assert parkit.pool_status()["running"]
    page.click("#pool-actions [data-key='Stop pool']")
    page.click("#confirm-ok")
    page.until("document.querySelector('#pool').textContent.includes('not running')")
    assert not parkit.pool_status()["running"]


def test_read_only_has_no_buttons(shared_browser: Browser, store: Path, start_dashboard: Callable[..., Dashboard]) -> None:
    Process("shop/one", target=abs)
    shared_browser.open(start_dashboard("--read-only").address)
    shared_browser.until(f"document.querySelector('.connection.live') && {row('shop/one')}")
    assert shared_browser.run("return document.querySelectorAll('#pool-actions button, #process-rows .actions button, #clean').length") == 0


# Who is let in.


def test_an_expired_token_is_refused(shared_browser: Browser, store: Path, start_dashboard: Callable[..., Dashboard]) -> None:
    dashboard = start_dashboard("--require-token", "--token-lifetime", 7 / 3600)
    page = shared_browser
    page.open(dashboard.address)
    page.until("document.querySelector('input[name=token]')")
    page.run(f"document.querySelector('input[name=token]').value = {'wrong' * 5!r}")
    page.click("form button")
    page.until("document.querySelector('h1').textContent === 'That is not the token'")
    page.run(f"document.querySelector('input[name=token]').value = {dashboard.token!r}")
    page.click("form button")
    page.until("document.querySelector('.connection.live')")
    assert page.run("return location.search + document.cookie") == "", "neither the address nor a script can tell the token"
    page.until("document.querySelector('#banner').textContent.includes('its token has expired')")
    page.driver.get(f"{dashboard.address}?token={dashboard.token}")
    assert page.until("document.querySelector('h1').textContent") == "The token has expired"
    assert "parkit dashboard" in page.run("return document.querySelector('p').textContent")


def test_pages_in_the_background_hold_no_connections(page: Browser, dashboard: Dashboard, other: Script) -> None:
    """A browser has six connections for each host, over all its tabs: the page in the fourth tab would wait for ever for its events."""
    tell(other, "orders = Queue('shop/orders'); Log('shop/sales').append(1)")
    driver, first = page.driver, page.driver.current_window_handle
    try:
        for _ in range(6):
            driver.switch_to.new_window("tab")
            driver.get(dashboard.address)
            page.until(f"document.querySelector('.connection.live') && {depth_of('shop/orders')} === '0' && document.querySelector('.line')")
        tell(other, "orders.put(1)")
        driver.switch_to.window(first)
        page.until(f"document.querySelector('.connection.live') && {depth_of('shop/orders')} === '1'")
    finally:
        for handle in driver.window_handles:
            if handle != first:
                driver.switch_to.window(handle)
                driver.close()
        driver.switch_to.window(first)


def test_another_sites_page_can_do_nothing(shared_browser: Browser, dashboard: Dashboard, tmp_path: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_: object) -> None: ...

    address = dashboard.address
    (tmp_path / "evil.html").write_text(
        f"""<!doctype html><iframe src="{address}"></iframe><form method="post" action="{address}api/actions/resize" enctype="text/plain">
        <input name='{{"size": 9, "x": "' value='"}}'></form>
        <script>
        const tries = [
          fetch("{address}api/state").then((answer) => answer.text()),
          fetch("{address}api/state", {{ mode: "no-cors" }}).then((answer) => answer.status),
          fetch("{address}api/actions/resize", {{ method: "POST", headers: {{ "content-type": "application/json" }}, body: '{{"size": 9}}' }}),
          fetch("{address}api/actions/resize", {{ method: "POST", mode: "no-cors", body: '{{"size": 9}}' }}),
          new Promise((_, reject) => {{ const events = new EventSource("{address}events"); events.onerror = reject; }}),
        ];
        const say = (one) => (one.status === "fulfilled" ? `got ${{one.value}}` : "refused");
        Promise.allSettled(tries).then((all) => {{ document.title = all.map(say).join("|"); }});
        </script>"""
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    try:
        page = shared_browser
        page.open(f"http://127.0.0.1:{server.server_port}/evil.html")
        said = page.until("document.title.includes('|') && document.title").split("|")
        assert said[0] == said[2] == said[4] == "refused"
        assert said[1].startswith(("refused", "got 0")) and said[3].startswith(("refused", "got"))
        page.run("document.forms[0].submit()")
        assert page.until("document.body.textContent.includes('Foreign') && document.body.textContent")
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
    assert parkit.get_pool_size() == POOL_SIZE


# A page that stays.


def test_the_page_comes_back_when_the_dashboard_does(shared_browser: Browser, store: Path, start_dashboard: Callable[..., Dashboard]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    orders: Queue[int] = Queue("shop/orders")
    first = start_dashboard("--port", port)
    shared_browser.open(first.address)
    shared_browser.until(f"{depth_of('shop/orders')} === '0'")
    first.close()
    shared_browser.until("document.querySelector('.connection.lost')")
    orders.put(1)
    start_dashboard("--port", port)
    shared_browser.until(f"document.querySelector('.connection.live') && {depth_of('shop/orders')} === '1'")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_and_can_be_read(page: Browser, other: Script, dark: bool) -> None:
    """No panel is wider than a phone, and text stands out from what is behind it as WCAG 2.1 (1.4.3) asks: 4.5 to 1."""
    tell(
        other,
        "Queue('shop/a-queue-with-quite-a-long-name-' + 'x' * 60).put(1); Process('shop/' + 'y' * 90, target=abs); Log('shop/z').append('w' * 300)",
    )
    page.until("document.querySelectorAll('#queue-rows tr').length === 1 && document.querySelectorAll('#process-rows tr').length === 1")
    for width in (360, 768, 1280):
        page.look(dark, width)
        wide, shown = page.run("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert (wide, shown) == (width, width)
    low = page.run(CONTRAST)
    assert low == []
    assert page.errors() == []


CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((total, c, i) => total + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const low = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || !element.checkVisibility() || element.closest("svg, option, .unseen, .skip")) continue;
  const [one, other] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
  const ratio = (one + 0.05) / (other + 0.05);
  if (ratio < 4.5) low.push(`${element.tagName}.${element.className} ${element.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
}
return low;
"""


# The pictures of the docs.


NICER = """
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) walker.currentNode.data = walker.currentNode.data.replace(arguments[0], "/srv/store");
"""
"""Names the store as a reader's might be; a test's folder says nothing to them."""


def count_orders(number: int) -> dict[str, int]:
    import logging

    print(f"counting {number} orders")
    logging.getLogger("shop").info("counted %s orders", number)
    return {"orders": number}


def price_order() -> None:
    import logging

    logging.getLogger("shop").warning("the supplier answers slowly")
    prices: dict[str, float] = {}
    prices["saffron"]


def pack_orders() -> None:
    for number, order in enumerate(Queue[int]("shop/to-pack").get() for _ in range(1000)):
        print(f"packed order {4711 + number} in box {order}", flush=True)


def test_pictures(page: Browser, other: Script, pool: Pool, tmp_path: Path) -> None:
    folder = tmp_path if PICTURES is None else Path(PICTURES)
    LifoQueue[str]("lab/undo").put("step")
    parkit.set_namespace_size("lab", 1 << 20)
    Dict[str, bytes]("lab/scans")["last"] = bytes(880_000)
    for name, target, arguments in (
        ("monday", count_orders, (12,)),
        ("tuesday", count_orders, (31,)),
        ("prices", price_order, ()),
        ("pack", pack_orders, ()),
    ):
        Process(f"shop/{name}", target=target, args=arguments).start()
    page.until(f"{row('shop/prices')}.querySelector('.status').textContent === 'failed'")
    boxes, orders, sales = Queue[int]("shop/to-pack"), Queue[int]("shop/orders", maxsize=50), Log[dict[str, Any]]("shop/sales")
    tell(other, "from parkit import snapshot; seen = snapshot('lab'); seen.__enter__()")
    Dict[str, bytes]("lab/scans")["first"] = b""
    for number in range(36):
        boxes.put(number % 7)
        orders.put_many(range((7 * number * number) % 5))
        for _ in range((3 * number) % 7):
            if orders.qsize() > 3:
                orders.get()
        sales.append({"order": number, "tea": number % 4})
        page.until(f"document.querySelector('#log-choice').textContent.includes('shop/sales ({number + 1})')")
    for name, dark, width in (("light", False, 1280), ("dark", True, 1280), ("phone", False, 390)):
        page.look(dark, width)
        page.run("window.scrollTo(0, 0)")
        page.until("document.querySelector('#queue-rows .steps').getAttribute('d')")
        page.driver.execute_script(NICER, str(pool.store))
        page.picture(folder / f"dashboard-{name}.png", whole=width > 700)
    page.look(False, 1280, 720)
    page.run(f"{row('shop/pack')}.querySelector('button.name').click()")
    page.until("document.querySelector('#drawer-output').textContent.includes('packed order 4746')")
    page.driver.execute_script(NICER, str(pool.store))
    page.picture(folder / "dashboard-output.png")
    for name in ("light", "dark", "phone", "output"):
        assert (folder / f"dashboard-{name}.png").read_bytes().startswith(b"\x89PNG")

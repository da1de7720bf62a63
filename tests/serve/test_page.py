"""The editor page in a real browser: a photo in, sliders, a rendered picture out; by pointer and by keyboard alone."""

import shutil
import socket
import threading
import time

import numpy as np
import pytest

from rigface.image import encode_png
from tests.serve.conftest import photo

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs a browser: apt-get install --yes chromium chromium-driver"
)


@pytest.fixture(scope="module")
def url(eye, studio):
    """The service on loopback, in this process."""
    import uvicorn

    from serve.door import House, make_api

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_api(House(eye, studio)), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    def __init__(self, browser, url):
        self.browser = browser
        browser.get(url)

    def __getitem__(self, name):
        return self.browser.find_element("id", name)

    def until(self, condition, seconds=20):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, seconds, 0.05).until(lambda _: condition())

    def upload(self, path):
        self["file"].send_keys(str(path))

    def says(self, words):
        self.until(lambda: words in self["status"].text)


@pytest.fixture
def page(browser, url):
    return Page(browser, url)


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "portrait.png"
    path.write_bytes(encode_png(photo(3, (200, 160))))
    return path


def test_a_photo_a_slider_a_render_a_wipe(page, portrait, tmp_path):
    from selenium.webdriver.common.keys import Keys

    assert not page["render"].is_enabled()
    page.upload(portrait)
    page.says("One face")
    assert len(page["outlines"].find_elements("tag name", "rect")) == 1
    source = page["after"].get_attribute("src")

    page["s-yaw_deg"].send_keys(Keys.ARROW_RIGHT * 12)
    page.says("Preview in")
    assert page["after"].get_attribute("src") != source
    assert page["tag"].text == "preview"
    page["sphere"].send_keys(Keys.ARROW_LEFT * 4)
    page.until(lambda: "20° left" in page["sphere"].get_attribute("aria-valuetext"))

    page["render"].click()
    page.says("Rendered in")
    assert "tiny" in page["status"].text
    rows = [row.text for row in page["reached-rows"].find_elements("tag name", "tr")]
    assert any(row.startswith("Turn 12.0°") for row in rows)
    assert any(row.startswith("Light, sideways −20.0°") for row in rows)
    assert page["download"].get_attribute("download") == "rigface-1.png"

    page["wipe"].send_keys(Keys.PAGE_UP * 5)
    page.until(lambda: page["tag-before"].is_displayed())
    history = page["history"].find_elements("tag name", "button")
    assert [h.text for h in history] == ["Photograph", "1 · tiny"]
    history[0].click()
    assert page["after"].get_attribute("src") == source
    assert page["s-yaw_deg"].get_attribute("value") == "0"
    history[1].click()
    assert page["s-yaw_deg"].get_attribute("value") == "12"


def test_nothing_but_this_service_is_asked_and_nothing_is_complained_about(page, url):
    hosts = page.browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert hosts
    assert all(name.startswith((url, "blob:", "data:")) for name in hosts)
    broken = [e for e in page.browser.get_log("browser") if "422" not in e["message"] and e["level"] == "SEVERE"]
    assert not broken


def test_a_picture_of_nobody_and_a_file_that_is_none(page, portrait, tmp_path):
    flat, text = tmp_path / "flat.png", tmp_path / "text.png"
    flat.write_bytes(encode_png(np.full((64, 64, 3), 90, np.uint8)))
    text.write_bytes(b"not a picture")
    page.upload(flat)
    page.until(lambda: "No face was found" in page["notice-text"].text)
    page.upload(text)
    page.until(lambda: "not a picture" in page["notice-text"].text)
    page["notice-close"].click()
    assert not page["notice"].is_displayed()
    page.upload(portrait)
    page.says("One face")


def test_with_the_keyboard_alone(page, portrait):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page.upload(portrait)  # the system's own dialogue is beyond a driver; its button is reached below
    page.says("One face")

    def press(*keys):
        ActionChains(page.browser).send_keys(*keys).perform()
        return page.browser.switch_to.active_element.get_attribute("id")

    seen = [press(Keys.TAB) for _ in range(16)]
    assert {"model", "open", "wipe", "s-yaw_deg", "s-pitch_deg"} <= set(seen)
    page.browser.execute_script("document.getElementById('s-yaw_deg').focus()")
    press(Keys.ARROW_LEFT)
    page.says("Preview in")
    ActionChains(page.browser).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
    page.says("Rendered in")


def test_every_control_has_a_name(page, portrait):
    page.upload(portrait)
    page.says("One face")
    nameless = page.browser.execute_script("""
        return [...document.querySelectorAll('button, input, select, [role=slider], [role=button]')]
          .filter(e => !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())).map(e => e.outerHTML)""")
    assert not nameless


def test_presets_and_a_phone(page, portrait):
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        page.upload(portrait)
        page.says("One face")
        chip = page["presets"].find_elements("tag name", "button")[0]
        page.browser.execute_script("arguments[0].click()", chip)
        page.says("Preview in")
        assert float(page["s-smile"].get_attribute("value")) == pytest.approx(0.8)
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= 390
        assert page["render"].is_displayed()
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

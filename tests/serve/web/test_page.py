"""The editor page in a real browser: a photo in, sliders, a rendered picture out; by pointer and by keyboard alone."""

import json
import shutil

import numpy as np
import pytest

from rigface.image import encode_png
from serve.api.routes import Services
from tests.serve.conftest import listening, photo

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs a browser: apt-get install --yes chromium chromium-driver"
)


class StillJobs:
    """A queue whose worker is the test: one clip, whose job is as far as the test says."""

    def __init__(self, clip):
        self.clip, self.submission, self.now = clip, None, {}

    async def submit(self, submission, owner, once=""):
        self.submission, self.now = submission, {"state": "queued", "total": 0, "finished": 0, "results": []}
        return self._state()

    async def mine(self, owner):
        return [self._state()] if self.submission else []

    async def cancel(self, name, owner):
        self.now["state"] = "cancelled"
        return self._state()

    async def result(self, name, owner, number, through=False):
        return self.clip, "video/mp4", {}

    def _state(self):
        from serve.schemas import JobState

        about = {"id": "1" * 32, "kind": self.submission.asked.kind, "media_type": "video/mp4"}
        when = {"created_at": "2026-01-01T00:00:00+00:00", "started_at": "2026-01-01T00:00:00+00:00"}
        return JobState(**about, **when, **self.now)


@pytest.fixture(scope="module")
def jobs(fixtures):
    return StillJobs((fixtures / "clip.mp4").read_bytes())


@pytest.fixture(scope="module")
def url(face_worker, diffusion_worker, jobs):
    """The service on loopback, in this process."""
    with listening(Services(face_worker, diffusion_worker, jobs=jobs)) as url:
        yield f"{url}/"


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
        browser.get_log("browser")  # of the page before
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

    def warns(self, words):
        self.until(lambda: words in self["notice-text"].text)

    def asked_only(self, url):
        """Everything that the page loaded came from there, and nothing was complained about."""
        names = self.browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert names
        assert all(name.startswith((url, "blob:", "data:")) for name in names), names
        log = [e for e in self.browser.get_log("browser") if "422" not in e["message"] and e["level"] == "SEVERE"]
        assert not log
        return names

    def width(self):
        return self.browser.execute_script("return document.documentElement.scrollWidth")


@pytest.fixture
def page(browser, url):
    return Page(browser, url)


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "portrait.png"
    path.write_bytes(encode_png(photo(3, (200, 160))))
    return path


def test_a_photo_a_slider_a_render_a_wipe(page, url, portrait, tmp_path):
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
    asked = page.asked_only(url)
    assert {f"{url}v1/{name}" for name in ("models", "reconstruct", "preview", "edits")} <= set(asked)


def test_nothing_but_this_service_is_asked_and_nothing_is_complained_about(page, url):
    page.asked_only(url)


def test_a_picture_of_nobody_and_a_file_that_is_none(page, portrait, tmp_path):
    flat, text = tmp_path / "flat.png", tmp_path / "text.png"
    flat.write_bytes(encode_png(np.full((64, 64, 3), 90, np.uint8)))
    text.write_bytes(b"not a picture")
    page.upload(flat)
    page.warns("No face was found")
    assert page["drop"].is_displayed()
    page.upload(text)
    page.warns("not a picture")
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

    seen = [press(Keys.TAB) for _ in range(17)]
    assert {"tab-photo", "model", "open", "wipe", "s-yaw_deg", "s-pitch_deg"} <= set(seen)
    page.browser.execute_script("document.getElementById('tab-photo').focus()")
    assert press(Keys.ARROW_RIGHT) == "tab-video"
    assert page["drop-clip"].is_displayed()
    assert press(Keys.ARROW_LEFT) == "tab-photo"
    assert page["plate"].is_displayed()
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
        assert page.width() <= 390
        assert page["render"].is_displayed()
        page["tab-video"].click()
        assert page.width() <= 390
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_preset_is_saved_as_json_and_loaded_again(page, portrait, tmp_path):
    from selenium.webdriver.common.keys import Keys

    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.upload(portrait)
    page.says("One face")
    page["preset-save"].click()
    page.says("nothing to save")
    page["s-pitch_deg"].send_keys(Keys.ARROW_RIGHT * 7)
    page["sphere"].send_keys(Keys.ARROW_RIGHT * 2)
    page["preset-save"].click()
    saved = tmp_path / "rigface-preset.json"
    page.until(saved.exists)
    preset = json.loads(saved.read_text())
    assert preset["pitch_deg"] == 7
    assert preset["light"]["azimuth_deg"] == 10
    page["reset"].click()
    page.says("As photographed")
    page["preset-file"].send_keys(str(saved))
    page.says("Preview in")
    assert page["s-pitch_deg"].get_attribute("value") == "7"
    bad = tmp_path / "bad.json"
    bad.write_text("[1, 2]")
    page["preset-file"].send_keys(str(bad))
    page.warns("not a preset")


def test_a_trait_is_copied_from_another_photo(page, portrait, tmp_path):
    other = tmp_path / "other.png"
    other.write_bytes(encode_png(photo(5, (120, 100))))
    page.upload(portrait)
    page.says("One face")
    card = page["givers"].find_elements("css selector", ".give")[2]
    card.find_element("css selector", "input").send_keys(str(other))
    page.says("Preview in")
    page["render"].click()
    page.says("Rendered in")
    assert "Light, sideways" in page["reached-rows"].text
    card.find_element("css selector", "button.plain").click()
    page.says("As photographed")


WHOLE = {
    "yaw_deg": 75.5,
    "relative": True,
    "expression": {"smile": 0.123456, "cheekPuff": 0.4, "mouthLeft": -0.25},
    "region": "mouth",
    "strength": 1.2,
    "light": {"azimuth_deg": 12.5, "elevation_deg": -7.25, "intensity": 3.5, "ambient": 0.4, "colour": [2.0, 1.0, 0.5],
              "relative": False, "sh": [[1.0, 1.0, 0.9]] + [[0.1, 0.0, 0.0]] * 8},
}  # fmt: skip


def test_a_preset_keeps_what_the_page_has_no_control_for(page, portrait, face_worker, tmp_path, monkeypatch):
    """What is loaded is what is asked for and what is saved again, to the number; what nobody knows is said."""
    from rigface.edits import EditSpec

    asked, real = [], face_worker.preview
    monkeypatch.setattr(
        face_worker, "preview", lambda edit_input, *more: asked.append(edit_input) or real(edit_input, *more)
    )
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.upload(portrait)
    page.says("One face")
    given = tmp_path / "given.json"
    given.write_text(json.dumps(WHOLE | {"take": ["pose", "identity"], "mood": "good"}))
    page["preset-file"].send_keys(str(given))
    page.warns("mood")
    page.until(lambda: asked)
    assert asked[-1].edit == EditSpec.from_dict(WHOLE)  # nothing is copied as long as there is no photo
    assert "Turns are added to the pose" in page["kept"].text
    assert "cheekPuff 0.4" in page["kept"].text
    assert "choose the photo" in page["givers"].find_elements("css selector", ".giver")[4].text
    page["preset-save"].click()
    saved = tmp_path / "rigface-preset.json"
    page.until(saved.exists)
    assert json.loads(saved.read_text()) == WHOLE | {"take": ["pose", "identity"]}
    page["kept"].find_element("css selector", "[aria-label='Leave out: Turns are added to the pose']").click()
    page.until(lambda: not asked[-1].edit.relative)
    page["reset"].click()
    page.says("As photographed")
    assert not page["kept-group"].is_displayed()


def test_every_trait_can_be_copied(page, portrait, face_worker, tmp_path, monkeypatch):
    from typing import get_args

    from rigface.edits import Trait

    other = tmp_path / "other.png"
    other.write_bytes(encode_png(photo(5, (120, 100))))
    asked, real = [], face_worker.preview
    monkeypatch.setattr(
        face_worker, "preview", lambda edit_input, *more: asked.append(edit_input) or real(edit_input, *more)
    )
    page.upload(portrait)
    page.says("One face")
    cards = page["givers"].find_elements("css selector", ".give")
    for card in cards:
        page.until(lambda: "Looking" not in page["status"].text)
        card.find_element("css selector", "input").send_keys(str(other))
        page.until(lambda card=card: card.find_elements("css selector", ".giver.on"))
    page.until(lambda: asked and asked[-1].edit.take == set(get_args(Trait)))


def test_a_second_door_that_does_not_know_the_photo_is_sent_it(
    browser, face_worker, diffusion_worker, portrait, tmp_path
):
    from selenium.webdriver.common.keys import Keys

    other = tmp_path / "other.png"
    other.write_bytes(encode_png(photo(5, (120, 100))))
    with listening(Services(face_worker, diffusion_worker), doors=2) as url:
        page = Page(browser, f"{url}/")
        page.upload(portrait)
        page.says("One face")
        page["s-yaw_deg"].send_keys(Keys.ARROW_RIGHT)
        page.says("Preview in")
        page["givers"].find_elements("css selector", ".give")[2].find_element("css selector", "input").send_keys(
            str(other)
        )
        page.until(lambda: page["givers"].find_elements("css selector", ".giver.on"))
        page["render"].click()
        page.says("Rendered in")
        assert not page["notice"].is_displayed()


def test_a_file_that_is_too_large_is_not_sent(page, tmp_path):
    huge = tmp_path / "huge.jpg"
    with huge.open("wb") as out:
        out.truncate(33 * 2**20)
    page.upload(huge)
    page.warns("This file has 33 MB; the service takes up to 32 MB")


def test_a_busy_service_is_asked_again_and_a_lost_one_waited_for(page, portrait, face_worker, monkeypatch):
    from selenium.webdriver.common.keys import Keys

    from serve.problems import ApiError

    asked = []
    real = face_worker.preview

    async def busy_once(edit_input, output_options):
        asked.append(edit_input)
        if len(asked) == 1:
            raise ApiError("busy", "64 requests are already at work", 1)
        return await real(edit_input, output_options)

    page.upload(portrait)
    page.says("One face")
    monkeypatch.setattr(face_worker, "preview", busy_once)
    page["s-yaw_deg"].send_keys(Keys.ARROW_RIGHT)
    page.says("The service is busy. Trying again in 1 s.")
    page.says("Preview in")

    def offline(is_so):
        off = {"offline": is_so, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", off)

    page.browser.execute_cdp_cmd("Network.enable", {})
    offline(True)
    try:
        page["s-yaw_deg"].send_keys(Keys.ARROW_RIGHT)
        page.warns("The service cannot be reached. Trying to reach it again")
    finally:
        offline(False)
    page.until(lambda: not page["notice"].is_displayed())
    page.says("Preview in")
    assert asked[-1].edit.yaw_deg == 2


def test_a_clip_its_frame_a_job_and_the_result(page, url, jobs, fixtures):
    from selenium.webdriver.common.keys import Keys

    page["tab-video"].click()
    assert not page["render"].is_enabled()
    page["clip-file"].send_keys(str(fixtures / "clip.mp4"))
    page.until(lambda: page["outlines"].find_elements("tag name", "rect"))
    page["s-yaw_deg"].send_keys(Keys.ARROW_RIGHT * 9)
    page.says("Preview in")
    page["render"].click()
    page.says("The job is queued")
    assert jobs.submission.asked.kind == "video"
    assert jobs.submission.asked.edit.yaw_deg == 9
    assert jobs.submission.files[jobs.submission.clip] == jobs.clip
    jobs.now = {"state": "running", "total": 60, "finished": 15, "results": []}
    page.until(lambda: "Frame 15 of 60" in page["jobs"].text)
    bar = page["jobs"].find_element("tag name", "progress")
    assert float(bar.get_attribute("value")) == pytest.approx(0.25)
    reached = {"asked": [{"yaw_deg": 9.0}], "achieved": [{"yaw_deg": 7.5}], "notes": ["2 frames show no face"]}
    ended = "2026-01-01T00:00:30+00:00"
    jobs.now = {"state": "done", "total": 60, "finished": 60, "results": [0], "ended_at": ended, **reached}
    page.until(lambda: "60 frames in 30 s" in page["jobs"].text)
    page["jobs"].find_element("css selector", "button[aria-label='Show: clip.mp4']").click()
    page.until(lambda: page["film"].is_displayed())
    asked = page.asked_only(url)
    assert any("/results/0" in name for name in asked)
    assert page["reached-rows"].text.startswith("Turn 9.0° 7.5°")
    assert page["download"].get_attribute("download") == "clip-edited.mp4"
    page["s-yaw_deg"].send_keys(Keys.ARROW_LEFT)
    page.until(lambda: not page["film"].is_displayed())


def test_a_clip_that_moves_a_photo_needs_one(page, jobs, portrait, fixtures):
    page["tab-video"].click()
    page["clip-file"].send_keys(str(fixtures / "clip.mp4"))
    page.until(lambda: page["outlines"].find_elements("tag name", "rect"))
    page.browser.find_element("css selector", "[value=animation] + span").click()
    assert "Open a photo in the other tab first" in page["mode-hint"].text
    assert not page["render"].is_enabled()
    page["tab-photo"].click()
    page.upload(portrait)
    page.says("One face")
    page["tab-video"].click()
    assert page["clip"].is_displayed()
    page["render"].click()
    page.says("The job is queued")
    assert jobs.submission.asked.kind == "animation"
    assert set(jobs.submission.files) == {jobs.submission.clip, jobs.submission.picture}
    page["jobs"].find_element("css selector", "button[aria-label='Cancel: clip.mp4']").click()
    page.until(lambda: "Cancelled" in page["jobs"].text)


def test_the_whole_service_with_real_eyes_in_a_browser(browser, service, fixtures, tmp_path):
    """On Ray Serve: a photograph is seen, previewed, rendered by a model and measured, and nobody else is asked for anything."""
    from selenium.webdriver.common.keys import Keys

    from rigface.video.decode import read_frames

    picture = tmp_path / "somebody.png"
    picture.write_bytes(encode_png(next(read_frames(str(fixtures / "clip.mp4"))).image))
    page = Page(browser, f"{service}/")
    page.upload(picture)
    page.says("One face")
    assert len(page["outlines"].find_elements("tag name", "path")) == 1
    page["s-yaw_deg"].send_keys(Keys.ARROW_RIGHT * 10)
    page.says("Preview in")
    page["render"].click()
    page.says("Rendered in")
    asked, achieved = page["reached-rows"].find_element("css selector", "tr").text.split()[1:3]
    assert asked != achieved  # measured, not repeated
    assert page.asked_only(f"{service}/")

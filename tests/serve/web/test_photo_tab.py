"""Photo tab of the editor page in a real browser, by pointer and by keyboard."""

import numpy as np

from rigface.image import encode_png
from serve.api.routes import Services
from tests.serve.conftest import listening, photo
from tests.serve.web.conftest import NEEDS_BROWSER, Page

pytestmark = NEEDS_BROWSER


def test_photo_is_previewed_rendered_compared_and_kept_in_history(page, url, portrait, tmp_path):
    from selenium.webdriver.common.keys import Keys

    assert not page["render"].is_enabled()
    page.upload(portrait)
    page.wait_for_status("One face")
    assert len(page["outlines"].find_elements("tag name", "rect")) == 1
    source = page["after"].get_attribute("src")

    page["s-yaw_deg"].send_keys(Keys.ARROW_RIGHT * 12)
    page.wait_for_status("Preview in")
    assert page["after"].get_attribute("src") != source
    assert page["tag"].text == "preview"
    page["sphere"].send_keys(Keys.ARROW_LEFT * 4)
    page.until(lambda: "20° left" in page["sphere"].get_attribute("aria-valuetext"))

    page["render"].click()
    page.wait_for_status("Rendered in")
    assert "tiny" in page["status"].text
    rows = [row.text for row in page["achieved-rows"].find_elements("tag name", "tr")]
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
    asked = page.check_loaded_only_from(url)
    assert {f"{url}v1/{name}" for name in ("models", "reconstruct", "preview", "edits")} <= set(asked)


def test_each_face_keeps_its_own_edit(page, two_faces, face_worker, tmp_path, monkeypatch):
    from selenium.webdriver.common.keys import Keys

    picture = tmp_path / "two.png"
    picture.write_bytes(encode_png(photo(8, (120, 160))))
    page.upload(picture)
    page.wait_for_status("2 faces found")
    faces = page["faces"].find_elements("tag name", "button")
    assert [face.get_attribute("aria-label") for face in faces] == ["Face 1 of 2", "Face 2 of 2"]
    page["s-yaw_deg"].send_keys(Keys.ARROW_RIGHT * 9)
    page.wait_for_status("Preview in")
    faces[1].click()
    assert page["s-yaw_deg"].get_attribute("value") == "0"
    page["s-pitch_deg"].send_keys(Keys.ARROW_RIGHT * 4)
    page.until(lambda: "edited" in faces[1].get_attribute("aria-label"))
    page["render"].click()
    page.wait_for_status("Rendered in")
    rows = [row.text for row in page["achieved-rows"].find_elements("tag name", "tr")]
    assert [row for row in rows if row.startswith("Face")] == ["Face 1", "Face 2"]
    assert rows[1].startswith("Turn 9.0°")
    assert any(row.startswith("Nod 4.0°") for row in rows[rows.index("Face 2") :])
    page["history"].find_elements("tag name", "button")[0].click()
    assert faces[0].get_attribute("aria-label") == "Face 1 of 2"
    page["history"].find_elements("tag name", "button")[1].click()
    faces[0].click()
    assert page["s-yaw_deg"].get_attribute("value") == "9"


def test_page_loads_from_this_service_only_without_console_errors(page, url):
    page.check_loaded_only_from(url)


def test_image_without_face_and_file_without_image_are_reported(page, portrait, tmp_path):
    flat, text = tmp_path / "flat.png", tmp_path / "text.png"
    flat.write_bytes(encode_png(np.full((64, 64, 3), 90, np.uint8)))
    text.write_bytes(b"not a picture")
    page.upload(flat)
    page.wait_for_notice("No face was found")
    assert page["drop"].is_displayed()
    page.upload(text)
    page.wait_for_notice("not a picture")
    page["notice-close"].click()
    assert not page["notice"].is_displayed()
    page.upload(portrait)
    page.wait_for_status("One face")


def test_photo_is_edited_by_keyboard_alone(page, portrait):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page.upload(portrait)  # the system's own dialogue is beyond a driver; its button is reached below
    page.wait_for_status("One face")

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
    page.wait_for_status("Preview in")
    ActionChains(page.browser).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
    page.wait_for_status("Rendered in")


def test_every_control_has_an_accessible_name(page, portrait):
    page.upload(portrait)
    page.wait_for_status("One face")
    nameless = page.browser.execute_script("""
        return [...document.querySelectorAll('button, input, select, [role=slider], [role=button]')]
          .filter(e => !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim()))
          .map(e => e.outerHTML)""")
    assert not nameless


def test_trait_is_copied_from_another_photo_and_dropped_again(page, portrait, tmp_path):
    other = tmp_path / "other.png"
    other.write_bytes(encode_png(photo(5, (120, 100))))
    page.upload(portrait)
    page.wait_for_status("One face")
    card = page["sources"].find_elements("css selector", ".source-card")[2]
    card.find_element("css selector", "input").send_keys(str(other))
    page.wait_for_status("Preview in")
    page["render"].click()
    page.wait_for_status("Rendered in")
    assert "Light, sideways" in page["achieved-rows"].text
    card.find_element("css selector", "button.plain").click()
    page.wait_for_status("As photographed")


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
    page.wait_for_status("One face")
    cards = page["sources"].find_elements("css selector", ".source-card")
    for card in cards:
        page.until(lambda: "Looking" not in page["status"].text)
        card.find_element("css selector", "input").send_keys(str(other))
        page.until(lambda card=card: card.find_elements("css selector", ".source.on"))
    page.until(lambda: asked and asked[-1].edits[0].edit.take == set(get_args(Trait)))


def test_replica_without_the_photo_is_sent_its_bytes(browser, face_worker, diffusion_worker, portrait, tmp_path):
    from selenium.webdriver.common.keys import Keys

    other = tmp_path / "other.png"
    other.write_bytes(encode_png(photo(5, (120, 100))))
    with listening(Services(face_worker, diffusion_worker), gateways=2) as url:
        page = Page(browser, f"{url}/")
        page.upload(portrait)
        page.wait_for_status("One face")
        page["s-yaw_deg"].send_keys(Keys.ARROW_RIGHT)
        page.wait_for_status("Preview in")
        page["sources"].find_elements("css selector", ".source-card")[2].find_element(
            "css selector", "input"
        ).send_keys(str(other))
        page.until(lambda: page["sources"].find_elements("css selector", ".source.on"))
        page["render"].click()
        page.wait_for_status("Rendered in")
        assert not page["notice"].is_displayed()


def test_too_large_file_is_not_sent(page, tmp_path):
    huge = tmp_path / "huge.jpg"
    with huge.open("wb") as out:
        out.truncate(33 * 2**20)
    page.upload(huge)
    page.wait_for_notice("This file is 33 MB; the limit is 32 MB")


def test_busy_service_is_retried_and_lost_service_reconnected(page, portrait, face_worker, monkeypatch):
    from selenium.webdriver.common.keys import Keys

    from serve.problems import ApiError

    asked = []
    real = face_worker.preview

    async def busy_once(edit_input, output_options):
        asked.append(edit_input)
        if len(asked) == 1:
            raise ApiError("busy", "64 requests are already in progress", 1)
        return await real(edit_input, output_options)

    page.upload(portrait)
    page.wait_for_status("One face")
    monkeypatch.setattr(face_worker, "preview", busy_once)
    page["s-yaw_deg"].send_keys(Keys.ARROW_RIGHT)
    page.wait_for_status("The service is busy. Trying again in 1 s.")
    page.wait_for_status("Preview in")

    def offline(is_so):
        off = {"offline": is_so, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", off)

    page.browser.execute_cdp_cmd("Network.enable", {})
    offline(True)
    try:
        page["s-yaw_deg"].send_keys(Keys.ARROW_RIGHT)
        page.wait_for_notice("The service cannot be reached. Reconnecting")
    finally:
        offline(False)
    page.until(lambda: not page["notice"].is_displayed())
    page.wait_for_status("Preview in")
    assert asked[-1].edits[0].edit.yaw_deg == 2


def test_photo_is_edited_on_ray_serve_with_real_models(browser, service, fixtures, tmp_path):
    """The photo is analysed, previewed, rendered by a model and measured; all requests go to this service."""
    from selenium.webdriver.common.keys import Keys

    from rigface.video.decode import read_frames

    picture = tmp_path / "face.png"
    picture.write_bytes(encode_png(next(read_frames(str(fixtures / "clip.mp4"))).image))
    page = Page(browser, f"{service}/")
    page.upload(picture)
    page.wait_for_status("One face")
    assert len(page["outlines"].find_elements("tag name", "path")) == 1
    page["s-yaw_deg"].send_keys(Keys.ARROW_RIGHT * 10)
    page.wait_for_status("Preview in")
    page["render"].click()
    page.wait_for_status("Rendered in")
    asked, achieved = page["achieved-rows"].find_element("css selector", "tr").text.split()[1:3]
    assert asked != achieved  # measured, not repeated
    assert page.check_loaded_only_from(f"{service}/")

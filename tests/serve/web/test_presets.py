"""Presets of the editor page in a real browser."""

import asyncio
import json
import time

import pytest

from tests.serve.web.conftest import NEEDS_BROWSER

pytestmark = NEEDS_BROWSER


def test_presets_work_on_a_phone_screen(page, portrait):
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        page.upload(portrait)
        page.wait_for_status("One face")
        chip = page["presets"].find_elements("tag name", "button")[0]
        page.browser.execute_script("arguments[0].click()", chip)
        page.wait_for_status("Preview in")
        assert float(page["s-smile"].get_attribute("value")) == pytest.approx(0.8)
        assert page.width() <= 390
        assert page["render"].is_displayed()
        page["tab-video"].click()
        assert page.width() <= 390
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_preset_is_saved_as_json_and_loaded_again(page, portrait, tmp_path):
    from selenium.webdriver.common.keys import Keys

    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.upload(portrait)
    page.wait_for_status("One face")
    page["preset-save"].click()
    page.wait_for_status("nothing to save")
    page["s-pitch_deg"].send_keys(Keys.ARROW_RIGHT * 7)
    page["sphere"].send_keys(Keys.ARROW_RIGHT * 2)
    page["preset-save"].click()
    saved = tmp_path / "rigface-preset.json"
    page.until(saved.exists)
    preset = json.loads(saved.read_text())
    assert preset["pitch_deg"] == 7
    assert preset["light"]["azimuth_deg"] == 10
    page["reset"].click()
    page.wait_for_status("As photographed")
    page["preset-file"].send_keys(str(saved))
    page.wait_for_status("Preview in")
    assert page["s-pitch_deg"].get_attribute("value") == "7"
    bad = tmp_path / "bad.json"
    bad.write_text("[1, 2]")
    page["preset-file"].send_keys(str(bad))
    page.wait_for_notice("not a preset")


WHOLE = {
    "yaw_deg": 75.5,
    "relative": True,
    "expression": {"smile": 0.123456, "cheekPuff": 0.4, "mouthLeft": -0.25},
    "region": "mouth",
    "strength": 1.2,
    "light": {"azimuth_deg": 12.5, "elevation_deg": -7.25, "intensity": 3.5, "ambient": 0.4, "colour": [2.0, 1.0, 0.5],
              "relative": False, "sh": [[1.0, 1.0, 0.9]] + [[0.1, 0.0, 0.0]] * 8},
}  # fmt: skip


def test_preset_keeps_fields_without_a_control(page, portrait, face_worker, tmp_path, monkeypatch):
    """Loaded values are requested and saved again exactly; unknown fields are reported."""
    from rigface.edits import EditSpec

    asked, real = [], face_worker.preview
    monkeypatch.setattr(
        face_worker, "preview", lambda edit_input, *more: asked.append(edit_input) or real(edit_input, *more)
    )
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.upload(portrait)
    page.wait_for_status("One face")
    given = tmp_path / "given.json"
    given.write_text(json.dumps(WHOLE | {"take": ["pose", "identity"], "mood": "good"}))
    page["preset-file"].send_keys(str(given))
    page.wait_for_notice("mood")
    page.until(lambda: asked)
    assert asked[-1].edits[0].edit == EditSpec.from_dict(WHOLE)  # nothing is copied as long as there is no photo
    assert "Angles are relative to the pose" in page["extra"].text
    assert "cheekPuff 0.4" in page["extra"].text
    assert "choose the photo" in page["sources"].find_elements("css selector", ".source")[4].text
    page["preset-save"].click()
    saved = tmp_path / "rigface-preset.json"
    page.until(saved.exists)
    assert json.loads(saved.read_text()) == WHOLE | {"take": ["pose", "identity"]}
    page["extra"].find_element("css selector", "[aria-label='Remove: Angles are relative to the pose']").click()
    page.until(lambda: not asked[-1].edits[0].edit.relative)
    page["reset"].click()
    page.wait_for_status("As photographed")
    assert not page["extra-group"].is_displayed()


def test_late_preview_keeps_a_later_status(page, portrait, face_worker, tmp_path, monkeypatch):
    from selenium.webdriver.common.keys import Keys

    ended, real = [], face_worker.preview

    async def slow(edit_input, *more):
        await asyncio.sleep(0.5)
        result = await real(edit_input, *more)
        ended.append(edit_input.edits[0].edit.yaw_deg)
        return result

    page.upload(portrait)
    page.wait_for_status("One face")
    monkeypatch.setattr(face_worker, "preview", slow)
    given = tmp_path / "given.json"
    given.write_text(json.dumps({"yaw_deg": 5, "take": ["pose"]}))
    page["s-yaw_deg"].send_keys(Keys.ARROW_RIGHT)
    page["preset-file"].send_keys(str(given))
    page.wait_for_status("This preset copies pose")
    page.until(lambda: 5 in ended)
    page.until(lambda: page["tag"].text == "preview")
    time.sleep(0.3)  # until the page has shown it
    assert "This preset copies pose" in page["status"].text

"""Video tab of the editor page in a real browser."""

import pytest

from tests.serve.web.conftest import NEEDS_BROWSER

pytestmark = NEEDS_BROWSER


def test_video_job_is_submitted_followed_and_its_result_shown(page, url, jobs, fixtures):
    from selenium.webdriver.common.keys import Keys

    page["tab-video"].click()
    assert not page["render"].is_enabled()
    page["clip-file"].send_keys(str(fixtures / "clip.mp4"))
    page.until(lambda: page["outlines"].find_elements("tag name", "rect"))
    page["s-yaw_deg"].send_keys(Keys.ARROW_RIGHT * 9)
    page.wait_for_status("Preview in")
    page["render"].click()
    page.until(lambda: jobs.submission)  # the status line may show a later preview already
    assert jobs.submission.asked.kind == "video"
    assert jobs.submission.asked.edit.yaw_deg == 9
    assert jobs.submission.files[jobs.submission.clip] == jobs.clip
    jobs.now = {"state": "running", "total": 60, "finished": 15, "results": []}
    page.until(lambda: "Frame 15 of 60" in page["jobs"].text)
    bar = page["jobs"].find_element("tag name", "progress")
    assert float(bar.get_attribute("value")) == pytest.approx(0.25)
    measured = {"asked": [{"yaw_deg": 9.0}], "achieved": [{"yaw_deg": 7.5}], "notes": ["2 frames show no face"]}
    ended = "2026-01-01T00:00:30+00:00"
    jobs.now = {"state": "done", "total": 60, "finished": 60, "results": [0], "ended_at": ended, **measured}
    page.until(lambda: "60 frames in 30 s" in page["jobs"].text)
    page["jobs"].find_element("css selector", "button[aria-label='Show: clip.mp4']").click()
    page.until(lambda: page["film"].is_displayed())
    asked = page.check_loaded_only_from(url)
    assert any("/results/0" in name for name in asked)
    assert page["achieved-rows"].text.startswith("Turn 9.0° 7.5°")
    assert page["download"].get_attribute("download") == "clip-edited.mp4"
    page["s-yaw_deg"].send_keys(Keys.ARROW_LEFT)
    page.until(lambda: not page["film"].is_displayed())


def test_animation_needs_a_photo(page, jobs, portrait, fixtures):
    page["tab-video"].click()
    page["clip-file"].send_keys(str(fixtures / "clip.mp4"))
    page.until(lambda: page["outlines"].find_elements("tag name", "rect"))
    page.browser.find_element("css selector", "[value=animation] + span").click()
    assert "Open a photo in the Photo tab first" in page["mode-hint"].text
    assert not page["render"].is_enabled()
    page["tab-photo"].click()
    page.upload(portrait)
    page.wait_for_status("One face")
    page["tab-video"].click()
    assert page["clip"].is_displayed()
    page["render"].click()
    page.until(lambda: jobs.submission.asked.kind == "animation")
    assert set(jobs.submission.files) == {jobs.submission.clip, jobs.submission.picture}
    page["jobs"].find_element("css selector", "button[aria-label='Cancel: clip.mp4']").click()
    page.until(lambda: "Cancelled" in page["jobs"].text)

"""Fixtures of the editor page: a browser, a service in this process, a job queue that the test controls."""

import shutil

import pytest

from rigface.image import encode_png
from serve.api.routes import Services
from serve.messages import JobResult
from tests.serve.conftest import listening, photo

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
NEEDS_BROWSER = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs a browser: apt-get install --yes chromium chromium-driver"
)


class StillJobs:
    """A job queue with one job, whose state the test sets."""

    def __init__(self, clip):
        self.clip, self.submission, self.now = clip, None, {}

    async def submit(self, submission, owner, once=""):
        self.submission, self.now = submission, {"state": "queued", "total": 0, "finished": 0, "results": []}
        return self._state()

    async def jobs_of(self, owner):
        return [self._state()] if self.submission else []

    async def cancel(self, name, owner):
        self.now["state"] = "cancelled"
        return self._state()

    async def result(self, name, owner, request):
        return JobResult(self.clip, "video/mp4", part=(0, len(self.clip), len(self.clip)))

    def _state(self):
        from serve.schemas import JobState

        about = {"id": "1" * 32, "kind": self.submission.asked.kind, "media_type": "video/mp4"}
        when = {"created_at": "2026-01-01T00:00:00+00:00", "started_at": "2026-01-01T00:00:00+00:00"}
        return JobState(**about, **when, **self.now)


@pytest.fixture(scope="session")
def jobs(fixtures):
    return StillJobs((fixtures / "clip.mp4").read_bytes())


@pytest.fixture(scope="session")
def url(face_worker, diffusion_worker, jobs):
    """Address of the service in this process."""
    with listening(Services(face_worker, diffusion_worker, jobs=jobs)) as url:
        yield f"{url}/"


@pytest.fixture(scope="session")
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
        browser.get_log("browser")  # drop the log of the previous page
        browser.get(url)

    def __getitem__(self, name):
        return self.browser.find_element("id", name)

    def until(self, condition, seconds=60):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, seconds, 0.05).until(lambda _: condition())

    def upload(self, path):
        self["file"].send_keys(str(path))

    def wait_for_status(self, text):
        self.until(lambda: text in self["status"].text)

    def wait_for_notice(self, text):
        self.until(lambda: text in self["notice-text"].text)

    def check_loaded_only_from(self, url):
        """Check that all resources came from `url` and the console has no errors; returns their addresses."""
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


@pytest.fixture(scope="session")
def portrait(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "portrait.png"
    path.write_bytes(encode_png(photo(3, (200, 160))))
    return path

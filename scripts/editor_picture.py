"""Make docs/editor.jpg: the editor page in a real browser, with the first frame of the tests' clip.

    python scripts/editor_picture.py [--out docs/editor.jpg]

Needs Debian's browser: apt-get install --yes chromium chromium-driver. The service runs in this process, without Ray;
the small model that ships paints.
"""

from __future__ import annotations

import argparse
import io
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from rigface.image import encode_png
from rigface.video.decode import read_frames

ROOT = Path(__file__).parent.parent
SIZE = (1280, 860)
PATIENCE_S = 120.0
RESULTS = [("Look right", {"s-smile": 55}), ("Surprise", {}), ("Side light", {"s-smile": 40})]
"""The edit that is rendered: a preset, and the sliders that are moved by so many steps after it."""


def service() -> str:
    """Its address; it ends with this process."""
    import uvicorn

    from serve.api.routes import Services, make_api
    from serve.inference.diffusion_worker import DiffusionWorker
    from serve.inference.face_worker import FaceWorker

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    api = make_api(Services(FaceWorker.load(checkpoints={"mini": "mini"}), DiffusionWorker.load({"mini": "mini"})))
    server = uvicorn.Server(uvicorn.Config(api, port=port, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    return f"http://127.0.0.1:{port}/"


def browser() -> Any:
    """Chromium, as large as the picture."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    metrics = {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
    )
    return driver


def until(condition: Callable[[], bool]) -> None:
    """Wait for the page."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the page did not get there")
        time.sleep(0.05)


def work(driver: Any, url: str, photo: Path) -> bytes:
    """Edit the photo a few times; a PNG of the page at the end."""
    from selenium.webdriver.common.keys import Keys

    get = lambda name: driver.find_element("id", name)  # noqa: E731
    says = lambda words: until(lambda: words in get("status").text)  # noqa: E731
    driver.get(url)
    get("file").send_keys(str(photo))
    says("One face")
    for count, (preset, moves) in enumerate(RESULTS, start=2):
        next(b for b in get("presets").find_elements("tag name", "button") if b.text == preset).click()
        for name, steps in moves.items():
            get(name).send_keys(Keys.ARROW_RIGHT * steps)
        get("render").click()
        until(lambda count=count: len(get("history").find_elements("tag name", "li")) == count)
    driver.execute_script("""
        document.activeElement.blur();
        const wipe = document.getElementById('wipe');
        wipe.value = 46;
        wipe.dispatchEvent(new Event('input'));""")
    time.sleep(0.5)
    return driver.get_screenshot_as_png()


def main() -> None:
    """Make it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "editor.jpg")
    options = parser.parse_args()
    frame = next(read_frames(str(ROOT / "tests" / "fixtures" / "clip.mp4"))).image
    driver = browser()
    try:
        with tempfile.TemporaryDirectory() as folder:
            photo = Path(folder) / "photo.png"
            photo.write_bytes(encode_png(frame))
            shot = work(driver, service(), photo)
    finally:
        driver.quit()
    Image.open(io.BytesIO(shot)).convert("RGB").save(options.out, quality=86, optimize=True, progressive=True)
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

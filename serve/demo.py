"""Last step of `make demo`: one edit through the HTTP API of a running service, and the address of its page.

Path: a video or an image -> a frame with a face -> `POST /v1/reconstruct`, `POST /v1/edits` -> OUT/photo.jpg,
OUT/edited.png and the text to print. It is a client like any other: no torch, no Ray.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from rigface.edits import PREVIEW
from rigface.errors import BadInput, PlanError
from rigface.image import encode_jpeg, sniff
from rigface.storage.whole_file import write_whole
from rigface.video.decode import read_frames
from rigface.video.sandbox import DecoderPool
from serve.client.client import Client, ClientResult
from serve.schemas import ModelInfo

FPS, MAX_FRAMES = 1.0, 20  # frames of a video that are searched for a face
EDIT = {"yaw_deg": 14, "expression": {"smile": 0.7}, "light": {"azimuth_deg": 45, "elevation_deg": 25}}
NAMES = {
    "yaw_deg": "turn", "pitch_deg": "nod", "roll_deg": "tilt", "light_azimuth_deg": "light, sideways",
    "light_elevation_deg": "light, height",
}  # fmt: skip


def show(url: str, source: Path, out: Path) -> str:
    """Make one edit through a service that is ready, write it to `out`, and return the text to print.

    PlanError if the source shows no face.
    """
    with Client(url) as client:
        photo, name = _face_image(source, client)
        result = client.edit(name, EDIT)
        model = next(m for m in client.models() if m.name == result.model)
    write_whole(out / "photo.jpg", photo)
    write_whole(out / "edited.png", result.image)
    return "\n".join(_report(url, out, result, model))


def _face_image(source: Path, client: Client) -> tuple[bytes, str]:
    """The first image of the source that shows a face, and its hash."""
    for photo in _images(source):
        found = client.reconstruct(photo)
        if found.faces:
            return photo, found.picture
    raise PlanError(f"{source}: no face found; give a video or an image that shows a face")


def _images(source: Path) -> Iterator[bytes]:
    data = source.read_bytes()
    if sniff(data) != "video":
        yield encode_jpeg(DecoderPool().picture(data), 95)
        return
    try:
        for frame in islice(read_frames(str(source), FPS), MAX_FRAMES):
            yield encode_jpeg(frame.image, 95)
    except BadInput as e:
        raise PlanError(f"{source}: {e.reason}") from e


def _report(url: str, out: Path, result: ClientResult, model: ModelInfo) -> list[str]:
    asked, achieved = result.asked[0], result.achieved[0]
    rows = [f"  {'':18}{'asked':>8}{'achieved':>10}"]
    for name, value in asked.items():
        digits = 1 if name.endswith("_deg") else 2
        measured = "-" if achieved is None else f"{achieved[name]:.{digits}f}"
        rows.append(f"  {NAMES.get(name, name):18}{value:>8.{digits}f}{measured:>10}")
    painted_by = "the instant preview" if model.kind == PREVIEW else result.model
    return [
        "",
        f"One edit through the service, by {painted_by}: {out / 'edited.png'}",
        *rows,
        f"  {model.about}\n" * bool(model.about),
        "The same from a shell:",
        f'  curl -F picture=@{out / "photo.jpg"} -F \'request={{"edit": {{"yaw_deg": 14}}}}\' {url}/v1/edits -o '
        "edited.png",
        "",
        f"The editor: {url}/",
    ]

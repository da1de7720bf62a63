"""The last step of `make demo`: the service on this machine, one edit made through HTTP, and the page to go on with.

Path: a clip or a picture -> a frame with a face -> `POST /v1/reconstruct`, `POST /v1/edits` of a running service -> OUT/edited.png,
and what a newcomer would want to read. Here is a client like any other: no torch, no Ray.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rigface.errors import BadInput, PlanError
from rigface.image import decode, encode_jpeg, sniff
from serve.client.client import Client, ClientResult
from serve.client.types import Model

LOOKED_AT_FPS, MOST_FRAMES = 1.0, 20  # frames of a clip that are sent in search of a face
EDIT = {"yaw_deg": 14, "expression": {"smile": 0.7}, "light": {"azimuth_deg": 45, "elevation_deg": 25}}
NAMES = {
    "yaw_deg": "turn", "pitch_deg": "nod", "roll_deg": "tilt", "light_azimuth_deg": "light, sideways",
    "light_elevation_deg": "light, height",
}  # fmt: skip


def show(url: str, source: Path, out: Path) -> str:
    """Make one edit through the service and write it.

    Args:
        url: of a service that is ready.
        source: a clip or a picture with a face.
        out: folder that gets `photo.jpg` and `edited.png`.

    Returns:
        What to print.

    Raises:
        PlanError: nothing in the source shows a face.
    """
    with Client(url) as faces:
        photo, name = _somebody(source, faces)
        made = faces.edit(name, EDIT)
        model = next(m for m in faces.models() if m["name"] == made.model)
    out.mkdir(parents=True, exist_ok=True)
    (out / "photo.jpg").write_bytes(photo)
    (out / "edited.png").write_bytes(made.image)
    return "\n".join(_words(url, out, made, model))


def _somebody(source: Path, faces: Client) -> tuple[bytes, str]:
    """A picture of the source that shows a face, and its name at the service."""
    for photo in _pictures(source):
        seen = faces.reconstruct(photo)
        if seen["faces"]:
            return photo, seen["picture"]
    raise PlanError(f"{source}: no face was found in it; give the demo a clip or a picture of somebody")


def _pictures(source: Path) -> Any:
    data = source.read_bytes()
    if sniff(data) != "video":
        yield encode_jpeg(decode(data), 95)
        return
    from rigface.video.decode import read_frames

    try:
        for frame, _ in zip(read_frames(str(source), LOOKED_AT_FPS), range(MOST_FRAMES)):
            yield encode_jpeg(frame.image, 95)
    except BadInput as e:
        raise PlanError(f"{source}: {e.reason}") from e


def _words(url: str, out: Path, made: ClientResult, model: Model) -> list[str]:
    asked, got = made.asked[0], made.achieved[0]
    rows = [f"  {'':18}{'asked':>8}{'achieved':>10}"]
    for name, value in asked.items():
        now = "-" if got is None else f"{got[name]:.1f}" if name.endswith("_deg") else f"{got[name]:.2f}"
        edit_input = f"{value:.1f}" if name.endswith("_deg") else f"{value:.2f}"
        rows.append(f"  {NAMES.get(name, name):18}{edit_input:>8}{now:>10}")
    return [
        "",
        f"One edit through the service, by {'the instant preview' if model['kind'] == 'preview' else made.model}: {out / 'edited.png'}",
        *rows,
        *([f"  {model['about']}"] if model["about"] else []),
        "",
        "The same from a shell:",
        f'  curl -F picture=@{out / "photo.jpg"} -F \'request={{"edit": {{"yaw_deg": 14}}}}\' {url}/v1/edits -o edited.png',
        "",
        f"The editor: {url}/",
    ]

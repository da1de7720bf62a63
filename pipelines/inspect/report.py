"""Content of the inspect page: the sentences, figures and cards that the template lays out.

Path: FaceStatistics, InputStatistics, strips -> `document` -> `templates/inspect.html` -> one HTML file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from pipelines.formatting import bytes_text, clock, duration
from pipelines.inspect import cards
from pipelines.inspect.gallery import LABELS, RELIT, VIEW_BOX, Strip
from pipelines.inspect.inputs import STATUSES, Cause, InputStatistics
from pipelines.inspect.statistics import FaceStatistics
from rigface.pages.charts import share, sliver
from rigface.pages.environment import page

_CAUSES_SHOWN = 30
_OPEN_STRIPS = 8  # the rest of the gallery is folded
STATUS_LABELS = {"ok": "ok", "partial": "partial", "no_face": "no face", "error": "error"}


@dataclass
class Gallery:
    """The faces on show, with their tiles as data URIs."""

    varied: list[Strip] = field(default_factory=list)
    least_trusted: list[Strip] = field(default_factory=list)
    uris: list[list[str]] = field(default_factory=list)  # of varied, then of least_trusted
    without_head: str = ""  # why nothing is rendered; empty if it is


@dataclass
class DatasetFiles:
    """The dataset as files."""

    place: str
    written: datetime | None
    file_bytes: int
    face_files: int
    schema: str
    settings: Mapping[str, Any]
    notices: Sequence[str]


def document(
    faces: FaceStatistics,
    inputs: InputStatistics,
    gallery: Gallery,
    files: DatasetFiles,
    seen: Sequence[cards.SeenPerson],
    edits: bytes | None = None,
) -> str:
    """The inspect page as HTML, with the most seen persons and the PNG of `rigface strip`, if there is one."""
    strips = list(zip(gallery.varied + gallery.least_trusted, gallery.uris))
    causes = _causes(inputs, faces)
    return page(
        "pipelines.inspect",
        "inspect",
        name=files.place.rstrip("/").rsplit("/", 1)[-1] or files.place,
        lede=_lede(faces, inputs),
        faces=faces,
        inputs=inputs,
        files=files,
        about=_about(faces, files),
        settings={key: _setting(value) for key, value in files.settings.items()},
        varied=strips[: len(gallery.varied)],
        least_trusted=strips[len(gallery.varied) :],
        without_head=gallery.without_head,
        relit=RELIT,
        labels=LABELS,
        open_strips=_OPEN_STRIPS,
        edits=edits,
        appearance=cards.appearance(faces),
        quality=cards.quality(faces),
        people=cards.people(faces, seen),
        throughput=cards.throughput(inputs),
        failures=[f"{inputs.status[s]:,} {STATUS_LABELS[s]}" for s in STATUSES if s != "ok" and inputs.status[s]],
        causes=causes,
        max_count=max((count for _, count, _ in causes), default=1),
        rows=inputs.rows(),
        statuses=[s for s in (*STATUSES, *sorted(set(inputs.status) - set(STATUSES))) if inputs.status[s]],
        status_labels=STATUS_LABELS,
        flags={flag: label for flag, (label, _) in cards.FLAG_MEANING.items()},
        now=datetime.now(UTC),
        view_box=VIEW_BOX,
        clock=clock,
        degrees=_degrees,
        sliver=sliver,
        zip=zip,
    )


def _lede(faces: FaceStatistics, inputs: InputStatistics) -> str:
    if not inputs.count and not faces.rows:
        return "The dataset is empty so far."
    text = f"{faces.rows:,} faces in {inputs.totals['frames']:,} sampled frames of {inputs.count:,} inputs"
    if inputs.duration_s >= 1:
        text += f", {duration(inputs.duration_s)} of video"
    text += f". {share(inputs.status['ok'], inputs.count)} of the inputs are complete"
    if (confidence := faces.numbers["confidence"]).total:
        text += f"; half of the faces have a confidence above {confidence.quantile(0.5):.2f}"
    return text + "."


def _about(faces: FaceStatistics, files: DatasetFiles) -> dict[str, str]:
    head, detector = faces.head, faces.detector
    source = f" of {head.albedo_source}" if head.albedo_source else ""
    sizes = f"{head.shape} shape, {head.expression} expression, {head.albedo} albedo{source}"
    return {
        "Place": files.place,
        "Written": f"{files.written:%d %B %Y, %H:%M} UTC" if files.written else "–",
        "Head model": f"{head.name} {head.version}, {sizes}",
        **({"Licence of the head model": head.licence} if head.licence else {}),
        "Detector": f"{detector.name} {detector.version}, {detector.landmarks} landmarks",
        "Files": f"{files.face_files:,} with faces, {bytes_text(files.file_bytes)} in all",
        "Schema": files.schema,
    }


def _setting(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:159] + "…"


def _degrees(value: float | None) -> str:
    return "–" if value is None else f"{value:+.0f}°".replace("-", "−").replace("+0°", "0°").replace("−0°", "0°")


def _causes(inputs: InputStatistics, faces: FaceStatistics) -> list[tuple[Cause, int, str]]:
    """Reasons of failed inputs and of failed faces: cause, count, unit."""
    reasons = [(cause, count, "input") for cause, count in islice(inputs.reasons(), _CAUSES_SHOWN)]
    reasons += [(Cause("error", "", text), n, "face") for text, n in faces.reasons.most_common(_CAUSES_SHOWN)]
    return [(cause, count, unit + "s" * (count > 1)) for cause, count, unit in reasons]

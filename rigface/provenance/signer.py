"""Sign results by a C2PA manifest in the file and a watermark in the pixels, and verify both.

Path: edited image -> `C2paSigner.sign_image` -> PNG, JPEG, WebP; edited video -> `sign_file` -> MP4, MOV; any file ->
`verify`. The service, the command line and `Edited.save` share it.
Source: C2PA Technical Specification 2.x, through `c2pa-python`; it needs no network.

The keys are those of `signing_keys.py`. RIGFACE_TIMESTAMP_URL names a time stamp authority (RFC 3161) that is asked for
each signature; by default none is.

Declared actions (specification 2.x, `c2pa.actions`): an edited image or video was *opened*, with the source as its
parent, whose own manifest is kept if it is intact, *edited*, and *watermarked* (its bits are the `c2pa.soft-binding`);
an animation, which is new, was *created*, with the image *placed* in it. `digitalSourceType` is a trained model, or a
composite for the preview, which warps and relights the photograph.
"""

import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from rigface import __version__
from rigface.edits import PREVIEW, EditSpec
from rigface.image import encode_image, sniff
from rigface.provenance import watermark
from rigface.provenance.signing_keys import END, algorithm_of, default_folder, read_or_make_key, watermark_secret
from rigface.storage.whole_file import replacing
from rigface.video.sandbox import DecoderPool, DecodeTimeout

LOG = logging.getLogger("rigface.provenance")
LABEL = "org.rigface.edit"
SOURCE_TYPE_PREFIX = "http://cv.iptc.org/newscodes/digitalsourcetype/"
TIMESTAMP_VARIABLE = "RIGFACE_TIMESTAMP_URL"
WATERMARK_ALGORITHM = "org.rigface.tile"
VERIFY_S = 15.0  # to read a picture, or the frames of a video; less than a caller waits


Role = Literal["parentOf", "componentOf", "inputTo"]
ManifestState = Literal["trusted", "foreign", "invalid", "none"]


@dataclass(frozen=True, eq=False)
class Origin:
    """A source file of a result, with its C2PA relationship: edited (parent), visible (component), driver (input)."""

    data: bytes | Path
    role: Role = "parentOf"

    def open(self) -> io.BytesIO | io.BufferedReader:
        """The file's bytes as a stream."""
        return io.BytesIO(self.data) if isinstance(self.data, bytes) else self.data.open("rb")


@dataclass(frozen=True)
class Verification:
    """The provenance of a file."""

    made_here: bool  # a valid manifest signed by this key. The watermark alone is a hint.
    manifest: ManifestState  # signed by this key; by another and intact; broken; absent
    record: dict[str, Any] | None = None  # the edit, from a trusted manifest
    watermark: bool = False  # the pixels have one
    mark: str | None = None  # its 32 bits, hex
    score: float = 0.0  # of the watermark; the threshold is `watermark.THRESHOLD`


class C2paSigner:
    """Signs and verifies with the key of a folder (by default the user's own), which is made if it does not exist."""

    def __init__(self, folder: str | os.PathLike[str] = "", max_pixels: int = 100_000_000) -> None:
        folder = Path(folder) if str(folder) else default_folder()
        key, _, certificates = read_or_make_key(folder).partition("-----BEGIN CERTIFICATE-----")
        self._key, self._algorithm = key, algorithm_of(key)
        self._chain = "-----BEGIN CERTIFICATE-----" + certificates
        self._root = self._chain.rsplit(END, 2)[-2] + END
        self._secret = watermark_secret(folder, key)
        self._max_pixels = max_pixels
        self._tools: Any = None
        self._decoders = DecoderPool(silence_s=VERIFY_S)

    def sign_image(
        self,
        image: np.ndarray,
        record: dict[str, Any],
        origins: Sequence[Origin] = (),
        format: Literal["png", "jpeg", "webp"] = "png",
        quality: int = 94,
    ) -> bytes:
        """Watermark, encode and sign an image (H, W, 3) uint8.

        The record of the edit has `edit` as `EditSpec.to_dict`, `model`, and `mark`, the watermark's bits in hex. An
        edit that changes nothing gets no watermark.
        """
        marked = self.mark(image, int(record["mark"], 16)) if _has_mark(record, origins) else image
        return self.sign_file(encode_image(marked, format, quality), f"image/{format}", record, origins)

    def mark(self, image: np.ndarray, bits: int) -> np.ndarray:
        """The image with an invisible watermark of 32 bits."""
        return watermark.embed(image, bits, self._secret)

    def sign_file(self, data: bytes, media_type: str, record: dict[str, Any], origins: Sequence[Origin] = ()) -> bytes:
        """Add a signed manifest to an encoded image or video.

        The record has the edit's `model`. `origins` are the edited file, or the sources of a new one; none if not
        known.
        """
        out = io.BytesIO()
        self._sign(io.BytesIO(data), out, media_type, record, origins)
        return out.getvalue()

    def sign_path(self, path: Path, record: dict[str, Any], origins: Sequence[Origin] = ()) -> bool:
        """Add a signed manifest to a video file, in place; False if files of this kind cannot hold one (Matroska)."""
        with path.open("rb") as source:
            media_type = _media_type(source.read(16))
        if media_type is None:
            return False
        with replacing(path) as signed, path.open("rb") as source, signed.open("w+b") as out:
            self._sign(source, out, media_type, record, origins)
        return True

    def _sign(
        self, source: BinaryIO, out: BinaryIO, media_type: str, record: dict[str, Any], origins: Sequence[Origin]
    ) -> None:
        import c2pa

        context, signer = self._ready()
        assertions = [
            {"label": "c2pa.actions.v2", "data": {"actions": _actions(record, origins)}},
            {"label": LABEL, "data": record},
        ]
        if _has_mark(record, origins):
            binding = {"alg": WATERMARK_ALGORITHM, "blocks": [{"scope": {}, "value": record["mark"]}]}
            assertions.append({"label": "c2pa.soft-binding", "data": binding})
        generator = {"name": "RigFace", "version": __version__}
        manifest = {"claim_generator_info": [generator], "assertions": assertions}
        for with_manifests in (True, False):  # a damaged manifest of a source is left out, and the edit is signed
            source.seek(0)
            out.seek(0)
            out.truncate()
            try:
                builder = c2pa.Builder(manifest, context=context)
                for number, origin in enumerate(origins or [Origin(b"")]):
                    title = "source" if origin.role != "inputTo" else "driver"
                    about = {"title": title, "relationship": origin.role, "label": f"origin{number}"}
                    _add_ingredient(builder, about, origin, with_manifests)
                builder.sign(signer, media_type, source, out)
                return
            except c2pa.C2paError:
                if not with_manifests:
                    raise

    def verify(self, data: bytes) -> Verification:
        """Check the manifest and the watermark; of a video, of its first few seconds. Another process decodes them.

        BadImage or BadVideo if it is neither an image nor a video, or reading it takes too long.
        """
        if sniff(data) == "video":
            info = self._decoders.probe(data)
            self.check_frame_size(info.width, info.height)
            mark = watermark.read_video(self._frames(data), self._secret)
        else:
            mark = watermark.read(self._decoders.picture(data, self._max_pixels, VERIFY_S), self._secret)
        state, record = self._manifest(data)
        bits = f"{mark.bits:08x}" if mark.found else None
        return Verification(state == "trusted", state, record, mark.found, bits, round(mark.score, 1))

    def check_frame_size(self, width: int, height: int) -> None:
        """Refuse frames of a video that are too large; here none are."""

    def _frames(self, data: bytes) -> Iterator[np.ndarray]:
        """Frames of a video, as many as can be read in time."""
        count = 0
        try:
            for frame in self._decoders.frames(data, limit_s=VERIFY_S):
                yield frame.image
                count += 1
        except DecodeTimeout:
            if not count:
                raise

    def _manifest(self, data: bytes) -> tuple[ManifestState, dict[str, Any] | None]:
        import c2pa

        context, _ = self._ready()
        kind = _media_type(data)
        if kind is None:
            return "none", None
        try:
            content = json.loads(c2pa.Reader(kind, io.BytesIO(data), context=context).json())
        except c2pa.C2paError as error:
            return ("none" if "ManifestNotFound" in str(error) else "invalid"), None
        state = str(content.get("validation_state", "Invalid")).lower()
        assertions = content["manifests"][content["active_manifest"]]["assertions"] if state == "trusted" else []
        record = next((a["data"] for a in assertions if a["label"] == LABEL), None)
        states: dict[str, ManifestState] = {"trusted": "trusted", "valid": "foreign"}
        return states.get(state, "invalid"), record

    def _ready(self) -> Any:
        if self._tools is None:
            import c2pa

            settings = {
                "trust": {"trust_anchors": self._root},
                "verify": {"verify_trust": True, "remote_manifest_fetch": False, "ocsp_fetch": False},
                "builder": {"thumbnail": {"enabled": False}},
            }
            info = c2pa.C2paSignerInfo(
                self._algorithm.encode(),
                self._chain.encode(),
                self._key.encode(),
                os.environ.get(TIMESTAMP_VARIABLE, "").encode() or None,
            )
            self._tools = c2pa.Context(settings=c2pa.Settings.from_dict(settings)), c2pa.Signer.from_info(info)
        return self._tools


def _actions(record: dict[str, Any], origins: Sequence[Origin]) -> list[dict[str, Any]]:
    """C2PA actions on the origins."""
    source_type = "composite" if record.get("model") == PREVIEW else "compositeWithTrainedAlgorithmicMedia"
    edited = {"digitalSourceType": SOURCE_TYPE_PREFIX + source_type}
    roles = [origin.role for origin in origins] or ["parentOf"]
    opened, placed = (
        {"parameters": {"ingredientIds": [f"origin{n}" for n, role in enumerate(roles) if role == wanted]}}
        for wanted in ("parentOf", "componentOf")
    )
    marked = [{"action": "c2pa.watermarked"}] if _has_mark(record, origins) else []
    if origins and origins[0].role != "parentOf":
        return [{"action": "c2pa.created", **edited}, {"action": "c2pa.placed", **placed}, *marked]
    if _is_nothing(record):
        return [{"action": "c2pa.opened", **opened}, {"action": "c2pa.transcoded"}]
    parts = [{"action": "c2pa.placed", **placed}] if "componentOf" in roles else []  # the donor of a face swap
    return [{"action": "c2pa.opened", **opened}, *parts, {"action": "c2pa.edited", **edited}, *marked]


def _has_mark(record: dict[str, Any], origins: Sequence[Origin]) -> bool:
    """Edits and animations have a watermark; a file that was only encoded anew has none."""
    is_new = bool(origins) and origins[0].role != "parentOf"
    return "mark" in record and (is_new or not _is_nothing(record))


def _is_nothing(record: dict[str, Any]) -> bool:
    """True if the edit of a record, or each of its `faces`, changes nothing."""
    edits = [one["edit"] for one in record.get("faces", [])] or [record.get("edit", {})]
    return all(EditSpec.from_dict(edit).is_nothing for edit in edits)


def _add_ingredient(builder: Any, about: dict[str, str], origin: Origin, with_manifest: bool) -> None:
    """Add a source file, with its own manifest or as bytes of no known kind."""
    with origin.open() as stream:
        kind = _media_type(stream.read(16)) if with_manifest else None
        stream.seek(0)
        builder.add_ingredient(about, kind or "application/octet-stream", stream if kind else io.BytesIO(b""))


def _media_type(data: bytes) -> str | None:
    """Media type of a file that can hold a manifest, by its content."""
    if data[4:8] == b"ftyp":
        return "video/quicktime" if data[8:12] == b"qt  " else "video/mp4"
    if data[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"AVI ": "video/avi"}.get(data[8:12])
    return {b"\x89P": "image/png", b"\xff\xd8": "image/jpeg"}.get(data[:2])

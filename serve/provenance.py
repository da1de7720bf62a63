"""Who made this picture: a C2PA manifest in the file, an invisible mark in the pixels, and the check of both.

Path: edited image -> `Sealer` -> PNG, JPEG, WebP; edited clip -> `Sealer.film` -> MP4, MOV; any file -> `Sealer.verify`.
Source: C2PA Technical Specification 2.x, through `c2pa-python`; it needs no network.

A service has one seal: a private key, its certificate and the root that signed it, in one file, made at first use. The
certificates are its own, so other tools show the signer as unknown until they are given the root (`seal.pem`'s last
certificate); put a bought certificate there to be known to everybody. All replicas must share the file.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rigface.errors import BadInput
from rigface.face.isolated import Decoders
from rigface.image import decode, sniff
from serve import watermark
from serve.api import Verified, Wish, Wrap
from serve.limits import CLIP_PIXELS, MAX_PIXELS
from serve.problems import Trouble
from serve.seal import encode

LABEL = "org.rigface.edit"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
END = "-----END CERTIFICATE-----\n"
YEARS = 10
VERIFY_S = 15.0  # to read the pictures of a video; less than a caller waits


class Sealer:
    """Seals and verifies with the seal of one folder, which is made if it is not there."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        text = seal_in(Path(folder))
        key, _, certificates = text.partition("-----BEGIN CERTIFICATE-----")
        self._key, self._chain = key, "-----BEGIN CERTIFICATE-----" + certificates
        self._root = self._chain.rsplit(END, 2)[-2] + END
        self._secret = key.encode()
        self._tools: Any = None
        self._decoders = Decoders(memory_mb=1024, silence_s=VERIFY_S)

    def __call__(self, image: np.ndarray, wish: Wish, wrap: Wrap) -> bytes:
        """Marked, encoded, and with a manifest that says what was done."""
        marked = image if wish.edit.is_nothing else self.mark(image, int(wrap.record.get("mark", "0"), 16))
        record = {**wrap.record, "source": wish.picture, "edit": wish.edit.to_dict(), "from": wish.traits}
        return self.film(encode(marked, wrap.format), f"image/{wrap.format}", record)

    def mark(self, image: np.ndarray, bits: int) -> np.ndarray:
        """The picture with an invisible mark of 32 bits."""
        return watermark.embed(image, bits, self._secret)

    def film(self, data: bytes, media_type: str, record: dict[str, Any]) -> bytes:
        """An encoded video (or picture) with a manifest that says what was done."""
        import c2pa

        context, signer = self._ready()
        action = {"action": "c2pa.edited", "digitalSourceType": SOURCE_TYPE}
        opened = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}
        manifest = {
            "claim_generator_info": [{"name": "RigFace", "version": "1"}],
            "assertions": [
                {"label": "c2pa.actions", "data": {"actions": [opened, action]}},
                {"label": LABEL, "data": record},
            ],
        }
        out = io.BytesIO()
        c2pa.Builder(manifest, context=context).sign(signer, media_type, io.BytesIO(data), out)
        return out.getvalue()

    def verify(self, data: bytes) -> Verified:
        """What file and pixels say; of a video, its first few seconds, which another process decodes.

        Raises:
            BadImage, BadVideo: neither a picture nor a video, or one that takes too long to read.
            Trouble: `too-large`.
        """
        is_video = sniff(data) == "video"
        if is_video:
            info = self._decoders.probe(data)
            if info.width * info.height > CLIP_PIXELS:
                said = f"video: {info.width} x {info.height} px; a frame may have {CLIP_PIXELS} px"
                raise Trouble("too-large", said)
            images = (frame.image for frame in self._decoders.frames(data, limit_s=VERIFY_S))
            mark = watermark.read_clip(images, self._secret)
        else:
            mark = watermark.read(decode(data, max_pixels=MAX_PIXELS), self._secret)
        state, record = self._manifest(data, is_video)
        return Verified(
            made_here=state == "trusted" or mark.found,
            manifest=state,  # type: ignore[arg-type]
            record=record,
            watermark=mark.found,
            mark=f"{mark.bits:08x}" if mark.found else None,
            score=round(mark.score, 1),
        )

    def _manifest(self, data: bytes, is_video: bool) -> tuple[str, dict[str, Any] | None]:
        import c2pa

        context, _ = self._ready()
        kind = {b"\x89P": "image/png", b"\xff\xd8": "image/jpeg", b"RI": "image/webp"}.get(data[:2])
        if is_video and data[4:8] == b"ftyp":
            kind = "video/quicktime" if data[8:12] == b"qt  " else "video/mp4"
        if kind is None:
            return "none", None
        try:
            content = json.loads(c2pa.Reader(kind, io.BytesIO(data), context=context).json())
        except c2pa.C2paError as error:
            return ("none" if "ManifestNotFound" in str(error) else "invalid"), None
        state = str(content.get("validation_state", "Invalid")).lower()
        found = content["manifests"][content["active_manifest"]]["assertions"] if state == "trusted" else []
        record = next((a["data"] for a in found if a["label"] == LABEL), None)
        return {"trusted": "trusted", "valid": "foreign"}.get(state, "invalid"), record

    def _ready(self) -> Any:
        if self._tools is None:
            import c2pa

            settings = {
                "trust": {"trust_anchors": self._root},
                "verify": {"verify_trust": True, "remote_manifest_fetch": False, "ocsp_fetch": False},
                "builder": {"thumbnail": {"enabled": False}},
            }
            info = c2pa.C2paSignerInfo(b"es256", self._chain.encode(), self._key.encode(), None)
            self._tools = c2pa.Context(settings=c2pa.Settings.from_dict(settings)), c2pa.Signer.from_info(info)
        return self._tools


def seal_in(folder: Path) -> str:
    """The text of `seal.pem`; whoever comes first makes it, and all others read that one."""
    path = folder / "seal.pem"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as aside:
            aside.write(_fresh())
        with contextlib.suppress(FileExistsError):
            os.link(aside.name, path)
        os.unlink(aside.name)
    text = path.read_text()
    if text.count(END) < 2 or "PRIVATE KEY" not in text:
        raise BadInput(f"{path}: want a private key, its certificate and the root's", "seal")
    return text


def _fresh() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    root, leaf = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    key = leaf.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key.decode() + _certificate("signer", leaf, root, False) + _certificate("root", root, root, True)


def _certificate(name: str, key: Any, signer: Any, is_root: bool) -> str:
    """An X.509 certificate with the extensions that C2PA asks for."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(who: str) -> x509.Name:
        parts = {NameOID.ORGANIZATION_NAME: "RigFace service", NameOID.COMMON_NAME: f"RigFace {who}"}
        return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts.items()])

    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named("root"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(is_root, None), True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, is_root, is_root, False, False), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
    )
    if not is_root:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    return made.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

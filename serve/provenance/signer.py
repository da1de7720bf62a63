"""Sign results by a C2PA manifest in the file and a watermark in the pixels, and verify both.

Path: edited image -> `C2paSigner` -> PNG, JPEG, WebP; edited video -> `C2paSigner.sign_file` -> MP4, MOV; any file -> `verify`.
Source: C2PA Technical Specification 2.x, through `c2pa-python`; it needs no network.

`signing.pem` has a private key, its certificate and the root that signed it, made at first use. The certificates are self-made, so
other tools show the signer as unknown until they trust the root, the last certificate in the file; a bought certificate in its
place is trusted everywhere. Watermarks have a secret of their own, so they stay readable after the certificate is replaced:
RIGFACE_MARK_SECRET, or `mark.key` in the same folder, made at first use. All replicas must share both.

Declared actions (specification 2.x, `c2pa.actions`): an edited image or video was *opened*, with the source as its parent, whose own
manifest is kept in any case, and *edited*; an animation, which is new, was *created*, with the image *placed* in it.
`digitalSourceType` is a trained model, or a composite for the preview, which warps and relights the photograph.
"""

from __future__ import annotations

import contextlib
import datetime
import hmac
import io
import json
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rigface.edits import PREVIEW, EditSpec
from rigface.errors import BadInput
from rigface.extras import extra
from rigface.image import decode, sniff
from rigface.video.sandbox import DecoderPool, DecodeTimeout
from serve.limits import CLIP_PIXELS, MAX_PIXELS
from serve.messages import EditInput, OutputOptions
from serve.problems import ApiError
from serve.provenance import watermark
from serve.provenance.encoder import Origin, encode
from serve.schemas import Verified

LOG = logging.getLogger("rigface.serve")
LABEL = "org.rigface.edit"
SOURCE_TYPE_PREFIX = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MARK_VARIABLE = "RIGFACE_MARK_SECRET"
END = "-----END CERTIFICATE-----\n"
YEARS = 10
VERIFY_S = 15.0  # to read the frames of a video; less than a caller waits


class C2paSigner:
    """Signs and verifies with the key of a folder, which is made if it does not exist."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        text = read_or_make_key(Path(folder))
        key, _, certificates = text.partition("-----BEGIN CERTIFICATE-----")
        self._key, self._algorithm = key, _algorithm(key)
        self._chain = "-----BEGIN CERTIFICATE-----" + certificates
        self._root = self._chain.rsplit(END, 2)[-2] + END
        self._secret = watermark_secret(Path(folder), key)
        self._tools: Any = None
        self._decoders = DecoderPool(memory_mb=1024, silence_s=VERIFY_S)

    def __call__(self, image: np.ndarray, edit_input: EditInput, output_options: OutputOptions) -> bytes:
        """Watermark, encode and sign an image."""
        marked = (
            image if edit_input.edit.is_nothing else self.mark(image, int(output_options.record.get("mark", "0"), 16))
        )
        record = {
            **output_options.record,
            "source": edit_input.picture,
            "edit": edit_input.edit.to_dict(),
            "from": edit_input.traits,
        }
        source = edit_input.pictures.get(edit_input.picture)
        origins = [Origin(source)] if source else []
        return self.sign_file(encode(marked, output_options), f"image/{output_options.format}", record, origins)

    def mark(self, image: np.ndarray, bits: int) -> np.ndarray:
        """The image with an invisible watermark of 32 bits."""
        return watermark.embed(image, bits, self._secret)

    def sign_file(self, data: bytes, media_type: str, record: dict[str, Any], origins: Sequence[Origin] = ()) -> bytes:
        """Add a signed manifest to an encoded image or video.

        Args:
            record: of the edit, with its `model`.
            origins: the edited file, or the sources of a new one; none: not known any more.
        """
        import c2pa

        context, signer = self._ready()
        manifest = {
            "claim_generator_info": [{"name": "RigFace", "version": "1"}],
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": _actions(record, origins)}},
                {"label": LABEL, "data": record},
            ],
        }
        builder = c2pa.Builder(manifest, context=context)
        for number, origin in enumerate(origins or [Origin(b"")]):
            about = {"title": "source" if origin.role != "inputTo" else "driver", "relationship": origin.role}
            kind = _media_type(origin.data) or "application/octet-stream"
            builder.add_ingredient({**about, "label": f"origin{number}"}, kind, io.BytesIO(origin.data))
        out = io.BytesIO()
        builder.sign(signer, media_type, io.BytesIO(data), out)
        return out.getvalue()

    def verify(self, data: bytes) -> Verified:
        """Check the manifest and the watermark; of a video, its first few seconds, which another process decodes.

        Raises:
            BadImage, BadVideo: neither an image nor a video, or reading it takes too long.
            ApiError: `too-large`.
        """
        is_video = sniff(data) == "video"
        if is_video:
            info = self._decoders.probe(data)
            if info.width * info.height > CLIP_PIXELS:
                size = f"{info.width} x {info.height} px"
                raise ApiError("too-large", f"video: {size}; a frame may have {CLIP_PIXELS} px")
            mark = watermark.read_video(self._frames(data), self._secret)
        else:
            mark = watermark.read(decode(data, max_pixels=MAX_PIXELS), self._secret)
        state, record = self._manifest(data)
        return Verified(
            made_here=state == "trusted",  # the mark alone is a hint: pixels can be copied, a signature cannot
            manifest=state,  # type: ignore[arg-type]
            record=record,
            watermark=mark.found,
            mark=f"{mark.bits:08x}" if mark.found else None,
            score=round(mark.score, 1),
        )

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

    def _manifest(self, data: bytes) -> tuple[str, dict[str, Any] | None]:
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
        return {"trusted": "trusted", "valid": "foreign"}.get(state, "invalid"), record

    def _ready(self) -> Any:
        if self._tools is None:
            with extra("serve"):
                import c2pa

            settings = {
                "trust": {"trust_anchors": self._root},
                "verify": {"verify_trust": True, "remote_manifest_fetch": False, "ocsp_fetch": False},
                "builder": {"thumbnail": {"enabled": False}},
            }
            info = c2pa.C2paSignerInfo(self._algorithm.encode(), self._chain.encode(), self._key.encode(), None)
            self._tools = c2pa.Context(settings=c2pa.Settings.from_dict(settings)), c2pa.Signer.from_info(info)
        return self._tools


def _actions(record: dict[str, Any], origins: Sequence[Origin]) -> list[dict[str, Any]]:
    """C2PA actions on the origins."""
    source_type = "composite" if record.get("model") == PREVIEW else "compositeWithTrainedAlgorithmicMedia"
    edited = {"digitalSourceType": SOURCE_TYPE_PREFIX + source_type}
    labels = [f"origin{n}" for n, origin in enumerate(origins or [Origin(b"")]) if origin.role != "inputTo"]
    ingredients = {"parameters": {"ingredientIds": labels}}
    if origins and origins[0].role != "parentOf":
        return [{"action": "c2pa.created", **edited}, {"action": "c2pa.placed", **ingredients}]
    if EditSpec.from_dict(record.get("edit", {})).is_nothing:
        return [{"action": "c2pa.opened", **ingredients}, {"action": "c2pa.transcoded"}]
    return [{"action": "c2pa.opened", **ingredients}, {"action": "c2pa.edited", **edited}]


def _media_type(data: bytes) -> str | None:
    """Media type of a file that can hold a manifest, by its content."""
    if data[4:8] == b"ftyp":
        return "video/quicktime" if data[8:12] == b"qt  " else "video/mp4"
    if data[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"AVI ": "video/avi"}.get(data[8:12])
    return {b"\x89P": "image/png", b"\xff\xd8": "image/jpeg"}.get(data[:2])


def _algorithm(key: str) -> str:
    """The signature algorithm of a private key.

    Raises:
        BadInput: C2PA does not allow the key.
    """
    with extra("serve"):
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError) as error:
        raise BadInput(f"signing.pem: its private key cannot be read: {error}", "signing_folder") from None
    if isinstance(private, ec.EllipticCurvePrivateKey):
        name = {256: "es256", 384: "es384", 521: "es512"}.get(private.curve.key_size, "")
    else:
        name = "ed25519" if isinstance(private, ed25519.Ed25519PrivateKey) else ""
        name = "ps256" if isinstance(private, rsa.RSAPrivateKey) else name
    if not name:
        raise BadInput("signing.pem: want a private key of P-256, P-384, P-521, Ed25519 or RSA", "signing_folder")
    return name


def watermark_secret(folder: Path, key: str) -> bytes:
    """Secret of watermarks: the environment's, else that of `mark.key`, made if possible, else derived from the signing key."""
    if secret := os.environ.get(MARK_VARIABLE):
        return secret.encode()
    path = folder / "mark.key"
    try:
        if not path.exists():
            _write_once(path, secrets.token_hex(32))
        return path.read_text().strip().encode()
    except OSError as error:
        message = "%s: %s. Watermarks become unreadable when the signing key is replaced; set a secret in %s"
        LOG.warning(message, path, error.strerror, MARK_VARIABLE)
        return hmac.new(key.encode(), b"mark", "sha256").hexdigest().encode()


def read_or_make_key(folder: Path) -> str:
    """The text of `signing.pem`, made by the first process that needs it."""
    path = folder / "signing.pem"
    if not path.exists():
        _write_once(path, _new_key())
    text = path.read_text()
    if text.count(END) < 2 or "PRIVATE KEY" not in text:
        raise BadInput(f"{path}: want a private key, its certificate and the root's", "signing_folder")
    return text


def _write_once(path: Path, text: str) -> None:
    """Write a file that only its owner can read, unless another process has made it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as temporary:
        temporary.write(text)
    with contextlib.suppress(FileExistsError):
        os.link(temporary.name, path)
    os.unlink(temporary.name)


def _new_key() -> str:
    """Private key, certificate and root certificate, PEM."""
    with extra("serve"):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

    root, leaf = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    key = leaf.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key.decode() + _certificate("signer", leaf, root, False) + _certificate("root", root, root, True)


def _certificate(name: str, key: Any, signer: Any, is_root: bool) -> str:
    """An X.509 certificate with the extensions that C2PA requires."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def x509_name(common_name: str) -> x509.Name:
        parts = {NameOID.ORGANIZATION_NAME: "RigFace service", NameOID.COMMON_NAME: f"RigFace {common_name}"}
        return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts.items()])

    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509_name(name))
        .issuer_name(x509_name("root"))
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
        certificate = certificate.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    return certificate.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

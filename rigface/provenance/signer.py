"""Sign results by a C2PA manifest in the file and a watermark in the pixels, and verify both.

Path: edited image -> `C2paSigner.sign_image` -> PNG, JPEG, WebP; edited video -> `sign_file` -> MP4, MOV; any file ->
`verify`. The service, the command line and `Edited.save` share it.
Source: C2PA Technical Specification 2.x, through `c2pa-python`; it needs no network.

`signing.pem` has a private key, its certificate and the root that signed it, made at first use. The certificates are
self-made, so other tools show the signer as unknown until they trust the root, the last certificate in the file; a bought
certificate in its place is trusted everywhere. Watermarks have a secret of their own, so they stay readable after the
certificate is replaced: RIGFACE_MARK_SECRET, or `mark.key` in the same folder, made at first use. All replicas must share
both. RIGFACE_TIMESTAMP_URL names a time stamp authority (RFC 3161) that is asked for each signature; by default none is.

Declared actions (specification 2.x, `c2pa.actions`): an edited image or video was *opened*, with the source as its parent,
whose own manifest is kept if it is intact, *edited*, and *watermarked* (its bits are the `c2pa.soft-binding`); an
animation, which is new, was *created*, with the image *placed* in it. `digitalSourceType` is a trained model, or a
composite for the preview, which warps and relights the photograph.
"""

from __future__ import annotations

import contextlib
import datetime
import hmac
import importlib.metadata
import io
import json
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from rigface.edits import PREVIEW, EditSpec
from rigface.errors import BadInput
from rigface.image import decode as decode_image
from rigface.image import encode_image, sniff
from rigface.provenance import watermark
from rigface.video.sandbox import DecoderPool, DecodeTimeout

LOG = logging.getLogger("rigface.provenance")
LABEL = "org.rigface.edit"
SOURCE_TYPE_PREFIX = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MARK_VARIABLE = "RIGFACE_MARK_SECRET"
TIMESTAMP_VARIABLE = "RIGFACE_TIMESTAMP_URL"
WATERMARK_ALGORITHM = "org.rigface.tile"
END = "-----END CERTIFICATE-----\n"
YEARS = 10
VERIFY_S = 15.0  # to read the frames of a video; less than a caller waits


Role = Literal["parentOf", "componentOf", "inputTo"]
ManifestState = Literal["trusted", "foreign", "invalid", "none"]


def default_folder() -> Path:
    """The user's own folder of the signing key."""
    return Path.home() / ".local" / "share" / "rigface" / "signing"


@dataclass(frozen=True, eq=False)
class Origin:
    """A source file of a result, with its C2PA relationship: edited (parent), visible (component), or a driver (input)."""

    data: bytes | Path
    role: Role = "parentOf"

    def open(self) -> BinaryIO:
        """The file's bytes as a stream."""
        return io.BytesIO(self.data) if isinstance(self.data, bytes) else self.data.open("rb")


@dataclass(frozen=True)
class Verification:
    """The provenance of a file.

    Args:
        made_here: a valid manifest signed by this key. The watermark alone is a hint.
        manifest: signed by this key; by another and intact; broken; absent.
        record: the edit, from a trusted manifest.
        watermark: whether the pixels have one.
        mark: its 32 bits, hex.
        score: of the watermark; the threshold is `watermark.THRESHOLD`.
    """

    made_here: bool
    manifest: ManifestState
    record: dict[str, Any] | None = None
    watermark: bool = False
    mark: str | None = None
    score: float = 0.0


class C2paSigner:
    """Signs and verifies with the key of a folder, which is made if it does not exist.

    Args:
        folder: of the key; by default the user's own.
        max_pixels: of an image to verify.
    """

    def __init__(self, folder: str | os.PathLike[str] = "", max_pixels: int = 100_000_000) -> None:
        folder = Path(folder) if str(folder) else default_folder()
        key, _, certificates = read_or_make_key(folder).partition("-----BEGIN CERTIFICATE-----")
        self._key, self._algorithm = key, _algorithm(key)
        self._chain = "-----BEGIN CERTIFICATE-----" + certificates
        self._root = self._chain.rsplit(END, 2)[-2] + END
        self._secret = watermark_secret(folder, key)
        self._max_pixels = max_pixels
        self._tools: Any = None
        self._decoders = DecoderPool(memory_mb=1024, silence_s=VERIFY_S)

    def sign_image(
        self,
        image: np.ndarray,
        record: dict[str, Any],
        origins: Sequence[Origin] = (),
        format: Literal["png", "jpeg", "webp"] = "png",
        quality: int = 94,
    ) -> bytes:
        """Watermark, encode and sign an image.

        Args:
            image: (H, W, 3) uint8.
            record: of the edit: `edit` as `EditSpec.to_dict`, `model`, and `mark`, the watermark's bits in hex. An edit that
                changes nothing gets no watermark.
        """
        marked = self.mark(image, int(record["mark"], 16)) if _has_mark(record, origins) else image
        return self.sign_file(encode_image(marked, format, quality), f"image/{format}", record, origins)

    def mark(self, image: np.ndarray, bits: int) -> np.ndarray:
        """The image with an invisible watermark of 32 bits."""
        return watermark.embed(image, bits, self._secret)

    def sign_file(self, data: bytes, media_type: str, record: dict[str, Any], origins: Sequence[Origin] = ()) -> bytes:
        """Add a signed manifest to an encoded image or video.

        Args:
            record: of the edit, with its `model`.
            origins: the edited file, or the sources of a new one; none: not known any more.
        """
        out = io.BytesIO()
        self._sign(io.BytesIO(data), out, media_type, record, origins)
        return out.getvalue()

    def sign_path(self, path: Path, record: dict[str, Any], origins: Sequence[Origin] = ()) -> bool:
        """Add a signed manifest to a video file, in place.

        Returns:
            False if files of this kind cannot hold a manifest (Matroska).
        """
        with path.open("rb") as source:
            media_type = _media_type(source.read(16))
        if media_type is None:
            return False
        signed = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with path.open("rb") as source, signed.open("w+b") as out:
                self._sign(source, out, media_type, record, origins)
            os.replace(signed, path)
        finally:
            signed.unlink(missing_ok=True)
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
        generator = {"name": "RigFace", "version": _version()}
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
        """Check the manifest and the watermark; of a video, its first few seconds, which another process decodes.

        Raises:
            BadImage, BadVideo: neither an image nor a video, or reading it takes too long.
        """
        if sniff(data) == "video":
            info = self._decoders.probe(data)
            self.check_frame_size(info.width, info.height)
            mark = watermark.read_video(self._frames(data), self._secret)
        else:
            mark = watermark.read(decode_image(data, max_pixels=self._max_pixels), self._secret)
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
    labels = [f"origin{n}" for n, origin in enumerate(origins or [Origin(b"")]) if origin.role != "inputTo"]
    ingredients = {"parameters": {"ingredientIds": labels}}
    marked = [{"action": "c2pa.watermarked"}] if _has_mark(record, origins) else []
    if origins and origins[0].role != "parentOf":
        return [{"action": "c2pa.created", **edited}, {"action": "c2pa.placed", **ingredients}, *marked]
    if EditSpec.from_dict(record.get("edit", {})).is_nothing:
        return [{"action": "c2pa.opened", **ingredients}, {"action": "c2pa.transcoded"}]
    return [{"action": "c2pa.opened", **ingredients}, {"action": "c2pa.edited", **edited}, *marked]


def _has_mark(record: dict[str, Any], origins: Sequence[Origin]) -> bool:
    """Edits and animations have a watermark; a file that was only encoded anew has none."""
    is_new = bool(origins) and origins[0].role != "parentOf"
    return "mark" in record and (is_new or not EditSpec.from_dict(record.get("edit", {})).is_nothing)


def _add_ingredient(builder: Any, about: dict[str, str], origin: Origin, with_manifest: bool) -> None:
    """Add a source file, with its own manifest or as bytes of no known kind."""
    with origin.open() as stream:
        kind = _media_type(stream.read(16)) if with_manifest else None
        stream.seek(0)
        builder.add_ingredient(about, kind or "application/octet-stream", stream if kind else io.BytesIO(b""))


def _version() -> str:
    try:
        return importlib.metadata.version("rigface")
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        return "0"


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

"""Who made this picture: a C2PA manifest in the file, an invisible mark in the pixels, and the check of both.

Path: edited image -> `C2paSigner` -> PNG, JPEG, WebP; edited clip -> `C2paSigner.sign_file` -> MP4, MOV; any file -> `C2paSigner.verify`.
Source: C2PA Technical Specification 2.x, through `c2pa-python`; it needs no network.

A service has one seal: a private key, its certificate and the root that signed it, in one file, made at first use. The
certificates are its own, so other tools show the signer as unknown until they are given the root (`seal.pem`'s last
certificate); put a bought certificate there to be known to everybody. Marks have a secret of their own, so that they are read
after the certificate was exchanged: RIGFACE_MARK_SECRET, or `mark.key` beside it, made at first use. All replicas must share both.

What is declared (specification 2.x, `c2pa.actions`): an edited picture or clip was *opened*, with the source as its parent, whose own
manifest is kept whatever it is worth, and *edited*; of an animation, which nobody had before, that it was *created*, with the
picture *placed* in it. `digitalSourceType` says what painted: a trained model, or the preview, which moves and lights the photograph.
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

from rigface.edits import EditSpec
from rigface.errors import BadInput
from rigface.extras import extra
from rigface.image import decode, sniff
from rigface.video.sandbox import DecoderPool, DecodeTimeout
from serve.limits import CLIP_PIXELS, MAX_PIXELS
from serve.messages import EditInput, OutputOptions
from serve.problems import ApiError
from serve.provenance import watermark
from serve.provenance.encoder import Origin, encode
from serve.schemas import PREVIEW, Verified

LOG = logging.getLogger("rigface.serve")
LABEL = "org.rigface.edit"
MADE_BY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MARK_VARIABLE = "RIGFACE_MARK_SECRET"
END = "-----END CERTIFICATE-----\n"
YEARS = 10
VERIFY_S = 15.0  # to read the pictures of a video; less than a caller waits


class C2paSigner:
    """Seals and verifies with the seal of one folder, which is made if it is not there."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        text = seal_in(Path(folder))
        key, _, certificates = text.partition("-----BEGIN CERTIFICATE-----")
        self._key, self._algorithm = key, _algorithm(key)
        self._chain = "-----BEGIN CERTIFICATE-----" + certificates
        self._root = self._chain.rsplit(END, 2)[-2] + END
        self._secret = mark_secret(Path(folder), key)
        self._tools: Any = None
        self._decoders = DecoderPool(memory_mb=1024, silence_s=VERIFY_S)

    def __call__(self, image: np.ndarray, edit_input: EditInput, output_options: OutputOptions) -> bytes:
        """Marked, encoded, and with a manifest that says what was done."""
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
        """The picture with an invisible mark of 32 bits."""
        return watermark.embed(image, bits, self._secret)

    def sign_file(self, data: bytes, media_type: str, record: dict[str, Any], origins: Sequence[Origin] = ()) -> bytes:
        """An encoded video (or picture) with a manifest that says what was done, and to what.

        Args:
            record: of the edit; `model` says what painted.
            origins: the file that was edited, or those that a new one was made of; none: not known any more.
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
                raise ApiError("too-large", said)
            mark = watermark.read_clip(self._pictures(data), self._secret)
        else:
            mark = watermark.read(decode(data, max_pixels=MAX_PIXELS), self._secret)
        state, record = self._manifest(data)
        return Verified(
            made_here=state == "trusted" or mark.found,
            manifest=state,  # type: ignore[arg-type]
            record=record,
            watermark=mark.found,
            mark=f"{mark.bits:08x}" if mark.found else None,
            score=round(mark.score, 1),
        )

    def _pictures(self, data: bytes) -> Iterator[np.ndarray]:
        """Of a video, as many as can be read in time."""
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
        found = content["manifests"][content["active_manifest"]]["assertions"] if state == "trusted" else []
        record = next((a["data"] for a in found if a["label"] == LABEL), None)
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
    """What was done to the origins, by what."""
    painted = "composite" if record.get("model") == PREVIEW else "compositeWithTrainedAlgorithmicMedia"
    made = {"digitalSourceType": MADE_BY + painted}
    places = [f"origin{n}" for n, origin in enumerate(origins or [Origin(b"")]) if origin.role != "inputTo"]
    what = {"parameters": {"ingredientIds": places}}
    if origins and origins[0].role != "parentOf":
        return [{"action": "c2pa.created", **made}, {"action": "c2pa.placed", **what}]
    if EditSpec.from_dict(record.get("edit", {})).is_nothing:
        return [{"action": "c2pa.opened", **what}, {"action": "c2pa.transcoded"}]
    return [{"action": "c2pa.opened", **what}, {"action": "c2pa.edited", **made}]


def _media_type(data: bytes) -> str | None:
    """Of a file that can hold a manifest, by its content."""
    if data[4:8] == b"ftyp":
        return "video/quicktime" if data[8:12] == b"qt  " else "video/mp4"
    if data[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"AVI ": "video/avi"}.get(data[8:12])
    return {b"\x89P": "image/png", b"\xff\xd8": "image/jpeg"}.get(data[:2])


def _algorithm(key: str) -> str:
    """What a private key signs with.

    Raises:
        BadInput: no key that C2PA allows.
    """
    with extra("serve"):
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError) as error:
        raise BadInput(f"seal.pem: its private key cannot be read: {error}", "seal") from None
    if isinstance(private, ec.EllipticCurvePrivateKey):
        name = {256: "es256", 384: "es384", 521: "es512"}.get(private.curve.key_size, "")
    else:
        name = "ed25519" if isinstance(private, ed25519.Ed25519PrivateKey) else ""
        name = "ps256" if isinstance(private, rsa.RSAPrivateKey) else name
    if not name:
        raise BadInput("seal.pem: want a private key of P-256, P-384, P-521, Ed25519 or RSA", "seal")
    return name


def mark_secret(folder: Path, key: str) -> bytes:
    """What marks are hidden with: the environment's, that of `mark.key`, which is made, or else one that the signing key gives."""
    if told := os.environ.get(MARK_VARIABLE):
        return told.encode()
    path = folder / "mark.key"
    try:
        if not path.exists():
            _once(path, secrets.token_hex(32))
        return path.read_text().strip().encode()
    except OSError as error:
        said = "%s: %s. Marks will not be read any more once the signing key is exchanged; give a secret in %s"
        LOG.warning(said, path, error.strerror, MARK_VARIABLE)
        return hmac.new(key.encode(), b"mark", "sha256").hexdigest().encode()


def seal_in(folder: Path) -> str:
    """The text of `seal.pem`; whoever comes first makes it, and all others read that one."""
    path = folder / "seal.pem"
    if not path.exists():
        _once(path, _fresh())
    text = path.read_text()
    if text.count(END) < 2 or "PRIVATE KEY" not in text:
        raise BadInput(f"{path}: want a private key, its certificate and the root's", "seal")
    return text


def _once(path: Path, text: str) -> None:
    """Make a file that only its owner reads, unless another was quicker."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as aside:
        aside.write(text)
    with contextlib.suppress(FileExistsError):
        os.link(aside.name, path)
    os.unlink(aside.name)


def _fresh() -> str:
    with extra("serve"):
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

"""Keys of signatures and watermarks: read from a folder, made at first use.

`signing.pem` has a private key, its certificate and the root that signed it. The certificates are self-made, so other
tools show the signer as unknown until they trust the root, the last certificate in the file; a bought certificate in
its place is trusted everywhere. Watermarks have a secret of their own, so they stay readable after the certificate is
replaced: RIGFACE_MARK_SECRET, or `mark.key` in the same folder. All replicas must share both.
"""

import contextlib
import datetime
import hmac
import logging
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rigface.errors import BadInput

LOG = logging.getLogger("rigface.provenance")
MARK_VARIABLE = "RIGFACE_MARK_SECRET"
FOLDER_VARIABLE = "RIGFACE_SIGNING_FOLDER"
END = "-----END CERTIFICATE-----\n"
YEARS = 10


def default_folder() -> Path:
    """Folder of the signing key: RIGFACE_SIGNING_FOLDER, else one of the user."""
    own = os.environ.get(FOLDER_VARIABLE)
    return Path(own) if own else Path.home() / ".local" / "share" / "rigface" / "signing"


def algorithm_of(key: str) -> str:
    """The signature algorithm of a private key; BadInput if C2PA does not allow the key."""
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
    """Secret of watermarks: the environment's, else that of `mark.key`, else derived from the signing key."""
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
    with tempfile.NamedTemporaryFile("w", dir=path.parent) as temporary:
        temporary.write(text)
        temporary.flush()
        with contextlib.suppress(FileExistsError):
            os.link(temporary.name, path)


def _new_key() -> str:
    """Private key, certificate and root certificate, PEM."""
    root, leaf = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    key = leaf.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key.decode() + _certificate("signer", leaf, root, False) + _certificate("root", root, root, True)


def _certificate(name: str, key: Any, signer: Any, is_root: bool) -> str:
    """An X.509 certificate with the extensions that C2PA requires."""

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

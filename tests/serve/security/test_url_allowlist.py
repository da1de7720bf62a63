"""Outgoing requests to listed addresses only, and signed webhooks."""

import http.server
import json
import ssl
import threading
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from serve.jobs.webhook import Webhooks, retry_s, secret_of
from serve.problems import ApiError
from serve.security.url_allowlist import UrlAllowlist
from tests.serve.conftest import run


class Handler(http.server.BaseHTTPRequestHandler):
    """An object store and a receiver of webhooks, with faults at some addresses."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Host"]))
        name = self.path.rpartition("/")[2].partition("?")[0]
        status, headers, body = 200, {}, self.server.files.get(name, b"")
        if name == "moved":
            status, headers = 302, {"Location": f"http://127.0.0.1:{self.server.server_port}/in/a.png"}
        elif name == "packed":
            headers = {"Content-Encoding": "gzip"}
        elif name == "slow":
            time.sleep(0.6)
        elif not body:
            status = 404
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.server.messages.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def outside(png):
    """A server on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.asked, server.messages, server.answers = {"a.png": png, "big": bytes(5000)}, [], [], []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def refused(places, address, most=1000, limit_s=5.0):
    with pytest.raises(ApiError) as trouble:
        run(places.get(address, "picture.url", most, limit_s))
    return trouble.value


def test_get_allows_listed_prefixes_only(outside, png):
    places = UrlAllowlist([f"{outside.url}/in/"])
    assert run(places.get(f"{outside.url}/in/a.png?X-Amz-Signature=1", "picture.url", 10**6, 5)) == png
    assert outside.asked == [("/in/a.png?X-Amz-Signature=1", f"127.0.0.1:{outside.server_port}")]
    outside.asked.clear()
    for address in (
        f"{outside.url}/out/a.png",
        f"{outside.url}/in/../out/a.png",
        f"{outside.url}/in/%2e%2e/out/a.png",
        f"{outside.url}/in/..%2fout/a.png",
        f"{outside.url}/in\\..\\out",
        f"{outside.url}/inside/a.png",
        f"{outside.url.replace('http', 'https')}/in/a.png",
        f"http://127.0.0.1:{outside.server_port + 1}/in/a.png",
        f"http://user@127.0.0.1:{outside.server_port}/in/a.png",
        f"http://127.0.0.1:{outside.server_port}@evil.test/in/a.png",
        f"http://localhost:{outside.server_port}/in/a.png",
        "file:///etc/passwd",
        "http://[",
        "",
    ):
        assert "allow-list" in refused(places, address).detail or "not a URL" in refused(places, address).detail
    assert not outside.asked  # refused before anything was asked


def test_redirects_encodings_and_large_files_are_refused(outside):
    places = UrlAllowlist([f"{outside.url}/in/"])
    assert "answered 302" in refused(places, f"{outside.url}/in/moved").detail
    assert "answered 404" in refused(places, f"{outside.url}/in/none").detail
    assert "compressed" in refused(places, f"{outside.url}/in/packed").detail
    assert refused(places, f"{outside.url}/in/big").slug == "too-large"
    assert "no response" in refused(places, f"{outside.url}/in/slow", limit_s=0.2).detail
    assert len(outside.asked) == 5  # the redirect was not followed


def test_private_addresses_are_refused_unless_listed(outside, monkeypatch, png):
    import asyncio

    host = f"http://store.test:{outside.server_port}"
    answers = {
        "store.test": ["127.0.0.1"],
        "mixed.test": ["8.8.8.8", "169.254.169.254"],
        "six.test": ["::ffff:10.0.0.1"],
    }

    async def resolve(self, name, port, **_):
        return [(0, 0, 0, "", (address, port)) for address in answers[name]]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    assert "the host has" in refused(UrlAllowlist([f"{host}/in/"]), f"{host}/in/a.png").detail
    assert "the host has" in refused(UrlAllowlist(["http://mixed.test/"]), "http://mixed.test/a.png").detail
    assert "the host has" in refused(UrlAllowlist(["http://six.test/"]), "http://six.test/a.png").detail
    assert not outside.asked
    assert run(UrlAllowlist([f"{host}/in/", "127.0.0.0/8"]).get(f"{host}/in/a.png", "picture.url", 10**6, 5)) == png
    assert outside.asked == [("/in/a.png", f"store.test:{outside.server_port}")]


def test_tls_certificate_is_checked_against_host_name(outside, monkeypatch, png, tmp_path):
    import asyncio

    (tmp_path / "tls.pem").write_text(certificate("store.test"))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tmp_path / "tls.pem")
    outside.socket = server.wrap_socket(outside.socket, server_side=True)
    trust = ssl.create_default_context(cafile=str(tmp_path / "tls.pem"))

    async def resolve(self, name, port, **_):
        return [(0, 0, 0, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    for name, good in (("store.test", True), ("other.test", False)):
        start = f"https://{name}:{outside.server_port}/"
        places = UrlAllowlist([start, "127.0.0.0/8"], trust)
        if good:
            assert run(places.get(f"{start}a.png", "picture.url", 10**6, 5)) == png
        else:
            assert "no response" in refused(places, f"{start}a.png").detail


def certificate(name: str) -> str:
    """A key and a certificate that it signed itself."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key()).serial_number(7)
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return secret.decode() + certificate.public_bytes(pem).decode()


@pytest.mark.parametrize(
    "line", ["https://", "ftp://a/", "http://user@host/", "https://a/?b", "somewhere", "10.0.0.0/99"]
)
def test_invalid_allowlist_item_is_refused(line):
    with pytest.raises(ValueError):
        UrlAllowlist([line])


def test_request_may_name_pictures_by_url(services, outside, png):
    from starlette.testclient import TestClient

    from serve.api.routes import make_api

    services.url_allowlist = UrlAllowlist([f"{outside.url}/in/"])
    client = TestClient(make_api(services), raise_server_exceptions=False)
    asked = {"picture": {"url": f"{outside.url}/in/a.png"}, "edit": {"take": ["light"]}}
    assert client.post("/v1/preview", json=asked | {"target": {"url": f"{outside.url}/in/a.png"}}).status_code == 200
    answer = client.post("/v1/preview", json=asked | {"target": {"url": f"{outside.url}/out/a.png"}})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("target.url")


def test_webhook_is_retried_and_verifies_by_standard_webhooks(outside, serve_jobs, png, monkeypatch):
    from tests.serve.jobs.conftest import submit, wait

    monkeypatch.setattr("serve.jobs.queue.NOTIFY_S", 0.02)
    monkeypatch.setattr("serve.jobs.webhook.FIRST_RETRY_S", 0.02)
    outside.answers += [500, 302]
    served = serve_jobs(webhooks=Webhooks(UrlAllowlist([f"{outside.url}/hook"]), "master"))
    name = submit(served, png, [{"yaw_deg": 1}], webhook=f"{outside.url}/hook").json()["id"]
    wait(served, name, "delivered", "webhook")
    assert len(outside.messages) == 3
    headers, body = outside.messages[-1]
    secret = secret_of("open", "master")
    content = Webhook(secret).verify(body, headers)
    assert (content["type"], content["data"]["id"], content["data"]["results"]) == ("job.done", name, [0])
    assert content["timestamp"] == content["data"]["ended_at"]
    assert {h["webhook-id"] for h, _ in outside.messages} == {name}
    for forged in ((body + b" ", headers, secret), (body, headers, secret_of("anna", "master")),
                   (body, {**headers, "webhook-timestamp": str(int(time.time()) + 5)}, secret)):  # fmt: skip
        with pytest.raises(WebhookVerificationError, match="No matching signature"):
            Webhook(forged[2]).verify(*forged[:2])
    elsewhere = submit(served, png, [{"yaw_deg": 1}], webhook="http://169.254.169.254/")
    assert elsewhere.json()["detail"].startswith("webhook")
    assert "RIGFACE_WEBHOOK_SECRET" in submit(serve_jobs(), png, [{"yaw_deg": 1}], webhook="http://x/").json()["detail"]
    assert json.loads(body)["data"]["webhook"] == "waiting"


def test_webhook_retries_grow_to_a_limit():
    waits = [retry_s(n) for n in range(1, 11)]
    assert waits == sorted(waits)
    assert waits[0] == 5
    assert max(waits) <= 3600

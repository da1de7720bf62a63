"""The client against the service, and against one that is busy."""

import httpx
import pytest

from rigface.image import decode
from serve.client import Client, Made, Refused


@pytest.fixture
def faces(client):
    """A client whose requests go to the service of this process."""

    def send(request):
        answer = client.request(request.method, str(request.url), content=request.read(), headers=dict(request.headers))
        return httpx.Response(answer.status_code, headers=dict(answer.headers), content=answer.content)

    with Client("http://testserver", transport=httpx.MockTransport(send)) as made:
        yield made


def test_from_a_photo_to_an_edit(faces, png):
    seen = faces.reconstruct(png)
    assert len(seen["faces"]) == 1
    assert decode(faces.preview(seen["picture"], {"yaw_deg": 8})).shape == (96, 80, 3)
    made = faces.edit(seen["picture"], {"yaw_deg": 8}, model="tiny", steps=2, seed=5, targets={"light": png})
    assert (made.model, made.seed) == ("tiny", 5)
    assert decode(made.image).shape == (96, 80, 3)
    *steps, last = faces.stream(png, {"yaw_deg": 8}, model="tiny", steps=2)
    assert [s["step"] for s in steps if s["phase"] == "paint"] == [1, 2]
    assert isinstance(last, Made)
    with pytest.raises(Refused, match="yaw_deg") as refused:
        faces.edit(png, {"yaw_deg": 400})
    assert refused.value.slug == "bad-request"
    with pytest.raises(Refused, match="tiny"):
        list(faces.stream(png, {"yaw_deg": 8}, model="nope"))


def test_it_comes_again_when_told_so_with_the_same_key(monkeypatch):
    seen, waits = [], []
    monkeypatch.setattr("time.sleep", waits.append)

    def busy(request):
        seen.append(request.headers["idempotency-key"])
        if len(seen) == 1:
            raise httpx.ConnectError("gone")
        if len(seen) < 4:
            return httpx.Response(503, headers={"retry-after": "2"}, json={"type": "urn:rigface:problem:busy"})
        fine = {"image": "", "media_type": "image/png", "asked": [], "achieved": [], "model": "m", "seed": 0}
        return httpx.Response(200, json=fine)

    with Client("http://x", transport=httpx.MockTransport(busy)) as faces:
        assert faces.edit("sha256:0", {}).model == "m"
        assert len(set(seen)) == 1
        assert waits[1] >= 1.6
        seen.clear()
        faces._tries = 2
        with pytest.raises(Refused):
            faces.edit("sha256:0", {})


@pytest.mark.parametrize(("kind", "tries"), [("text/plain", 3), ("application/problem+json", 1)])
def test_an_error_that_is_not_the_service_s_own_is_a_lost_door_and_tried_again(monkeypatch, kind, tries):
    seen = []
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def broken(request):
        seen.append(request)
        return httpx.Response(500, headers={"content-type": kind}, text='{"title": "broken"}')

    with Client("http://x", tries=3, transport=httpx.MockTransport(broken)) as faces, pytest.raises(Refused):
        faces.models()
    assert len(seen) == tries

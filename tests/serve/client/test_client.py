"""Client against the service in this process and against busy fakes."""

import json

import httpx
import pytest

from rigface.image import decode, encode_png
from serve.client.client import Client, ClientResult, Refused
from serve.schemas import EditProgress
from tests.serve.conftest import send


def through(client):
    """A client whose requests go to the service of this process."""

    def handle(request):
        answer = client.request(request.method, str(request.url), content=request.read(), headers=dict(request.headers))
        return httpx.Response(answer.status_code, headers=dict(answer.headers), content=answer.content)

    return Client("http://testserver", transport=httpx.MockTransport(handle))


@pytest.fixture
def faces(client):
    with through(client) as result:
        yield result


def test_client_reconstructs_previews_edits_and_streams(faces, png):
    seen = faces.reconstruct(png)
    assert len(seen.faces) == 1
    assert decode(faces.preview(seen.picture, {"yaw_deg": 8})).shape == (96, 80, 3)
    result = faces.edit(seen.picture, {"yaw_deg": 8}, model="tiny", steps=2, seed=5, targets={"light": png})
    assert (result.model, result.seed) == ("tiny", 5)
    assert decode(result.image).shape == (96, 80, 3)
    *steps, last = faces.stream(png, {"yaw_deg": 8}, model="tiny", steps=2)
    assert [s.step for s in steps if s.phase == "paint"] == [1, 2]
    assert isinstance(last, ClientResult)
    with pytest.raises(Refused, match="yaw_deg") as refused:
        faces.edit(png, {"yaw_deg": 400})
    assert refused.value.slug == "bad-request"
    with pytest.raises(Refused, match="tiny"):
        list(faces.stream(png, {"yaw_deg": 8}, model="nope"))


def test_client_retries_with_the_same_idempotency_key(monkeypatch):
    seen, waits = [], []
    monkeypatch.setattr("time.sleep", waits.append)

    def busy(request):
        seen.append(request.headers["idempotency-key"])
        if len(seen) == 1:
            raise httpx.ConnectError("gone")
        if len(seen) < 4:
            return httpx.Response(503, headers={"retry-after": "2"}, json={"type": "urn:rigface:problem:busy"})
        fine = {"image": "", "media_type": "image/png", "asked": [], "achieved": [], "model": "m", "seed": 0,
                "picture": "sha256:" + "0" * 64, "seconds": {}}  # fmt: skip
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
def test_client_retries_errors_of_a_proxy_but_not_of_the_service(monkeypatch, kind, tries):
    seen = []
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def broken(request):
        seen.append(request)
        return httpx.Response(500, headers={"content-type": kind}, text='{"title": "broken"}')

    with Client("http://x", tries=3, transport=httpx.MockTransport(broken)) as faces, pytest.raises(Refused):
        faces.models()
    assert len(seen) == tries


def test_client_follows_results_to_the_bucket_without_its_key():
    seen = []

    def answer(request):
        seen.append((request.url.host, request.headers.get("authorization")))
        if request.url.host == "bucket":
            return httpx.Response(200, content=b"result")
        return httpx.Response(307, headers={"location": "http://bucket/out?X-Amz-Signature=1"})

    with Client("http://x", key="rf_secret", transport=httpx.MockTransport(answer)) as faces:
        assert faces.result("1") == b"result"
    assert seen == [("x", "Bearer rf_secret"), ("bucket", None)]


def test_client_runs_jobs_of_all_kinds(serve_jobs, png, tmp_path):
    from tests.serve.jobs.test_video import film

    clip = film(tmp_path / "clip.mp4", 4)
    with through(serve_jobs()) as faces:
        name = faces.reconstruct(png).picture
        states = []
        batch = faces.edit_many(name, [{"yaw_deg": 3}, {"take": ["light"]}], targets={"light": png}, format="jpeg")
        done = faces.wait(batch.id, every_s=0.02, on_progress=states.append)
        assert [decode(r).shape for r in faces.results(done)] == [(96, 80, 3)] * 2
        assert all(t.state in ("queued", "running") for t in states)
        one = {"face": 0, "edit": {"yaw_deg": 9}, "targets": {"light": png}, "mask": png}
        video = faces.wait(faces.edit_video(clip, {}, faces=[one], model="preview").id, every_s=0.02)
        assert {"yaw_deg", "light_azimuth_deg"} <= set(video.asked[0])
        seen = faces.edit(png, {}, faces=[{**one, "targets": {"light": name}, "target": png}], model="preview").asked
        assert {"yaw_deg", "light_azimuth_deg"} <= set(seen[0])
        animation = faces.wait(faces.animate(name, clip, model="preview", silent=True).id, every_s=0.02)
        assert [faces.result(j.id)[4:8] for j in (video, animation)] == [b"ftyp"] * 2
        assert [j.id for j in faces.jobs()] == [animation.id, video.id, batch.id]
        failed = faces.edit_many(name, [{"expression": {"smlie": 1}}])
        with pytest.raises(Refused, match="smlie") as refused:
            faces.wait(failed.id, every_s=0.02)
        assert refused.value.slug == "bad-request"
        assert faces.cancel(video.id).state == "done"
        faces.remove(video.id)
        with pytest.raises(Refused) as refused:
            faces.job(video.id)
        assert refused.value.slug == "unknown-job"
        with pytest.raises(Refused, match="allow-list"):
            faces.edit_video("https://bucket.example.com/clip.mp4", {})


def test_stream_events_have_exactly_the_fields_of_edit_progress(client, png):
    answer = send(client, png, {"yaw_deg": 8}, accept="text/event-stream", model="tiny", steps=2, previews=1)
    blocks = [block.split("\ndata: ") for block in answer.text.removesuffix("\n\n").split("\n\n")]
    events = [json.loads(data) for name, data in blocks if name == "event: progress"]
    assert set().union(*events) == EditProgress.model_fields.keys()
    assert all(EditProgress.model_validate(event).model_dump(exclude_none=True) == event for event in events)


def test_client_sends_an_unknown_picture_again(serve_jobs, png):
    """The gateway has restarted, or is another one."""
    served = serve_jobs()
    kept, edit = served.app.state.api.parser.kept, {"take": ["light"]}
    with through(served) as faces:
        name = faces.reconstruct(png).picture
        other = faces.reconstruct(encode_png(decode(png)[::-1].copy())).picture
        asks = {
            "preview": lambda: faces.preview(name, edit, target=other),
            "edit": lambda: faces.edit(name, edit, targets={"light": other}, model="preview").image,
            "stream": lambda: list(faces.stream(name, edit, target=other, model="preview"))[-1].image,
            "job": lambda: faces.result(
                faces.wait(faces.edit_many(name, [edit], target=other, model="preview").id, every_s=0.02).id
            ),
        }
        for what, ask in asks.items():
            kept._values.clear()
            assert decode(ask()).shape == (96, 80, 3), what
        with pytest.raises(Refused) as refused:
            faces.preview("sha256:" + "0" * 64, {})
        assert refused.value.slug == "unknown-picture"


def test_pictures_kept_by_the_client_are_bounded():
    with Client("http://x", keep_mb=1) as faces:
        for number in range(5):
            faces._remember(bytes([number]) * 400_000)
        assert len(faces._sent) == 2
        faces._remember(bytes(2 * 2**20))
        assert not faces._sent

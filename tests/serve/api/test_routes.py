"""HTTP routes with workers in the same process: responses, problems, limits."""

import asyncio
import base64
import io
import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from rigface.image import decode, encode_png
from rigface.testing.toy_start import write_clip
from serve.api.routes import Services, make_api
from serve.content_cache import picture_id
from serve.inference.diffusion_worker import DiffusionWorker
from serve.inference.edit_pipeline import EditPipeline
from serve.limits import Limits
from serve.security.api_keys import KeyRing, add
from tests.serve.conftest import TEST_NAMES, problem, run, send


def test_picture_can_be_named_by_its_hash(client, png):
    seen = client.post("/v1/reconstruct", files={"picture": ("a.png", png)})
    assert seen.status_code == 200, seen.text
    found = seen.json()
    assert (found["width"], found["height"], len(found["faces"])) == (80, 96, 1)
    assert 0 < found["faces"][0]["confidence"] <= 1
    assert len(found["faces"][0]["coefficients"]["head_rotation"]) == 3
    again = client.post("/v1/preview", json={"picture": {"id": found["picture"]}, "edit": {"yaw_deg": 20}})
    assert again.status_code == 200
    assert json.loads(again.headers["RigFace-Asked"])[0]["yaw_deg"] == pytest.approx(20, abs=0.01)


def test_empty_edit_returns_the_source_bit_exactly(client, png):
    out = send(client, png, model="preview")
    assert np.array_equal(decode(out.content), decode(png))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_edit_has_the_accepted_media_type(client, png, kind):
    out = send(client, png, {"yaw_deg": 10}, accept=f"image/{kind}", model="tiny", steps=2, seed=7)
    assert out.status_code == 200, out.text
    assert Image.open(io.BytesIO(out.content)).format == kind.upper()
    assert (out.headers["RigFace-Model"], out.headers["RigFace-Seed"]) == ("tiny", "7")
    assert set(json.loads(out.headers["RigFace-Achieved"])[0]) == {"yaw_deg", "pitch_deg", "roll_deg"}


def test_turn_to_the_hidden_side_is_warned_of_in_every_form_of_answer(client, png):
    far = {"yaw_deg": 85}
    answer = send(client, png, far, accept="application/json", model="preview").json()["warnings"]
    assert answer[0][0]["code"] == "unseen-side"
    assert answer[0][0]["holds"]["yaw_deg"][1] < 85
    asked = {"picture": {"id": client.post("/v1/reconstruct", files={"picture": ("a.png", png)}).json()["picture"]}}
    for out in (send(client, png, far, model="preview"), client.post("/v1/preview", json=asked | {"edit": far})):
        assert json.loads(out.headers["RigFace-Warnings"]) == answer
    assert send(client, png, {"yaw_deg": 5}, model="preview").headers["RigFace-Warnings"] == "[[]]"


def test_same_seed_gives_same_image(client, png):
    first, same, other = (
        base64.b64decode(send(client, png, {"yaw_deg": 5}, accept="application/json", seed=s).json()["image"])
        for s in (1, 1, 2)
    )
    assert first == same != other


def test_stream_has_each_step_and_ends_with_the_result(client, png):
    out = send(client, png, {"yaw_deg": 5}, accept="text/event-stream", steps=3, previews=1)
    events = [block.split("\ndata: ") for block in out.text.removesuffix("\n\n").split("\n\n")]
    steps = [json.loads(data) for name, data in events if name == "event: progress"]
    assert [s["step"] for s in steps if s["phase"] == "paint"] == [1, 2, 3]
    assert sum("preview" in s for s in steps) == 2  # the last one is the result
    assert events[-1][0] == "event: result"
    assert json.loads(events[-1][1])["model"] == "tiny"


def test_each_face_has_its_own_edit_and_targets(client, services, png, two_faces):
    services.audit_log = (told := []).append
    picture = encode_png(np.roll(decode(png), 5, axis=0))  # not analysed before
    other = encode_png(decode(png)[::-1].copy())
    faces = [{"face": 1, "edit": {"yaw_deg": 12}}, {"edit": {}, "face": "all"}, {"face": 0}]
    body = {"request": (None, json.dumps({"faces": faces, "model": "tiny", "steps": 1}))}
    files = {"picture": ("a.png", picture), "faces.2.target.light": ("b.png", other), **body}
    answer = client.post("/v1/edits", files=files, headers={"Accept": "application/json"})
    assert answer.status_code == 200, answer.text
    asked = answer.json()["asked"]
    assert [sorted(row) for row in asked] == [
        ["pitch_deg", "roll_deg", "yaw_deg"], ["exposure", "light_azimuth_deg", "light_elevation_deg"],
    ]  # fmt: skip
    assert told[0]["faces"] == [
        {"face": 1, "edit": {"yaw_deg": 12}, "from": {}},
        {"face": 0, "edit": {"take": ["light"]}, "from": {"light": picture_id(other)}},
    ]
    assert not np.array_equal(decode(base64.b64decode(answer.json()["image"])), decode(picture))


@pytest.mark.parametrize("model", ["preview", "tiny"])
def test_mask_bounds_an_edit_to_its_white_parts(client, services, png, model):
    services.audit_log = (told := []).append
    mask = np.zeros((96, 80), np.uint8)
    mask[48:] = 255
    white = encode_png(np.repeat(mask[..., None], 3, 2))
    asked = {"edit": {"yaw_deg": 20}, "model": model, "steps": 1}
    files = {"picture": ("a.png", png), "mask": ("m.png", white), "request": (None, json.dumps(asked))}
    answer = client.post("/v1/edits", files=files, headers={"Accept": "image/png"})
    assert answer.status_code == 200, answer.text
    image, was = decode(answer.content), decode(png)
    assert np.array_equal(image[:48], was[:48])
    assert not np.array_equal(image[48:], was[48:])
    assert told[0]["from"] == {"mask": picture_id(white)}


def test_prompts_are_refused_without_text_and_clip_and_guide_with_it(face_worker, diffusion_worker, png, tmp_path):
    write_clip(tmp_path)
    guided = DiffusionWorker.load({"tiny": "tiny"}, clip=str(tmp_path))
    edit, images = {"yaw_deg": 9, "prompts": {"eyes": "a b"}}, []
    for worker in (diffusion_worker, guided):
        with TestClient(make_api(Services(face_worker, worker, loopback_names=TEST_NAMES))) as client:
            for clip in (0, 2):
                answer = send(client, png, edit, model="tiny", steps=2, guidance={"clip": clip})
                says = "this service has no CLIP model; its operator" if clip else "no text encoder"
                if worker is guided and clip:
                    assert answer.status_code == 200, answer.text
                    images.append(decode(answer.content))
                else:
                    assert says in problem(answer, 422, "bad-request")
            images.append(decode(send(client, png, {"yaw_deg": 9}, model="tiny", steps=2).content))
    guided.close()
    assert np.array_equal(images[0], images[2])
    assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"faces": [{"face": 0}], "edit": {"yaw_deg": 3}}, "give the edits of several faces, or face and edit"),
        ({"faces": [{"edit": {"yaw_deg": 91}}]}, "faces.0.edit: yaw_deg"),
        ({"faces": [{"edit": {"take": ["pose"]}}]}, "faces.0.edit.take: pose needs a target"),
        ({"faces": [{"edit": {"yaw_deg": 3}}, {"edit": {"yaw_deg": 4}}]}, "another edit has it"),
    ],
)
def test_bad_edits_of_several_faces_are_named(client, png, more, says):
    answer = client.post("/v1/preview", files={"picture": ("a.png", png), "request": (None, json.dumps(more))})
    assert says in problem(answer, 422, "bad-request")


def test_each_trait_can_have_its_own_target(client, png):
    others = {f"target.{trait}": ("b.png", encode_png(decode(png)[::-1].copy())) for trait in ("pose", "light")}
    out = client.post("/v1/preview", files={"picture": ("a.png", png), **others})
    assert out.status_code == 200
    assert {"yaw_deg", "exposure"} <= set(json.loads(out.headers["RigFace-Asked"])[0])


@pytest.mark.parametrize(
    ("more", "status", "slug", "says"),
    [
        ({"edit": {"yaw_deg": 500}}, 422, "bad-request", "yaw_deg"),
        ({"edit": {"smlie": 1}}, 422, "bad-request", "smlie"),
        ({"edit": {"expression": {"smlie": 1}}}, 422, "bad-request", "smlie"),
        ({"edit": {"prompt": "with glasses"}, "model": "tiny"}, 422, "bad-request", "no text encoder"),
        ({"edit": {"prompt": "with glasses"}, "model": "preview"}, 422, "bad-request", "no text encoder"),
        ({"edit": {"prompt": "x" * 1001}}, 422, "bad-request", "at most 1000"),
        ({"edit": {"take": ["pose"]}}, 422, "bad-request", "target"),
        ({"model": "nope"}, 404, "unknown-model", "tiny"),
        ({"scheduler": "nope"}, 422, "bad-request", "euler"),
        ({"face": 3}, 422, "no-face", "face 3"),
        ({"seed": -1}, 422, "bad-request", "seed"),
        ({"picture": {"url": "http://169.254.169.254/"}}, 422, "bad-request", "twice"),
    ],
)
def test_invalid_field_is_named_in_the_problem(client, png, more, status, slug, says):
    assert says in problem(send(client, png, **{"edit": {"yaw_deg": 1}, **more}), status, slug)


def test_unusable_requests_are_refused(client, png, flat):
    problem(send(client, flat), 422, "no-face")
    problem(send(client, b"no picture"), 422, "bad-image")
    problem(client.post("/v1/preview", json={"picture": {"id": "sha256:" + "0" * 64}}), 404, "unknown-picture")
    problem(client.post("/v1/preview", json={"picture": {"url": "http://169.254.169.254/x"}}), 422, "bad-request")
    problem(client.post("/v1/preview", json={}), 422, "bad-request")
    problem(client.post("/v1/preview", content=b"{", headers={"content-type": "application/json"}), 422, "bad-request")
    problem(client.post("/v1/preview", content=b"x", headers={"content-type": "text/plain"}), 415, "unsupported-type")
    problem(send(client, png, accept="text/html"), 406, "not-acceptable")
    problem(client.get("/v1/nope"), 404, "not-found")
    problem(client.get("/v1/edits"), 405, "method-not-allowed")


def test_body_limit_holds_for_any_content_length_header(services, png):
    from starlette.testclient import TestClient

    from serve.api.routes import make_api

    services.limits = Limits(max_body_bytes=2000)
    client = TestClient(make_api(services), raise_server_exceptions=False)
    problem(send(client, png + bytes(4000)), 413, "too-large")
    chunks = (bytes(500) for _ in range(10))
    lying = client.post("/v1/preview", content=chunks, headers={"content-type": "application/json"})
    problem(lying, 413, "too-large")


def test_limits_hold_behind_a_path_prefix(services, png):
    from starlette.testclient import TestClient

    from serve.api.routes import make_api

    services.limits = Limits(max_body_bytes=2000)
    with TestClient(make_api(services), root_path="/faces") as client:
        answer = client.post("/faces/v1/reconstruct", files={"picture": bytes(5000)})
        problem(answer, 413, "too-large")
        assert client.get("/faces/healthz").status_code == 200


def test_keys_scopes_and_rates_are_enforced(services, png, tmp_path):
    from starlette.testclient import TestClient

    from serve.api.routes import make_api

    file = tmp_path / "keys.jsonl"
    alice, bob = add(file, "alice", ("edit",), rate=0.01, burst=2), add(file, "bob", ("verify",))
    assert alice not in file.read_text()
    services.keys = KeyRing(file)
    client = TestClient(make_api(services), raise_server_exceptions=False)
    problem(client.get("/v1/models"), 401, "unauthorized")
    problem(client.get("/v1/models", headers={"Authorization": f"Bearer {alice}x"}), 401, "unauthorized")
    problem(client.get("/v1/models", headers={"Authorization": f"Bearer {bob}"}), 403, "forbidden")
    as_alice = {"Authorization": f"Bearer {alice}"}
    assert [client.get("/v1/models", headers=as_alice).status_code for _ in range(2)] == [200, 200]
    refused = client.get("/v1/models", headers=as_alice)
    problem(refused, 429, "rate-limited")
    assert int(refused.headers["Retry-After"]) >= 1


def test_pictures_are_separate_for_each_key(services, png, tmp_path):
    from starlette.testclient import TestClient

    from serve.api.routes import make_api

    file = tmp_path / "keys.jsonl"
    keys = [add(file, name) for name in ("alice", "bob")]
    services.keys = KeyRing(file)
    client = TestClient(make_api(services))
    alice, bob = ({"Authorization": f"Bearer {key}"} for key in keys)
    name = client.post("/v1/reconstruct", files={"picture": ("a.png", png)}, headers=alice).json()["picture"]
    assert client.post("/v1/preview", json={"picture": {"id": name}}, headers=alice).status_code == 200
    problem(client.post("/v1/preview", json={"picture": {"id": name}}, headers=bob), 404, "unknown-picture")


def test_worker_without_the_picture_is_sent_its_bytes(client, services, png, monkeypatch):
    from serve.inference.face_worker import FaceWorker

    name = client.post("/v1/reconstruct", files={"picture": ("a.png", png)}).json()["picture"]
    services.face_worker = FaceWorker(services.face_worker.analyzer)  # another replica
    assert client.post("/v1/preview", json={"picture": {"id": name}}).status_code == 200


def test_metrics_health_and_security_headers(client, png):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok", "face_worker": "ok", "diffusion_worker": "ok"}
    send(client, png, {"yaw_deg": 3}, model="preview")
    assert 'rigface_faces_edited_total{model="preview"}' in client.get("/metrics").text
    own = client.get("/healthz", headers={"X-Request-Id": "abcdefgh-1"})
    assert own.headers["x-request-id"] == "abcdefgh-1"
    assert "default-src 'none'" in own.headers["content-security-policy"]


@pytest.mark.parametrize(("kind", "magic"), [("glb", b"glTF"), ("obj", b"PK")])
def test_textured_head_is_a_mesh_file(client, png, kind, magic):
    out = client.post(f"/v1/reconstruct?mesh={kind}", files={"picture": ("a.png", png)})
    assert out.status_code == 200
    assert out.content.startswith(magic)
    assert b"ValueError" not in out.content
    if kind == "glb":
        length = int.from_bytes(out.content[8:12], "little")
        header = json.loads(out.content[20 : 20 + int.from_bytes(out.content[12:16], "little")])
        assert length == len(out.content)
        assert header["accessors"][2]["count"] % 3 == 0


def test_idempotency_key_runs_a_request_once(client, services, png):
    done = []
    services.audit_log = done.append

    def again(seed):
        body = json.dumps({"edit": {"yaw_deg": 4}, "seed": seed})
        files = {"picture": ("a.png", png), "request": (None, body)}
        return client.post("/v1/edits", files=files, headers={"Accept": "image/png", "Idempotency-Key": "order-1"})

    first, second = again(1), again(1)
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert len(done) == 1
    problem(again(2), 409, "conflict")


def test_draining_gateway_refuses_new_requests_and_finishes_running_ones(services, png):
    from concurrent.futures import ThreadPoolExecutor

    from starlette.testclient import TestClient

    from serve.api.routes import make_api

    may_end, face_worker = threading.Event(), services.face_worker

    async def slow(edit_input, output_options):
        await asyncio.to_thread(may_end.wait, 20)
        return await face_worker.preview(edit_input, output_options)

    services.face_worker = SimpleNamespace(preview=slow)
    with TestClient(make_api(services), raise_server_exceptions=False) as client, ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(send, client, png, to="/v1/preview") for _ in range(2)]
        until(lambda: services.gate.running == 2)
        assert run(services.gate.drain(0.1)) is False
        drained = pool.submit(run, services.gate.drain(20))
        refused = client.get("/v1/models")
        problem(refused, 503, "draining")
        assert int(refused.headers["Retry-After"]) >= 1
        assert client.get("/healthz").status_code == 200
        may_end.set()
        assert drained.result() is True
        assert [a.result().status_code for a in answers] == [200, 200]


def until(happened, limit_s=20):
    end = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_time_limits_cancel_work_and_busy_service_sends_retry_after(services, png, monkeypatch):
    from dataclasses import replace

    from starlette.testclient import TestClient

    from serve.api.routes import make_api

    asked, left = threading.Event(), []

    async def slow(*_):
        asked.set()
        try:
            await asyncio.sleep(30)
        finally:
            left.append(1)

    services.limits = replace(Limits(), preview_timeout_s=0.4, edit_timeout_s=0.3, max_concurrent_requests=1)
    composer = SimpleNamespace(compose=slow)
    services.face_worker = SimpleNamespace(
        preview=slow, edit_without_diffusion=slow, edit_service=lambda worker: EditPipeline(composer, worker)
    )
    with TestClient(make_api(services), raise_server_exceptions=False) as client:
        thread = threading.Thread(target=lambda: left.append(send(client, png, {"yaw_deg": 4}, to="/v1/preview")))
        thread.start()
        asked.wait(5)
        full = client.get("/v1/models")
        problem(full, 503, "busy")
        assert int(full.headers["Retry-After"]) >= 1
        thread.join(5)
        late = left.pop()
        problem(late, 504, "timeout")
        assert int(late.headers["Retry-After"]) >= 1
        problem(send(client, png, {"yaw_deg": 4}), 504, "timeout")
        stream = send(client, png, {"yaw_deg": 4}, accept="text/event-stream")
        assert "urn:rigface:problem:timeout" in stream.text.split("event: error")[1]
    assert left == [1, 1, 1]  # the work was stopped, not left to itself


def test_service_and_editor_give_the_same_image(client, services, diffusion_worker, png):
    """The path through deployments gives the image of `Editor`."""
    from rigface.conditions import Composer
    from rigface.editor import Editor, ModelEditor
    from rigface.edits import EditSpec

    pipeline = diffusion_worker.pool.loaded["tiny"].pipeline
    composer = Composer(run(diffusion_worker.input_spec("tiny")))
    editor = Editor(services.face_worker.analyzer, ModelEditor(pipeline), composer)
    for edit in ({"yaw_deg": 12}, {"take": ["light"], "expression": {"smile": 0.5}}):
        spec, image = EditSpec.from_dict(edit), decode(png)
        expected = editor.edit(image, spec, image[::-1].copy(), seed=3, measure=False).image
        target = {"target": ("b.png", encode_png(image[::-1].copy()))}
        body = {"request": (None, json.dumps({"edit": edit, "seed": 3, "model": "tiny"}))}
        answer = client.post(
            "/v1/edits", files={"picture": ("a.png", png), **target, **body}, headers={"Accept": "image/png"}
        )
        assert np.abs(decode(answer.content).astype(int) - expected).max() <= 1
        assert not np.array_equal(expected, image)
    assert np.array_equal(decode(send(client, png, {}, model="tiny").content), decode(png))  # nothing asked

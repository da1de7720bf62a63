"""Signing, watermarks and verification of images and videos, and their lines in the audit log."""

import base64
import io
import json
from contextlib import aclosing

import numpy as np
import pytest
from PIL import Image

from rigface.edits import EditSpec, FaceEdit
from rigface.errors import BadInput
from rigface.image import decode, encode_jpeg, encode_png
from rigface.provenance import watermark
from serve.content_cache import picture_id
from serve.messages import EditInput, OutputOptions
from serve.provenance.signer import ResultSigner
from serve.security.audit_log import AuditLog, check
from tests.serve.conftest import photo, run

EDIT_INPUT = EditInput("sha256:" + "0" * 64, (FaceEdit(edit=EditSpec(yaw_deg=5)),))
BITS = 0xC0FFEE11


def textured(seed: int, side: int = 384) -> np.ndarray:
    """A picture with grain, as photographs have."""
    grain = np.random.default_rng(seed).normal(0, 6, (side, side, 1))
    return np.clip(photo(seed, (side, side)) + grain, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    return ResultSigner(tmp_path_factory.mktemp("signing"))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_signed_image_verifies_with_its_record(signer, kind):
    signed = signer(textured(1), EDIT_INPUT, OutputOptions(kind, {"mark": f"{BITS:08x}", "seed": 7, "model": "tiny"}))
    verified = signer.verify(signed)
    assert (verified.made_here, verified.manifest, verified.watermark, verified.mark) == (
        True,
        "trusted",
        True,
        f"{BITS:08x}",
    )
    assert verified.record["edit"] == {"yaw_deg": 5}
    assert (verified.record["seed"], verified.record["source"]) == (7, EDIT_INPUT.picture)
    assert decode(signed).shape == (384, 384, 3)


def test_other_signer_is_foreign_and_changed_file_invalid(signer, tmp_path):
    other = ResultSigner(tmp_path)
    signed = other(textured(2), EDIT_INPUT, OutputOptions("png", {"mark": "1"}))
    verified = signer.verify(signed)
    assert (verified.manifest, verified.made_here) == ("foreign", False)
    record = signed.index(b'"yaw_deg"') if b'"yaw_deg"' in signed else signed.index(b"yaw_deg")
    changed = signed[: record + 1] + b"x" + signed[record + 2 :]
    with pytest.raises(Exception, match=r"."):  # a PNG whose chunk does not fit its checksum is no picture at all
        decode(changed)
    jpeg = bytearray(other(textured(2), EDIT_INPUT, OutputOptions("jpeg", {"mark": "1"})))
    jpeg[jpeg.index(b"yaw_deg")] ^= 1
    assert other._manifest(bytes(jpeg))[0] == "invalid"


def test_watermark_survives_jpeg_without_manifest(signer):
    signed = signer(textured(3), EDIT_INPUT, OutputOptions("png", {"mark": f"{BITS:08x}"}))
    for quality in (90, 75):
        verified = signer.verify(encode_jpeg(decode(signed), quality))
        assert (verified.manifest, verified.made_here, verified.mark) == ("none", False, f"{BITS:08x}")


def test_watermark_is_read_from_any_piece_of_video(fixtures, signer, tmp_path):
    from rigface.video.decode import read_frames
    from rigface.video.writer import VideoWriter

    def filmed(images, name, **options):
        height, width = images[0].shape[:2]
        with VideoWriter(tmp_path / name, (width, height), 25, **options) as film:
            for number, image in enumerate(images):
                film.write(image, number / 25)
        return [frame.image for frame in read_frames(str(tmp_path / name))]

    plain = [frame.image for frame in read_frames(str(fixtures / "clip.mp4"))][:32]
    marked = filmed([signer.mark(image, BITS) for image in plain], "marked.mp4", reorder=False)
    for begin in (0, 9, 16):
        verified = watermark.read_video(marked[begin : begin + 16], signer._secret)
        assert verified.found, (begin, verified)
        assert (verified.bits ^ BITS).bit_count() <= 1, (begin, verified)
    assert watermark.read_video(marked, signer._secret).bits == BITS
    filmed(marked[11:], "again.mp4")
    again = signer.verify((tmp_path / "again.mp4").read_bytes())
    assert (again.manifest, again.made_here, again.watermark) == ("none", False, True)
    assert (int(again.mark, 16) ^ BITS).bit_count() <= 1
    stranger = watermark.read_video(plain, signer._secret)
    assert not stranger.found
    assert stranger.score < 110
    assert watermark.read_video([], signer._secret) == watermark.Mark(False, 0, 0.0)


def test_replicas_share_signing_key(tmp_path):
    signed = ResultSigner(tmp_path)(textured(4), EDIT_INPUT, OutputOptions("jpeg", {"mark": "1"}))
    assert ResultSigner(tmp_path).verify(signed).manifest == "trusted"
    assert (tmp_path / "signing.pem").stat().st_mode & 0o077 == 0


def declared(data, kind):
    """The active manifest as any reader of C2PA sees it, its actions, and all manifests."""
    import c2pa

    content = json.loads(c2pa.Reader(kind, io.BytesIO(data)).json())
    active = content["manifests"][content["active_manifest"]]
    actions = next(a["data"]["actions"] for a in active["assertions"] if a["label"].startswith("c2pa.actions"))
    return active, actions, content["manifests"]


@pytest.mark.parametrize(
    ("model", "edit", "second", "made_by"),
    [
        ("tiny", {"yaw_deg": 5}, "c2pa.edited", "compositeWithTrainedAlgorithmicMedia"),
        ("preview", {"yaw_deg": 5}, "c2pa.edited", "composite"),
        ("tiny", {}, "c2pa.transcoded", ""),
    ],
)
def test_manifest_declares_actions_and_source_type(signer, model, edit, second, made_by):
    source = encode_png(textured(6))
    edit_input = EditInput("sha256:0", (FaceEdit(edit=EditSpec.from_dict(edit)),), {"sha256:0": source})
    active, actions, _ = declared(
        signer(textured(7), edit_input, OutputOptions("png", {"mark": "1", "model": model})), "image/png"
    )
    watermarked = ["c2pa.watermarked"] if edit else []
    assert [a["action"] for a in actions] == ["c2pa.opened", second, *watermarked]
    (parent,) = active["ingredients"]
    assert (parent["relationship"], parent["format"]) == ("parentOf", "image/png")
    assert actions[0]["parameters"]["ingredients"][0]["url"].endswith(parent["label"])
    assert actions[1].get("digitalSourceType", "").rpartition("/")[2] == made_by


@pytest.mark.parametrize("harm", [False, True])
def test_manifest_of_source_is_kept_as_parent(signer, tmp_path, harm):
    source = bytearray(ResultSigner(tmp_path)(textured(8), EDIT_INPUT, OutputOptions("jpeg", {"mark": "1"})))
    if harm:
        source[source.index(b"yaw_deg")] ^= 1
    edit_input = EditInput("sha256:0", (FaceEdit(edit=EditSpec(yaw_deg=3)),), {"sha256:0": bytes(source)})
    signed = signer(textured(9), edit_input, OutputOptions("webp", {"mark": "1"}))
    verified = signer.verify(signed)
    assert (verified.manifest, verified.record["edit"]) == ("trusted", {"yaw_deg": 3})
    active, _, manifests = declared(signed, "image/webp")
    assert len(manifests) == 2
    failures = json.dumps(active["ingredients"][0]["validation_results"]["activeManifest"]["failure"])
    assert ("mismatch" in failures.lower()) == harm


def test_damaged_manifest_of_source_never_stops_an_edit(signer):
    """The source is an ingredient, with its manifest or without."""
    intact = signer(textured(8, 96), EDIT_INPUT, OutputOptions("jpeg", {"mark": "1"}))
    begin = intact.index(b"jumb")
    random = np.random.default_rng(0)
    for at in random.integers(begin, begin + 6000, 24):
        source = bytearray(intact)
        source[at : at + 3] = random.bytes(3)
        edit_input = EditInput("sha256:0", (FaceEdit(edit=EditSpec(yaw_deg=3)),), {"sha256:0": bytes(source)})
        signed = signer(textured(9, 96), edit_input, OutputOptions("png", {"mark": "1"}))
        assert signer._manifest(signed)[0] == "trusted", at


def test_manifest_of_animation_has_placed_image(signer, fixtures):
    from rigface.provenance.signer import Origin

    clip = (fixtures / "clip.mp4").read_bytes()
    origins = [Origin(encode_png(textured(6)), "componentOf"), Origin(clip, "inputTo")]
    signed = signer.sign_file(clip, "video/mp4", {"model": "tiny", "edit": {"take": ["pose"]}}, origins)
    active, actions, _ = declared(signed, "video/mp4")
    assert [a["action"] for a in actions] == ["c2pa.created", "c2pa.placed"]
    assert [i["relationship"] for i in active["ingredients"]] == ["componentOf", "inputTo"]
    assert actions[0]["digitalSourceType"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert signer._manifest(signed)[0] == "trusted"


def test_watermark_is_read_after_key_rotation(tmp_path, monkeypatch):
    signed = ResultSigner(tmp_path)(textured(4), EDIT_INPUT, OutputOptions("png", {"mark": f"{BITS:08x}"}))
    assert (tmp_path / "mark.key").stat().st_mode & 0o077 == 0
    (tmp_path / "signing.pem").unlink()
    later = ResultSigner(tmp_path).verify(signed)
    assert (later.manifest, later.mark) == ("foreign", f"{BITS:08x}")
    monkeypatch.setenv("RIGFACE_MARK_SECRET", "of the environment")
    assert not watermark.read(decode(signed), ResultSigner(tmp_path)._secret).found


def test_watermark_secret_falls_back_to_signing_key(tmp_path, monkeypatch, caplog):
    ResultSigner(tmp_path)
    (tmp_path / "mark.key").unlink()

    def refused(path, text):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("rigface.provenance.signing_keys._write_once", refused)
    first, second = ResultSigner(tmp_path), ResultSigner(tmp_path)
    assert first._secret == second._secret
    assert "Read-only file system" in caplog.text


@pytest.mark.parametrize("kind", ["P-384", "RSA"])
def test_all_c2pa_key_types_sign(tmp_path, monkeypatch, kind):
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    curve = ec.generate_private_key
    make = {
        "P-384": lambda _: curve(ec.SECP384R1()),
        "RSA": lambda _: rsa.generate_private_key(65537, 2048),
    }[kind]
    monkeypatch.setattr(ec, "generate_private_key", make)
    signed = ResultSigner(tmp_path)(textured(4), EDIT_INPUT, OutputOptions("jpeg", {"mark": "1"}))
    assert ResultSigner(tmp_path)._manifest(signed)[0] == "trusted"


def test_invalid_signing_key_is_refused(tmp_path):
    ResultSigner(tmp_path)
    text = (tmp_path / "signing.pem").read_text()
    (tmp_path / "signing.pem").write_text(text.replace(text[40:60], "A" * 20))
    with pytest.raises(BadInput, match="cannot be read"):
        ResultSigner(tmp_path)


def test_edit_and_verify_over_http(services, signer, tmp_path):
    from starlette.testclient import TestClient

    from serve.api.routes import make_api
    from serve.inference.face_worker import FaceWorker

    services.face_worker, services.audit_log = (
        FaceWorker(services.face_worker.analyzer, signer=signer),
        AuditLog(tmp_path / "audit.jsonl"),
    )
    client = TestClient(make_api(services))
    files = {"picture": ("a.png", encode_png(textured(5))), "request": (None, '{"edit": {"yaw_deg": 9}}')}
    edited = client.post("/v1/edits", files=files, headers={"Accept": "image/png"})
    assert edited.status_code == 200, edited.text
    verified = client.post("/v1/verify", files={"picture": ("b.png", edited.content)}).json()
    (line,) = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert verified["made_here"]
    assert json.loads(line)["mark"] == verified["mark"] == verified["record"]["mark"]
    assert json.loads(line)["edit"] == {"yaw_deg": 9}
    stranger = client.post("/v1/verify", files={"picture": files["picture"]}).json()
    assert (stranger["made_here"], stranger["manifest"]) == (False, "none")
    assert Image.open(io.BytesIO(edited.content)).size == (384, 384)
    active, actions, _ = declared(edited.content, "image/png")
    assert [a["action"] for a in actions] == ["c2pa.opened", "c2pa.edited", "c2pa.watermarked"]
    assert active["ingredients"][0]["format"] == "image/png"


def test_previews_are_signed_and_audited(services, signer, tmp_path):
    """Marked, with a manifest, and in the log: those that follow a slider, and those of a stream that its caller leaves
    early.
    """
    from starlette.testclient import TestClient

    from serve.api.routes import make_api
    from serve.inference.face_worker import FaceWorker

    log = tmp_path / "audit.jsonl"
    services.face_worker, services.audit_log = FaceWorker(services.face_worker.analyzer, signer=signer), AuditLog(log)
    client = TestClient(make_api(services))
    source = encode_png(textured(6))

    def ask(path, **body):
        files = {"picture": ("a.png", source), "request": (None, json.dumps(body))}
        return client.post(path, files=files, headers={"Accept": "text/event-stream, */*;q=0.5"})

    shown = ask("/v1/preview", edit={"yaw_deg": 9}, max_side=320)
    verified = signer.verify(shown.content)
    (line,) = map(json.loads, log.read_text().splitlines())
    assert (shown.headers["content-type"], decode(shown.content).shape) == ("image/jpeg", (320, 320, 3))
    assert (verified.manifest, verified.mark) == ("trusted", line["mark"])
    assert (verified.record["edit"], verified.record["model"]) == ({"yaw_deg": 9}, "preview")
    assert (line["what"], line["in"], line["out"]) == ("preview", picture_id(source), picture_id(shown.content))
    assert (line["edit"], line["max_side"]) == ({"yaw_deg": 9}, 320)
    assert line["request_id"] == shown.headers["x-request-id"]

    streamed = ask("/v1/edits", edit={"yaw_deg": 9}, model="tiny", steps=3, previews=1).text
    events = [json.loads(event.split("data: ")[1]) for event in streamed.split("\n\n") if "data: " in event]
    previews = [base64.b64decode(event["preview"]) for event in events if "preview" in event]
    assert [signer.verify(preview).record["step"] for preview in previews] == [1, 2]
    result = signer.verify(base64.b64decode(events[-1]["image"]))
    assert {signer.verify(preview).record["mark"] for preview in previews} == {result.mark}
    assert [json.loads(entry).get("what") for entry in log.read_text().splitlines()] == ["preview", None]
    assert check(log).lines == 2


def test_abandoned_stream_is_audited_with_last_preview(services, signer, tmp_path):
    from serve.inference.edit_service import EditRunner
    from serve.inference.face_worker import FaceWorker
    from serve.messages import EditInput
    from serve.schemas import EditRequest
    from serve.security.api_keys import OPEN
    from serve.telemetry.metrics import GatewayMetrics

    log, source = tmp_path / "audit.jsonl", encode_png(textured(6))
    services.face_worker, services.audit_log = FaceWorker(services.face_worker.analyzer, signer=signer), AuditLog(log)
    asked = EditRequest(edit={"yaw_deg": 9}, model="tiny", steps=3, previews=1)
    edit_input, editing = (
        EditInput(picture_id(source), (FaceEdit(edit=asked.edit),), {picture_id(source): source}),
        EditRunner(services, GatewayMetrics()),
    )

    async def leave_after_the_first():
        async with aclosing(editing.events(editing.plan(asked, edit_input, "text/event-stream", OPEN, "1"))) as events:
            async for _, event in events:
                if "preview" in event:
                    return base64.b64decode(event["preview"])

    last = run(leave_after_the_first())
    (line,) = map(json.loads, log.read_text().splitlines())
    assert (line["what"], line["step"], line["steps"], line["out"]) == ("progress", 1, 3, picture_id(last))


def test_audit_check_finds_removed_line(tmp_path):
    path = tmp_path / "audit.jsonl"
    for number in range(3):
        AuditLog(path)({"edit": number})
    assert check(path).lines == 3
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    with pytest.raises(ValueError, match="before line 2"):
        check(path)

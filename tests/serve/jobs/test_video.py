"""Clips as jobs: edited and animated, piece by piece, and the same after a kill as without one."""

import json
import shutil
import time
from fractions import Fraction

import av
import numpy as np
import pytest

from rigface.image import decode, encode_png
from rigface.storage.store import Store
from rigface.video.decode import read_frames
from rigface.video.writer import best_codec
from serve.provenance.signer import ResultSigner
from tests.serve.conftest import photo
from tests.serve.jobs.conftest import settled, wait

SIZE = (80, 96)
FRAMES, PIECE = 7, 2


def film(path, count=FRAMES, size=SIZE, blank=False):
    """A clip with sound, at a rate that varies."""
    with av.open(str(path), "w") as out:
        video = out.add_stream(best_codec(), rate=25)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.codec_context.time_base = video.time_base = Fraction(1, 1000)
        sound = out.add_stream("aac", rate=44_100, layout="mono")
        for i in range(count):
            image = np.roll(photo(3, size[::-1]), i, axis=1)
            frame = av.VideoFrame.from_ndarray(np.full_like(image, 90) if blank else image, format="rgb24")
            frame.pts, frame.time_base = 40 * i + 7 * (i % 3), Fraction(1, 1000)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        block = av.AudioFrame.from_ndarray(np.sin(np.arange(30_000) / 20).astype(np.float32)[None], "fltp", "mono")
        block.sample_rate = 44_100
        out.mux(sound.encode(block))
        out.mux(sound.encode(None))
    return path.read_bytes()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return film(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture
def served_clips(serve_jobs, tmp_path, monkeypatch):
    """`serve_jobs` with a signer and pieces of two frames."""
    monkeypatch.setattr("serve.jobs.video.MAX_PIECE_FRAMES", PIECE)
    signer = ResultSigner(tmp_path / "signing")
    return lambda **limits: serve_jobs(signer=signer, **limits)


def submit(client, clip, kind="video", files=None, **more):
    given = {"clip": ("a.mp4", clip), **(files or {})}
    return client.post("/v1/jobs", files={**given, "request": (None, json.dumps({"kind": kind, **more}))})


def shown(client, name, tmp_path):
    path = tmp_path / "result.mp4"
    answer = client.get(f"/v1/jobs/{name}/results/0")
    assert answer.status_code == 200, answer.text
    path.write_bytes(answer.content)
    with av.open(str(path)) as container:
        sound = [bytes(p) for p in container.demux(audio=0) if p.size] if container.streams.audio else []
    return list(read_frames(str(path))), sound, answer.content


@pytest.mark.parametrize("model", ["preview", "tiny"])
def test_video_job_edits_and_marks_every_frame(served_clips, services, clip, tmp_path, monkeypatch, model):
    services.audit_log = (told := []).append
    marks, inner = [], ResultSigner.mark
    monkeypatch.setattr(ResultSigner, "mark", lambda self, image, bits: marks.append(bits) or inner(self, image, bits))
    served = served_clips()
    answer = submit(served, clip, edit={"yaw_deg": 15}, model=model, steps=1)
    assert answer.status_code == 202, answer.text
    assert answer.json()["total"] == FRAMES
    done = wait(served, answer.json()["id"], "done")
    assert (done["finished"], done["results"], done["media_type"]) == (FRAMES, [0], "video/mp4")
    assert done["asked"][0]["yaw_deg"] == pytest.approx(15, abs=0.01)
    assert "yaw_deg" in done["achieved"][0]
    assert done["notes"] == []
    assert marks == [int(done["id"][:8], 16)] * FRAMES
    (tmp_path / "in.mp4").write_bytes(clip)
    was = list(read_frames(str(tmp_path / "in.mp4")))
    now, sound, data = shown(served, done["id"], tmp_path)
    assert [f.time_s for f in now] == [f.time_s for f in was]
    with av.open(str(tmp_path / "in.mp4")) as container:
        assert sound == [bytes(p) for p in container.demux(audio=0) if p.size]
    assert min(np.abs(a.image.astype(int) - b.image).mean() for a, b in zip(now, was)) > 1
    seen = served.post("/v1/verify", files={"picture": ("a.mp4", data)})
    settled(tmp_path / "queue" / "jobs" / done["id"] / "job.json")
    assert not list((tmp_path / "queue" / "jobs" / done["id"] / "part").glob("*"))
    assert (told[0]["model"], told[0]["request_id"], told[0]["edit"]) == (model, done["id"], {"yaw_deg": 15})
    assert seen.status_code == 200
    found = ResultSigner(tmp_path / "signing").verify(data)
    assert (found.manifest, found.record["request"]) == ("trusted", done["id"])


def test_animation_job_animates_image(served_clips, clip, png, tmp_path):
    served = served_clips()
    white = decode(png) * 0
    white[:48] = 255
    files = {"picture": ("a.png", png), "mask": ("m.png", encode_png(white))}
    name = submit(served, clip, "animation", files, edit={"yaw_deg": 20}, silent=True, model="preview").json()["id"]
    done = wait(served, name, "done")
    assert set(done["asked"][0]) >= {"yaw_deg", "pitch_deg", "roll_deg"}
    now, sound, _ = shown(served, name, tmp_path)
    assert (len(now), sound) == (FRAMES, [])
    assert now[0].image.shape == decode(png).shape
    change = np.abs(now[0].image.astype(int) - decode(png)).mean((1, 2))
    assert change[:44].max() > 3 * change[56:].max()  # below the mask there is compression alone


@pytest.fixture
def finished(served_clips, clip, tmp_path, monkeypatch):
    """A finished job whose pieces are still there: its name, and the frames and sound of its result."""
    # Of pictures this small x264's look-ahead does not make the same file twice.
    monkeypatch.setattr("rigface.video.writer.best_codec", lambda: "mpeg4")
    served = served_clips()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete_folder", lambda self, path: None)
        name = submit(served, clip, edit={"yaw_deg": 15}, model="preview").json()["id"]
        done = wait(served, name, "done")
        settled(tmp_path / "queue" / "jobs" / name / "job.json")
    return name, done, *shown(served, name, tmp_path)[:2]


def test_resumed_video_equals_uninterrupted_one(served_clips, finished, tmp_path, monkeypatch):
    from rigface.editor import Editor

    name, first, expected, sound = finished
    job, kept = tmp_path / "queue" / "jobs" / name, tmp_path / "kept"
    assert len(list((job / "part").glob("*.json"))) == 4
    shutil.copytree(job, kept)
    painted, real = [], Editor.apply
    monkeypatch.setattr(Editor, "apply", lambda self, *args, **kwargs: painted.append(1) or real(self, *args, **kwargs))
    for pieces in (0, 2, 4):
        # As a kill leaves it: some pieces, no result, and a record that says `running`.
        shutil.copytree(kept, job, dirs_exist_ok=True)
        for path in [*(job / "out").iterdir(), *(p for p in (job / "part").iterdir() if int(p.stem[:6]) >= pieces)]:
            path.unlink()
        record = json.loads((job / "job.json").read_text())
        (job / "job.json").write_text(
            json.dumps({**record, "state": "running", "ended": 0, "rows": [], "finished": 0, "has_files": True})
        )
        painted.clear()
        served = served_clips()
        served.get("/readyz")
        done = wait(served, name, "done")
        assert len(painted) == max(FRAMES - PIECE * pieces, 0), pieces  # nothing is painted twice
        now, now_sound, _ = shown(served, name, tmp_path)
        assert [f.time_s for f in now] == [f.time_s for f in expected], pieces
        assert all(np.array_equal(a.image, b.image) for a, b in zip(now, expected)), pieces
        assert now_sound == sound, pieces
        assert {k: done[k] for k in ("finished", "total", "results", "asked", "achieved", "notes")} == {
            k: first[k] for k in ("finished", "total", "results", "asked", "achieved", "notes")
        }, pieces
        settled(job / "job.json")


def test_late_piece_of_another_process_is_kept_and_continued(served_clips, clip, monkeypatch, tmp_path):
    publish, late = Store.publish, []

    def publish_late_first(self, path, data, **more):
        if path.endswith("000001.json") and not late:
            late.append(publish(self, path, data, **more))  # as a process that was cut off
        return publish(self, path, data, **more)

    monkeypatch.setattr(Store, "publish", publish_late_first)
    served = served_clips()
    name = submit(served, clip, edit={"yaw_deg": 15}, model="preview").json()["id"]
    done = wait(served, name, "done")
    assert (late, done["finished"]) == ([True], FRAMES)
    assert len(shown(served, name, tmp_path)[0]) == FRAMES


def test_published_result_is_audited_after_restart(served_clips, services, finished, tmp_path):
    from serve.content_cache import picture_id

    name = finished[0]
    job = tmp_path / "queue" / "jobs" / name
    published = (job / "out" / "000000.mp4").read_bytes()
    record = {**json.loads((job / "job.json").read_text()), "state": "running", "ended": 0}
    (job / "job.json").write_text(json.dumps(record))
    services.audit_log = (told := []).append
    served = served_clips()
    served.get("/readyz")
    wait(served, name, "done")
    assert [line["out"] for line in told] == [picture_id(published)]
    assert served.get(f"/v1/jobs/{name}/results/0").content == published


def test_video_job_is_cancelled_between_frames(served_clips, clip, monkeypatch):

    from rigface.editor import Editor

    real = Editor.apply
    monkeypatch.setattr(Editor, "apply", lambda self, *a, **k: time.sleep(0.05) or real(self, *a, **k))
    served = served_clips()
    name = submit(served, clip, edit={"yaw_deg": 15}, model="preview").json()["id"]
    wait(served, name, "running")
    now = served.post(f"/v1/jobs/{name}/cancel").json()
    assert (now["state"], now["results"]) == ("cancelled", [])
    assert served.delete(f"/v1/jobs/{name}").status_code == 204


def test_unusable_videos_are_refused_at_submission(served_clips, clip, png, tmp_path):
    served = served_clips(max_clip_s=0.2)
    assert submit(served, clip).json()["type"].endswith("too-large")
    served = served_clips(max_clip_frames=5)
    assert submit(served, clip).status_code == 413
    served = served_clips(max_clip_pixels=2000)
    assert "80 x 96" in submit(served, clip).json()["detail"]
    served = served_clips(max_clip_bytes=2000, max_body_bytes=2000)
    assert submit(served, clip).status_code == 413
    served = served_clips()
    assert submit(served, png).json()["type"].endswith("bad-clip")
    assert submit(served, b"no clip").json()["type"].endswith("bad-clip")
    assert "clip" in served.post("/v1/jobs", json={"kind": "video"}).json()["detail"]
    assert "picture" in submit(served, clip, "animation").json()["detail"]
    assert "picture" in submit(served, clip, files={"picture": ("a.png", png)}).json()["detail"]


def test_video_without_faces_fails_with_reason(served_clips, tmp_path):
    served = served_clips()
    name = submit(served, film(tmp_path / "blank.mp4", 2, blank=True), edit={"yaw_deg": 3}).json()["id"]
    assert wait(served, name, "failed")["error"]["type"].endswith("no-face")


def test_hanging_decoder_fails_its_job_and_readiness(served_clips, services, clip, monkeypatch):
    import threading

    end = threading.Event()
    monkeypatch.setattr("serve.jobs.video.STUCK_S", 0.1)
    monkeypatch.setattr("serve.api.health.KEPT_S", 0.0)
    monkeypatch.setattr("serve.jobs.video._VideoRun.__call__", lambda self: end.wait(30))
    served = served_clips(job_timeout_s=0.3)
    assert served.get("/readyz").json()["jobs"] == "ok"
    name = submit(served, clip, edit={"yaw_deg": 3}, model="preview").json()["id"]
    assert wait(served, name, "failed")["error"]["type"].endswith("timeout")
    with pytest.raises(RuntimeError, match="hangs"):
        served.portal.call(services.jobs.ready)
    end.set()


@pytest.fixture
def trapped(monkeypatch):
    """Decoders that die at the frame which TRAP names."""
    from rigface.video import sandbox

    real = sandbox.WorkerProcess
    monkeypatch.setattr(real, "kept", (*real.kept, "TRAP"))
    monkeypatch.setattr(sandbox, "WorkerProcess", lambda _, *rest: real("tests.traps:Trap", *rest))


def test_video_that_kills_decoder_fails_its_job_only(served_clips, clip, png, monkeypatch, trapped):
    from serve.jobs.queue import JobQueue
    from tests.serve.jobs.conftest import submit as submit_batch

    begun, real = [], JobQueue._do
    monkeypatch.setattr(JobQueue, "_do", lambda self, job: begun.append(job.tries) or real(self, job))
    monkeypatch.setenv("TRAP", "4")
    served = served_clips()
    name = submit(served, clip, edit={"yaw_deg": 15}, model="preview").json()["id"]
    failed = wait(served, name, "failed")
    assert failed["error"]["type"].endswith("bad-clip")
    assert "SIGSEGV" in failed["error"]["detail"]
    assert failed["finished"] == 3  # the first piece of two is done, once; one more frame came each time
    assert begun == [1, 1, 2, 3]  # a piece that is done begins the count anew
    assert served.get("/readyz").json()["jobs"] == "ok"
    wait(served, submit_batch(served, png, [{"yaw_deg": 1}]).json()["id"], "done")


def test_verify_survives_a_picture_that_kills_its_decoder(tmp_path, trapped):
    from rigface.errors import BadImage

    with pytest.raises(BadImage, match="SIGSEGV"):
        ResultSigner(tmp_path / "signing").verify(b"crash")


def test_verify_refuses_large_and_decoder_killing_videos(clip, tmp_path, monkeypatch, trapped):
    from rigface.errors import BadVideo
    from serve.problems import ApiError

    signer = ResultSigner(tmp_path / "signing")
    monkeypatch.setenv("TRAP", "2")
    with pytest.raises(BadVideo, match="SIGSEGV"):
        signer.verify(clip)
    monkeypatch.setenv("TRAP", "0")
    signer._decoders.close()
    assert signer.verify(clip).manifest == "none"
    monkeypatch.setenv("TRAP_S", "0.2")
    monkeypatch.setattr("rigface.provenance.signer.VERIFY_S", 0.5)
    signer._decoders.close()
    assert not signer.verify(clip).watermark  # what came in time is what is looked at
    monkeypatch.setattr("rigface.provenance.signer.VERIFY_S", 0.01)
    with pytest.raises(BadVideo, match="takes more than"):
        signer.verify(clip)
    monkeypatch.setattr("serve.provenance.signer.CLIP_PIXELS", 1000)
    with pytest.raises(ApiError, match="too-large"):
        signer.verify(clip)

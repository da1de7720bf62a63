"""Consent and deny lists for images, targets, jobs and videos, and the command that fills them."""

import json
import stat

import numpy as np
import pytest

from rigface.image import encode_png
from rigface.types import Frame
from serve.config import ServiceConfig
from serve.inference.face_worker import FaceWorker
from serve.problems import ApiError
from serve.security import consent as lists
from serve.security.consent import Policy
from tests import remembered
from tests.serve.api.test_routes import problem, send
from tests.serve.conftest import photo
from tests.serve.jobs.conftest import submit, wait
from tests.serve.jobs.test_video import film
from tests.serve.jobs.test_video import submit as submit_clip


def who(image, face):
    """A stand-in for the network: the mean colour of an image is its identity; dark faces are not recognised."""
    colour = image.reshape(-1, 3).mean(0) / 255
    return None if colour.max() < 0.2 else np.pad(colour * 10, (0, 125))


def person(*colour):
    """A picture of whoever has that colour."""
    return encode_png(np.clip(photo(1).astype(int) // 4 + np.array(colour), 0, 255).astype(np.uint8))


GONE = object()
ANNA, BEN, CARL, NOBODY = person(180, 30, 30), person(30, 180, 30), person(30, 30, 180), person(0, 0, 0)


def vector(png):
    from rigface.image import decode

    return who(decode(png), None)


@pytest.fixture
def files(tmp_path):
    consent, deny = tmp_path / "consent.jsonl", tmp_path / "deny.jsonl"
    lists.enroll(consent, "anna", [vector(ANNA)])
    lists.enroll(consent, "carl", [vector(CARL)])
    lists.enroll(deny, "carl", [vector(CARL)])
    return str(consent), str(deny)


@pytest.fixture
def judged(services, files):
    """The policy, in force for whatever the service sees."""
    policy = Policy(*files, embed=who)
    services.face_worker = FaceWorker(services.face_worker.analyzer, policy=policy)
    return policy


def test_consent_and_deny_lists_decide_edits(judged, client):
    edit = {"yaw_deg": 5}
    for to in ("/v1/edits", "/v1/preview"):
        assert send(client, ANNA, edit, to).status_code == 200
        problem(send(client, BEN, edit, to), 403, "no-consent")
        problem(send(client, CARL, edit, to), 403, "refused")  # though he enrolled once
        problem(send(client, NOBODY, edit, to), 403, "refused")
    problem(send(client, BEN, edit, model="tiny", steps=1), 403, "no-consent")
    problem(client.post("/v1/reconstruct?mesh=glb", files={"picture": ("a.png", BEN)}), 403, "no-consent")
    assert client.post("/v1/reconstruct", files={"picture": ("a.png", BEN)}).status_code == 200


@pytest.mark.parametrize(("take", "good"), [("pose", True), ("light", True), ("identity", False), ("shape", False)])
def test_target_is_checked_only_if_identity_is_taken(judged, client, take, good):
    files = {"picture": ("a.png", ANNA), f"target.{take}": ("b.png", BEN)}
    answer = client.post("/v1/preview", files=files)
    if good:
        assert answer.status_code == 200
    else:
        problem(answer, 403, "no-consent")


def test_swap_asks_for_donor_and_recipient_of_every_face(judged, client):
    def swapped(picture, donor, part="target.identity", **request):
        files = {"picture": ("a.png", picture), part: ("b.png", donor), "request": (None, json.dumps(request))}
        return client.post("/v1/preview", files=files)

    assert swapped(ANNA, ANNA).status_code == 200
    problem(swapped(ANNA, BEN), 403, "no-consent")
    problem(swapped(BEN, ANNA), 403, "no-consent")
    problem(swapped(ANNA, CARL), 403, "refused")
    problem(swapped(ANNA, BEN, "faces.0.target.identity", faces=[{"face": 0}]), 403, "no-consent")


def test_changed_list_is_read_again(judged, client, files):
    problem(send(client, BEN, {"yaw_deg": 5}), 403, "no-consent")
    lists.enroll(lists.Path(files[0]), "ben", [vector(BEN)])
    assert send(client, BEN, {"yaw_deg": 5}).status_code == 200
    assert lists.remove(lists.Path(files[0]), "ben")
    problem(send(client, BEN, {"yaw_deg": 5}), 403, "no-consent")


def test_jobs_are_checked_by_lists(judged, serve_jobs, tmp_path):
    served = serve_jobs(policy=judged)
    batch = submit(served, BEN, [{"yaw_deg": 5}]).json()["id"]
    assert wait(served, batch, "failed")["error"]["type"].endswith("no-consent")
    clip = film(tmp_path / "clip.mp4", 4)  # grey: not enrolled
    video = submit_clip(served, clip, edit={"yaw_deg": 5}, model="preview").json()["id"]
    ended = wait(served, video, "failed")
    assert (ended["error"]["type"].rpartition(":")[2], ended["results"]) == ("no-consent", [])
    asked = {"edit": {"yaw_deg": 5}, "model": "preview"}
    own = submit_clip(served, clip, "animation", {"picture": ("a.png", ANNA)}, **asked).json()["id"]
    other = submit_clip(served, clip, "animation", {"picture": ("a.png", CARL)}, **asked).json()["id"]
    wait(served, own, "done")  # whoever drives it
    assert wait(served, other, "failed")["error"]["type"].endswith("refused")


def test_video_track_is_checked_as_long_as_it_lives(files):
    anna, ben, carl = (vector(p) for p in (ANNA, BEN, CARL))
    mixed = (anna + carl) / 2

    def passes(*looks, every_s=1.01):
        watch = Policy(*files, embed=lambda image, face: image).monitor()
        for i, look in enumerate(looks):
            watch(Frame(look, i, every_s * i), [(0, "a face")] if look is not GONE else [])
        watch.end()

    passes(anna, anna, None)  # hidden for a moment
    passes(*[anna] * 3, anna + 0.02)
    passes(*[anna] * 200, every_s=0.04)
    passes(anna, GONE, anna)
    with pytest.raises(ApiError, match="refused"):
        passes(*[anna] * 12, carl)  # later than eight checks
    with pytest.raises(ApiError, match="no-consent"):
        passes(*[anna] * 12, mixed, *[anna] * 12)  # though the mean is near
    for end in ((), (GONE,)):
        with pytest.raises(ApiError, match="refused"):
            passes(*[anna] * 5, carl, *end, every_s=0.04)  # the last frame of a track
    with pytest.raises(ApiError, match="refused"):
        passes(anna, *[None] * 60, anna, every_s=0.04)  # hidden for too long
    for looks, slug in (((anna, carl), "refused"), ((ben,) * 3, "no-consent"), ((None,), "refused")):
        with pytest.raises(ApiError, match=slug):
            passes(*looks)
    assert Policy().monitor() is None


def test_longer_consent_list_wants_closer_matches(tmp_path, caplog):
    limits = [lists.match_distance(people, 0.01) for people in (1, 10, 100, 1000)]
    assert limits == sorted(limits, reverse=True)
    assert limits[0] == 0.6
    assert limits[2] == pytest.approx(0.428, abs=0.001)  # one of 10,000 strangers' pairs is nearer
    path = tmp_path / "many.jsonl"
    for number in range(20):
        lists.enroll(path, f"p{number}", [np.eye(128)[number]])
    near = np.eye(128)[3] + np.pad([0.55], (0, 127))
    with caplog.at_level("INFO", "rigface.serve"):
        Policy(deny=str(path)).monitor()
        with pytest.raises(ApiError, match="refused"):
            Policy(deny=str(path)).check([near])
        with pytest.raises(ApiError, match="no-consent"):
            Policy(str(path)).check([near])
        Policy(str(path), false_accept_rate=0.3).check([near])
    assert "consent list: 20 people; a match is nearer than 0.466" in [r.getMessage() for r in caplog.records]


def test_arcface_needs_a_distance_and_uses_it_for_lists_of_all_sizes(tmp_path, caplog):
    path = tmp_path / "many.jsonl"
    for number in range(20):
        lists.enroll(path, f"p{number}", [np.eye(512)[number]])
    for config in ({"consent": str(path)}, {"deny": str(path)}):
        with pytest.raises(ValueError, match="ArcFace's distances are not measured"):
            ServiceConfig(identity="arcface", **config).policy()
    with caplog.at_level("INFO", "rigface.serve"):
        policy = ServiceConfig(identity="arcface", consent=str(path), same_person_distance=0.9).policy()
    messages = [record.getMessage() for record in caplog.records]
    assert "consent list: 20 people; a match is nearer than 0.900" in messages
    assert "ArcFace is not measured here: lists of all sizes match below 0.900, as given" in messages
    policy.check([np.eye(512)[3] + np.pad([0.85], (0, 511))])
    assert ServiceConfig(identity="arcface").policy().monitor() is None


def test_arcface_without_distance_is_refused_at_the_start(capsys):
    from serve.__main__ import main

    assert main(["--identity", "arcface", "--deny", "deny.jsonl", "--port", "0"]) == 1
    assert "needs `same_person_distance` (--same-person-distance)" in capsys.readouterr().err


def test_list_of_another_network_is_refused(tmp_path):
    path = tmp_path / "list.jsonl"
    lists.enroll(path, "anna", [np.ones(512)])
    with pytest.raises(ValueError, match="another network, not of 128 numbers"):
        Policy(str(path))
    with pytest.raises(ValueError, match="another network"):
        lists.enroll(path, "ben", [np.ones(128)])


def test_list_holds_vectors_only_and_is_private(tmp_path):
    path = tmp_path / "list.jsonl"
    lists.enroll(path, "anna", [np.ones(128)])
    lists.enroll(path, "anna", [np.zeros(128)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(json.loads(path.read_text())) == {"name", "written", "vectors"}
    ((name, vectors),) = [(p.name, p.vectors) for p in lists.read(path)]
    assert (name, vectors.shape) == ("anna", (2, 128))
    path.write_text('{"name": "x"}\n')
    with pytest.raises(ValueError, match="line 1"):
        Policy(str(path))
    with pytest.raises(FileNotFoundError):
        Policy(deny=str(tmp_path / "none"))


def test_enroll_command_adds_person(tmp_path, capsys, fixtures):
    from rigface.video.decode import read_frames
    from serve.__main__ import main

    shown = [f.image for f in read_frames(str(fixtures / "clip.mp4")) if f.index in (0, 60)]
    for i, image in enumerate(shown):
        (tmp_path / f"{i}.png").write_bytes(encode_png(image))
    (tmp_path / "wall.png").write_bytes(encode_png(np.full((90, 90, 3), 200, np.uint8)))
    file = str(tmp_path / "consent.jsonl")
    assert main(["enroll", "kim", str(tmp_path / "0.png"), "--file", file]) == 0
    assert main(["enroll", "--file", file]) == 0
    assert "kim\t1 vectors" in capsys.readouterr().out
    assert main(["enroll", "kim", str(tmp_path / "wall.png"), "--file", file]) == 1
    assert "got no faces" in capsys.readouterr().err

    # Another image of the same person is accepted by the real analyzer and network.
    policy = Policy(file)
    (face,) = remembered.analyzer()(shown[1])
    policy.check_faces(shown[1], [face])
    other = policy.vector(shown[1], face) + 0.1
    with pytest.raises(ApiError, match="no-consent"):
        policy.check([other])
    assert main(["enroll", "kim", "--remove", "--file", file]) == 0
    assert main(["enroll", "kim", "--remove", "--file", file]) == 1

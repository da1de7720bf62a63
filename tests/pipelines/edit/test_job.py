"""Editing jobs: `rigface edit`, `animate`, `strip`, `sliders` on files, their output and errors."""

import json
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from pipelines.cli.main import main
from pipelines.edit.config import EditConfig, Engine
from pipelines.edit.contact_sheet import GAP_PX, PANEL_PX
from pipelines.edit.flags import EditFlags
from pipelines.edit.job import edit
from pipelines.edit.report import fit_notes, limit_note
from rigface.edits import EditSpec, LightEdit
from rigface.errors import PlanError
from rigface.face.detection.mediapipe import MAX_FACES
from rigface.face.tracked_faces import TrackedFaces
from rigface.image import decode, encode_png
from rigface.types import Frame
from rigface.video.decode import read_frames
from rigface.video_editor import retargeted, smoothed_fields
from tests.pipelines.made_faces import dataset


def sound_of(path: Path) -> list[tuple[int, bytes]]:
    with av.open(str(path)) as container:
        return [(p.pts, bytes(p)) for p in container.demux(audio=0) if p.size]


def run(*words: object) -> int:
    return main([str(w) for w in words])


def test_edit_writes_image_and_prints_comparison(folder, tmp_path, capsys):
    assert (
        run(
            "edit",
            folder / "photo.jpg",
            tmp_path / "out.png",
            "--yaw",
            15,
            "--jaw-open",
            0.6,
            "--light-azimuth",
            -40,
            "--no-sign",
        )
        == 0
    )
    image, was = decode((tmp_path / "out.png").read_bytes()), decode((folder / "photo.jpg").read_bytes())
    assert image.shape == was.shape
    assert np.array_equal(image[:, :60], was[:, :60])
    assert not np.array_equal(image, was)
    text = capsys.readouterr().out
    for word in ("was", "asked", "achieved", "yaw", "15.0°", "expression.jaw_open", "0.60", "light.azimuth", "-40.0°"):
        assert word in text
    assert list(tmp_path.iterdir()) == [tmp_path / "out.png"]


def test_edit_that_asks_for_nothing_writes_nothing(folder, tmp_path, capsys):
    assert run("edit", folder / "photo.jpg", tmp_path / "out.png") == 1
    assert "nothing to change, so nothing is written" in capsys.readouterr().err
    assert run("edit", folder / "photo.jpg", tmp_path / "out.png", "--relative", "--silent") == 1
    assert not list(tmp_path.iterdir())


def test_limit_of_faces_is_reported(tmp_path):
    config = EditConfig(tmp_path, tmp_path, face="all")
    assert not limit_note(config, MAX_FACES - 1)
    assert "edited 5 faces" in limit_note(config, MAX_FACES)[0]
    assert not limit_note(EditConfig(tmp_path, tmp_path), MAX_FACES)
    assert not limit_note(EditConfig(tmp_path, tmp_path, face="all", engine=Engine(small_faces=True)), MAX_FACES)


def test_face_on_its_side_or_fitted_badly_is_reported():
    def face(roll_deg, residual):
        return SimpleNamespace(
            params=SimpleNamespace(head_rotation=np.radians([0, 0, roll_deg], dtype=np.float32)), residual=residual
        )

    assert not fit_notes([face(10, 0.002)])
    (side, bad) = fit_notes([face(90, 0.002), face(0, 0.05)])
    assert "face 0 is rolled by -90 degrees" in side
    assert "face 1 is fitted badly (landmarks are off by 5.0%" in bad


def test_quick_prints_no_comparison(folder, tmp_path, capsys):
    assert run("edit", folder / "photo.jpg", tmp_path / "out.jpg", "--yaw", 10, "--quick") == 0
    assert "achieved" not in capsys.readouterr().out
    assert (tmp_path / "out.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_traits_are_copied_from_other_images(folder, tmp_path):
    job = EditConfig(
        folder / "photo.jpg",
        tmp_path / "out.png",
        EditFlags(expression_from=folder / "smiling.png", light_azimuth=60, strength=0.8),
    )
    (rows,) = edit(job).rows
    smile = next(number for name, _, number in rows if name == "expression.mouthSmileLeft")
    assert smile.asked == pytest.approx(0.8, abs=0.15)
    assert smile.achieved > 0.3


def test_trait_is_copied_from_row_of_dataset(folder, tmp_path, capsys):
    dataset(tmp_path / "faces", people=2, frames=6)
    words = ("edit", folder / "photo.jpg", tmp_path / "out.png", "--checkpoint", "preview", "--pose-from")
    assert run(*words, f"{tmp_path}/faces#clip1.mp4:3") == 0
    assert "18.0°" in capsys.readouterr().out  # that row's yaw, as asked
    for row, message in (
        ("clip1.mp4:77", "found 0: no face of that input and frame"),
        (".mp4:3", "found 2: /clip0.mp4:3:0; /clip1.mp4:3:0"),
        ("clip1.mp4:5", "found 0"),  # its status is error
    ):
        assert run(*words, f"{tmp_path}/faces#{row}") == 1
        assert message in capsys.readouterr().err
    assert run(*words, f"{tmp_path}/none#a.mp4:3") == 1
    assert "no faces/ here" in capsys.readouterr().err


def test_saved_edit_gives_same_image(folder, tmp_path):
    assert (
        run(
            "edit", folder / "photo.jpg", tmp_path / "a.png", "--yaw", 12, "--save-edit", tmp_path / "e.json", "--quick"
        )
        == 0
    )
    assert run("edit", folder / "photo.jpg", tmp_path / "b.png", "--edit", tmp_path / "e.json", "--quick") == 0
    first, second = (decode((tmp_path / name).read_bytes()) for name in ("a.png", "b.png"))
    assert np.array_equal(first, second)  # the watermark too; the signed manifest has a time


@pytest.mark.parametrize(
    ("which", "edited"), [("all", [True, True]), ("left-most", [True, False]), ("1", [False, True])]
)
def test_face_flag_selects_faces(folder, tmp_path, which, edited):
    assert (
        run(
            "edit",
            folder / "two.png",
            tmp_path / "out.png",
            "--light-azimuth",
            70,
            "--face",
            which,
            "--quick",
            "--no-sign",
        )
        == 0
    )
    changed = (decode((tmp_path / "out.png").read_bytes()) != decode((folder / "two.png").read_bytes())).any(-1)
    assert [bool(half.mean() > 0.02) for half in (changed[:, :300], changed[:, 300:])] == edited


def test_edited_video_keeps_frames_times_and_sound(folder, tmp_path, capsys):
    clip, out = folder / "clip.mp4", tmp_path / "out.mp4"
    assert run("edit", clip, out, "--yaw", 15, "--relative", "--light-azimuth", 60) == 0
    was, now = list(read_frames(str(clip))), list(read_frames(str(out)))
    assert [f.time_s for f in now] == [f.time_s for f in was]
    assert len(now) == 4
    assert sound_of(out) == sound_of(clip)
    change = [np.abs(a.image[40:160, 100:200].astype(int) - b.image[40:160, 100:200]).mean() for a, b in zip(was, now)]
    assert min(change) > 6
    still = [np.abs(a.image[:, :30].astype(int) - b.image[:, :30]).mean() for a, b in zip(was, now)]
    assert max(still) < 2
    assert "4 frames" in capsys.readouterr().out


def test_silent_leaves_out_sound(folder, tmp_path):
    assert run("edit", folder / "clip.mp4", tmp_path / "out.mkv", "--smile", 1, "--silent", "--quick") == 0
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert not container.streams.audio
    assert len(list(read_frames(str(tmp_path / "out.mkv")))) == 4


def test_truncated_video_is_edited_up_to_its_end(folder, tmp_path, capsys):
    whole = tmp_path / "cut.mp4"
    with av.open(str(whole), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.gop_size = 320, 180, 1
        for frame in read_frames(str(folder / "clip.mp4")):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame.image, format="rgb24")))
        out.mux(stream.encode(None))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    assert run("edit", whole, tmp_path / "out.mp4", "--yaw", 10, "--quick", "--silent") == 0
    assert 0 < len(list(read_frames(str(tmp_path / "out.mp4")))) < 4
    assert "data ends early" in capsys.readouterr().out


def test_image_is_animated_by_video(folder, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    assert run("animate", folder / "photo.jpg", folder / "clip.mp4", out, "--max-side", 320) == 0
    was, now = list(read_frames(str(folder / "clip.mp4"))), list(read_frames(str(out)))
    assert [f.time_s for f in now] == [f.time_s for f in was]
    assert now[0].image.shape == (180, 320, 3)
    assert sound_of(out) == sound_of(folder / "clip.mp4")
    source = cv2.resize(decode((folder / "photo.jpg").read_bytes()), (320, 180), interpolation=cv2.INTER_AREA)
    moved = [np.abs(f.image[100:150, 120:180].astype(int) - source[100:150, 120:180]).mean() for f in now]
    assert moved[0] < 4  # the first frame is the reference: the person as they are
    assert moved[-1] > moved[0] + 3  # the driver smiles by then
    assert "mouthSmile" in capsys.readouterr().out


def test_model_edits_video(folder, tmp_path):
    how = ("--checkpoint", "tiny", "--quick", "--steps", 1, "--guidance-identity", 0.5)
    assert run("edit", folder / "clip.mp4", tmp_path / "out.mp4", "--yaw", 5, *how) == 0
    assert len(list(read_frames(str(tmp_path / "out.mp4")))) == 4


def test_default_editor_is_named_in_hint(folder, tmp_path, capsys, mini, monkeypatch):
    words = ("edit", folder / "photo.jpg", tmp_path / "out.png", "--yaw", 5, "--quick")
    assert run(*words, "--checkpoint", "mini") == run(*words, "--checkpoint", "preview") == 0
    assert "edited by" not in capsys.readouterr().out
    assert run(*words) == 0
    assert "edited by mini; --checkpoint preview is faster" in capsys.readouterr().out
    monkeypatch.delenv("RIGFACE_ASSETS")
    assert run(*words) == 0
    assert "edited by the preview: no weights are installed" in capsys.readouterr().out


def test_strip_shows_different_edits(folder, tmp_path, capsys, mini):
    assert run("strip", folder / "clip.mp4", tmp_path / "mini.png") == 0
    assert run("strip", folder / "clip.mp4", tmp_path / "preview.png", "--checkpoint", "preview") == 0
    five, four = (decode((tmp_path / f"{name}.png").read_bytes()) for name in ("mini", "preview"))
    assert (five.shape[1], four.shape[1]) == (5 * PANEL_PX + 4 * GAP_PX, 4 * PANEL_PX + 3 * GAP_PX)
    panels = [four[:PANEL_PX, k * (PANEL_PX + GAP_PX) :][:, :PANEL_PX].astype(int) for k in range(4)]
    assert all(np.abs(panel - panels[0]).max() > 40 for panel in panels[1:])  # each edit can be seen
    assert "edited by mini" in capsys.readouterr().out
    assert run("strip", folder / "wall.png", tmp_path / "no.png") == 1
    assert "wall.png: no face was found" in capsys.readouterr().err


def test_sliders_lists_all_numbers(capsys):
    assert run("sliders") == 0
    text = capsys.readouterr().out
    for word in ("--yaw", "-90 .. 90", "--jaw-open", "mouthSmileLeft", "noseSneerRight", "--light-azimuth"):
        assert word in text


def test_sliders_measures_flame(capsys, fixtures, tmp_path):
    assert run("sliders", "--head", str(fixtures / "flame")) == 0
    text = capsys.readouterr().out
    assert "jawOpen" in text
    assert text.count(" %") > 30
    assert run("sliders", "--head", str(tmp_path)) == 1
    assert "generic_model.pkl is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("edit {in}/none.jpg {out}/o.png --yaw 3", "none.jpg: No such file"),
        ("edit {in}/photo.jpg {out}/o.mp4 --yaw 3", "o.mp4: photo.jpg is an image; choose a name that ends in .png"),
        ("edit {in}/clip.mp4 {out}/o.png --yaw 3", "o.png: clip.mp4 is a video"),
        ("edit {in}/photo.jpg {in}/photo.jpg --yaw 3", "is the source itself"),
        ("edit {in}/wall.png {out}/o.png --yaw 3", "wall.png: no face was found in the image. If it is small"),
        ("edit {in}/photo.jpg {out}/o.png --pose-from {in}/wall.png", "wall.png: no face was found"),
        ("edit {in}/photo.jpg {out}/o.png --face 5 --yaw 3", "photo.jpg: there is no face 5: the image has 1"),
        ("edit {in}/photo.jpg {out}/o.png --face best", "--face: want largest, left-most"),
        ("edit {in}/photo.jpg {out}/o.png --face ²", "--face: want largest, left-most"),
        ("edit {in}/photo.jpg {out}/o.png --guidance-identity nan", "--guidance-identity: want at least 0"),
        ("edit {in}/photo.jpg {out}/o.png --seed 100000000000000000000", "--seed: want at least 0 and below"),
        ("edit {in}/photo.jpg {out}/o.png --expression jawOpn=1", "unknown name 'jawOpn'. Did you mean jawOpen"),
        ("edit {in}/photo.jpg {out}/o.png --yaw 3 --checkpoint {in}", "is no checkpoint"),
        ("edit {in}/photo.jpg {out}/o.png --yaw 3 --device cuda:7", "--device cuda:7: no usable CUDA device"),
        (
            "edit {in}/photo.jpg {out}/o.png --prompt glasses --checkpoint preview",
            "--prompt needs a model with a text encoder; the preview has none",
        ),
        (
            "edit {in}/photo.jpg {out}/o.png --prompt glasses --checkpoint tiny",
            "--prompt needs a model with a text encoder; this one has none",
        ),
        (
            "edit {in}/photo.jpg {out}/o.png --yaw 3 --steps 3 --checkpoint preview",
            "--steps needs a model; the preview does no sampling",
        ),
        (
            "edit {in}/photo.jpg {out}/o.png --yaw 3 --scheduler fast --checkpoint tiny",
            "--scheduler: 'fast' does not run",
        ),
        ("edit {in}/photo.jpg {out}/o.png --yaw 3 --steps 0 --checkpoint tiny", "--steps: want at least 1"),
        ("animate {in}/photo.jpg {in}/two.png {out}/o.mp4", "two.png: want a video to drive photo.jpg"),
        ("animate {in}/clip.mp4 {in}/clip.mp4 {out}/o.mp4", "want an image to animate"),
        ("animate {in}/wall.png {in}/clip.mp4 {out}/o.mp4", "wall.png: no face was found"),
        ("animate {in}/photo.jpg {in}/clip.mp4 {out}/o.mp4 --target {in}/two.png", "--target: the video is the target"),
    ],
)
def test_errors_are_one_line_and_leave_no_file(folder, tmp_path, capsys, words, message):
    assert run(*words.format(**{"in": folder, "out": tmp_path}).split()) == 1
    text = capsys.readouterr().err
    assert message in text
    assert text.startswith("rigface: ")
    assert text.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_video_without_face_leaves_no_file(tmp_path):
    from rigface.video.writer import VideoWriter

    with VideoWriter(tmp_path / "wall.mp4", (64, 64), 10) as film:
        film.write(np.full((64, 64, 3), 150, np.uint8), 0.0)
    with pytest.raises(PlanError, match="no face was found in any frame"):
        edit(EditConfig(tmp_path / "wall.mp4", tmp_path / "out.mp4", EditFlags(yaw=3), engine=Engine(quick=True)))
    assert not (tmp_path / "out.mp4").exists()


def test_each_face_of_a_picture_gets_its_own_flags(folder, tmp_path, capsys):
    out = tmp_path / "out.png"
    words = [folder / "two.png", "--face", 1, "--yaw", 10, "--face", 0, "--jaw-open", 0.5, "--quick", out]
    assert run("edit", *words, "--save-edit", tmp_path / "e.json") == 0
    image, was = decode(out.read_bytes()), decode((folder / "two.png").read_bytes())
    half = was.shape[1] // 2
    assert (image[:, :half] != was[:, :half]).any()
    assert (image[:, half:] != was[:, half:]).any()
    assert main(["verify", str(out)]) == 0  # marked and signed as one edit is
    capsys.readouterr()
    saved = json.loads((tmp_path / "e.json").read_bytes())["faces"]
    assert saved == [{"face": "1", "edit": {"yaw_deg": 10.0}}, {"face": "0", "edit": {"expression": {"jaw_open": 0.5}}}]
    assert run("edit", folder / "two.png", out, "--edit", tmp_path / "e.json", "--no-sign") == 0
    text = capsys.readouterr().out
    assert text.index("face 1") < text.index("yaw") < text.index("face 0") < text.index("expression.jaw_open")
    assert run("edit", *words[:-2], "--face", "largest", "--smile", 1, out, "--quick") == 1
    assert "another edit has it" in capsys.readouterr().err


def test_swap_puts_a_face_into_every_frame_of_a_clip(folder, tmp_path, capsys):
    darker = (decode((folder / "smiling.png").read_bytes()) * 0.9).astype(np.uint8)
    (tmp_path / "donor.png").write_bytes(encode_png(np.roll(darker, 20, axis=1)))
    words = (folder / "clip.mp4", tmp_path / "donor.png", tmp_path / "swap.mp4")
    assert run("swap", *words, "--silent", "--no-sign", "--quick") == 0
    swap, was = (list(read_frames(str(path))) for path in (words[2], words[0]))
    assert len(swap) == len(was) == 4
    assert all(np.abs(a.image.astype(int) - b.image).max() > 30 for a, b in zip(swap, was))


def test_only_coefficients_of_the_edit_are_smoothed():
    assert smoothed_fields(EditSpec()) == ()
    assert "head_rotation" in smoothed_fields(EditSpec(yaw_deg=3))
    assert "light" not in smoothed_fields(EditSpec(yaw_deg=3))
    assert set(smoothed_fields(EditSpec(light=LightEdit(), take={"expression"}))) >= {
        "light",
        "expression",
        "jaw_rotation",
    }


def test_chosen_face_stays_with_its_track(folder, editor):
    """The left person is chosen as the largest; later the right one is larger, and the edit stays on the left."""
    face = decode((folder / "photo.jpg").read_bytes())[:, 150:450]
    follow = TrackedFaces(editor.analyzer, ["largest"], (), 25)
    for i, share in enumerate(np.linspace(0.85, 1.15, 5)):
        wall = np.full((480, 900, 3), 150, np.uint8)
        for left, scale in ((0, 1 / share), (450, share)):
            person = cv2.resize(face, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            wall[: len(person), left : left + person.shape[1]] = person
        ((_, seen),) = follow(Frame(wall, i, i / 25))
        assert seen.box[0] < 400


def test_each_of_two_faces_keeps_its_choice(folder, editor):
    """The right face is missing for a frame, and comes back."""
    face = decode((folder / "photo.jpg").read_bytes())[:, 150:450]
    follow = TrackedFaces(editor.analyzer, ["1", "0"], (), 25)
    for i, shown in enumerate([(0, 1), (0,), (0, 1)]):
        wall = np.full((len(face), 700, 3), 150, np.uint8)
        for place in shown:
            wall[:, 350 * place : 350 * place + 300] = face
        seen = follow(Frame(wall, i, i / 25))
        assert [follow.choices[track] for track, _ in seen] == [[1, 0], [1], [1, 0]][i]


def test_driver_at_rest_changes_nothing_and_its_turn_is_copied(folder, editor):
    from rigface.face.geometry.rotation import to_degrees, to_matrix

    source, rest = (editor.analyzer(decode((folder / n).read_bytes()))[0].params for n in ("smiling.png", "photo.jpg"))
    same = retargeted(source, rest, rest)
    assert np.allclose(same.head_rotation, source.head_rotation, atol=1e-6)
    assert np.allclose(same.expression, source.expression, atol=1e-6)
    turned = editor.edited_params(rest, EditSpec(yaw_deg=20, relative=True, expression={"jawOpen": 0.7}), {})
    moved = retargeted(source, turned, rest)
    yaw = lambda p: to_degrees(to_matrix(p.head_rotation[None]))[0][0]  # noqa: E731
    assert yaw(moved) - yaw(source) == pytest.approx(20, abs=1.5)
    jaw = editor.analyzer.head.expression_names.index("jawOpen")
    assert moved.expression[jaw] - source.expression[jaw] == pytest.approx(0.7 - rest.expression[jaw], abs=1e-4)

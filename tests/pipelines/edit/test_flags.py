"""Flags of an edit: values, precedence, errors that name the flag."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import tyro

from pipelines.edit.flags import EditFlags, parse_edits, parse_flags, save_edits, split_faces
from rigface.edits import NAMED_EXPRESSIONS, EditSpec, FaceEdit, LightEdit
from rigface.errors import PlanError
from rigface.face.controls.transfer import exposure
from rigface.image import encode_png


def flags(*words: str) -> EditFlags:
    return tyro.cli(EditFlags, args=list(words))


@pytest.fixture
def picture(tmp_path: Path) -> str:
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((4, 4, 3), np.uint8)))
    return str(tmp_path / "a.png")


def test_numeric_flags_become_edit():
    spec, targets = parse_flags(flags("--yaw", "15", "--smile", "0.6", "--light-azimuth", "40", "--relative"))
    assert spec == EditSpec(yaw_deg=15, relative=True, expression={"smile": 0.6}, light=LightEdit(azimuth_deg=40))
    assert targets == {}


def test_no_flags_give_empty_edit():
    assert parse_flags(flags()) == (EditSpec(), {})


def test_every_named_expression_has_a_flag():
    assert set(NAMED_EXPRESSIONS) <= {f.name for f in fields(EditFlags)}
    words = [w for name in NAMED_EXPRESSIONS for w in (f"--{name.replace('_', '-')}", "0.5")]
    assert parse_flags(flags(*words))[0].expression == dict.fromkeys(NAMED_EXPRESSIONS, 0.5)


def test_expression_flag_takes_any_axis():
    spec, _ = parse_flags(flags("--expression", "jawOpen=0.4", "mouthSmileLeft=-0.5", "--region", "mouth"))
    assert (spec.expression, spec.region) == ({"jawOpen": 0.4, "mouthSmileLeft": -0.5}, "mouth")


def test_traits_come_from_separate_images(picture, tmp_path):
    (tmp_path / "b.png").write_bytes(b"another")
    spec, targets = parse_flags(
        flags("--take", "pose,light", "--target", picture, "--light-from", str(tmp_path / "b.png"))
    )
    assert spec.take == {"pose", "light"}
    assert {t: p.name for t, p in targets.items()} == {"pose": "a.png", "light": "b.png"}


def test_flags_override_edit_file_one_by_one(tmp_path, picture):
    first = EditSpec(
        take={"pose"}, yaw_deg=30, expression={"smile": 1, "blink": 0.3}, light=LightEdit(azimuth_deg=90, ambient=0.7)
    )
    save_edits(tmp_path / "sub" / "e.json", [FaceEdit(edit=first)])
    spec, targets = parse_flags(
        flags(
            "--edit", str(tmp_path / "sub" / "e.json"), "--smile", "0.2", "--light-azimuth", "-10", "--target", picture
        )
    )
    assert spec == EditSpec(
        take={"pose"},
        yaw_deg=30,
        expression={"smile": 0.2, "blink": 0.3},
        light=LightEdit(azimuth_deg=-10, ambient=0.7),
    )
    assert set(targets) == {"pose"}


def test_saved_edit_is_read_again(tmp_path):
    spec, _ = parse_flags(flags("--pitch", "-9", "--light-colour", "1", "0.5", "0.2", "--strength", "0.7"))
    save_edits(tmp_path / "e.json", [FaceEdit(edit=spec)])
    assert parse_flags(flags("--edit", str(tmp_path / "e.json")))[0] == spec


def test_environment_map_is_scaled_to_exposure_of_photograph(tmp_path):
    sky = np.full((16, 32, 3), 10, np.uint8)
    sky[5:8, 20:26] = 255  # right of the middle: on the person's right, the viewer's left
    (tmp_path / "sky.png").write_bytes(encode_png(sky))
    spec, _ = parse_flags(flags("--hdr", str(tmp_path / "sky.png")))
    sh = np.array(spec.light.sh)
    assert exposure(sh) == pytest.approx(1, rel=1e-3)
    assert sh[1, 0] < 0
    turned, _ = parse_flags(flags("--hdr", str(tmp_path / "sky.png"), "--hdr-turn", "150"))
    assert np.array(turned.light.sh)[1, 0] > 0
    assert EditSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--yaw", "150"], r"--yaw: want a number in \[-90, 90\], got 150"),
        (["--jaw-open", "7"], r"--jaw-open: want a number in \[-1, 2\]"),
        (["--light-azimuth", "400"], r"--light-azimuth: want"),
        (["--light-colour", "9", "1", "1"], "--light-colour: want three numbers"),
        (["--strength", "3"], "--strength: want"),
        (["--expression", "jawOpen"], "--expression: want NAME=VALUE such as jawOpen=0.4, got 'jawOpen'"),
        (["--expression", "jawOpen=wide"], "--expression: want NAME=VALUE"),
        (
            ["--take", "soul", "--target", "x"],
            "--take: want some of pose, expression, light, shape, identity, got 'soul'",
        ),
        (["--take", "pose"], "--take pose needs --target, an image to copy from"),
        (["--target", "x.jpg"], "--target needs --take"),
        (["--pose-from", "/no/such.jpg"], "/no/such.jpg: no such image"),
        (["--edit", "/no/such.json"], "/no/such.json: No such file"),
        (["--hdr", "/no/such.hdr"], "--hdr /no/such.hdr: No such file"),
        (["--hdr", "x.hdr", "--light-ambient", "1"], "--light-ambient: --hdr sets all of the light"),
    ],
)
def test_errors_name_the_flag(words, message):
    with pytest.raises(PlanError, match=message):
        parse_flags(flags(*words))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "e.json: an edit is a JSON object"),
        ('{"yaw": 3}', "e.json: yaw: want one of take, yaw_deg"),
        ('{"light": {"lumen": 1}}', r"e.json: light\.lumen"),
    ],
)
def test_errors_name_the_file_and_its_field(tmp_path, text, message):
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(PlanError, match=message):
        parse_flags(flags("--edit", str(tmp_path / "e.json")))


def test_photograph_is_refused_as_environment_map(tmp_path):
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((30, 40, 3), np.uint8)))
    with pytest.raises(PlanError, match=r"--hdr .*a\.png: a panorama is twice as wide as high"):
        parse_flags(flags("--hdr", str(tmp_path / "a.png")))


def test_flags_after_each_face_are_of_that_face(tmp_path):
    words = "in.png --strength 0.5 --face 0 --yaw 10 --quick out.png --face=all --smile 0.5 --seed 3 --strength 1.2"
    rest, faces = split_faces(words.split())
    assert rest == ["in.png", "--strength", "0.5", "--quick", "out.png", "--seed", "3"]
    own = parse_edits("largest", flags("--strength", "0.5"), faces)
    expected = [
        FaceEdit("0", EditSpec(yaw_deg=10, strength=0.5)),
        FaceEdit("all", EditSpec(expression={"smile": 0.5}, strength=1.2)),
    ]
    assert own == expected
    save_edits(tmp_path / "e.json", own)
    read = parse_edits("largest", flags("--edit", str(tmp_path / "e.json"), "--pitch", "4"))
    assert read == [replace(one, edit=replace(one.edit, pitch_deg=4)) for one in expected]
    with pytest.raises(PlanError, match="edits of several faces"):
        parse_flags(flags("--edit", str(tmp_path / "e.json")))


@pytest.mark.parametrize("words", ["in.png out.png --face 0 --yaw 10", "--face 0 --face 1 --help"])
def test_words_with_one_face_or_help_are_left_whole(words):
    assert split_faces(words.split()) == (words.split(), ())


@pytest.mark.parametrize("form", ["pairs", "one flag"])
def test_each_of_several_regions_has_the_prompt_behind_it(picture, form):
    words = f"--yaw 3 --region mouth --prompt red --region {picture} --prompt=green --region=eyes --prompt blue"
    if form == "one flag":
        words = f"--region-prompt mouth=red {picture}=green eyes=blue --yaw 3"
    rest, _ = split_faces(words.split())
    (one,) = parse_edits("largest", flags(*rest))
    assert one.edit == EditSpec(yaw_deg=3, prompts={"mouth": "red", "mask": "green", "eyes": "blue"})
    assert one.mask == Path(picture)
    with pytest.raises(PlanError, match="--region eyes: of several regions each wants a --prompt"):
        split_faces(["--region", "mouth", "--prompt", "red", "--region", "eyes"])
    with pytest.raises(PlanError, match="want REGION=WORDS"):
        parse_flags(flags("--region-prompt", "mouth"))
    faces = split_faces(
        [
            "--face",
            "0",
            "--region",
            "mouth",
            "--prompt",
            "a",
            "--region",
            "eyes",
            "--prompt",
            "b",
            "--face",
            "1",
            "--yaw",
            "2",
        ]
    )[1]
    assert [face.flags.region_prompt for face in faces] == [("mouth=a", "eyes=b"), ()]


def test_region_is_a_name_or_the_file_of_a_mask(picture):
    (named,), (masked,) = (parse_edits("largest", flags("--yaw", "3", "--region", r)) for r in ("hair", picture))
    assert (named.edit.region, named.mask) == ("hair", None)
    assert (masked.edit, masked.mask) == (EditSpec(yaw_deg=3), Path(picture))
    with pytest.raises(PlanError, match="--region: want face, eyes, mouth, hair or an image, got 'nose'"):
        parse_edits("largest", flags("--yaw", "3", "--region", "nose"))

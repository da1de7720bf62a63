"""Editor: unchanged pixels, edits, targets, models and measured numbers."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from rigface.conditions import Composer
from rigface.editor import Editor
from rigface.edits import EditSpec, FaceEdit, LightEdit
from rigface.errors import BadCheckpoint, BadEdit, MissingAsset, NoFace
from rigface.face.analyzer import FaceAnalyzer
from rigface.face.controls.transfer import exposure
from rigface.face.region_masks import region_mask
from rigface.model import checkpoint
from rigface.model.text import TextEncoder
from rigface.profile import ConditionSpec
from rigface.testing.toy_start import shallow
from rigface.video.decode import read_frames
from tests import remembered


@pytest.fixture(scope="module")
def analyzer() -> FaceAnalyzer:
    return remembered.analyzer()


@pytest.fixture(scope="module")
def photo(fixtures: Path) -> np.ndarray:
    return next(read_frames(str(fixtures / "clip.mp4"))).image


@pytest.fixture(scope="module")
def editor(analyzer: FaceAnalyzer) -> Editor:
    return Editor(analyzer)


@pytest.fixture(scope="module")
def two(photo: np.ndarray) -> np.ndarray:
    """The person twice, the right one larger."""
    small = cv2.resize(photo, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    canvas = np.full((len(photo), small.shape[1] + photo.shape[1], 3), 90, np.uint8)
    canvas[: len(small), : small.shape[1]] = small
    canvas[:, small.shape[1] :] = photo
    return canvas


def test_empty_edit_changes_nothing(editor, photo):
    out = editor.edit(photo, EditSpec(), measure=False)
    assert np.array_equal(out.image, photo)
    assert out.asked == [{}]


def test_zero_strength_gives_the_source(editor, photo):
    out = editor.edit(photo, EditSpec(yaw_deg=20, light=LightEdit(azimuth_deg=60), strength=0), measure=False)
    assert np.array_equal(out.image, photo)


def test_asked_numbers_are_approached_and_measured(editor, photo):
    out = editor.edit(photo, EditSpec(yaw_deg=15, expression={"jaw_open": 0.4}))
    assert out.asked[0]["yaw_deg"] == pytest.approx(15, abs=0.1)
    assert out.asked[0]["jaw_open"] == pytest.approx(0.4)
    assert out.achieved[0]["yaw_deg"] == pytest.approx(15, abs=5)
    assert out.achieved[0]["jaw_open"] == pytest.approx(0.4, abs=0.2)
    jaw = editor.analyzer.head.expression_names.index("jawOpen")
    assert out.achieved[0]["jaw_open"] > float(out.sources[0].params.expression[jaw]) + 0.25


def test_asked_light_is_approached(editor, photo):
    out = editor.edit(photo, EditSpec(light=LightEdit(azimuth_deg=60)))
    assert out.achieved[0]["light_azimuth_deg"] > 20
    other = editor.edit(photo, EditSpec(light=LightEdit(azimuth_deg=-60)))
    assert other.achieved[0]["light_azimuth_deg"] < -20


def test_unchanged_pixels_keep_their_values(editor, photo):
    out = editor.edit(photo, EditSpec(expression={"smile": 1.0}), measure=False)
    changed = (out.image != photo).any(-1)
    face = out.sources[0]
    x0, y0, x1, y1 = face.box.astype(int)
    assert changed[y0:y1, x0:x1].mean() > 0.05
    outside = changed.copy()
    outside[y0 - 40 : y1 + 40, x0 - 40 : x1 + 40] = False
    assert not outside.any()


def test_each_face_has_its_own_edit(editor, two):
    edits = [FaceEdit("all", EditSpec(light=LightEdit(azimuth_deg=70))), FaceEdit(0, EditSpec(yaw_deg=12))]
    out = editor.edit(two, edits)
    assert out.faces == [1, 0]  # the rest of `all` comes first, as its edit does
    assert out.edits == [edits[0].edit, edits[1].edit]
    assert [sorted(row) for row in out.asked] == [
        ["exposure", "light_azimuth_deg", "light_elevation_deg"], ["pitch_deg", "roll_deg", "yaw_deg"],
    ]  # fmt: skip
    assert out.achieved[1]["yaw_deg"] == pytest.approx(12, abs=5)
    alone = editor.edit(two, EditSpec(yaw_deg=12), face=0, measure=False).image
    half = two.shape[1] // 2 - 60
    assert np.array_equal(out.image[:, :half], alone[:, :half])
    assert not np.array_equal(out.image[:, half:], two[:, half:])
    with pytest.raises(BadEdit, match="face largest: another edit has it"):
        editor.edit(two, [FaceEdit(1, EditSpec(yaw_deg=3)), FaceEdit("largest", EditSpec(yaw_deg=4))])


def test_large_photograph_keeps_pixels_outside_the_change(editor, photo, monkeypatch):
    monkeypatch.setattr("rigface.editor.PREVIEW_PX", 300)
    large = cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    noise = np.random.default_rng(0).integers(-20, 20, large.shape, np.int16)
    large = np.clip(large + noise, 0, 255).astype(np.uint8)  # finer than the preview
    out = editor.edit(large, EditSpec(expression={"jaw_open": 0.8}), measure=False)
    assert len(out.crops[0]) == 300 < 512 / out.sources[0].frame_to_crop[0, 0]
    same = (out.image == large).all(-1)
    x0, y0, x1, y1 = out.sources[0].box.astype(int)
    assert same[y0 - 110 : y0 - 60].mean() > 0.98  # hair and wall
    assert same[y0 + (y1 - y0) * 2 // 3 : y1, x0 + 40 : x1 - 40].mean() < 0.3  # mouth and chin


def test_each_trait_can_have_its_own_target(editor, photo):
    turned = editor.edit(photo, EditSpec(yaw_deg=25, expression={"jaw_open": 0.9}), measure=False).image
    lit = editor.edit(photo, EditSpec(light=LightEdit(azimuth_deg=80, intensity=1.5)), measure=False).image
    targets = {"pose": turned, "light": lit}
    out = editor.edit(photo, EditSpec(take={"pose", "light"}), targets, measure=False)
    pose, light = editor.analyzer(turned)[0].params, editor.analyzer(lit)[0].params
    own = out.sources[0].params
    assert np.array_equal(out.asked_params[0].head_rotation, pose.head_rotation)
    assert np.array_equal(out.asked_params[0].expression, own.expression)
    assert exposure(out.asked_params[0].light) == pytest.approx(exposure(own.light), rel=1e-3)
    shape = lambda a: a / np.linalg.norm(a, axis=0)  # by colour: white balance is the source's  # noqa: E731
    assert np.allclose(shape(out.asked_params[0].light), shape(light.light), atol=1e-4)


def test_trait_without_target_is_refused_by_name(editor, photo):
    with pytest.raises(ValueError, match="take: light"):
        editor.edit(photo, EditSpec(take={"pose", "light"}), {"pose": photo})


@pytest.mark.parametrize(
    ("face", "edited"),
    [("largest", [1]), ("left-most", [0]), ("right-most", [1]), ("0", [0]), (1, [1]), ("all", [0, 1])],
)
def test_face_argument_chooses_faces(editor, two, photo, face, edited):
    out = editor.edit(two, EditSpec(light=LightEdit(azimuth_deg=70)), face=face, measure=False)
    border = two.shape[1] - photo.shape[1]
    changed = (out.image != two).any(-1)
    assert [k for k, part in enumerate((changed[:, :border], changed[:, border:])) if part.sum() > 500] == edited


def test_missing_face_is_refused(editor, two):
    with pytest.raises(NoFace, match="there is no face 4: the image has 2"):
        editor.edit(two, EditSpec(yaw_deg=3), face="4")
    with pytest.raises(ValueError, match="face: want one of"):
        editor.edit(two, EditSpec(yaw_deg=3), face="prettiest")
    with pytest.raises(NoFace):
        editor.edit(np.zeros((200, 200, 3), np.uint8), EditSpec(yaw_deg=3))


def test_model_output_is_pasted_on_the_person_only(analyzer, photo):
    """Random weights: noise inside the mask, the photograph outside; the same seed gives the same picture."""
    editor = Editor.load("tiny", analyzer=analyzer)
    first = editor.edit(photo, EditSpec(yaw_deg=10), seed=3, measure=False)
    again = editor.edit(photo, EditSpec(yaw_deg=10), seed=3, measure=False)
    other = editor.edit(photo, EditSpec(yaw_deg=10), seed=4, measure=False)
    assert first.crops[0].shape == (32, 32, 3)
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    assert np.array_equal(first.image[:, :60], photo[:, :60])
    x0, y0, x1, y1 = first.sources[0].box.astype(int)
    assert (first.image != photo)[y0:y1, x0:x1].mean() > 0.9


def test_conditions_have_render_style_of_checkpoint(analyzer, tmp_path):
    made = shallow()
    for style in ("albedo", "texture", "shape"):
        made.config = type(made.config)(made.config.process, analyzer.head, style, size=32)
        checkpoint.save(tmp_path / style, made)
        editor = Editor.load(str(tmp_path / style), analyzer=analyzer)
        assert editor._composer.spec == ConditionSpec(style, 32)


def test_weights_for_another_head_are_refused(analyzer, tmp_path):
    made = shallow(expression=7)
    checkpoint.save(tmp_path / "few", made)
    with pytest.raises(BadCheckpoint, match="7 expression coefficients"):
        Editor.load(str(tmp_path / "few"), analyzer=analyzer)
    made = shallow()
    made.config = replace(made.config, head=replace(analyzer.head, name="flame"))
    checkpoint.save(tmp_path / "flame", made)
    with pytest.raises(BadCheckpoint, match="'flame'"):
        Editor.load(str(tmp_path / "flame"), analyzer=analyzer)
    made.config = replace(made.config, head=replace(analyzer.head, version="0"))
    checkpoint.save(tmp_path / "old", made)
    with pytest.warns(UserWarning, match="trained on open 0"):
        Editor.load(str(tmp_path / "old"), analyzer=analyzer)


def test_weights_with_basel_codes_take_those_of_an_own_reconstructor(analyzer, photo, tmp_path):
    made = shallow(expression=64)
    made.config = replace(made.config, head=None, expression_field="bfm_expression")
    checkpoint.save(tmp_path / "w", made)
    with pytest.raises(ValueError, match="fitted without it"):
        Editor.load(str(tmp_path / "w"), analyzer=analyzer).edit(photo, EditSpec(yaw_deg=5), measure=False)

    class Coded:
        """Somebody's reconstructor: ours, and the codes beside."""

        head_spec = analyzer.head

        def __call__(self, crops, landmarks, blendshapes, tracks):
            fit = analyzer.reconstructor(crops, landmarks, blendshapes, tracks)
            codes = np.random.default_rng(0).normal(size=(len(crops), 64)).astype(np.float32)
            return replace(fit, params=replace(fit.params, bfm_expression=codes))

    theirs = FaceAnalyzer(analyzer.detector, Coded(), analyzer.parser)
    out = Editor.load(str(tmp_path / "w"), analyzer=theirs).edit(photo, EditSpec(yaw_deg=5), measure=False)
    assert not np.array_equal(out.image, photo)


def test_prompt_needs_a_text_encoder(analyzer, photo, clip_folder, tmp_path):
    made = shallow()
    made.text_encoder = TextEncoder.load(clip_folder)
    checkpoint.save(tmp_path / "text", made)
    editor = Editor.load(str(tmp_path / "text"), analyzer=analyzer, steps=2, text_scale=3.0)
    made = {words: editor.edit(photo, EditSpec(prompt=words), measure=False).image for words in ("", "a b", "c d e")}
    assert np.array_equal(made[""], photo)  # nothing asked
    assert not np.array_equal(made["a b"], photo)
    assert not np.array_equal(made["a b"], made["c d e"])
    parts = editor.edit(photo, EditSpec(prompts={"mouth": "a b"}), measure=False)
    shown = region_mask(parts.sources[0], parts.asked_params[0], "mouth")
    shown = cv2.warpAffine(shown, cv2.invertAffineTransform(parts.sources[0].frame_to_crop), photo.shape[1::-1])
    away = cv2.dilate(shown, np.ones((5, 5), np.uint8)) == 0
    assert np.array_equal(parts.image[away], photo[away])
    assert not np.array_equal(parts.image[shown > 200], made["a b"][shown > 200])  # which had the text everywhere
    assert not np.array_equal(parts.image[shown > 200], photo[shown > 200])
    with pytest.raises(ValueError, match=r"prompts\.mask: needs a mask"):
        editor.edit(photo, EditSpec(prompts={"mask": "a b"}), measure=False)
    for deaf, why in (
        (Editor(analyzer), "the preview has none"),
        (Editor.load("tiny", analyzer=analyzer), "this one has none"),
    ):
        with pytest.raises(ValueError, match=f"prompt: .*{why}"):
            deaf.edit(photo, EditSpec(yaw_deg=5, prompt="a b"))
    with pytest.raises(ValueError, match="scheduler: 'fast'"):
        Editor.load("tiny", analyzer=analyzer, scheduler="fast")


def test_detail_keeps_sharpness_of_photograph(analyzer, photo):
    """Painting the small preview back is no change at all; painting it darker darkens the fine one."""
    size = 64
    composer = Composer(ConditionSpec("texture", size, detail=True))
    edit = EditSpec(yaw_deg=10)
    fine = Editor(analyzer).edit(photo, edit, measure=False)
    same = Editor(analyzer, lambda c, seed: c.render, composer).edit(photo, edit, measure=False)
    assert same.crops[0].shape == fine.crops[0].shape
    assert np.array_equal(same.crops[0], fine.crops[0])
    darker = Editor(analyzer, lambda c, seed: (c.render * 0.8).astype(np.uint8), composer).edit(
        photo, edit, measure=False
    )
    middle = slice(len(fine.crops[0]) // 3, 2 * len(fine.crops[0]) // 3)
    there, here = (crop[middle, middle].astype(float) for crop in (fine.crops[0], darker.crops[0]))
    assert here.mean() == pytest.approx(0.8 * there.mean(), rel=0.03)
    assert cv2.Laplacian(here, cv2.CV_64F).std() == pytest.approx(cv2.Laplacian(there, cv2.CV_64F).std(), rel=0.1)


def test_default_checkpoint_is_mini_or_else_the_preview(analyzer, mini, monkeypatch):
    assert Editor.load(analyzer=analyzer).has_model
    assert not Editor.load("preview", analyzer=analyzer).has_model
    monkeypatch.delenv("RIGFACE_ASSETS")
    assert not Editor.load(analyzer=analyzer).has_model
    with pytest.raises(MissingAsset, match="mini is not on this machine"):
        Editor.load("mini", analyzer=analyzer)


def test_small_model_keeps_detail_of_unchanged_parts(analyzer, photo, mini):
    """An untrained model returns the preview, and the edit is the preview at full size, not at 64 px."""
    spec = EditSpec(yaw_deg=10, light=LightEdit(azimuth_deg=40))
    painted = Editor.load("mini", analyzer=analyzer).edit(photo, spec, measure=False).crops[0]
    preview = Editor(analyzer).edit(photo, spec, measure=False).crops[0]
    assert painted.shape == preview.shape
    assert len(painted) > 64
    assert np.abs(painted.astype(int) - preview).mean() < 1


def test_adapter_without_a_model_is_refused(analyzer, tmp_path):
    with pytest.raises(BadEdit, match="adapter: the preview has no model to adapt"):
        Editor.load("preview", analyzer=analyzer, adapter=str(tmp_path))
    with pytest.raises(BadEdit, match="no model to adapt"):
        Editor(analyzer).use_adapter(str(tmp_path))

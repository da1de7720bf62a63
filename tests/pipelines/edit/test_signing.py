"""Results of the editing commands are watermarked and signed, and `rigface verify` reads both."""

import json

import c2pa
import pytest

from pipelines.cli.main import main
from pipelines.edit.config import EditConfig, Engine
from pipelines.edit.flags import EditFlags
from pipelines.edit.job import edit
from rigface.errors import PlanError
from rigface.image import decode, encode_jpeg
from rigface.provenance.signer import C2paSigner


def edited(folder, out, name="photo.jpg", **options):
    engine = Engine(checkpoint="preview", quick=True)
    return edit(EditConfig(folder / name, out, EditFlags(yaw=10.0, relative=True), engine=engine, **options))


def manifest(path, kind):
    with path.open("rb") as stream:
        content = json.loads(c2pa.Reader(kind, stream).json())
    return content["manifests"][content["active_manifest"]], content["manifests"]


def test_edited_image_is_signed_and_verified(folder, tmp_path, capsys):
    out = tmp_path / "out.png"
    edited(folder, out)
    found = C2paSigner().verify(out.read_bytes())
    assert (found.made_here, found.manifest, found.watermark) == (True, "trusted", True)
    assert (found.record["model"], found.record["edit"]) == ("preview", {"yaw_deg": 10.0, "relative": True})
    assert found.record["mark"] == found.mark
    assert main(["verify", str(out)]) == 0
    assert "signed with this key" in " ".join(capsys.readouterr().out.split())


def test_watermark_alone_does_not_say_made_here(folder, tmp_path, capsys):
    edited(folder, tmp_path / "out.png")
    saved = tmp_path / "saved.jpg"
    saved.write_bytes(encode_jpeg(decode((tmp_path / "out.png").read_bytes()), 85))
    found = C2paSigner().verify(saved.read_bytes())
    assert (found.made_here, found.manifest, found.watermark) == (False, "none", True)
    assert main(["verify", str(tmp_path / "out.png"), str(saved)]) == 1


def test_no_sign_leaves_watermark_and_manifest_out(folder, tmp_path):
    edited(folder, tmp_path / "out.jpg", no_sign=True)
    found = C2paSigner().verify((tmp_path / "out.jpg").read_bytes())
    assert (found.manifest, found.watermark) == ("none", False)


def test_manifest_of_source_becomes_parent(folder, tmp_path):
    first, second = tmp_path / "first.jpg", tmp_path / "second.png"
    edited(folder, first)
    (tmp_path / "photo.jpg").write_bytes(first.read_bytes())
    edited(tmp_path, second)
    active, manifests = manifest(second, "image/png")
    assert len(manifests) == 2
    assert active["ingredients"][0]["relationship"] == "parentOf"


def test_donor_of_a_swap_is_a_part_in_the_manifest(folder, tmp_path):
    out = tmp_path / "out.png"
    assert main(["swap", *map(str, (folder / "photo.jpg", folder / "smiling.png", out))]) == 0
    active, _ = manifest(out, "image/png")
    assert [part["relationship"] for part in active["ingredients"]] == ["parentOf", "componentOf"]
    actions = next(a for a in active["assertions"] if a["label"].startswith("c2pa.actions"))["data"]["actions"]
    assert [a["action"] for a in actions] == ["c2pa.opened", "c2pa.placed", "c2pa.edited", "c2pa.watermarked"]
    assert C2paSigner().verify(out.read_bytes()).made_here


def test_edited_video_is_signed_in_its_file(folder, tmp_path):
    out = tmp_path / "out.mp4"
    report = edited(folder, out, "clip.mp4")
    found = C2paSigner().verify(out.read_bytes())
    assert (found.made_here, found.watermark) == (True, True)
    assert found.record["edit"] == {"yaw_deg": 10.0, "relative": True}
    assert not [note for note in report.notes if "manifest" in note]
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_matroska_has_watermark_and_a_note(folder, tmp_path):
    report = edited(folder, tmp_path / "out.mkv", "clip.mp4")
    assert any("no manifest" in note for note in report.notes)


def test_unwritable_key_folder_is_one_sentence_before_the_edit(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RIGFACE_SIGNING_FOLDER", str(tmp_path / "file" / "signing"))
    with pytest.raises(PlanError, match=r"no signing key: .*RIGFACE_SIGNING_FOLDER, or use --no-sign"):
        edited(folder, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_verify_names_a_file_that_cannot_be_read(tmp_path, capsys):
    (tmp_path / "text.png").write_text("no image")
    for name in ("text.png", "missing.png"):
        assert main(["verify", str(tmp_path / name)]) == 1
        assert name in capsys.readouterr().err

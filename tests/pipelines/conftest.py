"""Fixtures: a folder of small inputs, and a finished dataset of them."""

import io
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest
from rich.console import Console

from pipelines.extract.config import Pool, debug
from pipelines.extract.progress import Progress


@pytest.fixture(scope="session")
def zoo(tmp_path_factory) -> Path:
    """Small inputs of every kind: five good ones, one without faces, two bad ones."""
    from rigface.image import encode_jpeg
    from rigface.testing import fakes

    folder = tmp_path_factory.mktemp("zoo")
    fakes.video(folder / "two people.mp4", (0.0, 0.5), frames=20)
    fakes.video(folder / "ünïcode 顔 (copy).mp4", (0.3,), frames=30, seed=1)
    fakes.video(folder / "short.mp4", (0.5,), frames=5, seed=2)
    fakes.video(folder / "no face.mp4", (), frames=10)
    (folder / "portrait.jpg").write_bytes(encode_jpeg(fakes.picture((0.7,))))
    (folder / "mp4 named jpg.jpg").write_bytes((folder / "short.mp4").read_bytes())
    (folder / "text.mp4").write_bytes(b"no video " * 100)
    (folder / "empty.mp4").write_bytes(b"")
    return folder


@pytest.fixture(scope="session")
def finished(zoo, tmp_path_factory) -> Path:
    """The dataset of the zoo, extracted in this process, without interruption. Read only."""
    from pipelines.extract.job import extract

    out = tmp_path_factory.mktemp("finished") / "out"
    extract(debug((str(zoo),), str(out)), Progress(Console(file=io.StringIO())))
    return out


@pytest.fixture(scope="session")
def finished_on_ray(ray_cluster, zoo, tmp_path_factory) -> Path:
    """The same as on a cluster: every stage in actors of its own, faces passed between processes, units from a file."""
    from pipelines.extract import dataflow
    from pipelines.extract.job import extract

    out, small = tmp_path_factory.mktemp("finished_on_ray") / "out", Pool(cpus=0.5)
    config = replace(debug((str(zoo),), str(out)), in_process="never", detect_faces=Pool(1, max_actors=2, cpus=0.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataflow, "MAX_BLOCKS", 1)
        config = replace(config, reconstruct=small, mask_and_score=small, write=small)
        extract(config, Progress(Console(file=io.StringIO())))
    return out


def faces_of(out: Path) -> pa.Table:
    """All rows of faces/, in one order."""
    table = pyarrow.dataset.dataset(out / "faces", format="parquet").to_table()
    return table.sort_by([("uri", "ascending"), ("frame_index", "ascending"), ("track", "ascending")]).combine_chunks()


def identities_of(out: Path) -> dict[tuple[str, int], str | None]:
    """(uri, track) -> name of the person, of all rows of identities/."""
    rows = pyarrow.dataset.dataset(out / "identities", format="parquet").to_table().to_pylist()
    names = {(row["uri"], row["track"]): row["identity"] for row in rows}
    assert len(names) == len(rows), "a track has two rows"
    return names


def inputs_of(out: Path) -> pa.Table:
    """All rows of inputs/, in one order, without times."""
    table = pyarrow.dataset.dataset(out / "inputs", format="parquet").to_table().sort_by("uri").combine_chunks()
    return table.drop_columns(["stage_seconds"])

"""Faces in, faces of another reconstructor out: no video is decoded again.

Path: OUT/faces of `extract` -> stored crops and landmarks -> reconstructor -> OUT/faces of another folder, same rows.

Coefficients, residuals and angles are new; all other columns are copied. The metadata of every file and `rigface.json`
say which columns are of which program. A unit is a part of the input, and keeps its name; a stopped run goes on, and
one on a dataset that has grown converts what is new.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import run_info
from pipelines.cluster.unit_job import Unit, run_units
from pipelines.convert.config import ConvertConfig
from pipelines.extract import components
from pipelines.extract.layout import RECORDS_KEY, parquet, part_path
from pipelines.extract.unit import Crops
from rigface import schema
from rigface.dataset.faces import Faces
from rigface.dataset.identities import FOLDER as IDENTITIES
from rigface.errors import PlanError
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.face.reconstruction.protocol import Fit, Reconstructor
from rigface.face.reconstruction.quality import PROFILE_DEG
from rigface.face.steps import AlignedFaces, reconstruct
from rigface.storage import lock
from rigface.storage.store import Store
from rigface.types import DetectorSpec, FaceParams, HeadSpec

FOLDERS = ("faces", "inputs")
SOURCES_KEY = b"rigface.sources"  # metadata: program -> its columns
_PARAMS = tuple(f.name for f in fields(FaceParams))
_RESIDUALS = ("landmark_residual", "photometric_residual", "occlusion")
_ANGLES = ("yaw_deg", "pitch_deg", "roll_deg")
NEW_QUALITY = (*_RESIDUALS, *_ANGLES, "is_profile")


def convert(config: ConvertConfig, say: Callable[[str], None] = print) -> dict[str, int]:
    """Run the job; counts of units and rows done now.

    Raises:
        PlanError: there are no faces, the reconstructor does not fit them, or OUT holds another conversion.
        MissingAsset: the reconstructor's files are not on this machine.
        OutputBusy: another run writes to OUT.
    """
    source, store = Store(config.faces), Store(config.out)
    parts = Faces(source).parts
    stored = source.schema(parts[0])
    before = run_info.load(source)
    fitter = _reconstructor(config, before, schema.detector_of(stored))
    head, detector = fitter.head_spec, _detector(stored, fitter)
    info = _info(config, before, source, head, detector)
    with lock.hold(store) as check:
        begin(source, store, info, schema.faces_schema(head, detector))
        units = [Unit(Path(part).stem, part) for part in parts]
        return dict(run_units(units, partial(ConvertUnit, config, info), config.pool, store, "faces", check, say))


def begin(source: Store, store: Store, info: dict[str, Any], wanted: pa.Schema) -> None:
    """Write what a conversion has beside its faces, or check that this one was begun here; the output is locked.

    PlanError if the output holds another conversion.
    """
    earlier = run_info.load_own(store, "convert", FOLDERS)
    if earlier is None:
        run_info.write(store, info)
    elif any(earlier.get(name) != json.loads(json.dumps(info.get(name))) for name in ("converted", "settings", "head")):
        about = earlier["converted"]
        by = about.get("reconstructor", "--shared-skin")
        raise PlanError(f"{store.uri} holds another conversion (of {about['from']} by {by}); choose another OUT")
    store.publish("faces/schema.parquet", parquet(wanted.empty_table()), replace=False)
    for folder in ("inputs", IDENTITIES):
        for path in source.paths(folder, ".parquet"):
            store.publish(path, source.read(path), replace=False)


def _reconstructor(config: ConvertConfig, before: dict[str, Any] | None, detector: DetectorSpec) -> Reconstructor:
    try:
        return components.reconstructor(config.settings(before), config.pool.device, detector)
    except ValueError as error:
        raise PlanError(str(error)) from error


def _detector(stored: pa.Schema, reconstructor: Reconstructor) -> DetectorSpec:
    """The detector of a dataset, with the networks of its new coefficients."""
    codes = getattr(reconstructor, "codes_version", "")
    return replace(schema.detector_of(stored), reconstructor=reconstructor.version, expression_codes=codes)


def _info(
    config: ConvertConfig, before: dict[str, Any] | None, source: Store, head: HeadSpec, detector: DetectorSpec
) -> dict[str, Any]:
    """The run information of the new dataset: that of the old one, with what is new."""
    copied = [c.name for c in schema.face_columns(head, detector) if c.name not in _PARAMS + NEW_QUALITY]
    own = [c.name for c in schema.face_columns(head, detector) if c.name not in copied]
    codes = {config.expression_codes: ["bfm_expression"]} if config.expression_codes != "none" else {}
    read = [name for name in own if not codes or name != "bfm_expression"]
    return {
        **(before or {}),
        "schema": [schema.FACES_VERSION, schema.INPUTS_VERSION],
        "settings": asdict(config.settings(before)),
        "head": asdict(head),
        "detector": asdict(detector),
        "converted": {
            "from": source.uri,
            "reconstructor": config.reconstruct,
            "columns": {"extract": copied, config.reconstruct: read, **codes},
        },
        **run_info.software(),
    }


class ConvertUnit:
    """Converts parts. One per actor."""

    def __init__(self, config: ConvertConfig, info: dict[str, Any]) -> None:
        self._source, self._out = Store(config.faces), lock.follow(Store(config.out))
        stored = Faces(self._source).schema
        self._reconstructor = _reconstructor(config, info, schema.detector_of(stored))
        wanted = schema.faces_schema(self._reconstructor.head_spec, _detector(stored, self._reconstructor))
        sources = json.dumps(info["converted"]["columns"]).encode()
        self._schema = wanted.with_metadata({**wanted.metadata, SOURCES_KEY: sources})

    def __call__(self, unit: str, part: str) -> dict[str, int]:
        table = self._source.table(part).combine_chunks()
        kept = [n for n in self._schema.names if n in table.column_names and n not in _PARAMS + NEW_QUALITY]
        columns = {name: _column(table, name) for name in kept}
        rows = np.flatnonzero(_column(table, "status").to_numpy(zero_copy_only=False) == "ok")
        if len(rows):
            fit = reconstruct(self._reconstructor, _aligned(table, rows), _tracks(table)[rows])
            finite = np.all([np.isfinite(v).reshape(len(rows), -1).all(1) for v in _numbers(fit).values()], axis=0)
            columns |= _failed(columns, rows[~finite])
            columns |= _spread(_new_columns(fit, self._reconstructor.head_spec), rows, finite, len(table))
        converted = schema.table_of(columns, self._schema)
        records = {key: text for key, text in (table.schema.metadata or {}).items() if key == RECORDS_KEY}
        converted = converted.replace_schema_metadata({**self._schema.metadata, **records})
        self._out.publish(part_path(unit), parquet(converted), replace=False)
        return {"rows": len(table), "units": 1}


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _tracks(table: pa.Table) -> np.ndarray:
    """(N,) numbers of the tracks, different in different inputs."""
    keys = [f"{uri}\0{track}" for uri, track in zip(*(table[n].to_pylist() for n in ("uri", "track")))]
    return np.unique(keys, return_inverse=True)[1]


def _aligned(table: pa.Table, rows: np.ndarray) -> AlignedFaces:
    """The faces of these rows; their crops are decoded when they are read. Scores are not stored."""

    def numbers(name: str, *shape: int) -> np.ndarray:
        values = _column(table, name).take(pa.array(rows)).flatten().to_numpy(zero_copy_only=False)
        return np.asarray(values.reshape(len(rows), *shape))

    blendshapes = _column(table, "blendshapes").take(pa.array(rows))
    return AlignedFaces(
        crops=Crops(_column(table, "crop"), rows, {}),
        frame_to_crop=numbers("frame_to_crop", 2, 3),
        boxes=numbers("box", 4),
        landmarks=numbers("landmarks", -1, 3),
        scores=np.full(len(rows), np.nan),
        blendshapes=None if blendshapes.null_count else numbers("blendshapes", -1),
    )


def _numbers(fit: Fit) -> dict[str, np.ndarray]:
    params = {name: value for name in _PARAMS if (value := getattr(fit.params, name)) is not None}
    return params | {name: getattr(fit, name) for name in _RESIDUALS}


def _new_columns(fit: Fit, head: HeadSpec) -> dict[str, pa.Array]:
    """The columns that a fit gives."""
    degrees = np.asarray(to_degrees(to_matrix(fit.params.head_rotation)), np.float32)
    columns = schema.params_columns(fit.params, head)
    columns |= {name: pa.array(np.asarray(getattr(fit, name), np.float32)) for name in _RESIDUALS}
    columns |= {name: pa.array(degrees[:, k]) for k, name in enumerate(_ANGLES)}
    return columns | {"is_profile": pa.array(np.abs(degrees[:, 0]) > PROFILE_DEG)}


def _spread(columns: dict[str, pa.Array], rows: np.ndarray, finite: np.ndarray, count: int) -> dict[str, pa.Array]:
    """Columns of some rows as columns of all; the others are null."""
    places: list[int | None] = [None] * count
    for place in np.flatnonzero(finite).tolist():
        places[rows[place]] = place
    return {name: values.take(pa.array(places, pa.int64())) for name, values in columns.items()}


def _failed(columns: dict[str, pa.Array], rows: np.ndarray) -> dict[str, pa.Array]:
    """Status and reason with the rows whose coefficients are not finite."""
    if not len(rows):
        return {}
    changed = {name: columns[name].to_pylist() for name in ("status", "reason")}
    for row in rows.tolist():
        changed["status"][row], changed["reason"][row] = "error", "convert: its coefficients are not finite"
    return {name: pa.array(values, pa.string()) for name, values in changed.items()}

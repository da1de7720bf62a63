"""One skin colour for a person in all inputs: the job of `rigface convert OUT NEW --shared-skin`.

Path: albedo of all rows -> mean colour per track -> median per person of OUT/identities -> albedo and light of each
row, all else as it is.

One photograph does not tell dark skin from dim light for sure; several of a person do so better. Only the skin's colour
is shared: beard, make-up and freckles come and go between two photographs. In memory are 32 bytes per track.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines import run_info
from pipelines.cluster.unit_job import Unit, run_units
from pipelines.convert.config import ConvertConfig
from pipelines.convert.job import begin
from pipelines.extract.layout import RECORDS_KEY, parquet, part_path
from rigface import schema
from rigface.dataset.faces import Faces
from rigface.dataset.identities import track_keys
from rigface.errors import PlanError
from rigface.face.head.open_head import OpenHead, has_tone
from rigface.face.reconstruction.frame_white import BLACK, recoloured
from rigface.storage import lock
from rigface.storage.store import Store

COLUMNS = ("albedo", "light")  # that are new
MIN_CONFIDENCE = 0.2  # of a face that has a say
_READ = ("uri", "track", "identity", "albedo", "confidence", "is_grey")


def share_skin(config: ConvertConfig, say: Callable[[str], None] = print) -> dict[str, int]:
    """Run the job; counts of units and rows written now.

    Raises:
        PlanError: there are no faces, no identities or no tone in the head's albedo, or OUT holds another conversion.
        OutputBusy: another run writes to OUT.
    """
    source, store = Store(config.faces), Store(config.out)
    faces = Faces(source)
    if not has_tone(faces.head):
        raise PlanError(f"{source.uri}: the head `{faces.head.name}` has no colour of the skin to share")
    if faces.head.albedo != OpenHead.load().spec.albedo:
        raise PlanError(f"{source.uri}: an earlier head's albedo; `rigface convert OUT NEW --reconstruct fit` first")
    if not len(faces.identities):
        raise PlanError(f"{source.uri} has no identities; make them with `rigface identities`")
    before, stored = run_info.load(source) or {}, source.schema(faces.parts[0])
    wanted = stored.with_metadata({key: text for key, text in stored.metadata.items() if key != RECORDS_KEY})
    converted = {**before.get("converted", {}), "from": source.uri, "shared_skin": list(COLUMNS)}
    with lock.hold(store) as check:
        begin(source, store, {**before, "converted": converted, **run_info.software()}, wanted)
        skins = skins_of(faces)
        say(f"{len(skins):,} people with a skin")
        units = [Unit(Path(part).stem, part) for part in faces.parts]
        worker = partial(SkinUnit, config, skins)
        return dict(run_units(units, worker, config.pool, store, "faces", check, say))


def skins_of(faces: Faces) -> dict[str, np.ndarray]:
    """(3,) float32 linear RGB of each person's skin: the median of the tracks, in logarithms."""
    people: dict[str, int] = {}
    found = [(np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros((0, 4), np.float32))]
    for _, _, rows in faces.batches(_READ):
        sure = np.greater(rows["confidence"].fill_null(0).to_numpy(zero_copy_only=False), MIN_CONFIDENCE)
        sure &= ~rows["is_grey"].fill_null(False).to_numpy(zero_copy_only=False)
        sure &= rows["albedo"].is_valid().to_numpy(zero_copy_only=False)
        rows = rows.filter(pa.array(sure & rows["identity"].is_valid().to_numpy(zero_copy_only=False)))
        names = rows["identity"].dictionary_encode()
        code = np.array([people.setdefault(n, len(people)) for n in names.dictionary.to_pylist()], np.int32)
        keys, first, at = np.unique(
            track_keys(rows["uri"], rows["track"].to_numpy()), return_index=True, return_inverse=True
        )
        sums = np.zeros((len(keys), 4), np.float32)
        np.add.at(sums, at, np.column_stack([_log_colour(rows["albedo"]), np.ones(len(rows))]))
        found.append((keys, code[names.indices.to_numpy()][first], sums))
    keys, person, sums = map(np.concatenate, zip(*found))
    _, first, at = np.unique(keys, return_index=True, return_inverse=True)
    tracks = np.zeros((len(first), 4))
    np.add.at(tracks, at, sums)
    colours, of = tracks[:, :3] / tracks[:, 3:], person[first]
    order = np.argsort(of, kind="stable")
    groups = np.split(colours[order], np.flatnonzero(np.diff(of[order])) + 1) if len(order) else []
    everyone = np.array(list(people))
    return {
        str(name): np.exp(np.median(own, axis=0)).astype(np.float32)
        for name, own in zip(everyone[np.unique(of)], groups)
    }


def _log_colour(albedo: pa.Array) -> np.ndarray:
    """(N, 3) logarithm of the colour of these skins."""
    values = albedo.flatten().to_numpy(zero_copy_only=False).reshape(len(albedo), albedo.type.list_size)
    return np.asarray(np.log(np.maximum(OpenHead.load().skin_colour(values), BLACK)))


class SkinUnit:
    """Gives the rows of parts the skins of their people. One per actor."""

    def __init__(self, config: ConvertConfig, skins: Mapping[str, np.ndarray]) -> None:
        self._faces, self._out = Faces(config.faces), lock.follow(Store(config.out))
        self._skins = skins

    def __call__(self, unit: str, part: str) -> dict[str, int]:
        table = self._faces.store.table(part)
        names = self._faces.table(part, ["identity"])["identity"].to_pylist()
        valid = table["albedo"].combine_chunks().is_valid().to_numpy(zero_copy_only=False)
        rows = [k for k, name in enumerate(names) if name in self._skins and valid[k]]
        if rows:
            params = schema.params_of(table.take(pa.array(rows)), self._faces.head)
            params = recoloured(params, np.stack([self._skins[names[k]] for k in rows]))
            order = np.arange(len(table))  # of a row: its place among the old values, and then the new ones
            order[rows] = len(table) + np.arange(len(rows))
            for name, new in schema.params_columns(params, self._faces.head).items():
                if name in COLUMNS:
                    field = table.schema.field(name)
                    both = pa.concat_arrays([table[name].combine_chunks(), new.cast(field.type)])
                    table = table.set_column(table.schema.get_field_index(name), field, both.take(pa.array(order)))
        self._out.publish(part_path(unit), parquet(table), replace=False)
        return {"rows": len(table), "units": 1}

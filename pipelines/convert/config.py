"""Settings of `rigface convert`."""

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from pipelines.cluster.workers import Workers
from pipelines.extract.config import Settings
from rigface.errors import PlanError
from rigface.ranges import in_range


@dataclass(frozen=True)
class ConvertConfig:
    """One run of `convert`."""

    faces: Positional[str]  # The dataset of faces to read.
    out: Positional[str]  # Folder or s3:// prefix of the new dataset.
    reconstruct: str = ""
    """Reconstructor: `deca`, `emoca`, `smirk` (networks that you provide), or `fit` (landmarks, no network). Empty
    without --shared-skin: the same rows, in the layout of this version."""
    head: Literal["open", "flame"] = "flame"  # Head model of the new coefficients.
    head_folder: str = ""  # Folder of FLAME's files, or one model in it; empty: searched for among the assets.
    shape: int = 100  # Shape coefficients of FLAME, 1-300.
    expression: int = 50  # Expression coefficients of FLAME, 1-100.
    refine: int = 0  # Steps on colours and landmarks that improve each face after the reconstructor.
    half: bool = False  # Let `deca` and `emoca` compute in bfloat16.
    expression_codes: Literal["none", "d3dfr", "deep3d"] = "none"
    """Network of the column `bfm_expression`, which the released RigFace model reads."""
    shared_skin: bool = False
    """Give each person of OUT/identities one skin colour, the median of all tracks, and the light that goes with it."""
    pool: Annotated[Workers, arg(name="")] = field(default_factory=Workers)

    def __post_init__(self) -> None:
        in_range(self, "[1, 300]", "shape")
        in_range(self, "[1, 100]", "expression")
        in_range(self, "[0, 1000]", "refine")
        if self.shared_skin and self.reconstruct:
            raise PlanError("--shared-skin: convert with --reconstruct first, and its OUT with --shared-skin then")

    def settings(self, source: dict[str, Any] | None) -> Settings:
        """Settings of `extract` that would give the new dataset, from the run information of the old one."""
        stored = (source or {}).get("settings", {})
        before = Settings(**{f.name: stored[f.name] for f in fields(Settings) if f.name in stored})
        own = ("head", "head_folder", "shape", "expression", "refine", "half", "expression_codes")
        values = {name: getattr(self, name) for name in own}
        return replace(before, profile="own", reconstructor=self.reconstruct, **values)  # a profile would set them

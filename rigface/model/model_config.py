"""Configuration of a checkpoint, the content of its `config.json`.

Path: `checkpoint.save` -> config.json -> `ModelConfig` -> Composer, pipeline, training.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rigface.errors import BadCheckpoint
from rigface.model.checkpoint_folder import REFINER_FORMAT
from rigface.model.diffusion import Process
from rigface.profile import OWN, ConditionSpec, ExpressionField, FaceProfile, RenderStyle
from rigface.types import HeadSpec

FORMAT = "rigface-model"
VERSION = 1


@dataclass(frozen=True)
class ModelConfig:
    """Settings that the weights of a checkpoint were trained with; ValueError for an unknown style or field."""

    process: Process = field(default_factory=Process)  # that the denoiser reverses, and its default sampling
    head: HeadSpec | None = None  # the head model of its renders and codes; None if it is not recorded
    render_style: RenderStyle = "albedo"  # content of the render condition (`ConditionSpec`)
    expression_field: ExpressionField = "expression"  # the field of `FaceParams` that is its expression code
    size: int = 512  # of the pictures, in pixels
    detail: bool = False  # add the render's detail that the autoencoder loses to pictures (`latents.lost_detail`)
    prompt: str = ""  # text of the default text embedding; "" if there is none
    profile: FaceProfile = OWN  # how the faces were analysed and drawn; without one, in this project's own way

    def __post_init__(self) -> None:
        _ = self.conditions  # raises for an unknown style or field

    @property
    def conditions(self) -> ConditionSpec:
        """The conditions that the model takes."""
        return ConditionSpec(self.render_style, self.size, self.expression_field, self.detail, self.profile)

    def to_json(self) -> dict[str, Any]:
        """The content of `config.json`."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        if self.profile == OWN:
            del content["profile"]
        return content

    @staticmethod
    def from_json(content: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_json`; BadCheckpoint for another format, a newer version or unknown settings."""
        values = dict(content)
        if (kind := values.pop("format", None)) == REFINER_FORMAT:
            raise BadCheckpoint(
                "config.json: this is a refiner, which corrects previews in `edit`, `animate` and `serve`; "
                "`rigface refine` trains and measures one"
            )
        if kind != FORMAT:
            raise BadCheckpoint(f"config.json: want format {FORMAT!r}")
        if (version := values.pop("version", None)) != VERSION:
            raise BadCheckpoint(f"config.json: want version {VERSION}, got {version}")
        try:
            head = values.pop("head", None)
            if head is not None:
                head = HeadSpec(**head)
            process, profile = Process(**values.pop("process", {})), FaceProfile(**values.pop("profile", {}))
            return ModelConfig(process, head, **values, profile=profile)
        except (TypeError, ValueError) as error:
            raise BadCheckpoint(f"config.json: {error}") from error

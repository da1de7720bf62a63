"""Configuration of a checkpoint, the content of its `config.json`; imports no network and no torch.

Path: `checkpoint.save` -> config.json -> `ModelConfig` -> Composer, pipeline, training. `config_of` finds it by name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rigface.errors import BadCheckpoint, MissingAsset
from rigface.model.checkpoint_folder import CONFIG, REFINER_FORMAT, folder_of, is_sd15, read_json
from rigface.profile import OWN, PROFILES, ConditionSpec, ExpressionField, FaceProfile, IdentityName, RenderStyle
from rigface.types import HeadSpec

FORMAT = "rigface-model"
VERSION = 1
RecipeName = Literal[
    "rigface", "frozen", "attention", "lora", "controlnet", "t2i", "ip_adapter", "instantid", "dreambooth",
    "dreambooth_lora", "textual_inversion",
]  # fmt: skip
"""Files of `rigface/model/recipes`: how the weights were trained, and how they are stored."""
READS_IDENTITY: tuple[RecipeName, ...] = ("ip_adapter", "instantid")  # recipes on identity vectors
READS_POINTS: tuple[RecipeName, ...] = ("instantid",)  # recipes whose render condition is five points
KINDS = ("epsilon", "v_prediction", "sample", "flow", "bridge")  # of processes
STRAIGHT = ("flow", "bridge")  # kinds that go along a straight line, at a constant velocity
PROMPT = "A close up of a {}."  # of recipes that learn one person; {} stands for them
UPSTREAM_PROMPT = PROMPT.format("person")  # the one sentence that RigFace was trained on


@dataclass(frozen=True)
class Process:
    """The process that the network was trained to reverse; ValueError for an unknown kind or a number out of range."""

    kind: str = "epsilon"  # one of `KINDS`
    train_timesteps: int = 1000  # T; the network is told t in [0, T]
    beta_start: float = 0.00085  # of the scaled-linear schedule; unused by straight lines
    beta_end: float = 0.012
    bridge_noise: float = 0.3  # standard deviation of the noise on the bridge's start, in scaled latent units
    latent_scale: float = 0.18215  # the VAE's scaling factor, from condition latents to the denoised ones
    scheduler: str = "dpm++"  # default of sampling
    steps: int = 16  # default of sampling
    zero_terminal_snr: bool = False  # the schedule ends in pure noise (Lin et al. 2023); not with `epsilon`

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Process.kind: want one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.zero_terminal_snr and self.kind not in ("v_prediction", "sample"):
            raise ValueError(
                "Process.zero_terminal_snr: wants v_prediction or sample: in pure noise the noise says nothing, and a "
                f"straight line ends in it anyway; got {self.kind!r}"
            )
        if self.train_timesteps < 2 or self.steps < 1 or self.latent_scale <= 0 or self.bridge_noise < 0:
            raise ValueError(f"Process: a number is out of range: {self}")


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
    recipe: RecipeName = "rigface"  # how it was trained, which says how it is stored
    identity: IdentityName = ""  # network of the identity vectors that it reads in place of a reference; "": none

    def __post_init__(self) -> None:
        _ = self.conditions  # raises for an unknown style or field
        if self.recipe not in get_args(RecipeName):
            raise ValueError(f"recipe: want one of {', '.join(get_args(RecipeName))}, got {self.recipe!r}")

    @property
    def conditions(self) -> ConditionSpec:
        """The conditions that the model takes."""
        return ConditionSpec(
            self.render_style, self.size, self.expression_field, self.detail, self.profile, self.identity
        )

    def to_json(self) -> dict[str, Any]:
        """The content of `config.json`."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        if self.profile == OWN:
            del content["profile"]
        if self.recipe == "rigface":
            del content["recipe"], content["identity"]  # as folders had it before there were recipes
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


RELEASED = ModelConfig(  # of the released RigFace weights; their authors' sampler is UniPC with 50 steps
    Process(scheduler="dpm++", steps=10),
    expression_field="bfm_expression",
    prompt=UPSTREAM_PROMPT,
    profile=PROFILES["rigface"],
)


def is_released(name: str) -> bool:
    """True if the name means a folder in the released RigFace layout; raises as `folder_of`."""
    return name != "tiny" and not is_sd15(name) and has_released_layout(folder_of(name))


def has_released_layout(folder: Path) -> bool:
    """The own layout has a default text; a config.json beside released weights only says what they mean."""
    return (folder / "unet_id").is_dir() and not (folder / "default_text.safetensors").is_file()


def config_of(name: str) -> ModelConfig:
    """Config of a checkpoint, without reading its weights; that of the released weights if a folder has none.

    MissingAsset if it is not there, BadCheckpoint if its config.json is of another kind.
    """
    if name == "tiny":
        return tiny_config()
    if is_sd15(name):
        return ModelConfig()
    folder = folder_of(name)
    if (folder / CONFIG).is_file():
        return ModelConfig.from_json(read_json(folder / CONFIG))
    if has_released_layout(folder):
        return RELEASED
    raise MissingAsset(f"{folder} is no checkpoint: it has neither config.json nor unet_id/")


def tiny_config(expression: int = 52, size: int = 32, **process: Any) -> ModelConfig:
    head = HeadSpec("fake", "0", shape=4, expression=expression, albedo=3)
    return ModelConfig(Process(**{"steps": 3, **process}), head=head, size=size)

"""Commands that edit: `edit`, `animate`, `strip`, `sliders`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pipelines.edit.config import AnimateConfig, EditConfig, StripConfig, SwapConfig
from pipelines.edit.flags import paired_prompts as paired_prompts  # of the parser, both
from pipelines.edit.flags import split_faces as split_faces


@dataclass(frozen=True)
class EditCommand(EditConfig):
    """Change pose, expression or light of a face in an image or a video, and keep the person.

    Only the face and what moves with it changes, apart from an invisible watermark. A video keeps its frames,
    their times and its sound. The result has a signed manifest (C2PA), which `rigface verify` reads.

      rigface edit photo.jpg out.png --yaw 15 --smile 0.6 --light-azimuth 40
      rigface edit photo.jpg out.png --pose-from a.jpg --expression-from b.jpg --light-from c.jpg --strength 0.7
      rigface edit photo.jpg out.png --pose-from out/faces#clip.mp4:120
      rigface edit photo.jpg out.png --expression jawOpen=0.4 mouthSmileLeft=1 --region mouth
      rigface edit photo.jpg out.png --checkpoint runs/mine/model --prompt "a person with glasses" --guidance-text 3
      rigface edit photo.jpg out.png --checkpoint runs/mine/model --region mouth --prompt "red lips" --region eyes \
        --prompt "green eyes"
      rigface edit photo.jpg out.png --hdr studio.hdr --hdr-turn 90 --save-edit studio.json
      rigface edit clip.mp4 out.mp4 --edit studio.json --face all
      rigface edit two.jpg out.png --face 0 --yaw 10 --face 1 --smile 0.5
    """

    def run(self) -> int:
        from pipelines.edit.inputs import start_decoder

        start_decoder()
        from pipelines.edit.job import edit
        from pipelines.edit.report import show

        show(edit(self))
        return 0


@dataclass(frozen=True)
class SwapCommand(SwapConfig):
    """Put the face of one person in the place of another's, in its pose, expression and light.

    Hair, ears, neck and all around the face stay. The donor's skin gets the tones of the recipient's; light spots and
    shadows of a hard light, glasses and hands come along, so choose a donor in soft light, from a similar side. Ask
    both people. The result is marked and signed; the donor's picture is named in the manifest as a part.

      rigface swap photo.jpg donor.jpg out.png
      rigface swap clip.mp4 donor.jpg out.mp4 --face 0
      rigface swap photo.jpg donor.jpg out.png --checkpoint runs/mine/model    the donor as its reference
      rigface edit photo.jpg out.png --take identity --target donor.jpg --yaw 10 --smile 0.4    and edited further
    """

    def run(self) -> int:
        from pipelines.edit.job import edit
        from pipelines.edit.report import show

        show(edit(self.as_edit()))
        return 0


@dataclass(frozen=True)
class AnimateCommand(AnimateConfig):
    """Drive an image by a video: the head movements and expressions of the video on the person of the image.

    The change from a reference frame of the video is copied, so the person keeps their own pose and face
    while the driver rests. Sound and timing are those of the video.

      rigface animate me.jpg speech.mp4 out.mp4
      rigface animate me.jpg speech.mp4 out.mp4 --neutral calmest --take pose,expression,light
      rigface animate me.jpg speech.mp4 out.mp4 --absolute --smile 0.3
    """

    def run(self) -> int:
        from pipelines.edit.inputs import start_decoder

        start_decoder()
        from pipelines.edit.job import animate
        from pipelines.edit.report import show

        show(animate(self))
        return 0


@dataclass(frozen=True)
class StripCommand(StripConfig):
    """Show edits of a face as one image: as photographed, the preview, turned, smiling, in another light.

      rigface strip photo.jpg edits.png
      rigface strip clip.mp4 out/faces/edits.png

    `rigface inspect out/faces` shows the second one on its page.
    """

    def run(self) -> int:
        from pipelines.edit.inputs import start_decoder

        start_decoder()
        from pipelines.edit.contact_sheet import write_strip

        for note in write_strip(self):
            print(note)
        print(self.out)
        return 0


@dataclass(frozen=True)
class SlidersCommand:
    """List the numbers an edit can have: names, ranges, and the axes of the named expressions.

      rigface sliders
      rigface sliders --head weights/flame

    With --head: how closely FLAME follows the same names, by the map that is fitted to it.
    """

    head: Annotated[Path | None, arg(metavar="FOLDER")] = None  # Folder of FLAME's released files.

    def run(self) -> int:
        from rich.console import Console

        from pipelines.edit.sliders import flame_table, slider_tables

        console = Console()
        for table in slider_tables() if self.head is None else [flame_table(self.head)]:
            console.print(table)
        return 0


@dataclass(frozen=True)
class VerifyCommand:
    """Tell if images and videos were made here: the signed manifest (C2PA) of the file, and the watermark of its
    pixels.

    Only a valid manifest says that a file was made here. The watermark alone is a hint: it survives what removes a
    manifest (saving as JPEG, scaling, cropping), and its 32 bits find the edit in an audit log.

      rigface verify out.png clip.mp4

    Exit status: 0 if all files were made here, 1 if not.
    """

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE...")]  # Images and videos.
    signing_folder: str = ""  # Folder of the signing key; by default RIGFACE_SIGNING_FOLDER, else the user's own.

    def run(self) -> int:
        from pipelines.edit.verify import verify

        return verify(self.files, self.signing_folder)


COMMANDS = {
    "edit": EditCommand,
    "swap": SwapCommand,
    "animate": AnimateCommand,
    "strip": StripCommand,
    "sliders": SlidersCommand,
    "verify": VerifyCommand,
}

"""The commands `study` and `export`: a dataset of faces for those who study faces, and for other programs."""

import time
from dataclasses import dataclass

from pipelines.export.config import ExportConfig
from pipelines.study.config import StudyConfig


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@dataclass(frozen=True)
class StudyCommand(StudyConfig):
    """Measure the faces of a dataset: 19 action units, left/right asymmetry, gaze, blinks, openings, head velocity.

    study/frames has a row per face, study/tracks a row per track: means, spreads, rates and counts. Everything is
    derived from the dataset; no video or crop is read. Run it again after `extract`: it does what is new. Blinks need
    10 frames a second or more (`rigface extract --fps 25`).

      rigface study out/faces
      rigface study s3://bucket/faces --to s3://bucket/study --workers 16
    """

    def run(self) -> int:
        from pipelines.study.job import study

        counts = study(self, _say)
        place = (self.to or self.faces).rstrip("/")
        print(f"{place}/study: {counts.get('faces', 0):,} faces in {counts.get('tracks', 0):,} tracks measured now")
        return 0


@dataclass(frozen=True)
class ExportCommand(ExportConfig):
    """Write a dataset of faces as the files of other programs.

      openface, pyfeat   a CSV for each input, with the column names of OpenFace 2 or py-feat
      huggingface        Parquet files, images and a card, which `datasets.load_dataset` reads
      webdataset         tar shards
      edit-pairs         source, target and an instruction such as "turn the head 15 degrees to their left; smile more"

    People are in `train` or `test`, never in both. Run the command again after a stop: it goes on.

      rigface export out/faces out/csv --to openface
      rigface export out/faces out/hub --to huggingface --min-confidence 0.5
      rigface export s3://bucket/faces s3://bucket/pairs --to edit-pairs --limit 100000 --workers 16
    """

    def run(self) -> int:
        from pipelines.export.job import export

        counts = export(self, _say)
        written = ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "nothing"
        print(f"{self.dest.rstrip('/')}: {written} written now")
        return 0


COMMANDS = {"study": StudyCommand, "export": ExportCommand}

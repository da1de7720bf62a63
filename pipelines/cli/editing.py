"""The commands that edit: `edit`, `animate`, `strip`, `sliders`."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.edit.config import AnimateJob, EditJob, SlidersJob, StripJob


@dataclass(frozen=True)
class EditCommand(EditJob):
    __doc__ = EditJob.__doc__

    def run(self) -> int:
        from pipelines.edit.console import show
        from pipelines.edit.job import edit

        return show(edit(self))


@dataclass(frozen=True)
class AnimateCommand(AnimateJob):
    __doc__ = AnimateJob.__doc__

    def run(self) -> int:
        from pipelines.edit.console import show
        from pipelines.edit.job import animate

        return show(animate(self))


@dataclass(frozen=True)
class StripCommand(StripJob):
    __doc__ = StripJob.__doc__

    def run(self) -> int:
        from pipelines.edit.contact_sheet import write_strip

        for note in write_strip(self):
            print(note)
        print(self.out)
        return 0


@dataclass(frozen=True)
class SlidersCommand(SlidersJob):
    __doc__ = SlidersJob.__doc__

    def run(self) -> int:
        from rich.console import Console

        from pipelines.edit.console import flame_table, slider_tables

        console = Console()
        for table in slider_tables() if self.head is None else [flame_table(self.head)]:
            console.print(table)
        return 0


COMMANDS = {"edit": EditCommand, "animate": AnimateCommand, "strip": StripCommand, "sliders": SlidersCommand}

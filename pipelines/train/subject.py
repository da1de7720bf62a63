"""The person that a personal recipe learns: the rows that are trained on, and their prompts.

Path: `ExampleIndex` -> `Subject.of` -> rows of `Batches`; a batch's people -> `Subject.texts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipelines.examples.example_index import ExampleIndex
from pipelines.train.trainer_state import TrainerState
from rigface.errors import PlanError
from rigface.model.recipes.dreambooth import class_prompt


class Subject:
    """One person of the training split; `texts` is None if the model has its own prompt."""

    def __init__(self, name: str, rows: list[np.ndarray], texts: Tensor | None) -> None:
        self.name, self.rows, self._texts = name, rows, texts

    @staticmethod
    def of(state: TrainerState, index: ExampleIndex) -> Subject | None:
        """The person that the config names, or who has most examples; None if the recipe is not of one person.

        With a prior, rows of the person are repeated until they are as many as all others. PlanError if there is no
        such person.
        """
        if not state.recipe.personal:
            return None
        everyone_here = np.array(index.table["identity"].to_pylist())
        people = index.by_part(np.where(index.is_of("train"), everyone_here, ""))
        counts = Counter(str(name) for part in people for name in part if name)
        name = state.config.subject or max(sorted(counts), key=counts.__getitem__, default="")
        if not counts[name]:
            raise PlanError(
                f"--subject: no example to learn from shows {name!r}; there are {', '.join(sorted(counts)[:8])} ..."
            )
        own = [np.flatnonzero(part == name) for part in people]
        if not state.recipe.prior:
            return Subject(name, own, None)
        others = [np.flatnonzero((part != name) & (part != "")) for part in people]
        repeats = max(1, round(sum(map(len, others)) / counts[name]))
        rows = [np.concatenate([np.tile(mine, repeats), rest]) for mine, rest in zip(own, others)]
        encoder = state.loaded.text_encoder
        assert encoder is not None  # or the recipe would not have been built
        encoder.model.to(state.device)
        everyone = encoder([class_prompt(state.options)])[0]
        return Subject(name, rows, torch.stack([everyone, state.inner.default_text.to(everyone)]))

    def texts(self, people: Sequence[str]) -> Tensor | None:
        """(B, L, D) embeddings of the prompts of a batch's people."""
        return None if self._texts is None else self._texts[[int(name == self.name) for name in people]]

"""The floor of partial tuning: all is frozen but the layers that take the conditions."""

from rigface.model.recipes.rigface import RigFaceRecipe

RECIPE = RigFaceRecipe("inputs")

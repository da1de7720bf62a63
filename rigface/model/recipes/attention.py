"""The attention layers and the layers that take the conditions."""

from rigface.model.recipes.rigface import RigFaceRecipe

RECIPE = RigFaceRecipe("attention")

"""Recipes: ways to personalise a diffusion model. One file is one recipe; `protocol.py` says what it has to offer."""

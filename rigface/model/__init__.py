"""Diffusion model: conditions in, picture out. Depends on diffusers, and on nothing of faces, heads or detectors."""

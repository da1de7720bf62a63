"""Frames in, faces as numbers out, and back to pictures. Knows nothing of the model that imagines."""

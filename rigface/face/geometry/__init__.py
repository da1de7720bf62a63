"""Rotations, cameras, landmarks, alignment and meshes."""

"""Embed faces and cluster them by person."""

"""Rasterise and light a head."""

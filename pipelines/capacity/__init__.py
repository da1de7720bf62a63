"""Estimates and simulations of large extractions: `rigface forecast`."""

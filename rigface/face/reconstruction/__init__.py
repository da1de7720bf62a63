"""Fit shape, pose, expression, albedo and light to a face; segment and score it."""

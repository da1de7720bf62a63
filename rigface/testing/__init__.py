"""Fakes of every boundary, for tests and benchmarks."""

"""Structured logs and metrics, shared by jobs and service."""

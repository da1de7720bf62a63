"""Watermark, sign and verify edited images and videos."""

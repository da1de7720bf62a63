"""Files on disk and on S3: one interface, read-ahead, locks and the local copies of remote models."""

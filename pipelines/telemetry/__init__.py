"""Log events, metrics and the worker process of the jobs."""

"""The editing service: Ray Serve deployments, an HTTP API and the editor page. `python -m serve` starts it.

Inside this package the bare name `serve` means Ray's; our own modules are reached as `serve.schemas`, in `from` imports
only.
"""

"""The editing service: Ray Serve deployments, an HTTP door, and the editor page. `python -m serve` starts it.

    api       wire types, derived from `rigface.edits` and `rigface.types`     problems  errors as RFC 9457 documents
    incoming  a request's bytes -> typed, bounded, hashed                      limits    sizes, rates, concurrency
    door      HTTP in, HTTP out; no torch                                      eye       sees, previews, pastes; caches
    painter   the model; requests join and leave between denoising steps       app       the three as Ray deployments

Inside this package the bare name `serve` means Ray's; our own modules are reached as `serve.schemas`, in `from` imports
only.
"""

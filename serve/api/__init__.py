"""The HTTP side: routes, middleware, request parsing and limits."""

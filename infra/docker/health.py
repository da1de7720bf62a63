"""Is this container well? Asks the address in RIGFACE_HEALTH_URL, by default the service's own; docker's HEALTHCHECK runs it.

A container that does something else says what to ask (a Ray node: http://127.0.0.1:52365/api/healthz), or sets the variable
empty where nothing listens, as in a job: then it is well as long as it runs. Kubernetes has probes of its own and does not use this.
"""

import os
import sys
import urllib.error
import urllib.request

SERVICE = "http://127.0.0.1:8000/healthz"


def main() -> int:
    """0 where it is well."""
    url = os.environ.get("RIGFACE_HEALTH_URL", SERVICE)
    if not url:
        return 0
    try:
        with urllib.request.urlopen(url, timeout=4) as answer:
            return int(answer.status != 200)
    except (OSError, urllib.error.URLError, ValueError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

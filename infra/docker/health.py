"""Health check of the container: requests RIGFACE_HEALTH_URL, by default the address of the service.

Run by HEALTHCHECK. Other containers set the address (a Ray node: http://127.0.0.1:52365/api/healthz). A job, in which
nothing listens, sets the variable empty: it is healthy as long as it runs. Kubernetes has its own probes and does not
use this file.
"""

import os
import sys
import urllib.error
import urllib.request

SERVICE = "http://127.0.0.1:8000/healthz"


def main() -> int:
    """Return 0 if the container is healthy, else 1."""
    url = os.environ.get("RIGFACE_HEALTH_URL", SERVICE)
    if not url:
        return 0
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the container asks itself
        with direct.open(url, timeout=4) as response:
            return int(response.status != 200)
    except (OSError, urllib.error.URLError, ValueError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

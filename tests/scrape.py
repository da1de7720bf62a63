"""Scrape the metrics of the cluster in this process, relabelled as by infra/observability."""

import re
import time
import urllib.request
from collections.abc import Callable, Sequence

PATIENCE_S = 30  # numbers reach the endpoint some seconds after they were told


def scraped(want: Sequence[str] = (), until: Callable[[str], bool] = lambda text: True) -> str:
    """Text of all nodes' endpoints, `ray_rigface_` made `rigface_`, once it has the series `want` and `until` holds."""
    import ray

    end = time.monotonic() + PATIENCE_S
    while True:
        pages = []
        for node in ray.nodes():
            if node["Alive"]:
                address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
                with urllib.request.urlopen(address, timeout=5) as page:
                    pages.append(page.read().decode())
        text = re.sub(r"\bray_rigface_", "rigface_", "\n".join(pages))
        missing = [name for name in want if not re.search(rf"^{name}[{{ ]", text, re.M)]
        if not missing and until(text):
            return text
        if time.monotonic() > end:
            raise AssertionError(f"not to be seen within {PATIENCE_S} s: {missing or 'what was waited for'}")
        time.sleep(0.3)


def total(text: str, series: str, **labels: str) -> float:
    """Sum over all rows of a series with these labels."""
    rows = re.findall(rf"^{series}(\{{[^}}]*\}})? (\S+)$", text, re.M)
    return sum(float(value) for found, value in rows if all(f'{k}="{v}"' in found for k, v in labels.items()))

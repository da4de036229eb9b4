"""`brokage up` whose services reach their servers through links. All else is that of any local run.

python -m infra.faults.linked_run DATA_DIR PORT LINKS    with LINKS as JSON, {"orders": 4711, ...}
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from infra.runtime.failures import RuntimeFailure
from infra.runtime.local import LocalRun, Options
from infra.servers import DATABASES

# link -> (variable that names its server to the services, the server's name among the ports)
LINKS: dict[str, tuple[str, str]] = {key: (variable, "postgres") for _, variable, key in DATABASES.values()} | {
    "cache": ("BROKAGE_REDIS_URL", "valkey"),
    "broker": ("BROKAGE_BROKER_URL", "valkey"),
    "mongo": ("BROKAGE_MONGO_URL", "mongo"),
}
POSTGRES_LINKS = tuple(key for _, _, key in DATABASES.values())


def with_port(url: str, port: int) -> str:
    """The same URL at another port."""
    parts = urlsplit(url)
    credentials, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}{parts.hostname}:{port}"))


def through_links(environment: Mapping[str, str], links: Mapping[str, int]) -> dict[str, str]:
    """The settings with the URL of every server replaced by that of its link."""
    bent = {variable: with_port(environment[variable], links[link]) for link, (variable, _) in LINKS.items()}
    return {**environment, **bent}


class LinkedRun(LocalRun):
    def __init__(self, options: Options, links: Mapping[str, int]) -> None:
        super().__init__(options)
        self._links = links

    def start_servers(self) -> dict[str, str]:
        return through_links(super().start_servers(), self._links)


def main(data_dir: str, port: str, links: str) -> None:
    try:
        LinkedRun(Options(Path(data_dir), int(port), demo=True), json.loads(links)).run()
    except RuntimeFailure as failure:
        print(f"brokage: {failure}", file=sys.stderr)
        sys.exit(failure.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""`python -m infra.mongo_server --data-file PATH --port N`: prints `listening <port>` when ready."""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from infra.mongo_server.expiry import SWEEP_SECONDS
from infra.mongo_server.server import Server
from infra.mongo_server.storage import Storage
from infra.runtime import collector

_SWITCH_SECONDS = 0.002  # a small find does not wait long behind a bulk insert's computing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.mongo_server", description="Local document server.")
    parser.add_argument("--data-file", type=Path, required=True, help="the SQLite file that holds everything")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--sweep-seconds", type=float, default=SWEEP_SECONDS, help="between removals of expired data")
    options = parser.parse_args()
    sys.setswitchinterval(_SWITCH_SECONDS)
    os.umask(0o077)  # what is stored is nobody else's business
    try:
        options.data_file.parent.mkdir(parents=True, exist_ok=True)
        storage = Storage(options.data_file)
        server = Server(storage, options.port, sweep_seconds=options.sweep_seconds)
    except (OSError, ValueError) as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 1

    def stop(signal_number: int, frame: FrameType | None) -> None:
        server.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    collector.tune()
    print(f"listening {server.port}", flush=True)
    worker = threading.Thread(target=server.serve, name="serve")
    worker.start()
    worker.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The local runtime and its command line: servers, supervision, migrations, seeds."""

import sys

# Said here, in words every Python understands, before a newer syntax in some module is reported instead.
if sys.version_info[:2] < (3, 11):  # noqa: UP036
    sys.stderr.write("brokage: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "\n")
    sys.exit(2)

"""What `machine.owner_state` runs with the rights of the machine's owner: one look, printed as JSON."""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Print the list's row of the machine that the argument names."""
    from qvmsh.machine.overview import list as listing

    each = listing.look(sys.argv[1], os.path.basename(sys.argv[1]), os.environ)
    json.dump(each.as_json(), sys.stdout)


if __name__ == "__main__":
    main()

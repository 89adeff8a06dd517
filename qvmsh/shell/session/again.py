"""A xonsh script as `__main__` of a child of multiprocessing; see `shell.children`.

May import: `shell.children`.
"""

from __future__ import annotations

if __name__ == "__mp_main__":
    from qvmsh.shell.session import children

    children.run_again(globals())

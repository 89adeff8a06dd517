"""Where the history of all sessions is kept; a file that cannot be used never stops a shell.

path = database("history.sqlite", io)
"""

from __future__ import annotations

import contextlib
import os

from qvmsh.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.io import Io


def plain(name: str, io: Io) -> str | None:
    """The path of a history for this user only: lines may hold secrets. None if it cannot be kept."""
    try:
        return _made(name)
    except OSError as error:
        _warn(io, _path(name), error)
        return None


def database(name: str, io: Io) -> str:
    """As `plain`, a SQLite database; where it cannot be kept, one that lasts as long as this session.

    xonsh's threads and two shells at once would each make it a WAL database, which fails where
    another has it open ("database is locked"); so it is one from the beginning. A shell that
    comes second takes the file of the first.
    """
    import sqlite3

    try:
        path = _made_database(name)
        _check(path)
        return path
    except (OSError, sqlite3.Error) as error:
        _warn(io, _path(name), error)
        return _for_this_session(name)


def _warn(io: Io, path: str, error: Exception) -> None:
    import sqlite3

    why = error.strerror if isinstance(error, OSError) else str(error)
    where = error.filename if isinstance(error, OSError) and error.filename else path
    text = f"the history cannot be saved: {printable(str(where))}: {why}"
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        text += f" (`mv {path} {path}.damaged`, and the next shell starts a new one)"
    io.warn(text)


def _path(name: str) -> str:
    base = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(base, "qvm", name)


def _made(name: str) -> str:
    path = _path(name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    return path


def _made_database(name: str) -> str:
    path = _path(name)
    if not os.path.exists(path):
        import sqlite3
        import tempfile

        os.makedirs(os.path.dirname(path), exist_ok=True)
        with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
            new = os.path.join(folder, name)
            os.close(os.open(new, os.O_CREAT | os.O_WRONLY, 0o600))
            made = sqlite3.connect(new)
            made.execute("PRAGMA journal_mode=WAL")
            made.execute("PRAGMA user_version=1")
            made.close()
            with contextlib.suppress(OSError):  # another shell was faster; or no links here: xonsh makes it
                os.link(new, path)
    return _made(name)


def _check(path: str) -> None:
    """Raise the error that xonsh would get later, in the middle of a line.

    sqlite3.Error: it is damaged, or cannot be written.
    """
    import sqlite3

    found = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        damage = found.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise sqlite3.DatabaseError(f"it is damaged: {damage}")
        found.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise
    finally:
        found.close()


def spare_xonsh_folders() -> None:
    """Give xonsh temporary folders if those in the home directory cannot be made: it would not start."""
    for name, base, usual in (
        ("XONSH_CONFIG_DIR", "XDG_CONFIG_HOME", "~/.config"),
        ("XONSH_DATA_DIR", "XDG_DATA_HOME", "~/.local/share"),
        ("XONSH_CACHE_DIR", "XDG_CACHE_HOME", "~/.cache"),
    ):
        path = os.environ.get(name) or os.path.join(os.environ.get(base) or usual, "xonsh")
        try:
            os.makedirs(os.path.expanduser(path), exist_ok=True)
        except OSError:
            os.environ[name] = _for_this_session(name)


def _for_this_session(name: str) -> str:
    """A path in a folder that is removed with this process."""
    import atexit
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="qvm-shell-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return os.path.join(folder, name)

"""The state of another account's machine for root's list, read by a process with that account's rights.

    look("/home/guido/vm/demo", guido, os.environ)    # {"machine": "demo", "state": "running", ...}

The account controls that process, so its answer is limited in time and size, and checked before use.
The process runs `machine.overview.owner_state_main`.
"""

from __future__ import annotations

import json
import os
import subprocess

from qvmsh.errors import QvmError
from qvmsh.host import run_as_account

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from qvmsh.host.accounts import Account

DEADLINE_S = 20.0
ANSWER_BYTES = 65536


def look(directory: str, account: Account, environ: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of `listing.Listed` for one machine.

    Raises:
        QvmError: it does not answer, or its answer is invalid.
    """
    why = account.obstacle(directory)
    interpreters, own = run_as_account.qvm(account, environ)
    for interpreter in interpreters if not why else ():
        try:
            return _checked(_asked(interpreter, directory, account, own), directory)
        except subprocess.TimeoutExpired:
            why = f"no answer within {DEADLINE_S:.0f} s"
            break
        except OSError as error:
            why = error.strerror or str(error)
        except (ValueError, KeyError, TypeError):
            why = "its answer is invalid"
    raise QvmError(f"cannot be inspected as {account.name}: {why}")


def _asked(interpreter: str, directory: str, account: Account, environ: dict[str, str]) -> bytes:
    reader, writer = os.pipe()
    with open(reader, "rb") as pipe, open(writer, "wb") as end:
        child = subprocess.Popen(
            [interpreter, "-P", "-m", "qvmsh.machine.overview.owner_state_main", directory],
            user=account.uid,
            group=account.gid,
            extra_groups=account.groups,
            env=environ,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=end,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end.close()
        try:
            child.wait(DEADLINE_S)  # all that we take fits into the pipe
            os.set_blocking(reader, False)
            return pipe.read(ANSWER_BYTES) or b""
        finally:
            child.kill()
            child.wait()


def _checked(answer: bytes, directory: str) -> dict[str, Any]:
    found = json.loads(answer)
    kinds: dict[str, tuple[type, ...]] = {
        "machine": (str,), "state": (str,), "detail": (str,), "labels": (list,), "pid": (int, type(None)),
        "hint": (str, type(None)), "requires": (list,), "vcpus": (int, type(None)),
        "memory_mib": (int, type(None)), "accelerator": (str, type(None)), "uptime_s": (float, type(None)),
        "ssh_port": (int, type(None)),
    }  # fmt: skip
    for name, allowed in kinds.items():
        if not isinstance(found[name], allowed):
            raise TypeError(name)
    words = {name: [str(each) for each in found[name]] for name in ("labels", "requires")}
    return {name: found[name] for name in kinds} | words | {"directory": directory}

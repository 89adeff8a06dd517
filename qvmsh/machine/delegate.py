"""Starting a machine as its owner, by a process of that account.

May import: `machine`, `host`; `json`, `subprocess`.

    perform(vm, account, "start", request, ssh_attempts=None, is_waiting=True)     # Started

The process is `python -m qvmsh.machine.delegate ORDER FD`: it has the account's rights and nothing of
root's, does what the order says, and writes its report, or its error, as JSON to FD.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict

from qvmsh import errors
from qvmsh.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED, QvmError, StateError, Terminated
from qvmsh.host import process
from qvmsh.io import Io
from qvmsh.machine import owner, reports
from qvmsh.machine.machine import Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from qvmsh.host.accounts import Account
    from qvmsh.machine.lifecycle import Request

INTERPRETERS = ("/usr/bin/python3", "/usr/local/bin/python3")
"""Tried where the owner may not run root's own Python (one in root's home)."""


def perform(vm: Machine, account: Account, verb: str, request: Request, **how: Any) -> Any:
    """Run `start` or `run` as `account`; its report is returned, its error raised.

    Args:
        how: the keyword arguments of `lifecycle.start`.
    """
    owner.prepare(vm, account)
    vm.io.begin_line()
    order = {
        "directory": vm.directory,
        "overrides": vm.overrides,
        "verb": verb,
        "request": asdict(request),
        "how": how,
        "level": vm.io.level if not vm.io.capture or vm.io.json else 0,
        "debug": vm.io.debug,
        "capture": vm.io.capture,
    }
    reader, writer = os.pipe()
    try:
        child = _begin(vm, account, order, writer, is_foreground=verb == "run")
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    with open(reader, "rb") as pipe:
        answer = _await(vm, child, pipe.fileno(), is_foreground=verb == "run")
    if child.returncode == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if child.returncode == EXIT_TERMINATED:
        raise Terminated
    return _report(vm, account, answer)


def _begin(
    vm: Machine, account: Account, order: dict[str, Any], writer: int, *, is_foreground: bool
) -> subprocess.Popen[bytes]:
    words = ["-P", "-m", "qvmsh.machine.delegate", json.dumps(order), str(writer)]
    why = ""
    for interpreter in dict.fromkeys((sys.executable, *INTERPRETERS)):
        try:
            return subprocess.Popen(
                [interpreter, *words],
                user=account.uid,
                group=account.gid,
                extra_groups=account.groups,
                env=account.environment(vm.environ) | {"PYTHONPATH": os.pathsep.join(_packages())},
                cwd="/",  # it goes into the machine's directory with its own rights
                pass_fds=[writer],
                stdin=None if is_foreground else subprocess.DEVNULL,
                stdout=None if is_foreground else subprocess.DEVNULL,
                start_new_session=not is_foreground,  # the terminal is root's
            )
        except OSError as error:
            why = why or f"{interpreter}: {error.strerror}"
    raise _cannot(vm, account, why)


def _packages() -> list[str]:
    """Where qvm and the packages that it needs are; another interpreter would not look there."""
    own = os.path.dirname(os.path.dirname(errors.__file__))
    return list(
        dict.fromkeys([own, *(each for each in sys.path if os.path.basename(each) == "site-packages")])
    )


def _cannot(vm: Machine, account: Account, why: str) -> QvmError:
    return QvmError(
        f"qvm cannot run as {account.name}, whose machine this is: {why}",
        machine=vm.name,
        hint=f"install qvm where {account.name} may read it, or set VM_MACHINE_OWNER=root",
    )


def _await(vm: Machine, child: subprocess.Popen[bytes], pipe: int, *, is_foreground: bool) -> bytes:
    """All that the process writes until it ends; whoever interrupts us interrupts it."""
    answer = b""
    checkpoint: Callable[[], None] | None = vm.io.checkpoint
    while True:
        try:
            if process.wait_readable([pipe], None, checkpoint) is not None:
                data = os.read(pipe, 65536)
                if not data:
                    child.wait()
                    return answer
                answer += data
        except KeyboardInterrupt:
            checkpoint = None  # told once; now it comes to its end
            if not is_foreground:  # else the terminal has told it, and it decides
                child.send_signal(process.SIGINT)
        except Terminated:
            checkpoint = None
            child.send_signal(process.SIGTERM)


def _report(vm: Machine, account: Account, answer: bytes) -> Any:
    """The report that the process has made.

    Raises:
        QvmError: the error that it met; or it ended without an answer that means something: what
            another account says is looked at before it is believed.
    """
    try:
        found = json.loads(answer)
        result = _made(found) if "report" in found else _met(found)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _cannot(vm, account, "it ended without an answer; its words are above") from None
    if isinstance(result, QvmError):
        raise result
    return result


def _made(found: dict[str, Any]) -> reports.Report:
    kinds: dict[str, type[reports.Report]] = {"Started": reports.Started, "Ended": reports.Ended}
    kind = kinds[found["kind"]]
    report = kind.__new__(kind)
    for name in kind.__slots__:
        setattr(report, name, found["report"][name])
    return report


def _met(found: dict[str, Any]) -> QvmError:
    told = found["error"]
    words: dict[str, Any] = {key: told[key] for key in ("machine", "hint", "details")}
    kind = vars(errors)[told["kind"]]
    if not issubclass(kind, QvmError):
        raise TypeError(kind)
    if issubclass(kind, StateError):
        words |= {"actual": found["actual"], "required": found["required"]}
    error: QvmError = kind(str(told["message"]), **words)
    error.status = int(told["status"])
    error.is_logged = True
    return error


def main() -> int:
    """Do what the order says, as whoever this process is."""
    from _signal import SIGTERM, signal

    def terminate(_number: int, _frame: object) -> NoReturn:
        raise Terminated

    signal(SIGTERM, terminate)
    os.environ.pop("PYTHONPATH", None)  # it was for us
    order, fd = json.loads(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(fd, False)  # QEMU must not keep it open
    try:
        answer: dict[str, Any] = _perform(order)
    except QvmError as error:
        answer = {"error": error.as_json()}
        answer |= {name: getattr(error, name, None) for name in ("actual", "required")}
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Terminated:
        return EXIT_TERMINATED
    with open(fd, "w") as pipe:
        json.dump(answer, pipe)
    return EXIT_FAILED if "error" in answer else 0


def _perform(order: dict[str, Any]) -> dict[str, Any]:
    from qvmsh.machine import lifecycle

    directory = order["directory"]
    try:
        os.chdir(directory)
    except OSError as error:
        account = process.user_name(os.geteuid())
        raise QvmError(
            f"{account}, whose machine this is, cannot enter {directory}: {error.strerror}",
            machine=os.path.basename(directory),
            hint=f"every folder above must let {account} through; or set VM_MACHINE_OWNER=root",
        ) from None
    io = Io(level=order["level"], debug=order["debug"], capture=order["capture"])
    vm = Machine(directory, io=io, overrides=[(name, value) for name, value in order["overrides"]])
    told: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in order["request"].items()
    }
    request = lifecycle.Request(**told)
    if order["verb"] == "run":
        report: reports.Report = lifecycle.run(vm, request)
    else:
        report = lifecycle.start(vm, request, **order["how"])
    values = {name: getattr(report, name) for name in report.__slots__}
    return {"kind": type(report).__name__, "report": values}


if __name__ == "__main__":
    raise SystemExit(main())

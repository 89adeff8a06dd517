"""QEMU's human monitor, asked through QMP (one-shot path).

human_command(vm, "info status")      # 'VM status: running\n'
"""

from __future__ import annotations

from qvmsh.errors import QmpError, UsageError
from qvmsh.machine import state
from qvmsh.machine.monitor import conversation
from qvmsh.qemu import qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine

FAILURES = ("Error: ", "unknown command: ", "invalid ", "Expecting ", "Parameter ")


OPTIONS = ("-v", "--verbose", "-q", "--quiet", "-C", "-M", "--json", "--debug", "-h", "--help")
"""Options of qvm that belong to HMP after its first word."""


def gone(vm: BaseMachine, pid: int, what: str, error: OSError) -> QmpError:
    """The error for a QEMU that does not answer a command any more."""
    if isinstance(error, TimeoutError | qmp.Nonsense):
        hint = "`qvm status` shows its state; it may still be working on that"
        return QmpError(f"QEMU (pid {pid}) does not answer {what}: {error}", machine=vm.name, hint=hint)
    return QmpError(f"QEMU (pid {pid}) went away during {what}", machine=vm.name)


def human_command(vm: BaseMachine, line: str, *, processor: int | None = None) -> str:
    """Execute one HMP line and return QEMU's answer, its line ends as this system has them.

    Args:
        line: the monitor command.
        processor: the one that HMP's `cpu` chose; it counts for one line only.

    Raises:
        StateError: there is no QEMU.
        QmpError: the monitor does not answer, or QEMU's text says that the command failed.
    """
    if not line.strip():
        raise UsageError("cmd: no monitor command given", machine=vm.name, hint="`qvm cmd help` lists them")
    pid, note = state.reachable(vm, "send a monitor command")
    with state.Answering(vm):
        exchange = conversation.begin(note)
    try:
        chosen = {} if processor is None else {"cpu-index": processor}
        text = exchange.ask(
            "human-monitor-command", {"command-line": line} | chosen, timeout_s=qmp.patience_s(line)
        )
    except OSError as error:
        if line.split(None, 1)[0] not in ("quit", "q"):
            raise gone(vm, pid, f"`{line}`", error) from None
        text = ""
    finally:
        exchange.close()
    if line.split(None, 1)[0] == "loadvm":
        from qvmsh.machine.guest import ssh as guest

        guest.close(vm, note)  # the loaded guest does not know the connection: it would hang
    answer: str = text.replace("\r\n", "\n")
    if answer.startswith(FAILURES) or 'Try "help ' in answer or "extraneous characters" in answer:
        words = answer.strip().splitlines()
        option = next((word for word in line.split()[1:] if word in OPTIONS), "")
        hint = f"qvm's own options go before the first word: `qvm cmd {option} ...`" if option else ""
        raise QmpError(
            words[0].removeprefix("Error: "),
            machine=vm.name,
            details=words[1:],
            hint=hint or "`qvm cmd help` lists them",
            error_class="GenericError",  # QEMU's own refusal, so that nobody waits for its end
        )
    return answer

"""`qvm monitor`: a dialogue with QEMU, line by line, on a terminal or through a pipe.

    Dialogue(vm, has_qmp=False).hold()      # exit status

Each line is a conversation of its own on the one-shot socket, so that a monitor that stays open for
days is in nobody's way. Events come by a connection of their own, the socket `events`, which one
client has at a time: a second monitor works without them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import time

from qvmsh.errors import EXIT_FAILED, QmpError, QvmError, StateError, UsageError, printable
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.io import isatty, tell
from qvmsh.machine import crash, registry, state
from qvmsh.machine.monitor import conversation
from qvmsh.machine.monitor import hmp as monitor
from qvmsh.machine.monitor import qmp as control
from qvmsh.machine.work import cleanup
from qvmsh.qemu import hmp_help, qmp
from qvmsh.qemu.qmp_schema import Schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from qvmsh.machine.machine import BaseMachine

EVENTS_S = 5.0
QUESTION_S = 5.0
END_S = 10.0
SECRET = ("set_password", "expire_password", "change vnc", "set-password", "change-vnc-password")


class Dialogue:
    """A monitor's session.

    Args:
        has_qmp: QMP instead of HMP.
    """

    def __init__(self, vm: BaseMachine, *, has_qmp: bool) -> None:
        self.vm = vm
        self.has_qmp = has_qmp
        self.processor: int | None = None
        self.pid, self.note = state.require_live(vm, "open the monitor")

    def hold(self) -> int:
        """Talk until the input ends, or QEMU does; return the exit status."""
        if isatty(self.vm.io.stdin) and isatty(self.vm.io.stdout):
            return self._on_terminal()
        return self._in_pipe()

    def ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """One internal QMP question."""
        return qmp.ask(self.note.socket("qmp"), command, arguments, timeout_s=QUESTION_S)

    def answer(self, line: str, *, is_pretty: bool) -> str:
        """QEMU's answer to one line.

        Raises:
            QmpError, UsageError: QEMU refused it; it cannot be understood.
            StateError: there is no QEMU any more.
        """
        if self.has_qmp:
            request = self.schema.request(line)
            value = self._execute(request["execute"], request.get("arguments"))
            return json.dumps(value, indent=2 if is_pretty else None, ensure_ascii=False)
        text = monitor.human_command(self.vm, line, processor=self.processor)
        words = line.split()
        if words[0] == "cpu" and len(words) == 2:  # through QMP it counts for one line only
            self.processor = int(words[1])
        return text.rstrip("\n")

    def _execute(self, command: str, arguments: dict[str, Any] | None) -> Any:
        state.require_live(self.vm, "send a QMP command")
        with state.Answering(self.vm):
            exchange = conversation.begin(self.note)
        with exchange:
            return control.ask(self.vm, exchange, self.pid, command, arguments or {})

    @functools.cached_property
    def schema(self) -> Schema:
        return Schema(self.ask("query-qmp-schema"))

    def _in_pipe(self) -> int:
        """Each line of standard input, its answer to standard output; a failing one does not end it."""
        status = 0
        for number, line in enumerate(self.vm.io.stdin, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                text = self.answer(line.strip(), is_pretty=False)
            except StateError:
                raise
            except QvmError as error:
                status = EXIT_FAILED
                tell(self.vm.io.stderr, f"qvm: {self.vm.name}: line {number}: {_message(error)}")
                continue
            if text:
                self.vm.io.write(text + "\n")
        return status

    def _on_terminal(self) -> int:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.patch_stdout import patch_stdout

        language = "qmp" if self.has_qmp else "hmp"
        session: PromptSession[str] = PromptSession(
            f"{self.vm.name} {language}> ",
            completer=_completer(self),
            complete_while_typing=False,
            history=_history(self.vm, language),
            enable_history_search=True,
        )
        ways = "`help` lists the commands, " if not self.has_qmp else "`query-commands` lists the commands, "
        tell(self.vm.io.stdout, f"{self.vm.name}: QEMU's monitor; {ways}Tab completes, Ctrl-D leaves")
        with patch_stdout(raw=True):
            events = _Events(self, session)
            try:
                self._prompt(session, events)
            finally:
                events.close()
        return 0

    def _prompt(self, session: Any, events: _Events) -> None:
        """One line after the other, until Ctrl-D or QEMU's end."""
        while True:
            try:
                line = session.prompt(pre_run=events.end_prompt).strip()
            except KeyboardInterrupt:  # clears the line, as in a shell
                continue
            except EOFError:
                if events.has_ended:
                    with contextlib.suppress(ProcessLookupError), process.Process(self.pid) as qemu:
                        qemu.wait(END_S)
                self._say_if_ended()
                return
            if not line:
                continue
            try:
                text = self.answer(line, is_pretty=True)
            except StateError:
                self._say_if_ended()
                return
            except QvmError as error:
                tell(self.vm.io.stdout, _message(error))
            except KeyboardInterrupt:
                tell(self.vm.io.stdout, "no longer waiting; QEMU may still be working on it")
            else:
                if text:
                    tell(self.vm.io.stdout, _shown(text))
            if self._say_if_ended():
                return

    def _say_if_ended(self) -> bool:
        """True, with a message, if QEMU has ended."""
        seen = state.observe(self.vm)
        if seen.is_live:
            return False
        tell(self.vm.io.stdout, f"[{self.vm.name}: {printable(crash.last_words(self.vm))}]")
        cleanup.tidy(self.vm)
        return True


def _message(error: QvmError) -> str:
    hint = f" ({error.hint})" if error.hint and isinstance(error, UsageError) else ""
    return "\n".join([printable(error.what) + hint, *map(printable, error.details)])


def _shown(text: str) -> str:
    """A text of QEMU for a terminal; names of a guest are in some of them."""
    return "\n".join(printable(line.expandtabs()) for line in text.split("\n"))


class _Events:
    """Shows QEMU's events above the prompt as they come, and ends the prompt when QEMU ends."""

    def __init__(self, dialogue: Dialogue, session: Any) -> None:
        self._session = session
        self._exchange: qmp.Exchange | None = None
        self.has_ended = False
        """QEMU has closed the conversation; its process may live a moment longer."""
        try:
            self._exchange = conversation.begin(dialogue.note, "events", timeout_s=EVENTS_S)
        except TimeoutError:
            tell(dialogue.vm.io.stdout, "events are not shown: another session receives them")
        except OSError:
            tell(dialogue.vm.io.stdout, "events are not shown: this QEMU has no socket for them")
        else:
            threading.Thread(target=self._follow, args=(self._exchange,), daemon=True).start()

    def _follow(self, exchange: qmp.Exchange) -> None:
        try:
            while True:
                event = exchange.event()
                seconds = event.get("timestamp", {}).get("seconds")
                stamp = time.strftime("%T", time.localtime(seconds))
                data = f" {json.dumps(event['data'], ensure_ascii=False)}" if "data" in event else ""
                print(f"{stamp} {printable(event['event'] + data)}", flush=True)
        except (OSError, ValueError, OverflowError):
            pass
        if self._exchange is None:
            return
        self.has_ended = True
        app = self._session.app
        if app.is_running and app.loop:
            with contextlib.suppress(RuntimeError):  # the prompt has just been left
                app.loop.call_soon_threadsafe(self.end_prompt)

    def end_prompt(self) -> None:
        """Leave the prompt if QEMU has ended; also called as it opens, for an end between two prompts."""
        app = self._session.app
        if self.has_ended and app.is_running and not app.future.done():
            app.exit(exception=EOFError)

    def close(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.shut()


def _completer(dialogue: Dialogue) -> Any:
    from prompt_toolkit.completion import Completer, Completion

    human = functools.partial(monitor.human_command, dialogue.vm)
    of_hmp = hmp_help.Completions(human, dialogue.ask)

    class Monitor(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Iterator[Completion]:
            line = document.text_before_cursor
            begun = 0 if not line or line[-1].isspace() else len(line.split()[-1])
            try:
                if dialogue.has_qmp:
                    found = [hmp_help.Word(text) for text in dialogue.schema.completions(line)]
                else:
                    found = of_hmp.of(line)
            except (QvmError, OSError):
                return
            for word in found:
                yield Completion(word.text, -begun, display_meta=word.meaning or None)

    return Monitor()


def _history(vm: BaseMachine, language: str) -> Any:
    """The lines of this user's earlier monitors; without secrets, and what begins with a blank."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    listed = registry.list_file(vm.environ)
    if listed is None:
        return InMemoryHistory()
    path = os.path.join(os.path.dirname(listed), f"history-{language}")
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(host_files.opened(path, os.O_RDWR | os.O_CREAT))
    except OSError as error:
        vm.io.trace(f"no history: {error}")
        return InMemoryHistory()

    class History(FileHistory):
        def store_string(self, string: str) -> None:
            if not string.startswith((" ", *SECRET)) and "password" not in string:
                super().store_string(string)

    return History(path)


def hold(vm: BaseMachine, *, has_qmp: bool) -> int:
    """Open the monitor; see `commands.monitor`.

    Raises:
        StateError: the machine is not running.
        QmpError: QEMU does not answer.
    """
    if vm.io.json:
        raise UsageError("monitor: --json does not apply here", hint="`qvm --json cmd LINE`, or `--qmp`")
    try:
        return Dialogue(vm, has_qmp=has_qmp).hold()
    except (QmpError, BrokenPipeError):
        raise
    except OSError as error:
        raise state.silent(vm) from error

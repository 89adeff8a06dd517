"""The one-shot door: parse, find the machine, call, render, exit status.

main(["status", "-s"])      # 0
"""

from __future__ import annotations

import os
import sys

from qvmsh import errors
from qvmsh.cli import parse
from qvmsh.errors import DeadlineError, GuestUnreachableError, QmpError, QvmError, Terminated, UsageError
from qvmsh.io import Io, tell, unwritable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from qvmsh.cli.parse import Bound
    from qvmsh.host.accounts import Account
    from qvmsh.machine.machine import BaseMachine

JSON_VERSION = 1
"""Version of the output of `--json`; it changes when a key is removed or changes its meaning."""


def main(argv: Sequence[str] | None = None, call: Call | None = None) -> int:
    """Run one command line and return its exit status."""
    _open_standard_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    call = call or Call()
    call.has_json = "--json" in words
    _catch_sigterm()
    if "QVM_NEWS" in os.environ:
        from qvmsh.machine import registry

        registry.take_news(os.environ)
    for stream in (sys.stdout, sys.stderr):  # names of files are printed as they are, UTF-8 or not
        stream.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # a TextIOWrapper
    return call.perform(words)


def _catch_sigterm() -> None:
    from _signal import SIGTERM, signal

    def handler(_number: int, _frame: object) -> NoReturn:
        raise Terminated

    try:
        signal(SIGTERM, handler)
    except ValueError:  # not the main thread: its owner decides
        pass


BY_ROOT = frozenset({
    "allow", "config", "config edit", "dryrun", "env", "init", "logs", "serial", "status", "stderr", "stdout",
})  # fmt: skip
"""What root does itself in a directory that root owns, even if VM_MACHINE_OWNER is another account."""
PLACING = frozenset(("config", "create", "import", "restore"))
"""Commands whose words may be other paths."""
FOREIGN = frozenset(("cmd", "config", "dryrun", "env", "logs", "qmp", "serial", "stderr", "stdout"))
"""Commands whose output is QEMU's, the guest's, or in the user's own words."""


class Call:
    """One command line on its way through the door; the shell's words are such calls too."""

    def __init__(self) -> None:
        self.io = Io()
        self.verb = ""
        self.has_json = False
        self.machine_name: str | None = None
        self._opened: BaseMachine | None = None  # by root, to see whose it is

    def perform(self, words: list[str]) -> int:
        """Run one command line; a failure is reported and becomes the exit status."""
        try:
            status = self.run(words)
            self.io.stdout.flush()
            return status
        except QvmError as error:
            return self.failed(error)
        except KeyboardInterrupt:
            return errors.EXIT_INTERRUPTED
        except Terminated:
            return errors.EXIT_TERMINATED
        except BrokenPipeError:
            return self.without_reader()
        except OSError as error:
            from qvmsh.cli.failures import from_os

            lost = self.lost_output()
            return self.failed((unwritable if lost else from_os)(lost or error, self.machine_name))
        except Exception:
            return self.bug()

    def run(self, words: list[str]) -> int:
        if words[:1] in (["--version"], ["-V"]):
            from qvmsh._version import VERSION

            self.io.write(f"qvm {VERSION}\n")
            return errors.EXIT_OK
        common, rest = parse.common(words)
        self._configure(common)
        if rest[:1] == ["help"]:
            rest = [*rest[1:], "--help"] if rest[1:] else []
            words = ["--help"]
        if not rest:
            return self._without_verb(words)
        if "/" in rest[0] and os.path.isfile(rest[0]):
            rest = ["sh", "--", *rest]
        found = parse.verb_of(rest)
        if found is None:
            from qvmsh.cli import help as texts

            if rest[1:] and {"-h", "--help"}.issuperset(rest[1:]):
                shown = texts.of_family(rest[0])
                self.io.write(shown)
                if shown:
                    return errors.EXIT_OK
            raise texts.unknown_command(rest)
        self.verb, count = found
        if common.get("help"):  # `qvm --help clone`
            from qvmsh.cli import help as texts

            self.io.write(texts.of_command(self.verb))
            return errors.EXIT_OK
        bound = parse.bind(self.verb, rest[count:])
        for name, value in common.items():
            if name == "set":
                value = (*value, *bound.common.get("set", ()))
            elif name in bound.common:
                continue
            bound.common[name] = value
        self._configure(bound.common)
        if bound.common.get("help"):
            from qvmsh.cli import help as texts

            self.io.write(texts.of_command(self.verb))
            return errors.EXIT_OK
        return self._call(bound)

    def _configure(self, common: dict[str, Any]) -> None:
        self.has_json = bool(common.get("json"))
        level = 2 if common.get("verbose") else 0 if common.get("silent") else 1
        self.io = self.new_io(level=level, debug=bool(common.get("debug")), json=self.has_json)
        self.io.naming = self._named

    def new_io(self, *, level: int, debug: bool, json: bool) -> Io:
        """The command's streams and terminal."""
        return Io(level=level, debug=debug, json=json, capture=json)

    def _without_verb(self, words: list[str]) -> int:
        from qvmsh.cli import help as texts

        if words and not {"-h", "--help"} & set(words):
            raise UsageError("a command is missing", hint="`qvm --help` lists the commands")
        self.io.write(texts.overview())
        return errors.EXIT_OK

    def _call(self, bound: Bound) -> int:
        entry, is_root = bound.entry, os.geteuid() == 0
        if is_root:
            from qvmsh.machine import owner

            owner.leave_foreign_home(os.environ)
        parse.require_one_machine(bound)
        _place_new_machine(bound)
        if entry.verb == "export" and bound.words:
            from qvmsh.cli import targets

            targets.take_exported(bound, os.environ)
        selection = {"all", "label", "parallel"}
        if entry.words in ("machines", "first") and (bound.words or bound.common.keys() & selection):
            from qvmsh.cli import several

            status = several.perform(bound, self.io)
            if status is not None:
                return status
        if self.verb == "sh":
            _find_by_script(bound)
        if is_root:
            status = self.as_owner(bound)
            if status is not None:
                return status
        module = __import__(f"qvmsh.commands.{entry.module}", fromlist=["_"])
        function = getattr(module, entry.function)
        arguments: list[Any] = []
        vm = None
        if entry.machine != "none":
            vm = self._opened or self._machine(bound)
            arguments.append(vm)
            self.machine_name = os.path.basename(vm.directory) if vm else None
        if entry.takes_io:
            bound.options["io"] = self.io
        if self.verb == "create":
            bound.options["values"] = bound.common.get("set", ())
        try:
            result = function(*arguments, *bound.words, **bound.options)
        except (QmpError, GuestUnreachableError, DeadlineError) as error:
            if vm:
                from qvmsh.machine import crash

                crash.add_to(vm, error)
            raise
        except errors.ConfigError as error:
            if vm is None and entry.verb == "config":
                _name_first(bound, error)
            raise
        return self.render(result)

    def _machine(self, bound: Bound) -> BaseMachine | None:
        from qvmsh.config import locate
        from qvmsh.machine.machine import BaseMachine

        common = bound.common
        directory = common.get("directory")
        if common.get("machine") is not None:
            from qvmsh.machine import registry

            directory = registry.find(common["machine"], os.environ)
        overrides = _overrides(common.get("set", ()))
        is_optional = bound.entry.machine == "optional"
        if directory is None:
            try:
                return self.machine_here(overrides, is_optional=is_optional)
            except QvmError as error:
                _name_first(bound, error)
                raise
        here = "/" if os.path.isabs(directory) else _current_folder()
        found = locate.find(directory, os.environ, here)
        self.io.about = found
        return BaseMachine(found, io=self.io, overrides=overrides)

    def _named(self, text: str, directory: str) -> str:
        from qvmsh.cli import elsewhere

        return elsewhere.named(text, directory, self.here(), os.environ)

    def here(self) -> str | None:
        """The directory of the machine if the words name none, None for none."""
        from qvmsh.cli import elsewhere

        return elsewhere.here(os.environ)

    def as_owner(self, bound: Bound) -> int | None:
        """Run root's command as the machine's owner and return its exit status.

        None if root runs it itself.
        """
        account, directory = self.owner_of(bound)
        if account is None:
            return None
        from qvmsh.cli import as_owner

        bound.common = {k: v for k, v in bound.common.items() if k not in ("directory", "machine")}
        return as_owner.carry_out(bound, account, directory)

    def owner_of(self, bound: Bound) -> tuple[Account | None, str | None]:
        """The account that root's command must run as, and the machine's directory.

        None: root itself, no machine. A machine that root has created for VM_MACHINE_OWNER becomes
        that account's.
        """
        from qvmsh.machine import owner

        entry = bound.entry
        directory = None if entry.machine == "none" else self._directory(bound)
        account = None if directory is None else owner.of(directory, os.environ)
        if entry.verb in PLACING:
            from qvmsh.cli import targets

            for place in targets.places(bound, _current_folder):
                account = account or owner.above(place, os.environ)
        if account is None and directory is not None and entry.verb not in BY_ROOT:
            vm = self._opened = self._machine(bound)
            try:
                account = owner.named(vm.peek(), vm.directory) if vm else None
            except errors.ConfigError:  # reported by the command itself, if it needs the settings
                account = None
            if vm and account and not account.obstacle(directory):
                from qvmsh.machine import handover

                handover.hand_over(vm, account)
        return account, directory

    def _directory(self, bound: Bound) -> str | None:
        """The machine's directory; None if there is none and none is needed. Nothing in it is read."""
        from qvmsh.config import locate

        directory = bound.common.get("directory")
        if bound.common.get("machine") is not None:
            from qvmsh.machine import registry

            directory = registry.find(bound.common["machine"], os.environ)
        here = "/" if directory is not None and os.path.isabs(directory) else _current_folder()
        try:
            return locate.find(directory, os.environ, here)
        except QvmError as error:
            if directory is None and bound.entry.machine == "optional":
                return None
            if directory is None:
                _name_first(bound, error)
            raise

    def machine_here(self, overrides: Sequence[tuple[str, str]], *, is_optional: bool) -> BaseMachine | None:
        """The machine if the words name none."""
        from qvmsh.config import locate
        from qvmsh.machine.machine import BaseMachine

        try:
            found = locate.find(None, os.environ, _current_folder())
        except QvmError:
            if is_optional:
                return None
            raise
        return BaseMachine(found, io=self.io, overrides=overrides)

    def render(self, result: Any) -> int:
        """Print a command's result and return its exit status."""
        status = getattr(result, "exit_status", errors.EXIT_OK)
        if getattr(result, "is_streamed", False):  # printed already
            return int(status)
        if self.has_json:
            self._print_json(result.as_json() if hasattr(result, "as_json") else {"output": result})
        elif result is not None:
            text = self.spoken(result)
            if self.io.is_on_terminal and not getattr(result, "is_harmless", False):
                text = errors.visible(text)
            if text:
                self.io.write(text if text.endswith("\n") else text + "\n")
        self.io.stdout.flush()
        return int(status)

    def spoken(self, result: object) -> str:
        """A result as it is printed for the person who typed the command."""
        text = str(result)
        return text if self.verb in FOREIGN else self.io.named(text)

    def _print_json(self, value: dict[str, Any]) -> None:
        from qvmsh.qemu.qmp import dumps

        self.io.write(dumps({"version": JSON_VERSION, "command": self.verb, **value}) + "\n")

    def failed(self, error: QvmError) -> int:
        """Report a failure and return its exit status."""
        if self.io.debug:
            import traceback

            tell(self.io.stderr, traceback.format_exc(), end="")
        error.hint = error.hint and self.io.named(error.hint)
        error.details = tuple(map(self.io.named, error.details))
        try:
            if self.has_json:
                self._print_json({"error": error.as_json()})
            self.io.stdout.flush()
        except (OSError, ValueError, QvmError):  # standard output itself is what failed
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not getattr(error, "is_silent", False):
            tell(self.io.stderr, "\n".join(error.lines()))
        return error.status

    def lost_output(self) -> OSError | None:
        """Why standard output cannot be written to; None if it can."""
        try:
            self.io.stdout.flush()
        except OSError as error:
            return error
        return None

    def without_reader(self) -> int:
        """The reader of standard output is gone: there is nothing more to print."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return errors.EXIT_FAILED

    def bug(self) -> int:
        import traceback

        tell(
            self.io.stderr,
            traceback.format_exc() + "qvm: this is a bug in qvm\n"
            "hint: please report it, with the lines above and the output of `qvm doctor`",
        )
        return errors.EXIT_FAILED


def _overrides(words: Sequence[str]) -> list[tuple[str, str]]:
    if not words:
        return []
    from qvmsh.config.edit import assignment

    return [assignment(word) for word in words]


def _name_first(bound: Bound, error: QvmError) -> None:
    """There is no machine here: if the first word is one, the hint says how to name it."""
    if bound.words:
        from qvmsh.cli import hints

        error.hint = hints.for_named_machine(bound) or error.hint


def _find_by_script(bound: Bound) -> None:
    """A script in a machine's folder finds its machine from anywhere."""
    from qvmsh.config import locate

    common, options = bound.common, bound.options
    is_named = {"directory", "machine"} & {name for name, value in common.items() if value is not None}
    is_file = bound.words and bound.words[0] != "-" and not ({"code", "module"} & options.keys())
    if is_file and not is_named and os.path.isfile(bound.words[0]):
        try:
            common["directory"] = locate.find(None, os.environ, _current_folder(), bound.words[0])
        except QvmError:  # it runs without a machine
            pass


def _place_new_machine(bound: Bound) -> None:
    """With `-C DIR`, `create` creates its machine there; refuse other options that name a machine."""
    if bound.entry.machine != "none":
        return
    at = {"create": 0, "import": 1}.get(bound.entry.verb, len(bound.words))
    if at < len(bound.words):
        bound.words[at] = os.path.join(bound.common.pop("directory", None) or "", bound.words[at])
    for name, flag in (("directory", "-C"), ("machine", "-M"), ("set", "--set")):
        if bound.common.get(name) and not (name == "set" and bound.entry.verb == "create"):
            raise UsageError(f"{bound.entry.verb}: unexpected {flag}: the command is not about a machine")


def _current_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise QvmError("the current directory is gone", hint="`cd` to an existing one") from None


def _open_standard_streams() -> None:
    """Open closed standard streams on /dev/null, or QEMU's sockets would get their numbers.

    Writing to a closed standard output is an error, as for any program; `was_closed` is for readers.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR if fd == 2 else os.O_RDONLY), True)  # gets fd
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, closefd=False))
            getattr(sys, name).was_closed = True

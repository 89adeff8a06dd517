"""`config edit`: edit a copy of the `.vmrc`, check it, and replace the file.

    edit(vm, io, environ)        # Edited: the file holds the old or the new text, never a broken one

The editor works on a copy in a private folder; the file itself is replaced in one step, under the
lock that `config NAME=value` takes, unless it was changed in the meantime. A text that is rejected
and was not discarded is kept as `.qvm/vmrc.rejected`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile

from qvmsh.config import edit as writing
from qvmsh.config import files, layers
from qvmsh.errors import ConfigError, MissingProgramError, QvmError, printable
from qvmsh.io import isatty, tell
from qvmsh.machine import state
from qvmsh.machine.reports import Report
from qvmsh.machine.settings import config as configuration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qvmsh.config.syntax import Problem
    from qvmsh.host.files import Source
    from qvmsh.io import Io
    from qvmsh.machine.machine import BaseMachine

EDITORS = ("sensible-editor", "editor", "nano", "vim", "vi", "emacs")
"""Editors to try if the environment names none."""

REJECTED = "vmrc.rejected"


class Edited(Report):
    """Result of `config edit`: whether the file was `changed`, and warnings about its new content."""

    __slots__ = ("changed", "file", "is_live", "machine", "warnings")

    def __init__(
        self,
        machine: str,
        file: str,
        *,
        changed: bool,
        warnings: Sequence[Problem] = (),
        is_live: bool = False,
    ) -> None:
        self.machine = machine
        self.file = file
        self.changed = changed
        self.warnings = list(warnings)
        self.is_live = is_live

    def shown(self) -> list[str]:
        if not self.changed:
            return [f"{files.shown(self.file)}: nothing was changed"]
        lines = [f"warning: {warning}" for warning in self.warnings]
        later = "; the machine is running: `qvm restart` applies it" if self.is_live else ""
        return [*lines, f"{files.shown(self.file)}: changed{later}"]

    def as_json(self) -> dict[str, object]:
        return {
            "machine": self.machine,
            "file": self.file,
            "changed": self.changed,
            "warnings": [warning.as_json() for warning in self.warnings],
        }


def edit(vm: BaseMachine, io: Io, environ: Mapping[str, str]) -> Edited:
    """Let the user edit the `.vmrc`; it is replaced only by a text without problems.

    Raises:
        MissingProgramError: there is no editor.
        QvmError: the editor failed. The file did not change.
        ConfigError: the new text has problems, or the file was changed in the meantime. The file
            is not touched, and the new text is in `.qvm/vmrc.rejected`.
    """
    path = vm.files.vmrc
    editor = _editor(environ)
    before = layers.load(vm.directory, vm.environ)
    source = _read(path)
    folder = tempfile.mkdtemp(prefix="qvm-edit-")
    try:
        copy = os.path.join(folder, "vmrc")
        with open(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(source.data)
        while True:
            _run(editor, copy, environ)
            text = _read(copy)
            if text.data == source.data:
                return Edited(vm.name, path, changed=False)
            after = layers.load(vm.directory, vm.environ, text=text.text)
            wrong = _wrong(before.problems, after.problems, path)
            if not wrong:
                break
            if not _edits_again(io, wrong):
                return Edited(vm.name, path, changed=False)
            if not _is_dialogue(io):
                raise _rejected(vm, text.data, f"nothing was changed: {wrong[0]}", wrong)
        _put(vm, source, text)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    vm.reload()
    return Edited(vm.name, path, changed=True, warnings=after.warnings, is_live=state.observe(vm).is_live)


def _editor(environ: Mapping[str, str]) -> list[str]:
    """The words of VISUAL or EDITOR, else an editor that is installed."""
    for name in ("VISUAL", "EDITOR"):
        if environ.get(name, "").strip():
            try:
                return shlex.split(environ[name])
            except ValueError as error:
                raise QvmError(f"{name}={environ[name]}: {error}", hint=f"correct {name}") from None
    for program in EDITORS:
        if shutil.which(program, path=environ.get("PATH")):
            return [program]
    raise MissingProgramError("no editor is installed", hint="set EDITOR=PROGRAM")


def _run(editor: Sequence[str], copy: str, environ: Mapping[str, str]) -> None:
    """Run the editor on the terminal; it handles Ctrl-C."""
    try:
        child = subprocess.Popen([*editor, copy], env=dict(environ))
    except OSError as error:
        raise MissingProgramError(
            f"cannot run the editor {editor[0]}: {error.strerror}", hint="set EDITOR=PROGRAM"
        ) from None
    while True:
        try:
            status = child.wait()
            break
        except KeyboardInterrupt:
            continue
    if status:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        raise QvmError(f"the editor {editor[0]} ended with {how}; nothing was changed")


def _read(path: str) -> Source:
    try:
        return files.read(path)
    except FileNotFoundError:
        raise ConfigError(f"{path} is gone; nothing was changed") from None
    except files.Unreadable as error:
        raise ConfigError(f"cannot read {path}: {error}; nothing was changed") from None


def _wrong(before: Sequence[Problem], after: Sequence[Problem], path: str) -> list[Problem]:
    """The problems of the new text or caused by it, without older ones of other files."""
    known = {(problem.name, problem.message) for problem in before if problem.file != path}
    return [each for each in after if (each.name, each.message) not in known]


def _is_dialogue(io: Io) -> bool:
    return isatty(io.stdin) and isatty(io.stderr) and not io.capture


def _edits_again(io: Io, wrong: Sequence[Problem]) -> bool:
    """Print the problems, and ask on a terminal whether to edit again. True without a terminal."""
    if not _is_dialogue(io):
        return True
    for problem in wrong:
        tell(io.stderr, f"qvm: {printable(str(problem))}")  # with its hint
    while True:
        tell(io.stderr, "the old file is kept. [e]dit again, or [d]iscard the changes? ", end="")
        answer = io.stdin.readline()
        if answer.strip().lower() in ("e", "edit", "") and answer:
            return True
        if not answer or answer.strip().lower() in ("d", "discard"):
            return False


def _put(vm: BaseMachine, source: Source, text: Source) -> None:
    """Replace the file, unless it was changed in the meantime."""
    path = vm.files.vmrc
    try:
        lock = configuration.lock(os.path.dirname(os.path.realpath(path)))
        try:
            if _read(path).data != source.data:
                raise _rejected(vm, text.data, "it was changed in the meantime, and not overwritten", ())
            writing.replace(path, text.text)
        finally:
            os.close(lock)
    except OSError as error:
        why = f"cannot write {path}: {error.strerror}; it did not change"
        raise _rejected(vm, text.data, why, ()) from None


def _rejected(vm: BaseMachine, data: bytes, why: str, wrong: Sequence[Problem]) -> ConfigError:
    """The error for a rejected text, which is kept where the user finds it."""
    kept = os.path.join(vm.state_folder(), REJECTED)
    hint = None
    try:
        with open(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(data)
        hint = f"your text is in {files.shown(kept)}"
    except OSError:
        pass
    return ConfigError(
        why if wrong else f"{files.shown(vm.files.vmrc)}: {why}",
        details=[str(problem) for problem in wrong[1:]],
        problems=tuple(wrong),
        hint=hint,
    )

"""A machine: a handle on a directory with a `.vmrc`. It holds no state of the machine.

vm = BaseMachine("/vm/demo")
vm.settings.integer("VM_MACHINE_MEM")     # 1024
"""

from __future__ import annotations

import os

from qvmsh.config import layers
from qvmsh.errors import ConfigError
from qvmsh.io import QUIET, Io
from qvmsh.machine.paths import Files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from qvmsh.config.layers import Settings
    from qvmsh.host.process import LockHolders


def _restored(
    kind: type[BaseMachine],
    directory: str,
    environ: Mapping[str, str] | None,
    overrides: Sequence[tuple[str, str]],
) -> BaseMachine:
    return kind(directory, environ=environ, overrides=overrides)


class BaseMachine:
    """A handle on the machine in `directory`; making one reads nothing and starts nothing.

    Args:
        directory: where the `.vmrc` is.
        io: how its commands communicate with the caller.
        environ: the environment that the settings' environment layer is read from.
        overrides: `--set NAME=value` pairs, stronger than every file.

    Raises:
        QvmError: this is root, and the directory is another account's (`machine.owner`).
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] = ".",
        *,
        io: Io = QUIET,
        environ: Mapping[str, str] | None = None,
        overrides: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.directory = os.path.abspath(directory)
        self.io = io
        self.environ = os.environ if environ is None else environ
        if os.geteuid() == 0:
            from qvmsh.machine import owner

            owner.require_own(self.directory, self.environ)
        self.overrides = tuple(overrides)
        self.files = Files(self.directory)
        self.lock_holders: LockHolders | None = None
        """Shared by looks at many machines."""
        self._loaded: Settings | None = None
        self._fresh: Settings | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.directory!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, it is the same machine with a silent `io`."""
        environ = None if self.environ is os.environ else dict(self.environ)
        return _restored, (type(self), self.directory, environ, self.overrides)

    @property
    def loaded(self) -> Settings:
        """The settings as the files say, with their problems if there are any.

        Raises:
            ConfigError: there is no `.vmrc`, or it may not be used.
        """
        found = self._loaded  # another thread may `reload`
        if found is None:
            found = self._loaded = self.peek()
            for warning in found.warnings:
                self.io.remark(str(warning))
        return found

    def peek(self) -> Settings:
        """The same, without its warnings: the next look at `loaded` prints them."""
        found = self._fresh
        if found is None:
            found = self._fresh = layers.load(self.directory, self.environ, self.overrides)
        return found

    @property
    def settings(self) -> Settings:
        """The settings, all checked.

        Raises:
            ConfigError: with every problem of every layer.
        """
        found = self.loaded
        found.check()
        return found

    def reload(self) -> None:
        """Forget the settings, so that the next look reads the files again."""
        self._loaded = self._fresh = None

    @property
    def name(self) -> str:
        """VM_MACHINE_NAME, or the directory's name where the `.vmrc` does not say."""
        try:
            return self.loaded["VM_MACHINE_NAME"] or os.path.basename(self.directory)
        except (ConfigError, KeyError):
            return os.path.basename(self.directory)

    def with_vmrc(self, text: str) -> BaseMachine:
        """The same machine as it would be with this `.vmrc`."""
        twin = self.with_io(self.io)
        twin._loaded = twin._fresh = layers.load(self.directory, self.environ, self.overrides, text=text)
        return twin

    def as_written(self) -> BaseMachine:
        """The same machine without `--set`: what is written into its files is made of what they say."""
        twin = self.with_io(self.io)
        twin.overrides = ()
        twin.reload()
        return twin

    def with_io(self, io: Io) -> BaseMachine:
        """The same machine for another caller."""
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self), io=io)
        return twin

    def state_folder(self) -> str:
        """The folder `.qvm`, made if it is not there; private to the account that makes it."""
        for folder in (self.files.state, self.files.logs):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        return self.files.state

"""The caller's side of a command in a session, and what the modules below the context use of it."""

from __future__ import annotations

from qvmsh.io import Io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    from qvmsh import api
    from qvmsh.io import Lines, Named
    from qvmsh.shell.session.work import Work, Works

    class Session(Protocol):
        """`session.context.Context`, as the modules use it that the context is made of."""

        works: Works
        warned: set[str]

        @property
        def lines(self) -> Lines | None: ...
        @property
        def directory(self) -> str | None: ...
        @property
        def place(self) -> tuple[str | None, tuple[tuple[str, str], ...]]: ...
        @property
        def vm(self) -> api.Machine: ...
        def machine(
            self,
            io: Io | None = None,
            *,
            overrides: Sequence[tuple[str, str]] = (),
            is_optional: bool = False,
        ) -> api.Machine | None: ...
        def use(self, where: str) -> Named: ...
        def spoken(self, text: str) -> str: ...
        def python_io(self) -> Io: ...
        def forget_settings(self) -> None: ...


class SessionIo(Io):
    """The caller's side of a command in a session: a warning about the configuration comes once."""

    session: Session

    def __init__(self, session: Session, **how: Any) -> None:
        super().__init__(**how)
        self.session = session

    def remark(self, text: str) -> None:
        if self.level >= 1 and text not in self.session.warned:
            self.session.warned.add(text)
            self.warn(text)

    def working(self, verb: str) -> Work:
        return self.session.works.running(verb)

    def warn(self, text: str) -> None:
        super().warn(self.session.spoken(self.named(text)))

"""A xonsh script as `__main__` of a child of multiprocessing; see `shell.session.children`."""

from __future__ import annotations

if __name__ == "__mp_main__":
    from xonsh.built_ins import XSH

    from qvmsh.shell.session import children
    from qvmsh.shell.xonsh.engine import Engine

    namespace = globals()
    context, source, name = children.begin_again()
    engine = Engine(context)
    XSH.ctx = namespace
    engine.load(["--no-rc", "--", name])
    children.begin_again()  # xonsh has its own handlers there
    namespace.update(__name__="__mp_main__", __file__=name)
    engine.run(source, name)

"""`qvm top` on a terminal: a live table, its keys, and the terminal as it was before."""

from __future__ import annotations

import re

from tests.support.tmux_terminal import Terminal, qvm_in_shell, wait_for_exit
from tests.support.world import QVM, Blank, World, write_vmrc

HEAD = r"^name +state +pid +%cpu +rss +vcpus +mem +accel +rd/s"


def names(screen: str) -> list[str]:
    """The machines on the screen, from the top."""
    lines = screen.splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("name "))
    return [line.split()[0] for line in lines[at + 1 :] if line.strip()]


def test_top_table_is_sorted_by_keys_and_ends_with_q(blank: Blank, world: World) -> None:
    vm, _ = blank("zed", VM_MACHINE_ID="44"), blank("abc")
    vm.ok("start", "--no-wait")
    with qvm_in_shell(vm, "top 0.5") as terminal:
        screen = terminal.wait(HEAD)
        assert "1 running, 2 machines  every 0.5 s" in screen
        assert "sort by cpu; keys: c cpu, m memory, i I/O, n name, q quit" in screen
        terminal.wait(rf"^zed +running +{vm.pid} +\d+\.\d ")  # the second frame has rates
        terminal.key("n")
        screen = terminal.wait("sort by name")
        assert names(screen) == ["abc", "zed"]
        for key, sort in (("m", "mem"), ("i", "io"), ("c", "cpu")):
            terminal.key(key)
            assert names(terminal.wait(f"sort by {sort}")) == ["zed", "abc"]
        terminal.key("q")
        screen = wait_for_exit(terminal, 0)
        assert "sort by" not in screen  # the alternate screen is gone


def test_top_ends_with_ctrl_c_and_leaves_the_frames_of_n(blank: Blank) -> None:
    vm = blank("abc")
    with qvm_in_shell(vm, "top 0.5") as terminal:
        terminal.wait(HEAD)
        terminal.key("C-c")
        wait_for_exit(terminal, 0)
    with qvm_in_shell(vm, "top 0.5 -n 2") as terminal:
        screen = wait_for_exit(terminal, 0)
        assert len(re.findall(r"^name +state +pid", screen, re.MULTILINE)) == 2


def test_top_fits_into_a_terminal_that_becomes_small(blank: Blank, world: World) -> None:
    vm = blank("abc")
    known = world.home / ".local/share/qvm/machines"
    with known.open("a") as file:
        for at in range(30):
            write_vmrc(world.home / f"off{at:02}", f"off{at:02}")
            file.write(f"off{at:02}\t{world.home}/off{at:02}\n")
    with qvm_in_shell(vm, "top 60 --sort name") as terminal:  # the size is noticed at once, not by a frame
        terminal.wait(r"^off29 +stopped")
        terminal._tmux("resize-window", "-x", "40", "-y", "10")
        terminal.wait(r"^name +state +pid +%cpu +rss +vcpus$")
        lines = terminal.lines()
        assert [line.split()[0] for line in lines[3:]] == ["abc", *(f"off{at:02}" for at in range(6))]
        assert all(len(line) <= 40 for line in lines)
        assert lines[0].startswith("qvm top - ")
        terminal._tmux("resize-window", "-x", "3", "-y", "3")
        terminal.wait(r"^nam$")
        terminal._tmux("resize-window", "-x", "120", "-y", "50")
        terminal.wait(r"^off29 +stopped")
        terminal.key("q")
        wait_for_exit(terminal, 0)


def test_top_suspended_gives_the_terminal_back(blank: Blank, world: World) -> None:
    vm = blank("abc")
    script = f"set -m; {QVM} top 0.5; echo stopped $?; read line; fg; echo status $?; exec cat"
    terminal = Terminal(["bash", "-c", script], vm.directory, world.environ)
    try:
        terminal.wait(HEAD)
        terminal.key("C-z")
        screen = terminal.wait(r"^stopped 148$")
        assert "sort by" not in screen
        terminal.type("a line")  # the terminal echoes again
        terminal.wait(r"^a line")
        terminal.key("Enter")
        terminal.wait(HEAD)
        terminal.key("n")
        terminal.wait("sort by name")
        terminal.key("q")
        terminal.wait(r"^status 0$")
    finally:
        terminal.close()

"""Scripts that make processes and threads, import helpers, write through pipes, run from elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from tests.support.busy_shell import by_default
from tests.support.programs import write_script
from tests.support.world import DEADLINE_S, QVM, Result, Vm, write_vmrc


def run(vm: Vm, path: Path, *words: str, cwd: Path | None = None) -> Result:
    return vm.world.run(
        "--set",
        "VM_MACHINE_CPUS=1",
        "sh",
        path,
        *words,
        cwd=cwd or vm.directory,
        env={"PYTHONUNBUFFERED": ""},
    )


WORKERS = """
import multiprocessing, sys, time

def work(n):
    return vm.name, settings.VM_MACHINE_CPUS, status(ssh_check=False).state, vm.status(ssh_check=False).state

def call(function):
    return function(ssh_check=False).state

def seen(*names):
    return [repr(each) for each in names]

if __name__ == "__main__":
    here = multiprocessing.get_context(sys.argv[1])
    names = (vm, settings, guest, local, sh, disk, disk.list, qmp, vm.snapshot_list, start)
    for again in range(6 if sys.argv[1] == "fork" else 1):
        with here.Pool(3 if sys.argv[1] == "fork" else 1) as pool:
            print(set(pool.map(work, range(6))))
            print(pool.map(call, [status, vm.status]), pool.apply(seen, names) == seen(*names))
    one = here.Process(target=time.sleep, args=(60,))
    one.start()
    one.terminate()
    one.join()
    print(one.exitcode)
"""


@pytest.mark.parametrize(
    ("way", "name"),
    by_default(
        product(("fork", "spawn", "forkserver"), ("workers.py", "workers.xsh")),
        {
            ("fork", "workers.py"),
            ("fork", "workers.xsh"),
            ("spawn", "workers.xsh"),
            ("forkserver", "workers.py"),
        },
    ),
)
def test_multiprocessing_has_the_session_in_its_children(vm: Vm, tmp_path: Path, way: str, name: str) -> None:
    result = run(vm, write_script(tmp_path, name, WORKERS), way)
    once = "{('demo', 1, 'stopped', 'stopped')}\n['stopped', 'stopped'] True\n"
    count = 6 if way == "fork" else 1
    assert (result.out, result.err) == (once * count + "-15\n", ""), str(result)


def test_forked_child_and_threads_use_the_names(vm: Vm, tmp_path: Path) -> None:
    text = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
print("before", end=" ")
pid = os.fork()
if pid == 0:
    print("child", status(ssh_check=False).state)
    sys.exit(3)
print("parent", os.waitpid(pid, 0)[1] >> 8)
with ThreadPoolExecutor(6) as pool:
    for ask in (vm.status, status, lambda **_: settings.VM_MACHINE_CPUS, lambda **_: vm.settings.VM_X):
        print(len(list(pool.map(lambda _: ask(ssh_check=False), range(40)))))
"""
    vm.set(VM_X="1")
    for name in ("threads.py", "threads.xsh"):
        result = run(vm, write_script(tmp_path, name, text))
        assert result.out == "before child stopped\nparent 3\n" + "40\n" * 4, str(result)


def test_failures_and_reports_can_be_pickled(vm: Vm, tmp_path: Path) -> None:
    text = """
import copy, pickle
def again(value): return pickle.loads(pickle.dumps(value))
print(again(status()), repr(again(status())), again(vm).name, copy.deepcopy(vm).directory == vm.directory)
try:
    stop()
except Exception as error:
    print(again(error).lines(), again(error).actual)
use("../second")
kept = pickle.dumps(status)
use("../demo")
print(pickle.loads(kept)(), status())
"""
    write_vmrc(vm.directory.parent / "second", "second", VM_MACHINE_ID="34")
    result = run(vm, write_script(tmp_path, "pickled.py", text))
    assert result.out == (
        "demo: stopped Status(machine='demo', ready=False, state='stopped') demo True\n"
        "['qvm: demo: cannot stop: it is stopped'] stopped\n"
        "second: stopped demo: stopped\n"
    ), str(result)


HELPER = """
import qvmsh.here
from qvmsh.here import settings, status, vm
from qvmsh.here import vm as machine
def seen():
    names = vm.name, machine.name, qvmsh.here.vm.name, settings.VM_MACHINE_NAME
    return *names, settings.VM_MACHINE_CPUS, str(status(ssh_check=False))
"""
USER = """
import helper
first = vm
print(helper.vm is vm, helper.status is status, helper.seen())
use("../second")
print(helper.vm is vm, helper.seen(), vm.name, first.name)
"""


@pytest.mark.parametrize("name", ["user.py", "user.xsh"])
def test_helper_module_has_the_sessions_machine_and_follows_use(vm: Vm, tmp_path: Path, name: str) -> None:
    write_vmrc(vm.directory.parent / "second", "second", VM_MACHINE_ID="34")
    write_script(tmp_path, "helper.py", HELPER)
    result = run(vm, write_script(tmp_path, name, USER))
    assert result.out == (
        f"True True {('demo',) * 4 + (1, 'demo: stopped')}\n"
        f"True {('second',) * 4 + (2, 'second: stopped')} second demo\n"
    ), str(result)


def test_here_gives_all_names_by_star_also_in_plain_python(vm: Vm, tmp_path: Path) -> None:
    path = write_script(
        tmp_path, "star.py", "from qvmsh.here import *\nprint(vm.name, status(), settings.VM_MACHINE_MEM)"
    )
    assert vm.ok("sh", path).out == "demo demo: stopped 64\n"
    done = subprocess.run(
        [sys.executable, path],
        cwd=vm.directory,
        env=vm.world.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "demo demo: stopped 64\n", done.stderr


ORDER_PY = """
import os, subprocess, sys
print("1")
print("2", end=" ")
subprocess.run(["echo", "3"])
sys.stdout.buffer.write(b"4 ")
os.system("echo 5")
sys.stdout.write("6 ")
print("7", file=sys.stderr)
subprocess.Popen(["echo", "8"]).wait()
print("9")
pid = os.fork()
if pid == 0:
    print("10")
    os._exit(0)
os.waitpid(pid, 0)
os.write(1, b"11\\n")
"""
ORDER_XSH = """
print("1")
vm list | head -1
print("2", end=" ")
echo 3
status -s || echo 4
x = $(echo 5)
print(x)
![vm list | wc -l]
echo 6 o>e
for i in range(7, 9):
    print(i)
    config VM_MACHINE_MEM
print("9")
"""


def test_output_through_a_pipe_is_in_order(vm: Vm, tmp_path: Path) -> None:
    def ran(*words: str | Path, stdin: str | None = None) -> str:
        done = subprocess.run(
            [QVM, *words], cwd=vm.directory, env=vm.world.environ | {"PYTHONUNBUFFERED": ""}, input=stdin,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        return done.stdout

    python = "1\n2 3\n4 5\n6 7\n8\n9\n10\n11\n"
    assert ran("sh", write_script(tmp_path, "order.py", ORDER_PY)) == python
    lines = "1\nname  state    vcpus  mem     directory\n2 3\ndemo: stopped\n4\n5\n2\n6\n7\n64\n8\n64\n9\n"
    assert ran("sh", write_script(tmp_path, "order.xsh", ORDER_XSH)) == lines
    assert ran("sh", "-c", ORDER_XSH) == lines
    assert ran("sh", "-", stdin=ORDER_XSH) == lines


def test_script_in_a_machines_folder_finds_it_from_anywhere(vm: Vm, tmp_path: Path) -> None:
    other = vm.directory.parent / "other"
    write_vmrc(other, "other", VM_MACHINE_ID="34")
    text = "import os\nprint(vm.name, os.getcwd() == vm.directory, os.environ['VM_CALLING_DIR'])\n"
    path = write_script(vm.directory, "backup.py", "#!/usr/bin/env -S qvm sh\n" + text)
    write_script(vm.directory, "backup.xsh", text)
    write_script(vm.directory, "backup.sh", '#!/bin/sh\necho "$VM_MACHINE_NAME"\n')
    (tmp_path / "link").symlink_to(path)
    env = {"PATH": f"{Path(QVM).parent}:{os.environ['PATH']}"}
    found = f"demo True {tmp_path}\n"
    for words in (("sh", path), ("sh", tmp_path / "link"), (path,), ("sh", vm.directory / "backup.xsh")):
        result = vm.world.run(*words, cwd=tmp_path)
        assert result.out == found, str(result)
    assert vm.world.run(program=str(path), cwd=tmp_path, env=env).out == found
    assert vm.world.run("sh", "--shell", vm.directory / "backup.sh", cwd=tmp_path).out == "demo\n"
    assert vm.world.run("sh", path, cwd=other).out.startswith("other True")
    assert vm.world.run("sh", path, cwd=tmp_path, env={"VM_HOME": str(other)}).out.startswith("other True")
    assert vm.world.run("-C", other, "sh", path, cwd=tmp_path).out.startswith("other True")
    wrong = vm.world.run("sh", path, cwd=tmp_path, env={"VM_HOME": str(tmp_path)})
    assert (wrong.status, wrong.out) == (2, ""), str(wrong)
    here = "from qvmsh.here import vm\nprint(vm.name)\n"
    done = subprocess.run(
        [sys.executable, write_script(vm.directory, "plain.py", here)],
        cwd=tmp_path, env=vm.world.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "demo\n", done.stderr


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("slow.py", "import time\nprint('begun', flush=True)\ntime.sleep(60)\n"),
        ("slow.xsh", "echo begun\nsleep 60 || echo no\n"),
    ],
)
def test_ctrl_c_in_a_loop_of_scripts_ends_the_loop(vm: Vm, tmp_path: Path, name: str, text: str) -> None:
    path = write_script(tmp_path, name, text)
    loop = f"for i in 1 2 3; do '{QVM}' sh '{path}'; echo after; done"
    child = subprocess.Popen(
        ["bash", "-c", loop], cwd=vm.directory, env=vm.world.environ, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    os.killpg(child.pid, signal.SIGINT)
    assert child.communicate(timeout=DEADLINE_S)[0] == ""
    assert child.returncode == -signal.SIGINT


def test_debugger_of_the_environment_stops_in_the_script(vm: Vm, tmp_path: Path) -> None:
    text = "def f(mine):\n    breakpoint()\n    return mine\nprint(f(5))\n"
    for name in ("stop.py", "stop.xsh"):
        result = vm.qvm(
            "sh",
            write_script(tmp_path, name, text),
            env={"PYTHONBREAKPOINT": "pdb.set_trace"},
            stdin="p mine\nc\n",
        )
        assert "(Pdb) 5\n" in result.out, str(result)
        assert f"{tmp_path}/{name}(3)f()" in result.out or f"{tmp_path}/{name}(2)f()" in result.out
        off = vm.qvm("sh", tmp_path / name, env={"PYTHONBREAKPOINT": "0"})
        assert (off.out, off.err) == ("5\n", ""), str(off)

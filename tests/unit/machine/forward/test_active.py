"""What QEMU answers to `info usernet`, read as forwards."""

from __future__ import annotations

from qvmsh.machine.forward import active

HEAD = "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n"
ANSWER = f"""Hub -1 (net0):
{HEAD}\
  TCP[ESTABLISHED]   97       127.0.0.1 44797       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  20       127.0.0.1 44797       10.0.2.15    22     0     0
  UDP[HOST_FORWARD]  96               *   53       10.0.2.15  5353     0     0
Hub 0 (second):
{HEAD}\
  TCP[HOST_FORWARD]  21       127.0.0.1  8080       10.0.3.15    80     0     0
"""


def test_forwards_are_those_of_the_first_network() -> None:
    found = active.of_text(ANSWER)
    assert found is not None
    assert [(each.forward.rule, each.via) for each in found] == [
        ("tcp:127.0.0.1:44797-10.0.2.15:22", "qemu"),
        ("udp:0.0.0.0:53-10.0.2.15:5353", "qemu"),
    ]


def test_forwards_without_a_network_are_unknown() -> None:
    assert active.of_text("") is None
    assert active.of_text("unknown command: 'info usernet'") is None
    assert active.of_text(f"Hub -1 (net0):\n{HEAD}") == []

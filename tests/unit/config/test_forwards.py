"""VM_HOSTFWD: which lines mean what, and which are refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvmsh.config import forwards
from qvmsh.config.variables import VARIABLES


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("8080:80", "tcp:127.0.0.1:8080-:80"),
        ("127.0.0.1:8080:80", "tcp:127.0.0.1:8080-:80"),
        ("0.0.0.0:8080:80", "tcp:0.0.0.0:8080-:80"),
        ("*:8080:80", "tcp:0.0.0.0:8080-:80"),
        ("localhost:8080:80", "tcp:127.0.0.1:8080-:80"),
        ("udp:5353:53", "udp:127.0.0.1:5353-:53"),
        ("5353:53/udp", "udp:127.0.0.1:5353-:53"),
        ("tcp:192.168.7.1:8080:80", "tcp:192.168.7.1:8080-:80"),
        ("tcp:127.0.0.1:8080-:80", "tcp:127.0.0.1:8080-:80"),
        ("tcp::8080-:80", "tcp:127.0.0.1:8080-:80"),
        ("udp:127.0.0.2:53-10.0.2.15:53", "udp:127.0.0.2:53-10.0.2.15:53"),
        ("8080-80", "tcp:127.0.0.1:8080-:80"),
        ("  8080:80 ", "tcp:127.0.0.1:8080-:80"),
    ],
)
def test_parse_each_form_says_one_rule(line: str, rule: str) -> None:
    assert forwards.parse(line).rule == rule


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("8080", "it needs two ports"),
        ("", "it needs two ports"),
        ("8080:0", "'0' is not a port"),
        ("65536:80", "'65536' is not a port"),
        ("web:80", "'web' is not a port"),
        ("host:8080:80", "host is not an IPv4 address"),
        ("1.2.3.4.5:8080:80", "not an IPv4 address"),
        ("300.2.3.4:8080:80", "not an IPv4 address"),
        ("sctp:8080:80", "sctp is not an IPv4 address"),
        ("[::1]:8080:80", "too many :"),
        ("tcp:8080:80/udp", "both tcp and udp"),
        ("8080-guest:80", "guest is not an IPv4 address"),
        ("8080:80,hostfwd=tcp::1-:1", "is not an IPv4 address"),
        ("8080:", "a port is missing"),
    ],
)
def test_parse_other_lines_are_refused_with_the_reason(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("[", r"\[")):
        forwards.parse(line)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_parse_any_text_gives_a_plain_rule_or_an_error(line: str) -> None:
    try:
        rule = forwards.parse(line).rule
    except ValueError:
        return
    assert set(rule) <= set("tcpud:.-0123456789")


@pytest.mark.parametrize(
    ("lines", "clash"),
    [
        (["8080:80", "8080:81"], True),
        (["8080:80", "0.0.0.0:8080:80"], True),
        (["8080:80", "udp:8080:80"], False),
        (["127.0.0.1:8080:80", "127.0.0.2:8080:80"], False),
        (["8080:80", "8081:80"], False),
    ],
)
def test_parse_all_two_for_one_port_are_refused(lines: list[str], clash: bool) -> None:
    if clash:
        with pytest.raises(ValueError, match="another line uses tcp port 8080 already"):
            forwards.parse_all(lines)
    else:
        assert len(forwards.parse_all(lines)) == 2


def test_variable_checks_its_lines() -> None:
    check = VARIABLES["VM_HOSTFWD"].check
    assert check("\n 8080:80\n\nudp:53:53\n") is None
    wrong = check("8080:80\n80")
    assert wrong
    assert "lines like 8080:80" in wrong[0]
    assert "'80': it needs two ports, HOST:GUEST" in wrong[0]


@pytest.mark.parametrize("value", ["1", "0.5", "1.5", "16", "2."])
def test_variable_number_takes_fractions(value: str) -> None:
    assert VARIABLES["VM_LIMIT_CPUS"].check(value) is None


@pytest.mark.parametrize("value", ["0", "-1", "1e3", "nan", "x", ".", "1.5.1", "inf"])
def test_variable_number_that_is_none_is_refused(value: str) -> None:
    assert VARIABLES["VM_LIMIT_CPUS"].check(value)

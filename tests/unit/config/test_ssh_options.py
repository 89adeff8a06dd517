"""VM_SSH_OPTIONS: words for ssh and lines of ssh_config, read alike."""

from __future__ import annotations

import pytest

from qvmsh.config import ssh_options


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", []),
        ("-A -o Ciphers=x", ["-A", "-o", "Ciphers=x"]),
        ("-i 'a b'\n-v", ["-i", "a b", "-v"]),
        ("-o\nTag=x", ["-o", "Tag=x"]),
        ("ServerAliveInterval 60", ["-oServerAliveInterval 60"]),
        ("# why\n  Compression=yes\n\n-C", ["-oCompression=yes", "-C"]),
        ('IdentityFile "a b"\nTag  =  x', ['-oIdentityFile "a b"', "-oTag  =  x"]),
    ],
)
def test_lines_become_words_for_ssh(value: str, words: list[str]) -> None:
    assert ssh_options.arguments(value) == words


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("Compression", "Compression is neither an option nor a keyword with its value"),
        ("Compression\n-C", "neither"),
        ("a.b c", "neither"),
        ("-i 'a", "an unclosed '"),
        ("ControlMaster auto", "qvm caches the connections itself"),
        ("-oControlPath=x", "qvm caches the connections itself"),
        ("-CS /x", "qvm caches the connections itself"),
        ("-o 'User root'", "VM_MACHINE_USER names the account"),
        ("-Cl root", "VM_MACHINE_USER names the account"),
        ("Port=1", "VM_SSH_PORT and VM_SSH_GUEST_PORT name the ports"),
        ("-p 1", "VM_SSH_PORT and VM_SSH_GUEST_PORT name the ports"),
        ("hostname x", "qvm knows where the guest is"),
        ("StrictHostKeyChecking no", "qvm pins the host key itself"),
        ("-o userknownhostsfile=/dev/null", "qvm pins the host key itself"),
        ("GlobalKnownHostsFile /x\n-C", "qvm pins the host key itself"),
        ("HostKeyAlias=x", "qvm pins the host key itself"),
        ("KnownHostsCommand /x", "qvm pins the host key itself"),
        ("NoHostAuthenticationForLocalhost yes", "qvm pins the host key itself"),
        ("-C -oCheckHostIP=yes", "qvm pins the host key itself"),
        ("""-o '"User" root'""", "is not a keyword with its value"),
        ("-o =User=root", "is not a keyword with its value"),
        ("-o ''", "is not a keyword with its value"),
        ("match exec evil", "it is for configuration files of ssh"),
        ("-o 'Include /x'", "it is for configuration files of ssh"),
    ],
)
def test_what_ssh_or_qvm_could_not_use_is_refused(value: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ssh_options.arguments(value)


def test_keywords_are_found_in_all_forms() -> None:
    words = ssh_options.arguments("-AoTag=x -o 'A b'\nC = d\n-L 1:x:2")
    assert ssh_options.keywords(words) == [("Tag", "x"), ("A", "b"), ("C", "d")]
    assert [*ssh_options.options(words)] == [
        ("A", ""), ("o", "Tag=x"), ("o", "A b"), ("o", "C = d"), ("L", "1:x:2")
    ]  # fmt: skip

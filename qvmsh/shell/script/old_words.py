"""Whether a file that is not Python looks like a script of bash, or like shell lines."""

from __future__ import annotations

NAMES = (
    "vm_echo", "vm_die", "vm_squeal", "vm_check_prog", "vm_ssh", "vm_sudo", "vm_sync", "vm_get_status",
    "vm_error", "vm_die_if_error", "vm_check_var", "vm_check_root", "vm_check_running", "vm_check_ssh",
    "vm_echo_if_verbose", "vm_get_timestamp", "vm_progress", "vm_progress_stop", "vm_get_ip",
    "vm_get_full_name", "vm_ping", "vm_get_control_method", "vm_get_suspend_method", "vm_suspend",
    "vm_poweroff",
)  # fmt: skip
"""The functions of the old vm that exist."""


def looks_like_bash(source: bytes) -> bool:
    """True if a file that is not Python has what only a shell script has."""
    import re

    text = source.decode("utf-8", "replace")
    signs = (
        r"^\s*(then|fi|done|esac|do)\s*(;|$|\|)",
        r"^\s*(if|elif|while|until)\s+(!\s+)?(\[|test\b|true\b|false\b|grep\b|\()",
        r";\s*(then|do|fi|done)\b",
        r"\$\(|\$\{\w|\"\$\w|`[^`\n]+`",
        r"^\s*(export|local|readonly|declare|source|set -\w|shift|getopts|eval|exec)\b(?!\s*[=(.])",
        r"^\s*function\s+\w+|^\s*\w+\s*\(\)\s*(\{|$)",
        r"^\s*case\s.*\sin\s*$|;;\s*$",
        rf"^\s*({'|'.join(NAMES)})\b(?!\()",
        r"^\s*(echo|printf|cd|mkdir|rm|cp|mv)\s+[-\w\"'$/.]",
        r"^[A-Za-z_]\w*=(\$|\"\$|`)",
        r"\s(\|\||&&)\s",
    )
    return any(re.search(sign, text, re.MULTILINE) for sign in signs)


def has_words(source: bytes) -> bool:
    """True if a line begins as a command with options does (`start --no-wait` is Python too)."""
    import re

    from qvmsh.commands.index import COMMANDS

    verbs = "|".join({verb.partition(" ")[0] for verb in COMMANDS} | {"ls", "git", "echo", *NAMES})
    text = source.decode("utf-8", "replace")
    return re.search(rf"^\s*({verbs})\s+(--?\w|[|&]+\s*\w)", text, re.MULTILINE) is not None

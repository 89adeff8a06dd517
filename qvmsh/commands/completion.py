"""`qvm completion`: complete command lines in bash, zsh and fish."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt


@command(group="shell", words="rest")
def completion(shell: Annotated[str, Opt(choices=("bash", "zsh", "fish"))], *words: str) -> str:
    """Print the completion script for a shell.

    For bash: `source <(qvm completion bash)` in ~/.bashrc. For zsh: `source <(qvm completion zsh)`
    in ~/.zshrc, after `compinit`. For fish:
    `qvm completion fish >~/.config/fish/completions/qvm.fish`, once: there it takes the place of what
    fish makes of the man page. The script calls qvm at each Tab with the words typed so far:
    `qvm completion bash -- qvm start --l` prints the completions of the last word.

    Args:
        shell: bash, zsh or fish.
        words: `--`, then a command line: print the completions of its last word instead.

    Raises:
        UsageError: the shell is not supported.
    """
    from qvmsh.cli import complete, completion_scripts  # the one upward import, as in `sh`

    if shell not in completion_scripts.SCRIPTS:
        known = ", ".join(completion_scripts.SCRIPTS)
        raise UsageError(f"completion: {shell}: must be one of {known}")
    if not words:
        return completion_scripts.SCRIPTS[shell]
    line = words[1:] if words[0] == "--" else words
    found = complete.complete(line[1:])
    rows = (f"{word}\t{complete.short(text)}" if shell != "bash" else word for word, text in found.rows)
    return "\n".join([found.kind, *rows]) + "\n"

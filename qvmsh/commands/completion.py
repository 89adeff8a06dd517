"""`qvm completion`: the words of a command line, completed by bash, zsh and fish."""

from __future__ import annotations

from qvmsh.commands._define import command
from qvmsh.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands._define import Opt


@command(group="shell", words="rest")
def completion(shell: Annotated[str, Opt(choices=("bash", "zsh", "fish"))], *words: str) -> str:
    """Print what a shell has to read to complete qvm's words, options and values.

    For bash: `source <(qvm completion bash)` in ~/.bashrc. For zsh: `source <(qvm completion zsh)`
    in ~/.zshrc, after `compinit`. For fish: `qvm completion fish | source` in
    ~/.config/fish/config.fish. The script asks qvm itself at each Tab, with the words typed so
    far: `qvm completion bash -- qvm start --l` prints what the last one may become.

    Args:
        shell: bash, zsh or fish.
        words: `--`, then a command line; its last word is completed, instead of printing the script.

    Raises:
        UsageError: it is another shell.
    """
    from qvmsh.cli import complete, completion_scripts  # the one import that goes up, as in `sh`

    if shell not in completion_scripts.SCRIPTS:
        known = ", ".join(completion_scripts.SCRIPTS)
        raise UsageError(f"completion: {shell}: must be one of {known}")
    if not words:
        return completion_scripts.SCRIPTS[shell]
    line = words[1:] if words[0] == "--" else words
    found = complete.complete(line[1:])
    rows = (f"{word}\t{complete.short(text)}" if shell != "bash" else word for word, text in found.rows)
    return "\n".join([found.kind, *rows]) + "\n"

"""The completion scripts for bash, zsh and fish; each calls `qvm completion` at every Tab.

python -m qvmsh.cli.completion_scripts      # rewrites rc/completions, which the wheel installs
"""

from __future__ import annotations

BASH = r"""# bash completion for qvm: source <(qvm completion bash)
_qvm() {
    local cur=${COMP_WORDS[COMP_CWORD]} rest=$COMP_LINE word last prefix i
    local -a words=() rows=()
    # bash also splits words at = and :; qvm gets whole words
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if ((i == 0)) || [[ $rest == [[:space:]]* ]]; then
            words+=("$word")
        else
            words[${#words[@]} - 1]+=$word
        fi
        rest=${rest#"${rest%%[![:space:]]*}"}
        rest=${rest#"$word"}
    done
    [[ $cur == [=:] ]] && cur=
    last=${words[${#words[@]} - 1]}
    prefix=${last%"$cur"}
    mapfile -t rows < <("${COMP_WORDS[0]}" completion bash -- "${words[@]//\\/}" 2>/dev/null)
    COMPREPLY=()
    for word in "${rows[@]:1}"; do
        word=${word#"$prefix"}
        [[ $word == *[!A-Za-z0-9_./:=@%+,-]* ]] && printf -v word %q "$word"
        COMPREPLY+=("$word")
    done
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=.] ]]; then
        compopt -o nospace
    fi
    if [[ ${rows[0]} == file ]]; then
        compopt -o filenames
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$cur")
    elif [[ ${rows[0]} == dir ]]; then
        compopt -o filenames
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -d -- "$cur")
    fi
}
complete -F _qvm qvm
"""

ZSH = r"""#compdef qvm
# zsh completion for qvm: source <(qvm completion zsh) after compinit
_qvm() {
    local -a rows whole open
    local row kind
    local -a line=("${(@Q)words[1,CURRENT-1]}" "${(Q)PREFIX}")
    rows=("${(@f)$("$line[1]" completion zsh -- "$line[@]" 2>/dev/null)}")
    kind=$rows[1]
    for row in "${(@)rows[2,-1]}"; do
        [[ -n $row ]] || continue
        local word=${row%%$'\t'*} text=${row#*$'\t'}
        if [[ $word == *[=.] ]]; then
            open+=("${word//:/\\:}:$text")
        else
            whole+=("${word//:/\\:}:$text")
        fi
    done
    local found=1
    (( $#whole )) && _describe -t words 'qvm' whole && found=0
    (( $#open )) && _describe -t words 'qvm' open -S '' && found=0
    [[ $PREFIX == *=* ]] && compset -P '*='
    case $kind in
        file) _files && found=0 ;;
        dir) _files -/ && found=0 ;;
    esac
    return found
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _qvm "$@"
else
    compdef _qvm qvm
fi
"""

FISH = r"""# fish completion for qvm: qvm completion fish >~/.config/fish/completions/qvm.fish
function __qvm_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l rows ($words[1] completion fish -- $words "$current" 2>/dev/null)
    if test (count $rows) -gt 1
        printf '%s\n' $rows[2..-1]
    end
    set -l head (string match -r -- '^[A-Za-z_-]+=' "$current")
    set -l start (string replace -- "$head" '' "$current")
    switch "$rows[1]"
        case file
            printf '%s\n' "$head"(__fish_complete_path "$start")
        case dir
            printf '%s\n' "$head"(__fish_complete_directories "$start" '')
    end
end
complete -c qvm -f -a '(__qvm_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

FILES = {"bash": "qvm", "zsh": "_qvm", "fish": "qvm.fish"}
"""The file name that each shell expects for the completion of `qvm`."""

if __name__ == "__main__":
    import os

    folder = os.path.join(os.path.dirname(__file__), "../../rc/completions")
    os.makedirs(folder, exist_ok=True)
    for shell, name in FILES.items():
        with open(os.path.join(folder, name), "w") as file:
            file.write(SCRIPTS[shell])

# fish completion for qvm: qvm completion fish >~/.config/fish/completions/qvm.fish
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

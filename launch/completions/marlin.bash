# Bash completion for marlin-worker, marlin-convert and marlin-pack: the flags come from the program's own --help.
_marlin() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    case $prev in
    --backend) mapfile -t COMPREPLY < <(compgen -W 'auto cpu cuda' -- "$cur") && return ;;
    --cpu-act) mapfile -t COMPREPLY < <(compgen -W 'int16 int8' -- "$cur") && return ;;
    --log-level) mapfile -t COMPREPLY < <(compgen -W 'error warn info debug' -- "$cur") && return ;;
    --quantize) mapfile -t COMPREPLY < <(compgen -W 'rtn none' -- "$cur") && return ;;
    esac
    if [[ $cur == -* ]]; then
        local flags
        flags=$("${COMP_WORDS[0]}" --help 2>/dev/null | grep -oE -e '--[a-z][a-z0-9-]*' | sort -u)
        mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        compopt -o filenames 2>/dev/null
    fi
}
complete -F _marlin marlin-worker marlin-convert marlin-pack

# Bash completion for marlin-worker, marlin-convert, marlin-pack and marlin-bench: the flags come from the program's own --help.
_marlin() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local bench=''
    [[ ${COMP_WORDS[0]##*/} == marlin-bench && $COMP_CWORD -gt 1 ]] && bench=${COMP_WORDS[1]}
    if [[ ${COMP_WORDS[0]##*/} == marlin-bench && $COMP_CWORD -eq 1 ]]; then
        mapfile -t COMPREPLY < <(compgen -W 'gemm attention allreduce load decode prefill throughput serve all plot' -- "$cur")
        return
    fi
    case $prev in
    --backend) mapfile -t COMPREPLY < <(compgen -W 'auto cpu cuda' -- "$cur") && return ;;
    --cpu-act) mapfile -t COMPREPLY < <(compgen -W 'int16 int8' -- "$cur") && return ;;
    --log-level) mapfile -t COMPREPLY < <(compgen -W 'error warn info debug' -- "$cur") && return ;;
    --output) mapfile -t COMPREPLY < <(compgen -W 'md csv json jsonl' -- "$cur") && return ;;
    --quantize) mapfile -t COMPREPLY < <(compgen -W 'rtn none' -- "$cur") && return ;;
    esac
    if [[ $cur == -* ]]; then
        local flags
        flags=$("${COMP_WORDS[0]}" $bench --help 2>/dev/null | grep -oE -e '--[a-z][a-z0-9-]*' | sort -u)
        mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        compopt -o filenames 2>/dev/null
    fi
}
complete -F _marlin marlin-worker marlin-convert marlin-pack marlin-bench

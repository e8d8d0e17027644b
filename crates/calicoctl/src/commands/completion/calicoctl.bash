# bash completion for calicoctl. It asks calicoctl itself.

_calicoctl() {
    local answer
    # The name as it was typed: with a path, if it was typed with one.
    answer=$("${COMP_WORDS[0]}" __complete bash -- "${COMP_LINE:0:COMP_POINT}" 2>/dev/null </dev/null)
    COMPREPLY=()
    case $answer in
    :files) compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$2") ;;
    :folders) compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -d -- "$2") ;;
    '') ;;
    *) mapfile -t COMPREPLY <<<"$answer" ;;
    esac
}

complete -F _calicoctl calicoctl

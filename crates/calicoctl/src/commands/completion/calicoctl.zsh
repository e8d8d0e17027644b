#compdef calicoctl
# zsh completion for calicoctl. It asks calicoctl itself.

_calicoctl() {
    local answer
    local -a found
    answer=$("${words[1]}" __complete zsh -- "${(@)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null </dev/null)
    case $answer in
    :files) _files ;;
    :folders) _files -/ ;;
    '') return 1 ;;
    *) found=("${(@f)answer}")
       _describe -V calicoctl found ;;
    esac
}

if [ "$funcstack[1]" = _calicoctl ]; then
    _calicoctl "$@"
else
    compdef _calicoctl calicoctl
fi

# fish completion for calicoctl. It asks calicoctl itself.

function __calicoctl_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    set -l answer ($before[1] __complete fish -- $before[2..-1] "$current" 2>/dev/null </dev/null)
    switch "$answer[1]"
        case :files
            __fish_complete_path (string replace -r '^--[^=]*=' '' -- "$current")
        case :folders
            __fish_complete_directories (string replace -r '^--[^=]*=' '' -- "$current") ''
        case '*'
            printf '%s\n' $answer
    end
end

complete -c calicoctl -f -a '(__calicoctl_complete)'

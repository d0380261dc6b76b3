# Completions of volvelle for fish: volvelle completions fish | source
function __volvelle_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    @PROGRAM@ __complete fish $words[2..-1] "$current" 2>/dev/null | tail -n +2
end
complete -c volvelle -f -a '(__volvelle_complete)'

#compdef volvelle
# Completions of volvelle for zsh: source <(volvelle completions zsh), after compinit
_volvelle() {
    local -a before answer values shown
    local line
    (( CURRENT > 2 )) && before=("${(@Q)words[2,CURRENT-1]}")
    answer=("${(@f)$(@PROGRAM@ __complete zsh "${before[@]}" "${(Q)PREFIX}" 2>/dev/null)}")
    for line in "${(@)answer[2,-1]}"; do
        values+=("${line%%$'\t'*}")
        shown+=("${line/$'\t'/  -- }")
    done
    (( $#values )) || return 1
    if [[ $answer[1] == nospace ]]; then
        compadd -l -d shown -S '' -- "${values[@]}"
    else
        compadd -l -d shown -- "${values[@]}"
    fi
}
compdef _volvelle volvelle

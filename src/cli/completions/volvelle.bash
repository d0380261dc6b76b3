# Completions of volvelle for bash: source <(volvelle completions bash)
_volvelle() {
    local LC_ALL=C answer
    mapfile -t answer < <(@PROGRAM@ __complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
    if [[ ${answer[0]-} == nospace ]]; then
        compopt -o nospace 2>/dev/null
    fi
    COMPREPLY=("${answer[@]:1}")
}
complete -F _volvelle volvelle

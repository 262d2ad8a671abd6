# Completes groups, choices and keys of `python src/train.py …` in bash; `make completion` adds the line that reads this.
#
# The candidates are Hydra's (`src/train.py -sc query=…`). Its own function for bash is not used: it starts whatever
# script stands behind `python`, serves no other spelling of that word, and stops bash from breaking words at `=` in
# every command. This one starts only the src/train.py of checkouts whose line was added, and hands the rest on.

_lab_scripts+=("$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/src/train.py")

_lab_complete() {
    local script=${COMP_WORDS[1]/#\~/$HOME} known
    for known in "${_lab_scripts[@]}"; do
        [[ $COMP_CWORD -gt 1 && $script -ef $known ]] || continue
        local line=${COMP_LINE:0:COMP_POINT}
        local word=${line##* } rest=${line#*"${COMP_WORDS[0]}"*"${COMP_WORDS[1]}"}
        mapfile -t COMPREPLY < <(
            COMP_LINE="python train.py$rest" "${COMP_WORDS[0]/#\~/$HOME}" "$script" -sc query=fish 2> /dev/null
        )
        [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} != *[=./] ]] || compopt -o nospace
        if [[ $word == *["$COMP_WORDBREAKS"]* ]]; then # bash replaces only what stands behind the last of them
            COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*["$COMP_WORDBREAKS"]}"}"}")
        fi
        return
    done
    if [[ $_lab_other ]]; then "$_lab_other" "$@"; fi
}

if [[ $(complete -p python 2> /dev/null) != *_lab_complete* ]]; then
    # bash-completion reads its rules for python on first use: now, so that they stay for every other script
    if declare -F _completion_loader > /dev/null; then _completion_loader python; fi
    _lab_other=$(complete -p python 2> /dev/null | sed -n 's/.*-F \([^ ]*\) .*/\1/p')
    complete -o bashdefault -o default -F _lab_complete python python3
fi

# Completes groups, choices and keys of `python src/train.py …` in zsh; `make completion` adds the line that reads this.
# It starts only the src/train.py of checkouts whose line was added, and hands the rest on; see lab.bash.

typeset -ga _lab_scripts
_lab_scripts+=("${${(%):-%x}:A:h:h:h}/src/train.py")

_lab_complete() {
    local script=${~${(Q)words[2]}} known
    for known in $_lab_scripts; do
        [[ $CURRENT -gt 2 && $script -ef $known ]] || continue
        local line="python train.py ${words[3,CURRENT-1]} $PREFIX"
        local -a found=("${(@f)$(COMP_LINE=${line//  / } ${~${(Q)words[1]}} $script -sc query=fish 2> /dev/null)}")
        compadd -Q -S '' -- ${(M)found:#*[=./]}
        compadd -Q -- ${found:#*[=./]}
        return
    done
    $_lab_other "$@"
}

if (( ! $+functions[compdef] )); then
    autoload -Uz compinit && compinit
fi
if [[ $_comps[python] != _lab_complete ]]; then
    _lab_other=${_comps[python]:-_default}
    compdef _lab_complete python python3
fi

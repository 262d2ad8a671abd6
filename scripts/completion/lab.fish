# Completes groups, choices and keys of `python src/train.py …` in fish; `make completion` adds the line that reads this.
# It starts only the src/train.py of checkouts whose line was added; see lab.bash.
# fish takes the word behind `-m` for a module, as python would: write `--multirun` to have that word completed.

set -ga __lab_scripts (realpath (status dirname)/../../src/train.py)

function __lab_script
    set -l words (commandline -opc | string replace -r '^~' $HOME)
    test (count $words) -ge 2; and contains -- (realpath -- $words[2] 2> /dev/null) $__lab_scripts
end

function __lab_candidates
    set -l words (commandline -opc | string replace -r '^~' $HOME)
    COMP_LINE="python train.py $words[3..] "(commandline -ct) $words[1] $words[2] -sc query=fish 2> /dev/null
end

complete -c python -c python3 -n __lab_script -f -a '(__lab_candidates)'

#!/usr/bin/env bash
# Clip-level and video-level accuracy of a model file on UCF-101: see `usage` below.
set -euo pipefail

usage() {
    cat <<'TEXT'
Top-1 and Top-5 of a model on the validation videos of UCF-101: 10 clips a video, first with the
centre crop, then with 3 crops.

    scripts/eval_ucf101.sh MODEL [ROOT] [SPLIT] [FLAG...]

    MODEL   model file, such as runs/ucf101-i3d-snl/last.safetensors
    ROOT    folder of UCF-101, or of the folder UCF-101 (default: data)
    SPLIT   1, 2, 3 or paper (default: 1)
    FLAG    more flags of `actionrec evaluate`, such as --workers 8; not those that name files to
            write, because it runs twice

Example: scripts/eval_ucf101.sh runs/ucf101-i3d-snl/last.safetensors data paper
TEXT
}

if [[ "${1-}" == -h || "${1-}" == --help ]]; then
    usage
    exit 0
fi
if [[ $# -eq 0 ]]; then
    usage >&2
    exit 2
fi
if ! command -v actionrec >/dev/null; then
    echo "eval_ucf101.sh: there is no actionrec on the PATH; activate the environment that has it." >&2
    exit 2
fi

model=$1 root=data split=1
shift
if [[ $# -gt 0 && $1 != --* ]]; then root=$1; shift; fi
if [[ $# -gt 0 && $1 != --* ]]; then split=$1; shift; fi

status=0
for crops in 1 3; do
    # A video that could not be read makes the status 1, but there are figures of the others.
    figures=$(actionrec evaluate --model "$model" --dataset ucf101 --root "$root" \
        --split "$split" --clips 10 --crops "$crops" "$@") || status=$?
    if [[ -z $figures ]]; then exit "$status"; fi
    # After the first empty line come the classes.
    sed '/^$/,$d' <<<"$figures"
done
exit "$status"

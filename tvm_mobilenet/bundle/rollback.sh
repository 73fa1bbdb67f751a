# Switches to the version before the current one. $1: the board's folder
set -eu
LC_ALL=C
export LC_ALL
cd "$1"
! command -v flock >/dev/null || { command exec 8<.; flock 8 || true; }
now=$(readlink current)
now=${now#versions/}
rm -f "versions/$now/.not-yet" # it was switched to, and killed right after
name=$(cd versions; for program in [0-9]*-*/mobilenet; do
    [ ! -e "${program%/*}/.not-yet" ] || continue
    printf '%s\n' "${program%/*}"
done | sort -n | awk -v now="$now" '$0 == now { exit } { last = $0 } END { print last }')
[ -n "$name" ] || { echo "there is no version before $now" >&2; exit 72; }
rm -f .current-*
ln -s "versions/$name" ".current-$name"
mv -T ".current-$name" current
if sync --help 2>&1 | grep -q FILE; then sync -- .; else sync; fi
printf '%s\n' "$name"

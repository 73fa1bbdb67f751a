# Installs a version on a board in one shell: copies, hashes, tests and writes it to the disk, and only then makes it current.
# $1 the board's folder  $2 bytes of the tar file on stdin  $3 lines for sha256sum  $4 the build  $5 versions that stay
# $6 threads of the self-test  $7 the command that runs the program  $8 the bundle's signers, in ssh-keygen's format  $9 the signer
#
# After the tar file stdin stays open until the sender says "switch", in answer to the line "tested". So if the
# sender or the connection is lost before, nothing is switched and nothing is left.
set -eu
umask 022
LC_ALL=C
export LC_ALL

# Writes files and folders to the disk; an old `sync` takes no names and writes everything.
flush() { if sync --help 2>&1 | grep -q FILE; then sync -- "$@"; else sync; fi; }

# Names a process for all time: its number, when it began, in ticks since the board did, and which start of the board.
# A clock would not do: it may jump, and often does soon after a start.
process() {
    echo "$1.$(cut -d " " -f 22 "/proc/$1/stat" 2>/dev/null).$(cut -c -8 /proc/sys/kernel/random/boot_id 2>/dev/null)"
}

# Removes a folder unless the shell that made it still runs: that shell holds its lock, which ends with it. Without locks,
# the name of its process tells. $1 the folder  $2 the process
abandoned() {
    [ -d "$1" ] || return 0
    code=66
    ! command -v flock >/dev/null || { code=0; flock -n "$1" rm -rf -- "$1" || code=$?; }
    [ "$code" -lt 2 ] || [ "$(process "${2%%.*}")" = "$2" ] || rm -rf -- "$1"
}

there=yes
[ -d "$1" ] || there=
mkdir -p "$1/versions"
cd "$1/versions"
for old in .new-*; do
    made=${old#.new-}
    abandoned "$old" "${made%-*}"
done
now=none
[ ! -h ../current ] || now=$(readlink ../current)
for old in [0-9]*-*/.not-yet; do # numbered, and killed before it became current; or right after
    [ -e "$old" ] || continue
    if [ "$now" = "versions/${old%/*}" ]; then rm -f "$old"; else abandoned "${old%/*}" "$(cat "$old")"; fi
done

# A version that did not become current is removed, and so is a folder that was made for it.
undo() {
    rm -f "$1/.current-$name"
    case $new in .new-?* | [0-9]*-?*) rm -rf "$1/versions/$new" ;; esac # never all of them, where a name is missing
    [ -n "$there" ] || rmdir -- "$1/versions" "$1" 2>/dev/null || true
}
name=
new=.new-none
trap 'undo "$1"' EXIT
trap 'exit 71' HUP INT TERM PIPE

for try in 1 2 3 4 5 6 7 8 9; do # one that was taken for abandoned before it was locked is made again
    made=$(mktemp -d ".new-$(process $$)-XXXXXX") # if that fails, $new is unchanged
    new=$made
    command exec 9<"$new" || continue
    code=0
    ! command -v flock >/dev/null || flock -n 9 || code=$?
    [ "$code" -ne 1 ] && [ -d "$new" ] && break
done

head -c "$2" > "$new/bundle.tar"
[ "$(wc -c < "$new/bundle.tar")" -eq "$2" ] || { echo "the connection broke while copying" >&2; exit 71; }
cd "$new"
tar -xf bundle.tar
rm bundle.tar
mv -- */* .
rmdir -- */
printf '%s' "$3" | sha256sum -c --quiet - >&2

checked=
if [ -n "$8" ] && command -v ssh-keygen >/dev/null; then
    printf '%s' "$8" > .signers
    if why=$(ssh-keygen -Y verify -n tvm_mobilenet -f .signers -I "$9" -s manifest.sha256.sig < manifest.sha256 2>&1)
    then checked=yes
    else case $why in *"option -- Y"*) ;; *) printf 'signature: %s\n' "$why" >&2; exit 73 ;; esac # OpenSSH before 8.1
    fi
    rm .signers
fi
[ -z "$checked" ] || echo "signature checked"
process $$ > .not-yet
chmod 755 .
flush .not-yet * .

# shellcheck disable=SC2086 # words
${7:-} ./mobilenet selftest --folder . ${6:+--threads "$6"} < /dev/null
echo tested
word=
read -r word || true
[ "$word" = switch ] || { echo "the connection broke before the switch" >&2; exit 71; }

cd ../..
! command -v flock >/dev/null || { command exec 8<.; flock 8 || true; } # one switch at a time
cd versions
for try in 1 2 3 4 5 6 7 8 9; do
    last=$(ls | sed -n 's/^0*\([0-9][0-9]*\)-.*/\1/p' | sort -n | tail -n 1)
    name=$(printf '%04d' $((${last:-0} + 1)))-$4
    mkdir "$name" 2>/dev/null && break
done
mv -T "$new" "$name"
new=$name
flush .
cd ..
rm -f .current-*
ln -s "versions/$name" ".current-$name"
new=.new-none # from here on it is a version
mv -T ".current-$name" current || { rm -rf "versions/$name"; exit 1; }
rm -f "versions/$name/.not-yet"
flush .
[ ! -r .. ] || flush ..
cd versions
rmdir [0-9]*-* 2>/dev/null || true
ls -d [0-9]*-* | sort -n | head -n "-$5" | while read -r old; do
    [ "$name" = "$old" ] || rm -rf "$old"
done
trap - EXIT
printf '%s\n' "$name"

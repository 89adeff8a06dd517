"""What the guest's shell does for `put` and `get`: POSIX sh, with the tar, dd and stat that are there.

LOOK_AT_TARGET, PLACE, ...: each is the text for `sh -c`, with its words as `$1`, `$2`.

No value is ever part of a script but as a quoted word. Names are bytes: the locale is C.
"""

from __future__ import annotations

_C = "LC_ALL=C; export LC_ALL; "

_FLUSH = r"""
flush() {
    if command -v sync >/dev/null 2>&1; then sync "$1"
    elif [ -f "$1" ]; then dd if=/dev/null of="$1" count=0 conv=notrunc,fsync 2>/dev/null; fi
}
flush_all() { sync -f . 2>/dev/null || sync 2>/dev/null; true; }
"""
"""Write a file, or all of its file system, to the disk; a `sync` that knows no words writes everything. If a
guest dies after a rename, the file may have its final name, but only a part of its data."""

LOOK_AT_TARGET = (
    _C
    + r"""
size() { stat -c %s -- "$1" 2>/dev/null || wc -c <"$1"; }
case $1 in */) slash=1;; *) slash=;; esac
part=$2/$3
if [ -d "$1" ]; then kind=folder part=$1/$3
elif [ -e "$1" ] && [ ! -f "$1" ]; then kind=special
elif [ -e "$1" ]; then kind=file
elif [ "$slash" ]; then kind=new; part=$1/$3
elif [ -d "$2" ]; then kind=none
else kind=lost; fi
tar=none
command -v tar >/dev/null 2>&1 && tar=plain
case $(tar --version 2>/dev/null) in *"GNU tar"*) tar=gnu;; esac
dd=plain
dd if=/dev/null of=/dev/null bs=1 count=0 iflag=fullblock,count_bytes oflag=seek_bytes status=none \
    2>/dev/null && dd=holes
there=0
[ -f "$part" ] && [ -O "$part" ] && [ ! -L "$part" ] && there=$(size "$part")
echo qvm "$kind" "$tar" "$dd" $there
"""
)
"""Words: the target; its folder; the name of a part. What is there, and what the guest can do."""

WRITE = (
    _C
    + r"""
case $2 in new) mkdir -p -- "$1" || exit;; esac
umask 077
part=$1/$3
{ [ -f "$part" ] && [ -O "$part" ] && [ ! -L "$part" ]; } || rm -f -- "$part" || exit
[ "$4" = on ] || : >"$part" || exit
shift 4
if [ $# = 0 ]; then exec cat >>"$part"; fi
while [ $# -gt 0 ]; do
    dd of="$part" bs=1048576 count="$2" seek="$1" iflag=fullblock,count_bytes oflag=seek_bytes \
        conv=notrunc status=none || exit
    shift 2
done
"""
)
"""Words: the folder; `new` to make it; the part; `on` to keep what it has; then offsets and lengths of what
comes, or none: it comes at the end."""

PLACE_FILE = (
    _C
    + _FLUSH
    + r"""
cd -- "$1" || exit
if [ "$3" ]; then
    have=$(stat -c %s -- "$2" 2>/dev/null || wc -c <"$2")
    [ "$have" -le "$3" ] || { echo "$2: it is longer than what was sent" >&2; exit 1; }
    [ "$have" = "$3" ] || truncate -s "$3" -- "$2" || exit
fi
flush "$2" || exit
case $4 in keep) set -- "$1" "$2" "$3" "$(stat -c %a -- "$6" 2>/dev/null || echo 644)" "$5" "$6";; esac
[ -z "$4" ] || chmod "$4" -- "$2" || exit
[ -z "$5" ] || TZ=UTC0 touch -c -t "$5" -- "$2" || exit
[ ! -d "$6" ] || { echo "$6: it is a directory" >&2; exit 1; }
mv -f -- "$2" "$6" || exit
flush . 2>/dev/null
true
"""
)
"""Words: the folder; the part; its size, mode and time, or ""; the final name. The mode `keep` is that of the
file that is there."""

UNPACK = (
    _C
    + r"""
case $2 in new) mkdir -p -- "$1" || exit;; esac
umask 077
cd -- "$1" && mkdir -- "$3" || exit
umask 0
tar -x -p -o -f - -C "$3"
status=$?
cat >/dev/null
[ $status = 0 ] || { chmod -R u+rwx "$3"; rm -rf -- "$3"; } 2>/dev/null
exit $status
"""
)
"""Words: the folder; `new` to make it; the part, which becomes a folder."""

REMOVE = (
    _C
    + r"""
cd -- "$1" || exit
rm -rf -- "$2" 2>/dev/null || { chmod -R u+rwx "$2"; rm -rf -- "$2"; }
"""
)
"""Words: the folder; the part."""

PLACE = (
    _C
    + _FLUSH
    + r"""
cd -- "$1" || exit
bad=
open() { [ -w "$1" ] || { stat -c %a -- "$1" 2>/dev/null || echo 555; chmod u+w -- "$1"; }; }
one() {
    if [ -d "$2" ] && [ -d "$1" ] && [ ! -L "$1" ]; then
        (mode=$(open "$2"); all "$1" "$2"; [ -z "$mode" ] || chmod "$mode" -- "$2"; [ -z "$bad" ]) || bad=1
    elif [ -d "$2" ]; then echo "$2: it is a directory" >&2; bad=1
    elif [ -d "$1" ] && [ ! -L "$1" ] && { [ -e "$2" ] || [ -L "$2" ]; }; then
        echo "$2: it is not a directory" >&2; bad=1
    else
        mode=$3
        if [ -z "$mode" ] && [ -d "$1" ] && [ ! -L "$1" ]; then mode=$(open "$1"); fi
        mv -f -- "$1" "$2" && { [ -z "$mode" ] || chmod "$mode" -- "$2"; } || bad=1
    fi
}
all() {
    from=$1 to=$2; set --
    chmod u+rwx -- "$from"
    for each in "$from"/* "$from"/.[!.]* "$from"/..?*; do
        [ -e "$each" ] || [ -L "$each" ] || continue
        if [ -d "$to/${each##*/}" ] || { [ -d "$each" ] && [ ! -L "$each" ]; }; then
            (one "$each" "$to/${each##*/}" ""; [ -z "$bad" ]) || bad=1
        else
            set -- "$@" "$each"
            [ $# -lt 100 ] || { mv -f -- "$@" "$to/" || bad=1; set --; }
        fi
    done
    [ $# = 0 ] || mv -f -- "$@" "$to/" || bad=1
}
rows=$(cat && echo .) || exit
flush_all
eval "${rows%.}"
chmod -R u+rwx "$2" 2>/dev/null
rm -rf -- "$2" || exit
flush_all
[ -z "$bad" ]
"""
)
"""Words: the folder; the part. Standard input: lines `one PART NAME MODE`."""

LOOK_AT_SOURCES = (
    _C
    + r"""
see() {
    if [ -d "$1" ]; then kind=folder
    elif [ -f "$1" ]; then kind=file
    elif [ -e "$1" ]; then kind=special
    else kind=missing; fi
    [ -L "$1" ] && link=link || link=plain
    facts=$(stat -L -c '%s %Y %a %b' -- "$1" 2>/dev/null) || facts='- - - -'
    echo qvm $kind $link $facts
}
tar=none
command -v tar >/dev/null 2>&1 && tar=plain
case $(tar --version 2>/dev/null) in *"GNU tar"*) tar=gnu;; esac
gzip=none
command -v gzip >/dev/null 2>&1 && gzip=gzip
echo qvm $tar $gzip
eval "$(cat)"
"""
)
"""Standard input: a line `see NAME` for each source. What they are."""

READ = (
    _C
    + r"""
exec <"$1" || exit
[ "$2" = 0 ] || dd bs=65536 count=0 skip="$2" 2>/dev/null || exit
if [ "$3" = gzip ]; then exec gzip -1 -c; fi
exec cat
"""
)
"""Words: the file; how many blocks of 64 KiB are there already; `gzip` to send it compressed."""

PACK = (
    _C
    + r"""
how=$1; shift
if [ "$1" = link ]; then
    found=$(readlink -f -- "$2" && echo .) || exit
    found=${found%??}
    set -- "${found%/*}/" "./${found##*/}"
fi
cd -- "$1" || exit
shift
if [ "$how" = gnu ]; then exec tar -c -S --format=gnu --blocking-factor=256 -f - -- "$@"; fi
exec tar -c -f - -- "$@"
"""
)
"""Words: `gnu`; a folder and names in it, or `link` and a link. A tar file of them."""


def quoted(word: str) -> str:
    """A word as the shell reads it."""
    return "'" + word.replace("'", "'\\''") + "'"

# shellcheck shell=bash
# Setup shared by the scripts: prints what it installs, installs it once, is fast afterwards.

say() { if [ -t 1 ]; then printf '\033[1m== %s\033[0m\n' "$*"; else printf '== %s\n' "$*"; fi; }
die() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2; exit 1; }

# need COMMAND PACKAGE: remember the Debian package of a program that is not installed
missing=()
need() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}

# Quietly, and after whoever else uses apt now: a fresh host often updates itself in its first minutes.
apt() {
    local errors deadline=$((SECONDS + 900)) is_told=
    errors=$(mktemp)
    until LC_ALL=C apt-get -q -o DPkg::Lock::Timeout=900 -o Acquire::Retries=5 "$@" >/dev/null 2>"$errors"; do
        if ! grep -q 'Could not get lock' "$errors" || [ "$SECONDS" -ge "$deadline" ]; then
            cat "$errors" >&2
            rm -f "$errors"
            return 100
        fi
        [ "$is_told" ] || say "waiting until another program has finished with apt"
        is_told=yes
        sleep 2
    done
    rm -f "$errors"
}

# Install Debian packages if we are root and have apt; else name them for the user to install.
install_packages() {
    [ "${#missing[@]}" -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing Debian packages: ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt update
        apt install -y --no-install-recommends "${missing[@]}"
    else
        die "missing packages: ${missing[*]}" "install them (Debian: sudo apt-get install ${missing[*]}), then try again"
    fi
}

# The first Python that is new enough; a pyenv shim is resolved to the real one.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        [ -n "$candidate" ] || continue
        "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        "$candidate" -c 'import sys; print(sys.executable)'
        return
    done
    return 1
}

# make_venv run|dev: .venv with qvm (editable) and exactly what scripts/requirements-*.txt pins; updated when
# that or pyproject.toml changes.
make_venv() {
    local group=$1 each python stamp wanted lock
    stamp=.venv/.qvm-setup-$group
    lock=scripts/requirements-$group.txt
    wanted=$(cksum pyproject.toml "$lock")
    if [ -x .venv/bin/qvm ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    python=$(find_python) || die "no Python 3.11 or later with venv" "Debian: apt-get install python3-venv"
    say "installing qvm and its Python packages into .venv ($("$python" --version))"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r "$lock"
    .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
    .venv/bin/python -m compileall -q qvmsh
    for each in "$group" run; do # what the tests need holds what qvm needs
        cksum pyproject.toml "scripts/requirements-$each.txt" >".venv/.qvm-setup-$each"
    done
}

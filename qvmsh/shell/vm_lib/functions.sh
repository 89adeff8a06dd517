# shellcheck shell=bash
# The functions that scripts of the old vm know, on qvm's commands. `qvm sh --shell` loads them.

if [ -n "${QVM_BASH_ENV-}" ]; then BASH_ENV=$QVM_BASH_ENV; else unset BASH_ENV; fi
unset QVM_BASH_ENV

VM_ERRCNT=${VM_ERRCNT:-0}

# qvm itself, on the machine of this shell
_vm_qvm() {
    "$QVM_PYTHON" -P -m qvmsh -C "$VM_HOME" "$@"
}

_vm_log() { # FILE TEXT...
    local file=$1
    shift
    if [ -n "$file" ]; then printf '[%s] %s\n' "$(vm_get_timestamp)" "$*" >>"$file" 2>/dev/null; fi
    return 0
}

vm_get_timestamp() {
    date "+${VM_DATEFMT:-%F %T}"
}

vm_echo() {
    printf '[%s] %s\n' "$(vm_get_timestamp)" "$*"
}

vm_echo_if_verbose() {
    if [ "${VERBOSE-}" = 1 ]; then vm_echo "$*"; fi
    _vm_log "${VM_LOG-}" "$*"
}

vm_error() {
    vm_echo "$*" >&2
}

# Say what is wrong; vm_die_if_error ends the script later.
vm_squeal() {
    VM_ERRCNT=$((VM_ERRCNT + 1))
    printf 'vm: %s\n' "$*" >&2
}

vm_die() {
    printf 'vm: %s\n' "$*" >&2
    _vm_log "${VM_ERRLOG:-${VM_LOG-}}" "$*"
    exit 1
}

vm_die_if_error() {
    if [ "$VM_ERRCNT" -gt 1 ]; then vm_die "exiting after $VM_ERRCNT errors"; fi
    if [ "$VM_ERRCNT" -gt 0 ]; then vm_die "exiting after 1 error"; fi
}

vm_check_root() {
    if [ "$(id -u)" != 0 ]; then vm_die "this command needs root privileges"; fi
}

vm_check_var() { # NAME
    if [ -z "${!1+set}" ]; then vm_die "$VM_CONFIG: mandatory variable $1 not set"; fi
}

vm_check_prog() { # PROGRAM
    if ! type -P "$1" >/dev/null; then vm_squeal "program '$1' not found"; fi
}

# The guest, on the cached connection.
vm_ssh() { # COMMAND...
    _vm_qvm ssh -- "$@"
}

vm_sudo() { # COMMAND...
    vm_ssh sudo -n "$@"
}

vm_sync() {
    vm_ssh sync
}

# The machine's state in QEMU's words ("running", "paused"); nothing, and status 1, where it is off.
vm_get_status() {
    local answer
    answer=$(_vm_qvm -q cmd info status 2>/dev/null) || return 1
    printf '%s\n' "${answer#VM status: }"
}

vm_check_running() {
    vm_get_status >/dev/null
}

vm_check_ssh() {
    if vm_ssh true 2>/dev/null; then echo ok; else echo "no answer"; fi
}

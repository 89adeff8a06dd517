# shellcheck shell=bash
# The functions that scripts of the old vm know, on qvm's commands. `qvm sh --shell` loads them.

if [ -n "${QVM_BASH_ENV-}" ]; then BASH_ENV=$QVM_BASH_ENV; else unset BASH_ENV; fi
unset QVM_BASH_ENV

VM_ERRCNT=${VM_ERRCNT:-0}
PROG=vm
VERBOSE=${VERBOSE:-0}
# for scripts that call `$SSH COMMAND`
# shellcheck disable=SC2034
SSH="vm ssh --"

# qvm itself, on the machine of this shell
_vm_qvm() {
    "$QVM_PYTHON" -P -m qvmsh -C "$VM_HOME" "$@"
}

_vm_log() { # FILE TEXT...
    local file=$1
    shift
    case $file in '') return 0 ;; /*) ;; *) file=$VM_HOME/$file ;; esac
    printf '[%s] %s\n' "$(vm_get_timestamp)" "$*" 2>/dev/null >>"$file" || true
}

vm_get_timestamp() {
    date "+${VM_DATEFMT:-%F %T}"
}

# Show a temporary line on the terminal; the next output replaces it.
vm_progress() { # TEXT...
    if [ "$VERBOSE" = 1 ] && [ -t 1 ]; then
        printf '\r\033[K   %s\r' "$*"
        _VM_PROGRESS=1
    fi
}

vm_progress_stop() {
    if [ -n "${_VM_PROGRESS-}" ]; then printf '\r\033[K'; fi
    _VM_PROGRESS=
}

vm_echo() {
    vm_progress_stop
    printf '[%s] %s\n' "$(vm_get_timestamp)" "$*"
}

vm_echo_if_verbose() {
    vm_progress_stop
    if [ "$VERBOSE" = 1 ]; then vm_echo "$*"; fi
    _vm_log "${VM_LOG-}" "$*"
}

vm_error() {
    vm_echo "$*" >&2
}

# Print an error; vm_die_if_error ends the script later.
vm_squeal() {
    VM_ERRCNT=$((VM_ERRCNT + 1))
    printf 'vm: %s\n' "$*" >&2
}

vm_die() {
    vm_progress_stop
    printf '%s: %s\n' "$PROG" "$*" >&2
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

# The guest, on the cached connection; its errors come with its output, as they did.
vm_ssh() { # COMMAND...
    _vm_qvm ssh -- "$@" 2>&1
}

vm_sudo() { # COMMAND...
    vm_ssh sudo -n "$@"
}

vm_sync() {
    vm_ssh sync </dev/null
}

vm_check_ssh() {
    vm_ssh echo ok </dev/null | sed -e '/^hint: /d' -e 's/^qvm: //'
}

# The guest's program that suspends and powers off
vm_get_control_method() {
    vm_ssh 'command -v systemctl || command -v loginctl' </dev/null | sed -n '/^\//p'
}

vm_get_suspend_method() {
    local program
    program=$(vm_get_control_method)
    if [ -n "$program" ]; then printf '%s suspend\n' "$program"; fi
}

vm_suspend() {
    _vm_qvm suspend </dev/null >/dev/null 2>&1
}

vm_poweroff() {
    vm_sudo poweroff </dev/null >/dev/null
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

# The address of the host that QEMU runs on, its full name, and how long a ping to it takes
vm_get_ip() {
    getent ahostsv4 "$VM_NET_HOST" | sed -n '1s/ .*//p'
}

vm_get_full_name() { # ADDRESS
    getent hosts "$1" | sed -n '1s/^[^ ]* *\([^ ]*\).*/\1/p'
}

vm_ping() {
    ping -c 1 "$VM_NET_HOST" | sed -n 's/^.*min[^=]*= //p'
}

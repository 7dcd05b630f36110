#!/bin/sh
# Makes .venv from requirements.lock and brings gVisor's runsc. Quick when nothing changed; safe to interrupt and run again.
#
# Settings: PYTHON (default python3), AGENTFLOW_UNSAFE_SUBPROCESS_TOOLS=true (go on without runsc: tools run without isolation).
set -eu
cd "$(dirname "$0")/.."
exec 9<Makefile
command -v flock >/dev/null 2>&1 && flock 9    # two makes at once: the second waits, then finds everything done

PYTHON=${PYTHON:-python3}
LOG=${TMPDIR:-/tmp}/agentflow-setup-$(id -u).log
STAMP=.venv/agentflow-setup

say() { printf 'agentflow setup: %s\n' "$*" >&2; }
stop() { printf '\nagentflow setup: %s\n' "$1" >&2; shift; for line; do printf '    %s\n' "$line" >&2; done; exit 1; }
quietly() { "$@" >"$LOG" 2>&1 </dev/null || { status=$?; cat "$LOG" >&2; return $status; }; }

# ------------------------------------------------------------------------------------------------ Debian packages

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif [ -t 0 ] && [ -z "${CI:-}" ]; then sudo "$@"
    else sudo -n "$@"; fi
}
may_install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null 2>&1 && { [ -t 0 ] || sudo -n true 2>/dev/null; }; }
}
has_candidate() { apt-cache policy "$1" 2>/dev/null | grep 'Candidate:' | grep -qv '(none)'; }
apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 "$@"; }
# install PACKAGE: 0 when it is there afterwards; errors are shown
install() {
    may_install || return 1
    say "installing the system package $1"
    if has_candidate "$1" && quietly apt install --no-install-recommends "$1" 2>/dev/null; then return 0; fi
    quietly apt update || return 1
    has_candidate "$1" || return 1
    quietly apt install --no-install-recommends "$1"
}

# ------------------------------------------------------------------------------------------------ Python

python_ready() {
    command -v "$PYTHON" >/dev/null 2>&1 || stop "there is no '$PYTHON'." "Install Python 3.11 or newer (Debian, Ubuntu: apt-get install python3), or name one: make PYTHON=python3.12 ..."
    "$PYTHON" --version >/dev/null 2>&1 || stop "'$PYTHON' does not run." "Name another one: make PYTHON=python3.12 ..."
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        stop "$("$PYTHON" --version) is too old: AgentFlow needs 3.11 or newer." "Install a newer one and name it: make PYTHON=python3.12 ..."
}
make_venv() {
    if [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1; then return 0; fi
    if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
        minor=$("$PYTHON" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        install python3-venv || true
        "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || install "$minor" || true
        "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
            stop "$PYTHON cannot make virtual environments." "As root: apt-get install python3-venv   (or $minor), then run make again."
    fi
    rm -rf .venv
    quietly "$PYTHON" -m venv .venv || stop "'$PYTHON -m venv .venv' failed; what it said is above."
}
key() { { cat requirements.lock pyproject.toml scripts/setup.sh; pwd; .venv/bin/python -VV; } 2>/dev/null | sha256sum; }
install_packages() {
    say "installing $(grep -c '^[a-z0-9]' requirements.lock) Python packages into .venv (the first time one to three minutes)"
    pip="env PYTHONWARNINGS=ignore .venv/bin/python -m pip --disable-pip-version-check --no-input -q"
    # everything, the build backend included, comes from the lock; so nothing is resolved or built here
    quietly $pip install --require-hashes --only-binary :all: -r requirements.lock ||
        stop "installing requirements.lock failed; what pip said is above." "Is the package index reachable? pip's own settings (PIP_INDEX_URL, pip.conf) are honoured."
    quietly $pip install --no-deps --no-build-isolation -e . || stop "installing AgentFlow itself failed; what pip said is above."
}

# ------------------------------------------------------------------------------------------------ runsc

bring_runsc() {
    if command -v runsc >/dev/null 2>&1 || install runsc; then return 0; fi
    if [ "${AGENTFLOW_UNSAFE_SUBPROCESS_TOOLS:-}" = true ]; then
        say "no runsc: tools run as plain subprocesses WITHOUT isolation (AGENTFLOW_UNSAFE_SUBPROCESS_TOOLS=true). For development only."
        return 0
    fi
    stop "gVisor's 'runsc' is missing, and it could not be installed from here." \
        "Tools run code that is not yours, and AgentFlow does that inside gVisor only." \
        "  as root on Debian or Ubuntu:  apt-get install runsc" \
        "  elsewhere:                    https://gvisor.dev/docs/user_guide/install/" \
        "Then run make again. For development only, without any isolation of tools:" \
        "  AGENTFLOW_UNSAFE_SUBPROCESS_TOOLS=true make ..."
}

bring_runsc
if [ -x .venv/bin/python ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$(key)" ]; then exit 0; fi
python_ready
make_venv
install_packages
key >"$STAMP"

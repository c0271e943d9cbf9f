# shellcheck shell=bash disable=SC2034
# What the scripts beside this file share. Sourced; it runs nothing by itself.

ORIEL_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Services and bare containers start without HOME, which rustup and our build scripts look for as well.
if [ -z "${HOME:-}" ]; then
    HOME=$(getent passwd "$(id -u)" | cut -d : -f 6) || HOME=""
    if [ -z "$HOME" ]; then
        printf '%s: HOME is not set, and this user has no home directory: set HOME.\n' "${0##*/}" >&2
        exit 1
    fi
    export HOME
fi
ORIEL_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/oriel

# rustup puts cargo here; a fresh login has it on its path, a cron job or a container's shell may not.
if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
    PATH=$HOME/.cargo/bin:$PATH
fi

say() {
    printf '%s\n' "$*" >&2
}

# die SENTENCE...: one message that says what is wrong and what to do about it.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# As 75 -> "1 min 15 s".
duration() {
    if [ "$1" -ge 60 ]; then
        printf '%d min %d s' $(($1 / 60)) $(($1 % 60))
    else
        printf '%d s' "$1"
    fi
}

# The version in a tree's headers, as "20.07"; nothing where there is none.
spdk_version() {
    awk '$1 != "#define" { next } $2 == "SPDK_VERSION_MAJOR" { major = $3 } $2 == "SPDK_VERSION_MINOR" { minor = $3 }
         END { if (major != "") printf "%s.%02d\n", major, minor }' "$1/include/spdk/version.h" 2>/dev/null
}

# Whether DIR holds a built SPDK.
is_spdk_tree() {
    [ -e "$1/include/spdk/version.h" ] && [ -e "$1/build/lib/libspdk_nvmf.a" ]
}

# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# For the other scripts: source it after `set -euo pipefail`. Sets `root`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# Prints the packages among its arguments that are not installed.
missing_packages() {
    local package
    for package in "$@"; do
        case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true) in
        *" installed") ;;
        *) printf '%s\n' "$package" ;;
        esac
    done
}

# install_packages PACKAGE...: on Debian and its relatives installs what is missing, after saying what. Elsewhere
# only looks whether the tools are there; what CMake does not find it names or fetches.
install_packages() {
    local missing=() tool tools=()
    if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
        mapfile -t missing < <(missing_packages "$@")
        if [ ${#missing[@]} -eq 0 ]; then
            return
        fi
        local become=()
        if [ "$(id -u)" -ne 0 ]; then
            command -v sudo >/dev/null ||
                die "these packages are missing: ${missing[*]}. As root: apt-get install ${missing[*]}"
            become=(sudo)
        fi
        say "installing with ${become[*]:+${become[*]} }apt-get: ${missing[*]}"
        local log=$root/build/apt.log
        mkdir -p "$root/build"
        "${become[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update >"$log" 2>&1 ||
            say "apt-get update failed (see build/apt.log); trying with the package lists that are there"
        "${become[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends "${missing[@]}" >>"$log" 2>&1 || {
            tail -n 20 "$log" >&2
            die "apt-get could not install: ${missing[*]}. The whole log is build/apt.log"
        }
        return
    fi
    for tool in cmake c++; do
        command -v "$tool" >/dev/null || tools+=("$tool")
    done
    if [ ${#tools[@]} -ne 0 ]; then
        die "not found: ${tools[*]}. This system has no apt-get; please install a C++20 compiler, CMake 3.25, Ninja" \
            "or Make, and the libraries that Debian calls: $*"
    fi
    say "this system has no apt-get: using what is installed. Needed, by Debian's names: $*"
}

# The first tools of CMake's choice that are here.
generator() {
    if command -v ninja >/dev/null; then
        echo Ninja
    else
        echo "Unix Makefiles"
    fi
}

# Compilers of this library want about 1 GB each: no more at once than the memory that is free.
jobs_() {
    local cores memory
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
    memory=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo 2>/dev/null || true)
    if [ -n "$memory" ] && [ "$memory" -lt "$cores" ]; then
        cores=$((memory > 0 ? memory : 1))
    fi
    echo "$cores"
}

# configure FOLDER CMAKE_ARGUMENT...: a build folder that another generator, compiler or place of the
# repository left behind is made anew.
configure() {
    local folder=$1 cache=$1/CMakeCache.txt
    shift
    if [ -f "$cache" ] &&
        { ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$cache" ||
            ! grep -qxF "CMAKE_GENERATOR:INTERNAL=$(generator)" "$cache"; }; then
        rm -rf "$folder"
    fi
    mkdir -p "$folder"
    cmake -S "$root" -B "$folder" -G "$(generator)" "$@"
}

# What gpt2-generate is built from.
# shellcheck disable=SC2034 # for those who source this
program_packages=(g++ cmake ninja-build pkg-config libxsimd-dev nlohmann-json3-dev libcli11-dev libedit-dev)

# Builds gpt2-generate, quietly, and sets $program to its path.
build_program() {
    local build=$root/build/quickstart
    mkdir -p "$root/build"
    say "building gpt2-generate (in build/quickstart)"
    if ! {
        configure "$build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_UNITY_BUILD=ON -DGPT2_BUILD_TESTS=OFF \
            -DGPT2_BUILD_BENCHMARKS=OFF &&
            cmake --build "$build" --target gpt2-generate --parallel "$(jobs_)"
    } >"$build.log" 2>&1; then
        tail -n 50 "$build.log" >&2
        die "the build failed; the whole log is build/quickstart.log"
    fi
    # shellcheck disable=SC2034 # for those who source this
    program=$build/examples/gpt2-generate
}

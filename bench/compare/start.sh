# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# For the commands of this folder: source it after `set -euo pipefail`.
# shellcheck source-path=SCRIPTDIR source=../../scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"

# The first Python that has numpy.
python_with_numpy() {
    local python
    for python in python3 /usr/bin/python3; do
        if "$python" -c 'import numpy' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    die "expected a Python 3 with numpy, found none (apt-get install python3-numpy)"
}

# start PROGRAM ARGUMENT...: becomes a Python program of this folder, after installing what it needs.
start() {
    local program=$1
    shift
    case " $* " in
    *" --help "* | *" -h "*) ;; # installs nothing
    *) install_packages git g++ cmake ninja-build libxsimd-dev nlohmann-json3-dev libcli11-dev libbenchmark-dev python3-numpy ;;
    esac
    exec "$(python_with_numpy)" "$root/bench/compare/$program" "$@"
}

# SPDX-License-Identifier: MIT

# 64-bit ARM from another machine: g++-aarch64-linux-gnu, and qemu-user to run the tests.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
# -L: where the ARM C library lies.
set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-aarch64;-L;/usr/aarch64-linux-gnu")

# Every dependency is headers only, so the host's copies serve; Debian keeps xsimd's package file in an
# architecture's folder that a cross build does not look into.
file(GLOB gpt2_xsimd_config "/usr/lib/*/cmake/xsimd/xsimdConfig.cmake")
if(gpt2_xsimd_config AND NOT DEFINED xsimd_DIR)
    list(GET gpt2_xsimd_config 0 gpt2_xsimd_config)
    get_filename_component(xsimd_DIR "${gpt2_xsimd_config}" DIRECTORY)
endif()
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)

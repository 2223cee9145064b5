# SPDX-License-Identifier: MIT

# Each gpt2_require_<name>() takes an installed package if there is one, else fetches a pinned release.
# They are macros, so that the folder that asks sees the imported targets. What gpt2::gpt2 itself needs is found as
# GLOBAL: a project that takes this one in by add_subdirectory must see it too.
include(FetchContent)
include(GNUInstallDirs)

option(GPT2_FETCH "Fetch dependencies that are not installed" ON)
set(GPT2_XSIMD_MINIMUM 8.1)
set(GPT2_NLOHMANN_JSON_MINIMUM 3.10)

# Fetches one dependency from its Git tag. Its own tests, examples and install rules stay out, and its
# headers are system headers, so that warnings in them are not ours.
function(_gpt2_fetch name repository tag debian_package)
    string(TOUPPER "${name}" upper)
    if(NOT GPT2_FETCH AND NOT FETCHCONTENT_SOURCE_DIR_${upper})
        message(
            FATAL_ERROR
            "gpt2 needs ${name}, which is not installed, and GPT2_FETCH is off. "
            "On Debian and Ubuntu: apt-get install ${debian_package}"
        )
    endif()
    message(STATUS "gpt2: ${name} is not installed (Debian: ${debian_package}); fetching ${repository} ${tag}")
    set(CMAKE_POLICY_VERSION_MINIMUM 3.5) # these releases ask for CMake versions that CMake 4 no longer knows
    set(CMAKE_POLICY_DEFAULT_CMP0077 NEW) # options below are plain variables
    set(BUILD_TESTING OFF)
    set(BUILD_TESTS OFF)
    set(BUILD_BENCHMARK OFF)
    set(BUILD_EXAMPLES OFF)
    set(DOCTEST_WITH_TESTS OFF)
    set(DOCTEST_NO_INSTALL ON)
    set(EIGEN_BUILD_DOC OFF)
    set(EIGEN_BUILD_PKGCONFIG OFF)
    set(BENCHMARK_ENABLE_TESTING OFF)
    set(BENCHMARK_ENABLE_GTEST_TESTS OFF)
    set(BENCHMARK_ENABLE_INSTALL OFF)
    set(BENCHMARK_ENABLE_WERROR OFF)
    set(CLI11_BUILD_TESTS OFF)
    set(CLI11_BUILD_EXAMPLES OFF)
    set(CLI11_BUILD_DOCS OFF)
    set(JSON_BuildTests OFF)
    set(JSON_Install OFF)
    set(FETCHCONTENT_QUIET OFF)
    # A missing network would end in a Git error that does not say what would have helped.
    set(url "https://github.com/${repository}.git")
    if(NOT FETCHCONTENT_SOURCE_DIR_${upper} AND NOT FETCHCONTENT_FULLY_DISCONNECTED)
        find_package(Git QUIET)
        set(status "git is not installed")
        if(GIT_FOUND)
            execute_process(
                COMMAND "${GIT_EXECUTABLE}" ls-remote --exit-code "${url}" "refs/tags/${tag}"
                RESULT_VARIABLE status OUTPUT_QUIET ERROR_VARIABLE error
            )
        endif()
        if(NOT status EQUAL 0)
            message(
                FATAL_ERROR
                "gpt2 needs ${name}, which is neither installed nor to be had from ${url} (${status} ${error}). "
                "Install it (Debian and Ubuntu: apt-get install ${debian_package}), or unpack its release ${tag} "
                "and set -DFETCHCONTENT_SOURCE_DIR_${upper}=<that folder>"
            )
        endif()
    endif()
    FetchContent_Declare(
        ${name}
        GIT_REPOSITORY "${url}"
        GIT_TAG "${tag}"
        GIT_SHALLOW ON
        GIT_PROGRESS ON
    )
    FetchContent_GetProperties(${name})
    if(NOT ${name}_POPULATED)
        FetchContent_Populate(${name})
        add_subdirectory("${${name}_SOURCE_DIR}" "${${name}_BINARY_DIR}" EXCLUDE_FROM_ALL)
    endif()
endfunction()

# Lets every including program treat the headers of a target as system headers.
function(_gpt2_system_includes target)
    get_target_property(aliased ${target} ALIASED_TARGET)
    if(aliased)
        set(target ${aliased})
    endif()
    get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(directories)
        set_target_properties(${target} PROPERTIES INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${directories}")
    endif()
endfunction()

# Sets GPT2_XSIMD_TARGET. Any version from the minimum on will do: xsimd's own version file accepts the
# same major version only.
macro(gpt2_require_xsimd)
    if(NOT TARGET xsimd AND NOT TARGET xsimd::xsimd)
        find_package(xsimd QUIET GLOBAL)
        if(xsimd_FOUND AND xsimd_VERSION VERSION_LESS GPT2_XSIMD_MINIMUM)
            message(FATAL_ERROR "gpt2 needs xsimd ${GPT2_XSIMD_MINIMUM} or newer; found ${xsimd_VERSION} in ${xsimd_DIR}")
        endif()
        if(NOT xsimd_FOUND)
            _gpt2_fetch(xsimd xtensor-stack/xsimd 8.1.0 libxsimd-dev)
            _gpt2_system_includes(xsimd)
        endif()
    endif()
    if(TARGET xsimd)
        set(GPT2_XSIMD_TARGET xsimd)
    else()
        set(GPT2_XSIMD_TARGET xsimd::xsimd)
    endif()
endmacro()

macro(gpt2_require_nlohmann_json)
    if(NOT TARGET nlohmann_json::nlohmann_json)
        find_package(nlohmann_json ${GPT2_NLOHMANN_JSON_MINIMUM} QUIET GLOBAL)
        if(NOT nlohmann_json_FOUND)
            _gpt2_fetch(nlohmann_json nlohmann/json v3.11.2 nlohmann-json3-dev)
            _gpt2_system_includes(nlohmann_json::nlohmann_json)
        endif()
    endif()
endmacro()

macro(gpt2_require_eigen)
    if(NOT TARGET Eigen3::Eigen)
        find_package(Eigen3 3.4 QUIET NO_MODULE)
        if(NOT TARGET Eigen3::Eigen)
            _gpt2_fetch(eigen eigen-mirror/eigen 3.4.0 libeigen3-dev)
            _gpt2_system_includes(Eigen3::Eigen)
        endif()
    endif()
endmacro()

macro(gpt2_require_doctest)
    if(NOT TARGET doctest::doctest)
        find_package(doctest 2.4 QUIET)
        if(NOT doctest_FOUND)
            _gpt2_fetch(doctest doctest/doctest v2.4.9 doctest-dev)
            _gpt2_system_includes(doctest::doctest)
        endif()
    endif()
endmacro()

macro(gpt2_require_benchmark)
    if(NOT TARGET benchmark::benchmark_main)
        find_package(benchmark 1.7 QUIET)
        if(NOT benchmark_FOUND)
            _gpt2_fetch(benchmark google/benchmark v1.7.1 libbenchmark-dev)
            _gpt2_system_includes(benchmark::benchmark)
        endif()
    endif()
endmacro()

macro(gpt2_require_cli11)
    if(NOT TARGET CLI11::CLI11)
        find_package(CLI11 2.1 QUIET)
        if(NOT CLI11_FOUND)
            _gpt2_fetch(cli11 CLIUtils/CLI11 v2.1.2 libcli11-dev)
            _gpt2_system_includes(CLI11::CLI11)
        endif()
    endif()
endmacro()

# Makes PkgConfig::LIBEDIT where there is one: a comfort that programs do without.
macro(gpt2_find_libedit)
    if(NOT CMAKE_CROSSCOMPILING AND NOT WIN32)
        find_package(PkgConfig QUIET)
        if(PkgConfig_FOUND)
            pkg_check_modules(LIBEDIT QUIET IMPORTED_TARGET libedit)
        endif()
    endif()
    if(NOT TARGET PkgConfig::LIBEDIT)
        message(STATUS "gpt2: no libedit (Debian: libedit-dev), so prompts are typed without line editing")
    endif()
endmacro()

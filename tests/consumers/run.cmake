# SPDX-License-Identifier: MIT

# cmake -DKIND=<kind> -DSOURCE=<repository> -DBUILD=<build folder> -DWORK=<scratch folder> -DCXX=<compiler>
#       -DCC=<C compiler, if libgpt2 is built> -DGENERATOR=<generator> -P run.cmake
# KIND install:         installs BUILD under WORK, checks what lies there, and moves the tree, because an
#                       installed package must not depend on where it was put first
# KIND find_package, pkg_config: builds and runs a consumer from that tree
# KIND c:               the same in C, by the CMake package and by pkg-config
# KIND add_subdirectory: builds and runs a consumer that takes the source in
set(model "${SOURCE}/models/novella-f16.safetensors")
set(prefix "${WORK}/a prefix")
set(folder "${WORK}/${KIND}")
file(REMOVE_RECURSE "${folder}")
file(MAKE_DIRECTORY "${folder}")

function(run)
    execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT RESULT_VARIABLE status)
    if(NOT status EQUAL 0)
        message(FATAL_ERROR "${KIND}: exit status ${status} of ${ARGV}")
    endif()
endfunction()

if(KIND STREQUAL "install")
    file(REMOVE_RECURSE "${prefix}")
    run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${folder}/first place")
    file(RENAME "${folder}/first place" "${prefix}")
    file(GLOB_RECURSE installed RELATIVE "${prefix}/include" "${prefix}/include/gpt2/*")
    file(GLOB_RECURSE expected RELATIVE "${SOURCE}/include" "${SOURCE}/include/gpt2/*")
    if(NOT installed STREQUAL expected)
        message(FATAL_ERROR "installed headers: ${installed}\nexpected: ${expected}")
    endif()
    # A path of the machine that built the package has no business in it.
    file(GLOB_RECURSE files "${prefix}/*.cmake" "${prefix}/*.pc")
    foreach(file IN LISTS files)
        file(READ "${file}" text)
        foreach(path IN ITEMS "${SOURCE}" "${BUILD}" "first place")
            string(FIND "${text}" "${path}" at)
            if(NOT at EQUAL -1)
                message(FATAL_ERROR "${file} mentions ${path}")
            endif()
        endforeach()
    endforeach()
    return()
endif()

if(KIND STREQUAL "pkg_config")
    set(ENV{PKG_CONFIG_PATH} "${prefix}/share/pkgconfig:$ENV{PKG_CONFIG_PATH}")
    file(COPY "${SOURCE}/tests/consumers/main.cpp" "${SOURCE}/tests/consumers/other.cpp" DESTINATION "${folder}")
    run(make -C "${folder}" -f "${SOURCE}/tests/consumers/pkg_config/Makefile" SOURCES=. "CXX=${CXX}")
    run("${folder}/consumer" "${model}")
    return()
endif()

run(
    "${CMAKE_COMMAND}" -S "${SOURCE}/tests/consumers/${KIND}" -B "${folder}" -G "${GENERATOR}"
    "-DCMAKE_CXX_COMPILER=${CXX}" "-DCMAKE_BUILD_TYPE=Release" "-DCMAKE_CXX_FLAGS_RELEASE=-O0"
    "-DCMAKE_PREFIX_PATH=${prefix}" "-DGPT2_SOURCE=${SOURCE}"
)
run("${CMAKE_COMMAND}" --build "${folder}")
run("${folder}/consumer" "${model}")

if(KIND STREQUAL "c")
    file(GLOB_RECURSE pc "${prefix}/libgpt2.pc")
    get_filename_component(pkgconfig "${pc}" DIRECTORY)
    get_filename_component(libraries "${pkgconfig}" DIRECTORY)
    set(ENV{PKG_CONFIG_PATH} "${pkgconfig}:$ENV{PKG_CONFIG_PATH}")
    set(ENV{LD_LIBRARY_PATH} "${libraries}")
    # eval: pkg-config escapes blanks in a path for the shell to read again.
    set(flags "$(pkg-config --cflags --libs libgpt2)")
    run(sh -c "eval \"'${CC}' -std=c99 '${SOURCE}/examples/c/hello.c' -o '${folder}/by-pkg-config' ${flags}\"")
    run("${folder}/by-pkg-config" "${model}")
endif()

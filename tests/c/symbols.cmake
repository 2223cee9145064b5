# SPDX-License-Identifier: MIT

# cmake -DNM=<nm> -DLIBRARY=<libgpt2> -DHEADER=<gpt2.h> -DTESTS=<tests/c> -P symbols.cmake
# The library exports what its header declares and nothing else, and the tests name every function.
file(READ "${HEADER}" header)
string(REGEX MATCHALL "GPT2_(API|CHECKED)[^;]*[ *](gpt2_[a-z0-9_]+)\\(" declarations "${header}")
set(declared "")
foreach(declaration IN LISTS declarations)
    string(REGEX MATCH "(gpt2_[a-z0-9_]+)\\($" name "${declaration}")
    list(APPEND declared "${CMAKE_MATCH_1}")
endforeach()
execute_process(
    COMMAND "${NM}" -D --defined-only "${LIBRARY}"
    OUTPUT_VARIABLE symbols
    COMMAND_ERROR_IS_FATAL ANY
)
set(exported "")
string(REPLACE "\n" ";" symbols "${symbols}")
foreach(line IN LISTS symbols)
    if(line MATCHES " ([A-Za-z]) ([^ @]+)(@.*)?$" AND NOT CMAKE_MATCH_1 STREQUAL "A") # A: the name of the version
        list(APPEND exported "${CMAKE_MATCH_2}")
    endif()
endforeach()
list(SORT declared)
list(SORT exported)
list(LENGTH declared n)
if(NOT exported STREQUAL declared)
    message(FATAL_ERROR "declared: ${declared}\nexported: ${exported}")
endif()
if(n LESS 50)
    message(FATAL_ERROR "expected 50 functions or more in ${HEADER}, found ${n}: ${declared}")
endif()
file(READ "${TESTS}/c_api_test.c" test)
file(READ "${TESTS}/modes.c" modes)
string(APPEND test "${modes}")
foreach(name IN LISTS declared)
    if(NOT test MATCHES "[^a-z_]${name}\\(")
        message(FATAL_ERROR "${TESTS} does not call ${name}()")
    endif()
endforeach()
message(STATUS "${n} functions, all exported and all called")

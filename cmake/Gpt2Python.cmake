# SPDX-License-Identifier: MIT

# gpt2_require_python(): finds a Python with numpy and sets GPT2_PYTHON. The first one on the path need not have it.
function(gpt2_require_python)
    if(GPT2_PYTHON)
        return()
    endif()
    foreach(candidate IN ITEMS python3 /usr/bin/python3 python)
        execute_process(
            COMMAND "${candidate}" -c "import sys, numpy; assert sys.version_info >= (3, 9); print(sys.executable)"
            OUTPUT_VARIABLE found ERROR_QUIET RESULT_VARIABLE status OUTPUT_STRIP_TRAILING_WHITESPACE
        )
        if(status EQUAL 0)
            set(GPT2_PYTHON "${found}" CACHE FILEPATH "A Python interpreter, 3.9 or newer, with numpy")
            message(STATUS "gpt2: tests use ${found}")
            return()
        endif()
    endforeach()
    message(FATAL_ERROR "gpt2: the tests need Python 3.9 with numpy (apt-get install python3-numpy); "
                        "GPT2_PYTHON names an interpreter, GPT2_BUILD_TESTS=OFF does without tests")
endfunction()

# gpt2_has_pytest(<variable>): whether that Python has pytest.
function(gpt2_has_pytest variable)
    execute_process(COMMAND "${GPT2_PYTHON}" -c "import pytest" OUTPUT_QUIET ERROR_QUIET RESULT_VARIABLE status)
    if(status EQUAL 0)
        set(${variable} ON PARENT_SCOPE)
    else()
        set(${variable} OFF PARENT_SCOPE)
    endif()
endfunction()

# gpt2_add_pytest(<name> <file or folder> [TIMEOUT <seconds>] [LABELS <label>...] [ENVIRONMENT <variable>=<value>...]):
# a test with the label `python`, which runs pytest from the root of the project. Without TIMEOUT it has that of the
# other tests.
function(gpt2_add_pytest name tests)
    cmake_parse_arguments(PARSE_ARGV 2 arg "" "TIMEOUT" "LABELS;ENVIRONMENT")
    set(command "${GPT2_PYTHON}" -B -m pytest -q -p no:cacheprovider "${tests}")
    if(arg_ENVIRONMENT)
        list(PREPEND command "${CMAKE_COMMAND}" -E env ${arg_ENVIRONMENT})
    endif()
    if(NOT arg_TIMEOUT)
        set(arg_TIMEOUT "${GPT2_TEST_TIMEOUT}")
    endif()
    add_test(NAME "${name}" COMMAND ${command} WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
    set_tests_properties("${name}" PROPERTIES TIMEOUT "${arg_TIMEOUT}" LABELS "python;${arg_LABELS}")
endfunction()

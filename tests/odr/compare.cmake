# SPDX-License-Identifier: MIT
# cmake -DPROGRAMS=<program;...> -DMODEL=<model> -P compare.cmake: all programs print the same.
foreach(program IN LISTS PROGRAMS)
    execute_process(COMMAND "${program}" "${MODEL}" RESULT_VARIABLE status OUTPUT_VARIABLE output)
    message(STATUS "${program}: ${output}")
    if(NOT status EQUAL 0)
        message(FATAL_ERROR "${program}: exit status ${status}")
    endif()
    if(DEFINED expected AND NOT output STREQUAL expected)
        message(FATAL_ERROR "${program} prints\n${output}\nand the first program\n${expected}")
    endif()
    set(expected "${output}")
endforeach()

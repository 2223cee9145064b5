# SPDX-License-Identifier: MIT

# Target `doxygen`: build/<preset>/doxygen/html/index.html, one page per public header. A warning fails it.
find_program(GPT2_DOXYGEN doxygen)
mark_as_advanced(GPT2_DOXYGEN)
if(GPT2_DOXYGEN)
    set(gpt2_doxygen_output "${PROJECT_BINARY_DIR}/doxygen")
    configure_file("${PROJECT_SOURCE_DIR}/docs/Doxyfile.in" "${PROJECT_BINARY_DIR}/Doxyfile" @ONLY)
    add_custom_target(
        doxygen
        COMMAND "${CMAKE_COMMAND}" -E make_directory "${gpt2_doxygen_output}"
        COMMAND "${GPT2_DOXYGEN}" "${PROJECT_BINARY_DIR}/Doxyfile"
        WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
        COMMENT "Documentation: ${gpt2_doxygen_output}/html/index.html"
        VERBATIM
    )
endif()

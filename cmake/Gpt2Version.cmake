# SPDX-License-Identifier: MIT

# gpt2_read_version(<header> <variable>): "major.minor.patch" from the macros in version.hpp.
function(gpt2_read_version header result)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${header}")
    set(parts "")
    foreach(part MAJOR MINOR PATCH)
        file(STRINGS "${header}" line REGEX "^#define GPT2_VERSION_${part} [0-9]+$")
        if(NOT line MATCHES "([0-9]+)$")
            message(FATAL_ERROR "${header}: no line '#define GPT2_VERSION_${part} <number>'")
        endif()
        list(APPEND parts "${CMAKE_MATCH_1}")
    endforeach()
    list(JOIN parts "." version)
    set(${result} "${version}" PARENT_SCOPE)
endfunction()

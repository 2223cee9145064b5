# SPDX-License-Identifier: MIT

# gpt2::c: libgpt2, the shared library with the interface for C (c/gpt2.h). Only what that header declares can be seen
# from outside, so that a program may hold any other copy of the engine beside it.
file(STRINGS "${PROJECT_SOURCE_DIR}/c/gpt2.h" gpt2_abi_line REGEX "^#define GPT2_ABI_VERSION [0-9]+$")
if(NOT gpt2_abi_line MATCHES "([0-9]+)$")
    message(FATAL_ERROR "c/gpt2.h: no line '#define GPT2_ABI_VERSION <number>'")
endif()
set(gpt2_abi_version "${CMAKE_MATCH_1}")

add_library(gpt2_c SHARED "${PROJECT_SOURCE_DIR}/src/c_api.cpp")
add_library(gpt2::c ALIAS gpt2_c)
target_include_directories(
    gpt2_c
    PUBLIC
        "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/c>"
        "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>"
)
target_link_libraries(gpt2_c PRIVATE gpt2::compiled gpt2_warnings)
set_target_properties(
    gpt2_c
    PROPERTIES
        OUTPUT_NAME gpt2
        EXPORT_NAME c
        DEFINE_SYMBOL GPT2_C_SOURCE
        VERSION "${gpt2_abi_version}.${PROJECT_VERSION}"
        SOVERSION "${gpt2_abi_version}"
        CXX_VISIBILITY_PRESET hidden
        VISIBILITY_INLINES_HIDDEN ON
)
# Neither the engine's own symbols, which come from gpt2::compiled, nor the standard library's templates.
if(UNIX AND NOT APPLE)
    set(gpt2_symbols "${PROJECT_SOURCE_DIR}/c/libgpt2.map")
    target_link_options(gpt2_c PRIVATE "LINKER:--version-script=${gpt2_symbols}")
    set_property(TARGET gpt2_c APPEND PROPERTY LINK_DEPENDS "${gpt2_symbols}")
endif()

# SPDX-License-Identifier: MIT

# What this project's own programs are compiled with. Never part of gpt2::gpt2: warnings are a matter
# between a project and its compiler.
add_library(gpt2_warnings INTERFACE)
if(CMAKE_CXX_COMPILER_FRONTEND_VARIANT STREQUAL "MSVC" OR MSVC)
    target_compile_options(gpt2_warnings INTERFACE /W4 /permissive- /utf-8 $<$<BOOL:${GPT2_WERROR}>:/WX>)
    target_compile_definitions(gpt2_warnings INTERFACE NOMINMAX _CRT_SECURE_NO_WARNINGS)
else()
    target_compile_options(
        gpt2_warnings
        INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow $<$<BOOL:${GPT2_WERROR}>:-Werror>
    )
endif()

# gpt2_add_program(<name> <source>...): an executable that uses the library, with our warnings.
function(gpt2_add_program name)
    add_executable(${name} ${ARGN})
    target_link_libraries(${name} PRIVATE gpt2::gpt2 gpt2_warnings)
endfunction()

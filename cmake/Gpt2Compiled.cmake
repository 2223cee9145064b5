# SPDX-License-Identifier: MIT

# gpt2::compiled: what of the library takes a compiler long, compiled once with the flags of the project that links it.
# It comes as source, so that a package with it serves every architecture and every standard library.
# gpt2_add_compiled(<folder of compiled.cpp>) makes the target; it is built when something links it.
function(gpt2_add_compiled folder)
    if(TARGET gpt2_compiled)
        return()
    endif()
    add_library(gpt2_compiled STATIC EXCLUDE_FROM_ALL "${folder}/compiled.cpp")
    add_library(gpt2::compiled ALIAS gpt2_compiled)
    target_link_libraries(gpt2_compiled PUBLIC gpt2::gpt2)
    target_compile_definitions(gpt2_compiled INTERFACE GPT2_COMPILED)
    set_target_properties(gpt2_compiled PROPERTIES POSITION_INDEPENDENT_CODE ON)
endfunction()

# SPDX-License-Identifier: MIT

# Every header compiles alone, and twice: one generated source per header, compiled and never run. A header that another
# one includes first is alone there.
file(GLOB_RECURSE headers CONFIGURE_DEPENDS RELATIVE "${PROJECT_SOURCE_DIR}/include" "${PROJECT_SOURCE_DIR}/include/gpt2/*.hpp")
set(elsewhere "")
foreach(header IN LISTS headers)
    file(STRINGS "${PROJECT_SOURCE_DIR}/include/${header}" first REGEX "^#include " LIMIT_COUNT 1)
    if(first MATCHES "\"(gpt2/.+[.]hpp)\"")
        list(APPEND elsewhere "${CMAKE_MATCH_1}")
    endif()
endforeach()
list(REMOVE_ITEM headers ${elsewhere})
set(header_sources "")
foreach(header IN LISTS headers)
    string(REPLACE "/" "_" name "${header}")
    set(source "${CMAKE_CURRENT_BINARY_DIR}/headers/${name}.cpp")
    file(CONFIGURE OUTPUT "${source}" CONTENT "#include <@header@>\n#include <@header@>\n" @ONLY)
    list(APPEND header_sources "${source}")
endforeach()
add_library(gpt2_headers OBJECT ${header_sources})
target_link_libraries(gpt2_headers PRIVATE gpt2::gpt2 gpt2_warnings)
set_target_properties(gpt2_headers PROPERTIES UNITY_BUILD OFF)
if(NOT MSVC)
    target_compile_options(gpt2_headers PRIVATE -O0) # nothing of it runs
endif()

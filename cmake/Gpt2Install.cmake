# SPDX-License-Identifier: MIT

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(gpt2_cmake_dir "${CMAKE_INSTALL_DATADIR}/cmake/gpt2")
set(gpt2_pkgconfig_dir "${CMAKE_INSTALL_DATADIR}/pkgconfig")

install(
    DIRECTORY "${PROJECT_SOURCE_DIR}/include/gpt2"
    DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
    FILES_MATCHING
    PATTERN "*.hpp"
    PATTERN "*.inl"
)
install(FILES "${PROJECT_SOURCE_DIR}/src/compiled.cpp" DESTINATION "${gpt2_cmake_dir}")
install(FILES "${PROJECT_SOURCE_DIR}/cmake/Gpt2Compiled.cmake" DESTINATION "${gpt2_cmake_dir}")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/licenses/gpt2")

install(TARGETS gpt2 EXPORT gpt2Targets)
install(EXPORT gpt2Targets NAMESPACE gpt2:: DESTINATION "${gpt2_cmake_dir}")
set(gpt2_c_cmake_dir "${CMAKE_INSTALL_LIBDIR}/cmake/gpt2-c")
configure_package_config_file(
    "${PROJECT_SOURCE_DIR}/cmake/gpt2Config.cmake.in"
    "${PROJECT_BINARY_DIR}/gpt2Config.cmake"
    INSTALL_DESTINATION "${gpt2_cmake_dir}"
    PATH_VARS gpt2_c_cmake_dir
    NO_SET_AND_CHECK_MACRO
)
# Before 1.0 a minor version may break the interface. Headers only: any architecture may use them.
write_basic_package_version_file(
    "${PROJECT_BINARY_DIR}/gpt2ConfigVersion.cmake"
    COMPATIBILITY SameMinorVersion
    ARCH_INDEPENDENT
)
install(
    FILES "${PROJECT_BINARY_DIR}/gpt2Config.cmake" "${PROJECT_BINARY_DIR}/gpt2ConfigVersion.cmake"
    DESTINATION "${gpt2_cmake_dir}"
)

# The prefix is given relative to the file itself, so that an installed tree may be moved.
file(RELATIVE_PATH gpt2_prefix_from_pc "/${gpt2_pkgconfig_dir}" "/")
string(REGEX REPLACE "/$" "" gpt2_prefix_from_pc "${gpt2_prefix_from_pc}")
configure_file("${PROJECT_SOURCE_DIR}/cmake/gpt2.pc.in" "${PROJECT_BINARY_DIR}/gpt2.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/gpt2.pc" DESTINATION "${gpt2_pkgconfig_dir}")

# The shared library belongs to an architecture, and so do the files that lead to it.
if(GPT2_BUILD_C)
    install(FILES "${PROJECT_SOURCE_DIR}/c/gpt2.h" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
    install(TARGETS gpt2_c EXPORT gpt2CTargets)
    install(EXPORT gpt2CTargets NAMESPACE gpt2:: DESTINATION "${gpt2_c_cmake_dir}")
    set(gpt2_c_pkgconfig_dir "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
    file(RELATIVE_PATH gpt2_prefix_from_c_pc "/${gpt2_c_pkgconfig_dir}" "/")
    string(REGEX REPLACE "/$" "" gpt2_prefix_from_c_pc "${gpt2_prefix_from_c_pc}")
    configure_file("${PROJECT_SOURCE_DIR}/cmake/libgpt2.pc.in" "${PROJECT_BINARY_DIR}/libgpt2.pc" @ONLY)
    install(FILES "${PROJECT_BINARY_DIR}/libgpt2.pc" DESTINATION "${gpt2_c_pkgconfig_dir}")
endif()

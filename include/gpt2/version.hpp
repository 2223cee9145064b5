// SPDX-License-Identifier: MIT
#pragma once

/// @file
/// The version of the library, by semantic versioning. The build reads it from here.

#define GPT2_VERSION_MAJOR 0
#define GPT2_VERSION_MINOR 1
#define GPT2_VERSION_PATCH 0

/// One number that grows with every release, for `#if`: major * 10000 + minor * 100 + patch.
#define GPT2_VERSION (GPT2_VERSION_MAJOR * 10000 + GPT2_VERSION_MINOR * 100 + GPT2_VERSION_PATCH)

#define GPT2_DETAIL_STRINGIZE_(x) #x
#define GPT2_DETAIL_STRINGIZE(x) GPT2_DETAIL_STRINGIZE_(x)
#define GPT2_VERSION_STRING                                                                                  \
    GPT2_DETAIL_STRINGIZE(GPT2_VERSION_MAJOR)                                                                \
    "." GPT2_DETAIL_STRINGIZE(GPT2_VERSION_MINOR) "." GPT2_DETAIL_STRINGIZE(GPT2_VERSION_PATCH)

namespace gpt2 {

inline constexpr int version_major = GPT2_VERSION_MAJOR;
inline constexpr int version_minor = GPT2_VERSION_MINOR;
inline constexpr int version_patch = GPT2_VERSION_PATCH;

/// "major.minor.patch"
inline constexpr const char* version_string = GPT2_VERSION_STRING;

} // namespace gpt2

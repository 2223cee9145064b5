// SPDX-License-Identifier: MIT
#pragma once

#include <stdexcept>

/// @file
/// The exception of the programs.

/// A command line that makes no sense.
class UsageError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

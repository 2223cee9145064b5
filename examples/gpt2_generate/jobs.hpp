// SPDX-License-Identifier: MIT
#pragma once

#include "options.hpp"

#include <gpt2/model.hpp>

/// @file
/// gpt2-generate --jobs: many prompts, lines of JSON in and out. docs/jobs.md defines both.

/// What became of the jobs.
struct JobsOutcome {
    std::size_t n_failed = 0; ///< those with the member "error", the ones that were done before included
    std::size_t n_jobs = 0;
    int signal = 0; ///< that ended the run early; else 0
};

/// Writes the texts of the jobs that have none yet.
[[nodiscard]] JobsOutcome run_jobs(const Options& options, const gpt2::Gpt2Model& model,
                                   const gpt2::SessionOptions& how);

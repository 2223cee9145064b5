// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/error.hpp>

#include <atomic>

/// @file
/// What other languages need around a Session, which serves one caller at a time: they learn of a mistake by
/// an error instead of by a crash.

namespace gpt2::bindings {

/// A session is in use.
class BusyError : public Error {
public:
    BusyError()
        : Error("session: expected one that nothing else is using, found one in use by another thread, by an "
                "open "
                "stream, or by the call that calls back") {}
};

/// The one use of something at a time, until destruction.
class ExclusiveUse {
public:
    /// @throws BusyError if there is one already
    explicit ExclusiveUse(std::atomic<bool>& busy) : busy_(busy) {
        if (busy.exchange(true, std::memory_order_acquire)) {
            throw BusyError();
        }
    }
    ~ExclusiveUse() { busy_.store(false, std::memory_order_release); }
    ExclusiveUse(const ExclusiveUse&) = delete;
    ExclusiveUse& operator=(const ExclusiveUse&) = delete;

private:
    std::atomic<bool>& busy_;
};

} // namespace gpt2::bindings

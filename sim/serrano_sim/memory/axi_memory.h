// SPDX-License-Identifier: Apache-2.0
//
// Control file of the behavioural memory: what the model and its Python handle share.
#pragma once

#include <cstdint>

namespace serrano {

constexpr uint64_t CONTROL_MAGIC = 0x314d454d41525253ull;  // "SRRAMEM1"
constexpr uint64_t CONTROL_VERSION = 3;

struct Control {
#define FIELD(name) uint64_t name;
#define ARRAY(name, count) uint64_t name[count];
#include "control.def"
#undef FIELD
#undef ARRAY
};

enum Violation : uint64_t {
    AR_UNSTABLE = 1,      // ARVALID fell or the address channel changed before ARREADY
    AW_UNSTABLE = 2,      // the same on the write address channel
    W_UNSTABLE = 3,       // the same on the write data channel
    CROSSES_4K = 4,       // a burst crosses a boundary of 4 KiB
    BURST_TYPE = 5,       // a burst is not of type INCR
    BURST_SIZE = 6,       // a beat is wider than the data bus
    EARLY_LAST = 7,       // WLAST before the last beat of a burst
    LATE_LAST = 8,        // no WLAST on the last beat of a burst
    STROBE_LANE = 9,      // WSTRB outside the byte lanes of the beat
    VALID_IN_RESET = 10,  // a valid signal is high during reset
};

}  // namespace serrano

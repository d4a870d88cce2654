// SPDX-License-Identifier: Apache-2.0
//
// When the beats of a burst cross the data bus of a DRAM: banks with one open row each, row misses, refresh, and a bus that
// reads and writes share. Bursts are served in the order in which they come; rows of waiting bursts are opened while
// others are served, as far as banks are free. Times are cycles of the manager's clock, in which the bus moves one beat.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "axi_memory.h"

namespace serrano {

class Dram {
  public:
    explicit Dram(Control* control = nullptr) : control_(control) {}

    // The cycle in which each beat of a burst crosses the bus, the first `now` or later.
    std::vector<uint64_t> schedule(uint64_t address, unsigned beats, unsigned width, bool write, uint64_t now) {
        std::vector<uint64_t> times;
        while (times.size() < beats) {
            const uint64_t at = address + times.size() * width;
            const uint64_t in_row = (control_->dram_row_bytes - at % control_->dram_row_bytes + width - 1) / width;
            const unsigned count = static_cast<unsigned>(std::min<uint64_t>(in_row, beats - times.size()));
            uint64_t begin = open(at, now);
            if (written_ != write && bus_free_ != 0) {
                begin = std::max(begin, bus_free_ + (written_ ? control_->dram_write_to_read
                                                              : control_->dram_read_to_write));
                control_->dram_turnarounds++;
            }
            begin = std::max(begin, bus_free_);
            written_ = write;
            for (unsigned i = 0; i < count; i++) times.push_back(begin + i);
            bus_free_ = begin + count;
            Bank& bank = this->bank(at);
            bank.closable = std::max(bank.activated + control_->dram_ras,
                                     bus_free_ + (write ? control_->dram_write_recovery : 0));
        }
        return times;
    }

    // The bus has nothing to do from this cycle on.
    uint64_t free() const { return bus_free_; }

  private:
    struct Bank {
        bool open = false;
        uint64_t row = 0, activated = 0, closable = 0;
    };

    Bank& bank(uint64_t address) {
        if (banks_.size() != control_->dram_banks) banks_.assign(control_->dram_banks, Bank());
        return banks_[address / control_->dram_row_bytes % control_->dram_banks];
    }

    // Opens the address's row; returns the first cycle in which its data can cross the bus.
    uint64_t open(uint64_t address, uint64_t now) {
        if (next_refresh_ == 0) next_refresh_ = now + control_->dram_refresh_interval;
        while (std::max(now, bus_free_) >= next_refresh_) refresh();
        Bank& bank = this->bank(address);
        const uint64_t row = address / control_->dram_row_bytes / control_->dram_banks;
        const uint64_t begin = std::max(now, refreshed_);
        if (bank.open && bank.row == row) {
            control_->dram_row_hits++;
            return std::max(begin, bank.activated + control_->dram_rcd);
        }
        control_->dram_row_misses++;
        uint64_t activate = std::max(begin, bank.closable) + (bank.open ? control_->dram_rp : 0);
        activate = std::max(activate, last_activate_ + control_->dram_rrd);
        bank = Bank{true, row, activate, activate + control_->dram_ras};
        last_activate_ = activate;
        return activate + control_->dram_rcd;
    }

    // Closes all rows and refreshes; one refresh for each interval, late if the bus is in use.
    void refresh() {
        uint64_t begin = std::max(next_refresh_, bus_free_);
        for (Bank& bank : banks_) {
            if (bank.open) begin = std::max(begin, bank.closable);
            bank = Bank();
        }
        refreshed_ = begin + control_->dram_rp + control_->dram_rfc;
        next_refresh_ += control_->dram_refresh_interval;
        control_->dram_refreshes++;
    }

    Control* control_;
    std::vector<Bank> banks_;
    uint64_t bus_free_ = 0, last_activate_ = 0, refreshed_ = 0, next_refresh_ = 0;
    bool written_ = false;
};

}  // namespace serrano

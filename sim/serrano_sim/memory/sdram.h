// SPDX-License-Identifier: Apache-2.0
// A single-data-rate SDRAM that checks what its data sheet asks for.
//
// edge() is one rising edge of the clock, with the pins as they were before it. What the memory drives from then
// on, until the next edge, is in `dq` where `drives` is set. Times are in picoseconds. The first violation is
// kept as a text that begins with the name of the rule; all are counted, and commands that violate a rule are
// carried out as far as they make sense.

#ifndef SERRANO_SDRAM_H
#define SERRANO_SDRAM_H

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

namespace serrano {

struct SdramPart {
    int64_t period;
    int64_t rcd, rp, ras, rc, rrd, rfc, wr, refi, init;
    int32_t wr_cycles, mrd_cycles, postponed_max, init_refreshes;
    int32_t data_bits, bank_bits, row_bits, column_bits;
    int32_t cas_latencies[2];
    int64_t cas_periods[2];
};

struct SdramPins {
    bool clk_en, cs, ras, cas, we, dq_oe;
    uint32_t ba, a, dqm, dq;
};

class Sdram {
public:
    static constexpr uint64_t kNowhere = UINT64_MAX;

    // In memory of its own, or in what is given, which must be large enough.
    explicit Sdram(const SdramPart& part, uint8_t* memory = nullptr) : part_(part), word_(part.data_bits / 8) {
        size_ = static_cast<uint64_t>(word_) << (part.bank_bits + part.row_bits + part.column_bits);
        own_ = memory ? nullptr : static_cast<uint8_t*>(std::calloc(size_, 1));
        memory_ = memory ? memory : own_;
        if (!memory_) throw std::bad_alloc();
    }
    ~Sdram() { std::free(own_); }
    Sdram(const Sdram&) = delete;
    Sdram& operator=(const Sdram&) = delete;

    uint8_t* memory() { return memory_; }
    uint64_t size() const { return size_; }
    uint64_t violations() const { return violations_; }
    const char* first() const { return first_; }

    uint32_t dq = 0;
    bool drives = false;
    uint64_t edges = 0, read_words = 0, written_words = 0, activates = 0, refreshes = 0, driven = 0;
    // Address of the last WRITE; for whoever looks, to be set to kNowhere afterwards.
    uint64_t written_at = kNowhere;

    void edge(const SdramPins& pins) {
        const bool drove = drives;
        if (pins.dq_oe && drove) fail("bus contention", "both drive the data bus");
        if (pins.dq_oe && drove_before_) fail("bus contention", "no cycle between read and written data");
        drove_before_ = drove;
        command(pins);
        const uint64_t slot = edges % kPipe;
        // DQM takes away what would be sampled two edges later.
        drives = valid_[slot] && masked_ != (1u << word_) - 1;
        dq = valid_[slot] ? (out_[slot] & ~byte_mask(masked_)) | (0xeeeeeeeeu & byte_mask(masked_)) : 0xdeadbeefu;
        if (word_ < 4) dq &= (1u << 8 * word_) - 1;
        valid_[slot] = false;
        masked_ = pins.dqm;
        driven += drives;
        if (mode_set_) check_refreshes();
        ++edges;
    }

private:
    static constexpr unsigned kPipe = 16;
    static constexpr int64_t kLongAgo = INT64_MIN / 4;

    struct Bank {
        bool open = false;
        uint32_t row = 0;
        int64_t opened = kLongAgo, closed = kLongAgo, written = kLongAgo;
    };

    uint32_t byte_mask(uint32_t dqm) const {
        uint32_t mask = 0;
        for (int i = 0; i < word_; ++i)
            if (dqm >> i & 1) mask |= 0xffu << 8 * i;
        return mask;
    }

    int64_t now() const { return static_cast<int64_t>(edges); }
    int64_t since(int64_t edge) const { return (now() - edge) * part_.period; }

    void fail(const char* rule, const char* format, ...) {
        if (violations_++) return;
        int used = std::snprintf(first_, sizeof first_, "%s: cycle %lld: ", rule, (long long)now());
        va_list list;
        va_start(list, format);
        std::vsnprintf(first_ + used, sizeof first_ - used, format, list);
        va_end(list);
    }

    void at_least(const char* rule, int64_t edge, int64_t time) {
        if (edge != kLongAgo && since(edge) < time)
            fail(rule, "%lld ps, not %lld", (long long)since(edge), (long long)time);
    }

    void check_refreshes() {
        const int64_t due = (since(mode_edge_)) / part_.refi;
        if (due - balance_ > part_.postponed_max && !overdue_) {
            overdue_ = true;
            fail("tREFI", "%lld refreshes are owed", (long long)(due - balance_));
        }
        if (due - balance_ <= part_.postponed_max) overdue_ = false;
    }

    void command(const SdramPins& pins) {
        if (!pins.clk_en) {
            if (mode_set_) fail("CKE", "low in operation");
            return;
        }
        if (!pins.cs || (!pins.ras && !pins.cas && !pins.we)) {
            if (pins.dq_oe) fail("data", "driven without a WRITE");
            return;
        }
        if (now() * part_.period < part_.init)
            fail("init", "a command %lld ps after power", (long long)(now() * part_.period));
        if (mode_edge_ != kLongAgo && now() - mode_edge_ < part_.mrd_cycles)
            fail("tMRD", "%lld cycles, not %d", (long long)(now() - mode_edge_), part_.mrd_cycles);
        at_least("tRFC", refreshed_, part_.rfc);
        const bool writes = pins.cas && pins.we && !pins.ras;
        if (pins.dq_oe && !writes) fail("data", "driven without a WRITE");
        if (pins.ras && pins.cas && pins.we) return load_mode(pins);
        if (pins.ras && pins.cas) return refresh();
        if (pins.ras && pins.we) return precharge(pins);
        if (pins.ras) return activate(pins);
        if (pins.cas) return column(pins, pins.we);
        fail("command", "BURST STOP is not expected");
    }

    void load_mode(const SdramPins& pins) {
        if (!precharged_) fail("init", "LOAD MODE before PRECHARGE ALL");
        if (init_refreshes_ < part_.init_refreshes)
            fail("init", "LOAD MODE after %d refreshes, not %d", init_refreshes_, part_.init_refreshes);
        all_closed("LOAD MODE");
        if ((pins.a & 7) > 3 || pins.a >> 3 & 1 || pins.a >> 7 & 3 || pins.a >> 10)
            fail("mode", "%#x is not supported", pins.a);
        if (!(pins.a >> 9 & 1)) fail("mode", "write bursts are not supported");
        burst_ = 1 << (pins.a & 3);
        latency_ = pins.a >> 4 & 7;
        bool known = false;
        for (int i = 0; i < 2; ++i)
            known = known || (latency_ == part_.cas_latencies[i] && part_.period >= part_.cas_periods[i]);
        if (!known) fail("CAS latency", "%d at %lld ps", latency_, (long long)part_.period);
        mode_set_ = true;
        mode_edge_ = now();
    }

    void all_closed(const char* what) {
        for (int bank = 0; bank < 1 << part_.bank_bits; ++bank) {
            if (banks_[bank].open) fail("open row", "%s with bank %d open", what, bank);
            at_least("tRP", banks_[bank].closed, part_.rp);
        }
    }

    void refresh() {
        if (!precharged_) fail("init", "REFRESH before PRECHARGE ALL");
        all_closed("REFRESH");
        refreshed_ = now();
        ++refreshes;
        if (!mode_set_) {
            ++init_refreshes_;
            return;
        }
        // No more than so many count in advance.
        const int64_t due = since(mode_edge_) / part_.refi;
        if (balance_ < due + part_.postponed_max) ++balance_;
    }

    void precharge(const SdramPins& pins) {
        const bool all = pins.a >> 10 & 1;
        for (uint32_t bank = 0; bank < 1u << part_.bank_bits; ++bank) {
            if (!all && bank != pins.ba) continue;
            if (banks_[bank].open) {
                at_least("tRAS", banks_[bank].opened, part_.ras);
                at_least("tWR", banks_[bank].written, part_.wr);
                if (now() - banks_[bank].written < part_.wr_cycles)
                    fail("tWR", "%lld cycles, not %d", (long long)(now() - banks_[bank].written), part_.wr_cycles);
                banks_[bank].closed = now();
            } else if (all && !precharged_) {
                banks_[bank].closed = now();
            }
            banks_[bank].open = false;
            if (reading_ && bank == read_bank_) stop_reading();
        }
        if (all) precharged_ = true;
    }

    void activate(const SdramPins& pins) {
        if (!mode_set_) fail("init", "ACTIVE before LOAD MODE");
        Bank& bank = banks_[pins.ba];
        if (bank.open) fail("open row", "ACTIVE in bank %u, which is open", pins.ba);
        if (pins.a >> part_.row_bits) fail("row", "%#x", pins.a);
        at_least("tRP", bank.closed, part_.rp);
        at_least("tRC", bank.opened, part_.rc);
        for (int other = 0; other < 1 << part_.bank_bits; ++other)
            if (static_cast<uint32_t>(other) != pins.ba) at_least("tRRD", banks_[other].opened, part_.rrd);
        bank.open = true;
        bank.row = pins.a;
        bank.opened = now();
        ++activates;
    }

    void column(const SdramPins& pins, bool write) {
        const char* what = write ? "WRITE" : "READ";
        Bank& bank = banks_[pins.ba];
        if (!mode_set_) fail("init", "%s before LOAD MODE", what);
        if (!bank.open) return fail("open row", "%s in bank %u, which is closed", what, pins.ba);
        at_least("tRCD", bank.opened, part_.rcd);
        if (pins.a >> 10 & 1) fail("command", "precharge after a %s is not expected", what);
        if (pins.a >> part_.column_bits) fail("column", "%#x", pins.a);
        const uint32_t first = pins.a & ((1u << part_.column_bits) - 1);
        stop_reading();
        if (write) {
            if (!pins.dq_oe) fail("data", "not driven with a WRITE");
            uint8_t* at = place(pins.ba, bank.row, first);
            for (int i = 0; i < word_; ++i)
                if (!(pins.dqm >> i & 1)) at[i] = pins.dq >> 8 * i;
            bank.written = now();
            written_at = at - memory_;
            ++written_words;
            return;
        }
        reading_ = true;
        read_bank_ = pins.ba;
        for (int beat = 0; beat < burst_; ++beat) {
            // Within an aligned block of the burst's length, columns go round.
            const uint32_t at = (first & ~(burst_ - 1u)) | ((first + beat) & (burst_ - 1u));
            const uint64_t slot = (edges + latency_ - 1 + beat) % kPipe;
            uint32_t word = 0;
            std::memcpy(&word, place(pins.ba, bank.row, at), word_);
            out_[slot] = word;
            valid_[slot] = true;
        }
        ++read_words;
    }

    // What would come later than a command now can change is dropped.
    void stop_reading() {
        if (!reading_) return;
        for (unsigned after = latency_ - 1; after < kPipe - 1; ++after) valid_[(edges + after) % kPipe] = false;
        reading_ = false;
    }

    uint8_t* place(uint32_t bank, uint32_t row, uint32_t column) {
        const uint64_t word = ((static_cast<uint64_t>(row) << part_.bank_bits | bank) << part_.column_bits) | column;
        return memory_ + word * word_;
    }

    SdramPart part_;
    int word_;
    uint64_t size_;
    uint8_t* own_;
    uint8_t* memory_;
    Bank banks_[4];
    uint32_t out_[kPipe] = {};
    bool valid_[kPipe] = {};
    uint32_t masked_ = 0;
    bool drove_before_ = false, mode_set_ = false, precharged_ = false, reading_ = false, overdue_ = false;
    uint32_t read_bank_ = 0;
    int burst_ = 1, latency_ = 2, init_refreshes_ = 0;
    int64_t mode_edge_ = kLongAgo, refreshed_ = kLongAgo, balance_ = 0;
    uint64_t violations_ = 0;
    char first_[256] = "";
};

}  // namespace serrano

#endif

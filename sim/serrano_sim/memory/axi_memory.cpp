// SPDX-License-Identifier: Apache-2.0
//
// Behavioural AXI4 memory. The SystemVerilog module axi_memory calls the model once for each rising clock edge with what
// the manager drives, and gets what it drives itself from then on. Contents and control words are files mapped into
// memory, so that Python reads and writes them without a call into the simulation.
//
// In order on each channel. A write takes effect when its response is presented: a manager that reads before it has the
// response gets the old data.

#include "axi_memory.h"
#include "dram.h"

#include <fcntl.h>
#include <svdpi.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

namespace serrano {
namespace {

constexpr unsigned MAX_DATA_BYTES = 64;
constexpr unsigned RULES = 8;
constexpr unsigned LOGGED_VIOLATIONS = 32;
constexpr unsigned LOGGED_ERRORS = 1024;
constexpr uint64_t DEFAULT_SIZE = 64ull << 20;
constexpr size_t MAX_EARLY_BEATS = 512;
// Writes wait for others while a DRAM reads: for so many, or for so many cycles.
constexpr size_t POSTED_WRITES = 8;
constexpr uint64_t POSTED_CYCLES = 64;
enum Response : unsigned { OKAY = 0, SLVERR = 2, DECERR = 3 };
// In the log of errors, beside the response.
constexpr unsigned WRITE_FLAG = 4;

[[noreturn]] void fail(const std::string& what) {
    std::perror(("axi_memory: " + what).c_str());
    std::exit(1);
}

void* map_file(const std::string& path, uint64_t size) {
    int fd = open(path.c_str(), O_RDWR | O_CREAT, 0644);
    if (fd < 0) fail("cannot open " + path);
    struct stat info;
    if (fstat(fd, &info) != 0) fail("cannot stat " + path);
    if (static_cast<uint64_t>(info.st_size) < size && ftruncate(fd, size) != 0) fail("cannot extend " + path);
    void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (address == MAP_FAILED) fail("cannot map " + path);
    close(fd);
    return address;
}

struct Random {
    uint64_t state = 1;
    void seed(uint64_t value, uint64_t stream) {
        state = (value + 1) * 0x9e3779b97f4a7c15ull ^ (stream + 1) * 0xd1b54a32d192ed03ull;
        if (state == 0) state = 1;
        for (int i = 0; i < 8; i++) next();
    }
    uint64_t next() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return state * 0x2545f4914f6cdd1dull;
    }
    // True with the given probability, in units of 2^-32.
    bool chance(uint64_t probability) { return probability != 0 && (next() >> 32) < probability; }
};

// Lets through `beats` beats every `window` cycles; no limit where either is 0.
struct Limiter {
    int64_t credit = 0;
    static bool off(uint64_t beats, uint64_t window) { return beats == 0 || window == 0; }
    void refill(uint64_t beats, uint64_t window) {
        credit += static_cast<int64_t>(beats);
        const int64_t most = 2 * static_cast<int64_t>(beats + window);
        if (credit > most) credit = most;
    }
};

struct Address {
    uint64_t address = 0;
    unsigned id = 0, len = 0, size = 0, burst = 0;
    bool operator!=(const Address& other) const {
        return address != other.address || id != other.id || len != other.len || size != other.size ||
               burst != other.burst;
    }
};

struct Beat {
    uint8_t data[MAX_DATA_BYTES];
    uint64_t strobe;
    bool last;
};

struct Read {
    Address at;
    uint64_t due;
    std::vector<uint64_t> dues;  // of each beat, if the memory is a DRAM
    unsigned beat;
    unsigned fault;  // response of a matching fault, 0 if none
    uint64_t fault_low, fault_high;
    bool failed = false;  // some beat had an error
};

struct Write {
    Address at;
    unsigned fault;
    std::vector<Beat> beats;
};

struct Done {
    Write write;
    uint64_t due;
};

struct Inputs {
    bool aresetn, arvalid, rready, awvalid, wvalid, wlast, bready;
    Address ar, aw;
    const uint8_t* wdata;
    uint64_t wstrb;
};

struct Outputs {
    bool arready = false, rvalid = false, rlast = false, awready = false, wready = false, bvalid = false;
    bool event = false, alarm = false;
    unsigned rresp = 0, bresp = 0, rid = 0, bid = 0;
    uint8_t rdata[MAX_DATA_BYTES] = {};
};

class Model {
  public:
    Model(std::string name, unsigned data_bytes) : name_(std::move(name)), width_(data_bytes) {}

    const Outputs& clock(const Inputs& in) {
        if (control_ == nullptr) attach();
        if (control_->seed_epoch != epoch_) reseed();
        if (!in.aresetn) {
            reset(in);
            return out_;
        }
        resets_ = 0;
        control_->cycles++;
        check_stability(in);
        refill();
        accept_read(in);
        accept_write(in);
        write_posted();
        drive_read(in);
        drive_response(in);
        drive_ready();
        count(in);
        return out_;
    }

  private:
    void attach() {
        control_ = static_cast<Control*>(map_file(name_ + ".ctl", sizeof(Control)));
        if (control_->magic == 0) {
            control_->magic = CONTROL_MAGIC;
            control_->version = CONTROL_VERSION;
            control_->size = DEFAULT_SIZE;
            control_->read_latency = control_->write_latency = 1;
            control_->max_reads = control_->max_writes = 16;
        }
        dram_ = Dram(control_);
        if (control_->magic != CONTROL_MAGIC || control_->version != CONTROL_VERSION) {
            std::fprintf(stderr, "axi_memory: %s.ctl is not a control file of version %llu\n", name_.c_str(),
                         static_cast<unsigned long long>(CONTROL_VERSION));
            std::exit(1);
        }
        control_->data_bytes = width_;
        size_ = control_->size;
        memory_ = static_cast<uint8_t*>(map_file(name_ + ".bin", size_));
        reseed();
    }

    void reseed() {
        epoch_ = control_->seed_epoch;
        Random* streams[] = {&random_ar_, &random_r_, &random_aw_, &random_w_, &random_b_, &random_fault_};
        for (unsigned i = 0; i < 6; i++) streams[i]->seed(control_->seed, i);
    }

    void reset(const Inputs& in) {
        // The manager's registers have had a clock edge in reset from the second cycle on.
        if (++resets_ > 2 && (in.arvalid || in.awvalid || in.wvalid)) violate(VALID_IN_RESET, 0);
        const bool event = out_.event, alarm = out_.alarm;
        out_ = Outputs();
        out_.event = event;
        out_.alarm = alarm;
        reads_.clear();
        writes_.clear();
        early_.clear();
        done_.clear();
        posted_.clear();
        dram_ = Dram(control_);
        held_ar_ = held_aw_ = held_w_ = false;
    }

    void violate(Violation code, uint64_t address) {
        const uint64_t number = control_->violations++;
        if (number < LOGGED_VIOLATIONS) {
            control_->violation_code[number] = code;
            control_->violation_cycle[number] = control_->cycles;
            control_->violation_address[number] = address;
        }
    }

    void check_stability(const Inputs& in) {
        if (held_ar_ && (!in.arvalid || in.ar != last_ar_)) violate(AR_UNSTABLE, last_ar_.address);
        if (held_aw_ && (!in.awvalid || in.aw != last_aw_)) violate(AW_UNSTABLE, last_aw_.address);
        if (held_w_ && (!in.wvalid || in.wlast != last_w_.last || in.wstrb != last_w_.strobe ||
                        differs(in.wdata, last_w_.data, in.wstrb)))
            violate(W_UNSTABLE, 0);
        held_ar_ = in.arvalid && !out_.arready;
        held_aw_ = in.awvalid && !out_.awready;
        held_w_ = in.wvalid && !out_.wready;
        if (held_ar_) last_ar_ = in.ar;
        if (held_aw_) last_aw_ = in.aw;
        if (held_w_) last_w_ = beat(in);
    }

    bool differs(const uint8_t* a, const uint8_t* b, uint64_t strobe) const {
        for (unsigned i = 0; i < width_; i++)
            if ((strobe >> i & 1) && a[i] != b[i]) return true;
        return false;
    }

    Beat beat(const Inputs& in) const {
        Beat result;
        std::memcpy(result.data, in.wdata, width_);
        result.strobe = in.wstrb;
        result.last = in.wlast;
        return result;
    }

    void check_burst(const Address& at) {
        const uint64_t bytes = 1ull << at.size;
        if (at.burst != 1) violate(BURST_TYPE, at.address);
        if (bytes > width_) violate(BURST_SIZE, at.address);
        const uint64_t last = (at.address & ~(bytes - 1)) + bytes * (at.len + 1) - 1;
        if (at.address >> 12 != last >> 12) violate(CROSSES_4K, at.address);
    }

    static uint64_t beat_address(const Address& at, unsigned beat) {
        if (beat == 0) return at.address;
        const uint64_t bytes = 1ull << at.size;
        return (at.address & ~(bytes - 1)) + bytes * beat;
    }

    // The response that an injected error gives to a burst, and the range it covers; OKAY if none matches.
    unsigned fault(const Address& at, bool write, uint64_t* low, uint64_t* high) {
        const uint64_t first = at.address, end = beat_address(at, at.len) + (1ull << at.size);
        for (unsigned i = 0; i < RULES; i++) {
            if (!(control_->fault_kind[i] >> (write ? 1 : 0) & 1)) continue;
            if (end <= control_->fault_low[i] || first >= control_->fault_high[i]) continue;
            if (control_->fault_seen[i]++ < control_->fault_after[i]) continue;
            if (control_->fault_limit[i] != 0 && control_->fault_hits[i] >= control_->fault_limit[i]) continue;
            if (control_->fault_chance[i] != 0 && !random_fault_.chance(control_->fault_chance[i])) continue;
            control_->fault_hits[i]++;
            *low = control_->fault_low[i];
            *high = control_->fault_high[i];
            return static_cast<unsigned>(control_->fault_response[i]);
        }
        return OKAY;
    }

    void log_error(uint64_t address, unsigned what) {
        const uint64_t number = control_->error_bursts++;
        if (number < LOGGED_ERRORS) {
            control_->error_cycle[number] = control_->cycles;
            control_->error_address[number] = address;
            control_->error_what[number] = what;
        }
    }

    void accept_read(const Inputs& in) {
        if (!(in.arvalid && out_.arready)) return;
        check_burst(in.ar);
        Read read{in.ar, control_->cycles + control_->read_latency, {}, 0, OKAY, 0, 0};
        if (control_->dram_banks != 0)
            read.dues = dram_.schedule(in.ar.address, in.ar.len + 1, width_, false, control_->cycles);
        read.fault = fault(in.ar, false, &read.fault_low, &read.fault_high);
        reads_.push_back(read);
        control_->reads++;
        if (reads_.size() > control_->reads_outstanding_peak) control_->reads_outstanding_peak = reads_.size();
    }

    void accept_write(const Inputs& in) {
        if (in.awvalid && out_.awready) {
            check_burst(in.aw);
            uint64_t low, high;
            writes_.push_back(Write{in.aw, fault(in.aw, true, &low, &high), {}});
            control_->writes++;
            const uint64_t outstanding = writes_.size() + posted_.size() + done_.size();
            if (outstanding > control_->writes_outstanding_peak) control_->writes_outstanding_peak = outstanding;
        }
        if (in.wvalid && out_.wready) {
            early_.push_back(beat(in));
            write_limiter().credit -= static_cast<int64_t>(window(true));
            control_->write_beats_done++;
        }
        while (!writes_.empty() && !early_.empty()) {
            take_beat(writes_.front(), early_.front());
            early_.pop_front();
            if (writes_.front().beats.size() > writes_.front().at.len) {
                auto& target = control_->dram_banks != 0 ? posted_ : done_;
                target.push_back(Done{std::move(writes_.front()), control_->cycles + control_->write_latency});
                writes_.pop_front();
            }
        }
    }

    // A DRAM writes when enough writes have come together, when they have waited long, or when nothing else is to be done.
    void write_posted() {
        if (posted_.empty()) return;
        const uint64_t now = control_->cycles;
        const bool old = posted_.front().due + POSTED_CYCLES <= now + control_->write_latency;
        if (posted_.size() < POSTED_WRITES && !old && dram_.free() > now) return;
        for (Done& done : posted_) {
            const Address& at = done.write.at;
            done.due = dram_.schedule(at.address, at.len + 1, width_, true, now).back() + control_->write_latency;
            done_.push_back(std::move(done));
        }
        posted_.clear();
    }

    void take_beat(Write& write, const Beat& beat) {
        const unsigned number = static_cast<unsigned>(write.beats.size());
        const uint64_t address = beat_address(write.at, number);
        const bool last = number == write.at.len;
        if (beat.last && !last) violate(EARLY_LAST, address);
        if (!beat.last && last) violate(LATE_LAST, address);
        const uint64_t bytes = 1ull << write.at.size;
        const unsigned first = static_cast<unsigned>(address % width_);
        const unsigned end = static_cast<unsigned>((address & ~(bytes - 1)) % width_ + bytes);
        const uint64_t below_end = end >= 64 ? ~0ull : (1ull << end) - 1;
        if (beat.strobe & ~(below_end & ~((1ull << first) - 1))) violate(STROBE_LANE, address);
        count_region(control_->region_write_beats, address);
        write.beats.push_back(beat);
    }

    void count_region(uint64_t* counters, uint64_t address) {
        for (unsigned i = 0; i < RULES; i++)
            if (address >= control_->region_low[i] && address < control_->region_high[i]) counters[i]++;
    }

    uint64_t beats(bool write) const {
        return write && !control_->shared_port ? control_->write_beats : control_->read_beats;
    }
    uint64_t window(bool write) const {
        return write && !control_->shared_port ? control_->write_window : control_->read_window;
    }
    Limiter& write_limiter() { return control_->shared_port ? read_limiter_ : write_limiter_; }

    void refill() {
        read_limiter_.refill(beats(false), window(false));
        if (!control_->shared_port) write_limiter_.refill(beats(true), window(true));
    }

    bool allowed(Limiter& limiter, bool write) {
        return Limiter::off(beats(write), window(write)) || limiter.credit >= static_cast<int64_t>(window(write));
    }

    void drive_read(const Inputs& in) {
        if (out_.rvalid && in.rready) {
            out_.rvalid = false;
            control_->read_beats_done++;
            if (out_.rlast) reads_.pop_front();
        }
        if (out_.rvalid || reads_.empty()) return;
        Read& read = reads_.front();
        // What is driven now is taken at the next edge at the earliest.
        const uint64_t due = read.dues.empty() ? read.due : read.dues[read.beat] + control_->read_latency;
        if (control_->cycles + 1 < due || !allowed(read_limiter_, false)) return;
        if (random_r_.chance(control_->stall_r)) return;
        read_limiter_.credit -= static_cast<int64_t>(window(false));
        const uint64_t address = beat_address(read.at, read.beat);
        out_.rvalid = true;
        out_.rid = read.at.id;
        out_.rlast = read.beat == read.at.len;
        out_.rresp = OKAY;
        const uint64_t line = address - address % width_;
        if (read.fault != OKAY && address + (1ull << read.at.size) > read.fault_low && address < read.fault_high)
            out_.rresp = read.fault;
        else if (line + width_ > size_)
            out_.rresp = DECERR;
        if (out_.rresp == OKAY) {
            std::memcpy(out_.rdata, memory_ + line, width_);
        } else {
            std::memset(out_.rdata, 0xee, width_);
            control_->error_responses++;
            if (!read.failed) log_error(read.at.address, out_.rresp);
            read.failed = true;
        }
        count_region(control_->region_read_beats, address);
        read.beat++;
    }

    void drive_response(const Inputs& in) {
        if (out_.bvalid && in.bready) out_.bvalid = false;
        if (out_.bvalid || done_.empty() || control_->cycles + 1 < done_.front().due) return;
        if (random_b_.chance(control_->stall_b)) return;
        const Write& write = done_.front().write;
        out_.bvalid = true;
        out_.bid = write.at.id;
        out_.bresp = write.fault != OKAY ? write.fault : store(write);
        if (out_.bresp != OKAY) {
            control_->error_responses++;
            log_error(write.at.address, out_.bresp | WRITE_FLAG);
        }
        done_.pop_front();
    }

    Response store(const Write& write) {
        const uint64_t end = beat_address(write.at, write.at.len);
        if (write.at.address >= size_ || end - end % width_ + width_ > size_) return DECERR;
        bool watched = false;
        for (unsigned number = 0; number < write.beats.size(); number++) {
            const uint64_t address = beat_address(write.at, number);
            uint8_t* line = memory_ + (address - address % width_);
            const Beat& beat = write.beats[number];
            for (unsigned i = 0; i < width_; i++)
                if (beat.strobe >> i & 1) line[i] = beat.data[i];
            for (unsigned i = 0; i < RULES; i++)
                if (address < control_->watch_high[i] && address + (1ull << write.at.size) > control_->watch_low[i]) {
                    control_->watch_hits[i]++;
                    watched = true;
                }
        }
        if (watched) out_.event = !out_.event;
        return OKAY;
    }

    void drive_ready() {
        const uint64_t pending_writes = writes_.size() + posted_.size() + done_.size() + (out_.bvalid ? 1 : 0);
        out_.arready = reads_.size() < control_->max_reads && !random_ar_.chance(control_->stall_ar);
        out_.awready = pending_writes < control_->max_writes && !random_aw_.chance(control_->stall_aw);
        out_.wready = early_.size() < MAX_EARLY_BEATS && allowed(write_limiter(), true) &&
                      !random_w_.chance(control_->stall_w);
        if (control_->alarm_period != 0 && control_->cycles % control_->alarm_period == 0) out_.alarm = !out_.alarm;
    }

    void count(const Inputs& in) {
        if (held_ar_) control_->ar_waits++;
        if (held_aw_) control_->aw_waits++;
        if (held_w_) control_->write_blocked++;
        if (was_rvalid_ && !in.rready) control_->read_blocked++;
        if (!was_rvalid_) control_->read_idle++;
        was_rvalid_ = out_.rvalid;
    }

    const std::string name_;
    const unsigned width_;
    Control* control_ = nullptr;
    uint8_t* memory_ = nullptr;
    uint64_t size_ = 0, epoch_ = 0, resets_ = 0;
    Random random_ar_, random_r_, random_aw_, random_w_, random_b_, random_fault_;
    Limiter read_limiter_, write_limiter_;
    std::deque<Read> reads_;
    std::deque<Write> writes_;
    std::deque<Beat> early_;
    std::deque<Done> posted_, done_;
    Dram dram_;
    Outputs out_;
    bool held_ar_ = false, held_aw_ = false, held_w_ = false, was_rvalid_ = false;
    Address last_ar_, last_aw_;
    Beat last_w_ = {};
};

Address address_of(uint64_t address, unsigned id, unsigned info) {
    Address result;
    result.address = address;
    result.id = id;
    result.len = info & 0xff;
    result.size = info >> 8 & 7;
    result.burst = info >> 11 & 3;
    return result;
}

}  // namespace
}  // namespace serrano

extern "C" {

void* serrano_axi_memory_open(const char* name, int data_bytes) {
    return new serrano::Model(name, static_cast<unsigned>(data_bytes));
}

void serrano_axi_memory_clock(void* model, unsigned control, uint64_t araddr, unsigned arid, unsigned arinfo,
                              uint64_t awaddr, unsigned awid, unsigned awinfo, const svBitVecVal* wdata, uint64_t wstrb,
                              unsigned* status, unsigned* rid, unsigned* bid, svBitVecVal* rdata) {
    serrano::Inputs in;
    in.aresetn = control & 1;
    in.arvalid = control >> 1 & 1;
    in.rready = control >> 2 & 1;
    in.awvalid = control >> 3 & 1;
    in.wvalid = control >> 4 & 1;
    in.wlast = control >> 5 & 1;
    in.bready = control >> 6 & 1;
    in.ar = serrano::address_of(araddr, arid, arinfo);
    in.aw = serrano::address_of(awaddr, awid, awinfo);
    in.wdata = reinterpret_cast<const uint8_t*>(wdata);
    in.wstrb = wstrb;
    const serrano::Outputs& out = static_cast<serrano::Model*>(model)->clock(in);
    *status = out.arready | out.rvalid << 1 | out.rlast << 2 | out.awready << 3 | out.wready << 4 | out.bvalid << 5 |
              out.event << 6 | out.alarm << 7 | out.rresp << 8 | out.bresp << 10;
    *rid = out.rid;
    *bid = out.bid;
    std::memcpy(rdata, out.rdata, sizeof out.rdata);
}
}

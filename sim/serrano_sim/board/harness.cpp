// SPDX-License-Identifier: Apache-2.0
// A board in Verilator: clock and reset, an SDRAM at its pins, a serial line that is a file descriptor.
//
//     harness part=... memory=FILE line=FD divisor=N pads=N statistics=FILE [idle=CYCLES]
//
// `pads` is the number of registers between the design and each pin of the memory, on the way out and on the way in.
// `part` are the fields of SdramPart in their order. Lines on standard input:
//     watch LOW HIGH    write the cycle of each WRITE to this range of memory to the file of statistics
// Its end ends the simulation. While nothing happens, time stands still until the host sends something.
// Exit status: 0; 3 after a violation of the memory's rules, which is on standard error.

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cinttypes>
#include <deque>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "Vserrano_board.h"
#include "sdram.h"
#include "verilated.h"

namespace {

std::map<std::string, std::string> options;

std::string option(const std::string& name) {
    auto found = options.find(name);
    if (found == options.end()) {
        std::fprintf(stderr, "harness: %s= is missing\n", name.c_str());
        std::exit(2);
    }
    return found->second;
}

serrano::SdramPart read_part(const std::string& text) {
    std::vector<int64_t> v;
    std::stringstream fields(text);
    for (std::string field; std::getline(fields, field, ',');) v.push_back(std::stoll(field));
    if (v.size() != 22) {
        std::fprintf(stderr, "harness: part has %zu fields\n", v.size());
        std::exit(2);
    }
    serrano::SdramPart part{};
    int64_t* times[] = {&part.period, &part.rcd, &part.rp,  &part.ras,  &part.rc,
                        &part.rrd,    &part.rfc, &part.wr,  &part.refi, &part.init};
    int32_t* counts[] = {&part.wr_cycles, &part.mrd_cycles, &part.postponed_max, &part.init_refreshes,
                         &part.data_bits, &part.bank_bits,  &part.row_bits,      &part.column_bits};
    size_t at = 0;
    for (auto* field : times) *field = v[at++];
    for (auto* field : counts) *field = static_cast<int32_t>(v[at++]);
    for (auto& field : part.cas_latencies) field = static_cast<int32_t>(v[at++]);
    for (auto& field : part.cas_periods) field = v[at++];
    return part;
}

// A serial line of 8 data bits, each so many cycles long.
class Uart {
public:
    Uart(int descriptor, unsigned divisor) : descriptor_(descriptor), divisor_(divisor) {
        fcntl(descriptor_, F_SETFL, fcntl(descriptor_, F_GETFL) | O_NONBLOCK);
    }

    // Takes what the host has sent; false if its end is gone.
    bool poll_host() {
        uint8_t buffer[4096];
        const ssize_t count = read(descriptor_, buffer, sizeof buffer);
        if (count > 0) waiting_.insert(waiting_.end(), buffer, buffer + count);
        if (!given_.empty()) {
            const ssize_t done = write(descriptor_, given_.data(), given_.size());
            if (done > 0) given_.erase(0, done);
        }
        return count != 0;
    }

    // One cycle: the board's output, and what is to be its input.
    bool cycle(bool tx) {
        receive(tx);
        if (left_) {
            --left_;
        } else if (bits_ > 1) {
            bits_ >>= 1;
            left_ = divisor_ - 1;
        } else if (!waiting_.empty()) {
            bits_ = 0x600u | waiting_.front() << 1;
            waiting_.pop_front();
            left_ = divisor_ - 1;
            ++sent_;
        }
        return bits_ & 1;
    }

    bool quiet() const { return waiting_.empty() && given_.empty() && bits_ <= 1 && !receiving_; }
    int descriptor() const { return descriptor_; }
    uint64_t sent() const { return sent_; }
    uint64_t received() const { return received_; }
    uint64_t broken() const { return broken_; }

private:
    void receive(bool tx) {
        if (!receiving_) {
            if (!tx) {
                receiving_ = true;
                wait_ = divisor_ + divisor_ / 2 - 1;
                place_ = 0;
                byte_ = 0;
            }
        } else if (wait_) {
            --wait_;
        } else if (place_ < 8) {
            byte_ |= tx << place_++;
            wait_ = divisor_ - 1;
        } else {
            receiving_ = false;
            if (tx) {
                given_.push_back(static_cast<char>(byte_));
                ++received_;
            } else {
                ++broken_;
            }
        }
    }

    int descriptor_;
    unsigned divisor_, left_ = 0, bits_ = 1, wait_ = 0, place_ = 0;
    uint8_t byte_ = 0;
    bool receiving_ = false;
    std::deque<uint8_t> waiting_;
    std::string given_;
    uint64_t sent_ = 0, received_ = 0, broken_ = 0;
};

}  // namespace

int main(int count, char** arguments) {
    for (int i = 1; i < count; ++i) {
        const std::string text = arguments[i];
        const size_t equals = text.find('=');
        if (equals != std::string::npos) options[text.substr(0, equals)] = text.substr(equals + 1);
    }
    const serrano::SdramPart part = read_part(option("part"));
    const int file = open(option("memory").c_str(), O_RDWR);
    struct stat status;
    if (file < 0 || fstat(file, &status)) {
        std::perror("harness: memory");
        return 2;
    }
    void* memory = mmap(nullptr, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    serrano::Sdram sdram(part, memory == MAP_FAILED ? nullptr : static_cast<uint8_t*>(memory));
    if (memory == MAP_FAILED || static_cast<uint64_t>(status.st_size) != sdram.size()) {
        std::fprintf(stderr, "harness: memory has %lld bytes\n", static_cast<long long>(status.st_size));
        return 2;
    }
    Uart uart(std::stoi(option("line")), std::stoul(option("divisor")));
    const uint64_t idle_cycles = options.count("idle") ? std::stoull(options["idle"]) : 100000;
    FILE* log = std::fopen(option("statistics").c_str(), "w");
    if (!log) {
        std::perror("harness: statistics");
        return 2;
    }
    fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK);

    auto context = std::make_unique<VerilatedContext>();
    auto top = std::make_unique<Vserrano_board>(context.get());
    top->uart_rx = 1;
#if RESET
    top->rst = 1;
#endif
    uint64_t still = 0, seen = 0, watch_low = 0, watch_high = 0;
    const size_t pads = std::stoul(option("pads"));
    std::deque<serrano::SdramPins> outwards(pads);
    std::deque<uint32_t> inwards(pads, 0);
    bool running = true;
    std::string commands;
    for (uint64_t cycle = 0; running; ++cycle) {
        // Registers: what the memory sees at this edge is what they were before it.
        serrano::SdramPins pins{};
        pins.clk_en = top->sdram_clk_en;
        pins.cs = top->sdram_cs;
        pins.ras = top->sdram_ras;
        pins.cas = top->sdram_cas;
        pins.we = top->sdram_we;
        pins.ba = top->sdram_ba;
        pins.a = top->sdram_a;
        pins.dqm = top->sdram_dqm;
        pins.dq = top->sdram_dq_o;
        pins.dq_oe = top->sdram_dq_oe;
        outwards.push_back(pins);
#if RESET
        if (cycle == 16) top->rst = 0;
#endif
        top->clk = 1;
        top->eval();
        sdram.edge(outwards.front());
        outwards.pop_front();
        inwards.push_back(sdram.dq);
        top->clk = 0;
        top->sdram_dq_i = inwards.front();
        inwards.pop_front();
        // Like anything at a line, the bridge hears nothing while it is in reset.
        top->uart_rx = cycle < 64 || uart.cycle(top->uart_tx);
        top->eval();
        if (sdram.violations()) {
            std::fprintf(stderr, "SDRAM: %s\n", sdram.first());
            std::fflush(stderr);
            std::fclose(log);
            return 3;
        }
        if (sdram.written_at != serrano::Sdram::kNowhere) {
            if (sdram.written_at >= watch_low && sdram.written_at < watch_high) {
                std::fprintf(log, "write %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", cycle, sdram.written_at - watch_low,
                             sdram.driven);
                std::fflush(log);
            }
            sdram.written_at = serrano::Sdram::kNowhere;
        }
        const bool stepping = top->leds >> 3 & 1;
        const uint64_t accesses = sdram.read_words + sdram.written_words;
        still = uart.quiet() && !stepping && accesses == seen ? still + 1 : 0;
        seen = accesses;
        if (cycle % 512 == 0 || still > idle_cycles) {
            if (still > idle_cycles) {
                struct pollfd wanted[2] = {{uart.descriptor(), POLLIN, 0}, {0, POLLIN, 0}};
                poll(wanted, 2, 50);
            }
            uart.poll_host();
            char buffer[256];
            const ssize_t got = cycle % 8192 == 0 || still > idle_cycles ? read(0, buffer, sizeof buffer) : -1;
            if (got == 0) running = false;
            if (got > 0) commands.append(buffer, got);
            for (size_t end; (end = commands.find('\n')) != std::string::npos;) {
                if (std::sscanf(commands.c_str(), "watch %" SCNu64 " %" SCNu64, &watch_low, &watch_high) == 2) {
                    std::fprintf(log, "watching %" PRIu64 "\n", cycle);
                    std::fflush(log);
                }
                commands.erase(0, end + 1);
            }
        }
    }
    std::fprintf(log,
                 "end cycles %" PRIu64 " reads %" PRIu64 " writes %" PRIu64 " activates %" PRIu64 " refreshes %" PRIu64
                 " driven %" PRIu64 " sent %" PRIu64 " received %" PRIu64 " broken %" PRIu64 "\n",
                 sdram.edges, sdram.read_words, sdram.written_words, sdram.activates, sdram.refreshes, sdram.driven,
                 uart.sent(), uart.received(), uart.broken());
    std::fclose(log);
    top->final();
    return 0;
}

// SPDX-License-Identifier: Apache-2.0
//
// Records a stream that is always ready into a file: a header of eight 64-bit words, then one record for each beat, its
// cycle number (64 bits) and its payload, little endian, padded to a multiple of eight bytes. The file is mapped into
// memory and the header's count is current after every beat, so that it may be read while the simulation runs.

#include <fcntl.h>
#include <svdpi.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace {

constexpr uint64_t MAGIC = 0x3145434152545253ull;  // "SRTRACE1"
constexpr uint64_t HEADER_BYTES = 64;
constexpr uint64_t FIRST_BYTES = 1 << 20;

class Trace {
  public:
    Trace(const std::string& name, unsigned width) : path_(name + ".trace"), payload_bytes_((width + 7) / 8) {
        record_bytes_ = 8 + (payload_bytes_ + 7) / 8 * 8;
        file_ = open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644);
        if (file_ < 0) fail();
        resize(FIRST_BYTES);
        word(0) = MAGIC;
        word(1) = 1;
        word(2) = width;
        word(3) = record_bytes_;
        word(4) = 0;
    }

    ~Trace() {
        const uint64_t used = HEADER_BYTES + word(4) * record_bytes_;
        munmap(map_, bytes_);
        if (ftruncate(file_, static_cast<off_t>(used)) != 0) std::perror(path_.c_str());
        close(file_);
    }

    void record(uint64_t cycle, const svBitVecVal* payload) {
        const uint64_t at = HEADER_BYTES + word(4) * record_bytes_;
        if (at + record_bytes_ > bytes_) resize(2 * bytes_);
        std::memcpy(map_ + at, &cycle, 8);
        std::memcpy(map_ + at + 8, payload, payload_bytes_);
        word(4)++;
    }

  private:
    uint64_t& word(unsigned number) { return reinterpret_cast<uint64_t*>(map_)[number]; }

    [[noreturn]] void fail() {
        std::perror(("trace_sink: " + path_).c_str());
        std::exit(1);
    }

    void resize(uint64_t bytes) {
        if (map_ != nullptr) munmap(map_, bytes_);
        if (ftruncate(file_, static_cast<off_t>(bytes)) != 0) fail();
        void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
        if (address == MAP_FAILED) fail();
        map_ = static_cast<uint8_t*>(address);
        bytes_ = bytes;
    }

    std::string path_;
    uint64_t payload_bytes_, record_bytes_ = 0, bytes_ = 0;
    int file_ = -1;
    uint8_t* map_ = nullptr;
};

// Closed, and so cut to their length, when the simulation exits.
std::vector<std::unique_ptr<Trace>>& traces() {
    static std::vector<std::unique_ptr<Trace>> all;
    return all;
}

}  // namespace

extern "C" {

void* serrano_trace_open(const char* name, int width) {
    traces().push_back(std::make_unique<Trace>(name, static_cast<unsigned>(width)));
    return traces().back().get();
}

void serrano_trace_record(void* trace, uint64_t cycle, const svBitVecVal* payload) {
    static_cast<Trace*>(trace)->record(cycle, payload);
}
}

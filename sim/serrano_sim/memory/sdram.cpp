// SPDX-License-Identifier: Apache-2.0
// The SDRAM of sdram.h for Python.

#include "sdram.h"

extern "C" {

serrano::Sdram* sdram_new(const serrano::SdramPart* part) { return new serrano::Sdram(*part); }
void sdram_delete(serrano::Sdram* sdram) { delete sdram; }
uint8_t* sdram_memory(serrano::Sdram* sdram) { return sdram->memory(); }
uint64_t sdram_size(serrano::Sdram* sdram) { return sdram->size(); }
uint64_t sdram_violations(serrano::Sdram* sdram) { return sdram->violations(); }
const char* sdram_first(serrano::Sdram* sdram) { return sdram->first(); }

// control: clk_en, cs, ras, cas, we, dq_oe from bit 0 on.
void sdram_edge(serrano::Sdram* sdram, uint32_t control, uint32_t ba, uint32_t a, uint32_t dqm, uint32_t dq) {
    serrano::SdramPins pins;
    pins.clk_en = control & 1;
    pins.cs = control >> 1 & 1;
    pins.ras = control >> 2 & 1;
    pins.cas = control >> 3 & 1;
    pins.we = control >> 4 & 1;
    pins.dq_oe = control >> 5 & 1;
    pins.ba = ba;
    pins.a = a;
    pins.dqm = dqm;
    pins.dq = dq;
    sdram->edge(pins);
}

uint32_t sdram_dq(serrano::Sdram* sdram) { return sdram->dq; }

void sdram_statistics(serrano::Sdram* sdram, uint64_t* values) {
    values[0] = sdram->edges;
    values[1] = sdram->read_words;
    values[2] = sdram->written_words;
    values[3] = sdram->activates;
    values[4] = sdram->refreshes;
    values[5] = sdram->driven;
}
}

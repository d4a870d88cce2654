// SPDX-License-Identifier: Apache-2.0
// What the cells of an ECP5 netlist do, as far as synthesis uses them: for simulating what goes to place and
// route. After Lattice's FPGA-TN-02200 (logic), FPGA-TN-02204 (memory) and FPGA-TN-02205 (DSP blocks); the order
// of bits in INITVAL is that of Project Trellis. Two states; no timing.

module LUT4 #(
    parameter [15:0] INIT = 0
) (
    input A, B, C, D,
    output Z
);
    assign Z = INIT[{D, C, B, A}];
endmodule

// Two bits of a sum: each LUT4 propagates the carry or, where it is 0, generates that of its first two inputs.
module CCU2C #(
    parameter [15:0] INIT0 = 0, INIT1 = 0,
    parameter INJECT1_0 = "YES", INJECT1_1 = "YES"
) (
    input CIN, A0, B0, C0, D0, A1, B1, C1, D1,
    output S0, S1, COUT
);
    localparam [1:0] CARRIES = {INJECT1_1 != "YES", INJECT1_0 != "YES"};
    wire propagate_0 = INIT0[{D0, C0, B0, A0}];
    wire propagate_1 = INIT1[{D1, C1, B1, A1}];
    wire carry = propagate_0 ? CIN : CARRIES[0] & INIT0[{2'b00, B0, A0}];
    assign S0 = propagate_0 ^ (CARRIES[0] & CIN);
    assign S1 = propagate_1 ^ (CARRIES[1] & carry);
    assign COUT = propagate_1 ? carry : CARRIES[1] & INIT1[{2'b00, B1, A1}];
endmodule

module TRELLIS_FF #(
    parameter GSR = "ENABLED", CLKMUX = "CLK", LSRMUX = "LSR", SRMODE = "LSR_OVER_CE", REGSET = "RESET",
    parameter CEMUX = "1"
) (
    input CLK, CE, LSR, DI,
    output reg Q
);
    localparam VALUE = REGSET == "SET";
    wire enable = CEMUX == "CE" ? CE : CEMUX == "INV" ? ~CE : 1'b1;
    initial Q = VALUE;
    generate
        if (CLKMUX != "CLK" || LSRMUX != "LSR") unknown_clock_or_reset unknown();
        if (SRMODE == "ASYNC") begin : apart
            always @(posedge CLK or posedge LSR)
                if (LSR) Q <= VALUE;
                else if (enable) Q <= DI;
        end else begin : together
            always @(posedge CLK)
                if (LSR) Q <= VALUE;
                else if (enable) Q <= DI;
        end
    endgenerate
endmodule

module TRELLIS_DPR16X4 #(
    parameter WCKMUX = "WCK", WREMUX = "WRE",
    parameter [63:0] INITVAL = 0
) (
    input [3:0] DI, WAD, RAD,
    input WRE, WCK,
    output [3:0] DO
);
    reg [63:0] words = INITVAL;
    generate
        if (WCKMUX != "WCK" || WREMUX != "WRE") unknown_clock_or_enable unknown();
    endgenerate
    always @(posedge WCK) if (WRE) words[{WAD, 2'b00} +: 4] <= DI;
    assign DO = words[{RAD, 2'b00} +: 4];
endmodule

// Two signed operands of 18 bits; each stage has a register if it has a clock.
module MULT18X18D #(
    parameter REG_INPUTA_CLK = "NONE", REG_INPUTA_CE = "CE0", REG_INPUTA_RST = "RST0",
    parameter REG_INPUTB_CLK = "NONE", REG_INPUTB_CE = "CE0", REG_INPUTB_RST = "RST0",
    parameter REG_INPUTC_CLK = "NONE",
    parameter REG_PIPELINE_CLK = "NONE", REG_PIPELINE_CE = "CE0", REG_PIPELINE_RST = "RST0",
    parameter REG_OUTPUT_CLK = "NONE", REG_OUTPUT_CE = "CE0", REG_OUTPUT_RST = "RST0",
    parameter GSR = "ENABLED", RESETMODE = "SYNC", SOURCEB_MODE = "B_SHIFT"
) (
    input signed [17:0] A, B, C,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CE0, CE1,
    input [3:0] CLK, RST,
    output [35:0] P
);
    reg signed [17:0] a = 0, b = 0;
    reg signed [35:0] halfway = 0, product = 0;
    wire signed [17:0] first = REG_INPUTA_CLK == "NONE" ? A : a;
    wire signed [17:0] second = REG_INPUTB_CLK == "NONE" ? B : b;
    wire signed [35:0] multiplied = first * second;
    wire signed [35:0] last = REG_PIPELINE_CLK == "NONE" ? multiplied : halfway;
    always @(posedge CLK[0]) begin
        if (REG_INPUTA_CE == "CE1" ? CE1 : CE0) a <= A;
        if (REG_INPUTB_CE == "CE1" ? CE1 : CE0) b <= B;
        if (REG_PIPELINE_CE == "CE1" ? CE1 : CE0) halfway <= multiplied;
        if (REG_OUTPUT_CE == "CE1" ? CE1 : CE0) product <= last;
    end
    assign P = REG_OUTPUT_CLK == "NONE" ? last : product;
endmodule

// 512 rows of 36 bits, seen by each port as words of its width; narrow ones leave out every ninth bit. A port
// of 36 bits that writes is port A, and one that reads port B, with the pins of both. Addresses begin at bit 5
// for rows; below are the words' and then the enables of bytes. What one port reads while the other one writes
// it is undefined: here it comes inverted.
module DP16KD #(
    parameter [31:0] DATA_WIDTH_A = 18, DATA_WIDTH_B = 18,
    parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG", WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL",
    parameter RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC", GSR = "ENABLED",
    parameter CSDECODE_A = "0b000", CSDECODE_B = "0b000", CLKAMUX = "CLKA", CLKBMUX = "CLKB",
    parameter [18431:0] INITVAL = 0
) (
    input [17:0] DIA, DIB,
    input [13:0] ADA, ADB,
    input [2:0] CSA, CSB,
    input CLKA, CEA, OCEA, WEA, RSTA, CLKB, CEB, OCEB, WEB, RSTB,
    output [17:0] DOA, DOB
);
    reg [35:0] rows[0:511];
    reg [35:0] read_a = 0, read_b = 0, kept_a = 0, kept_b = 0;

    function [5:0] place(input [31:0] width, input [4:0] word);
        place = width >= 36 ? 0
              : width >= 18 ? 18 * word[4]
              : 9 * word[4:3] + (width == 4 ? 4 * word[2] : width == 2 ? 2 * word[2:1] : width == 1 ? word[2:0] : 0);
    endfunction

    function [35:0] bits(input [31:0] width, input [4:0] word);
        bits = width >= 36 ? {{9{word[3]}}, {9{word[2]}}, {9{word[1]}}, {9{word[0]}}}
             : width >= 18 ? {18'd0, {9{word[1]}}, {9{word[0]}}} << place(width, word)
             : ((36'd1 << width) - 36'd1) << place(width, word);
    endfunction

    wire [5:0] place_a = place(DATA_WIDTH_A, ADA[4:0]), place_b = place(DATA_WIDTH_B, ADB[4:0]);
    wire [35:0] bits_a = bits(DATA_WIDTH_A, ADA[4:0]), bits_b = bits(DATA_WIDTH_B, ADB[4:0]);
    wire [35:0] data_a = {DATA_WIDTH_A >= 36 ? DIB : 18'd0, DIA} << place_a, data_b = {18'd0, DIB} << place_b;
    wire writes_a = CEA & WEA & CSA == 0, writes_b = CEB & WEB & CSB == 0;
    wire meet = ADA[13:5] == ADB[13:5];
    reg [35:0] row_a, row_b, next_a, next_b;
    integer index;

    initial for (index = 0; index < 512; index = index + 1) rows[index] = INITVAL[36 * index +: 36];

    always @(posedge CLKA) begin
        row_a = rows[ADA[13:5]];
        row_b = rows[ADB[13:5]];
        next_a = (row_a & ~bits_a) | (data_a & bits_a);
        next_b = (row_b & ~bits_b) | (data_b & bits_b);
        if (CEA & ~(writes_a & WRITEMODE_A == "NORMAL"))
            read_a <= (writes_a & WRITEMODE_A == "WRITETHROUGH" ? next_a : row_a) >> place_a
                ^ {36{meet & writes_b & ~writes_a}} & bits_b >> place_a;
        if (CEB & ~(writes_b & WRITEMODE_B == "NORMAL"))
            read_b <= (writes_b & WRITEMODE_B == "WRITETHROUGH" ? next_b : row_b) >> place_b
                ^ {36{meet & writes_a & ~writes_b}} & bits_a >> place_b;
        if (OCEA) kept_a <= read_a;
        if (OCEB) kept_b <= read_b;
        if (writes_a) rows[ADA[13:5]] = next_a;
        if (writes_b) rows[ADB[13:5]] = writes_a & meet ? (next_a & ~bits_b) | (data_b & bits_b) : next_b;
    end

    wire [35:0] shown_a = REGMODE_A == "OUTREG" ? kept_a : read_a;
    wire [35:0] shown_b = REGMODE_B == "OUTREG" ? kept_b : read_b;
    assign DOA = DATA_WIDTH_B >= 36 ? shown_b[17:0] : shown_a[17:0];
    assign DOB = DATA_WIDTH_B >= 36 ? shown_b[35:18] : shown_b[17:0];
endmodule

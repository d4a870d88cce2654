// SPDX-License-Identifier: Apache-2.0
//
// On-chip memory: one write port, one read port, one clock, synchronous read with a latency of one cycle, output held
// while r_en is low. No reset, no initial contents. Replace this module to use a target's own macros.
//
//   WIDTH        bits of a word
//   DEPTH        words, at least 2; addresses from DEPTH up are never used
//   ADDR_WIDTH   bits of an address, ceil(log2(DEPTH))
//   LANES        lanes of the write mask, each of WIDTH / LANES bits
//   TRANSPARENT  0: reading the word being written gives the old word; 1: it gives the lanes being written
//   COLLIDES     0: no such read is used, so that it may give anything; in simulation it gives a wrong word
`default_nettype none
module serrano_mem_1r1w #(
    parameter WIDTH = 8,
    parameter DEPTH = 16,
    parameter ADDR_WIDTH = 4,
    parameter LANES = 1,
    parameter TRANSPARENT = 0,
    parameter COLLIDES = 1
) (
    input  wire                  clk,
    input  wire [     LANES-1:0] w_en,
    input  wire [ADDR_WIDTH-1:0] w_addr,
    input  wire [     WIDTH-1:0] w_data,
    input  wire                  r_en,
    input  wire [ADDR_WIDTH-1:0] r_addr,
    output wire [     WIDTH-1:0] r_data
);
    localparam LANE = WIDTH / LANES;

    reg [WIDTH-1:0] words [0:DEPTH-1];
    reg [WIDTH-1:0] stored;

    wire spoiled;
`ifdef SYNTHESIS
    assign spoiled = 1'b0;
`else
    assign spoiled = COLLIDES == 0 && w_en != 0 && w_addr == r_addr;
`endif

    always @(posedge clk)
        if (r_en) stored <= spoiled ? ~words[r_addr] : words[r_addr];

    genvar i;
    generate
        for (i = 0; i < LANES; i = i + 1) begin : lane
            always @(posedge clk)
                if (w_en[i]) words[w_addr][i*LANE +: LANE] <= w_data[i*LANE +: LANE];
        end

        if (TRANSPARENT != 0) begin : forward
            reg [LANES-1:0] hit;
            reg [WIDTH-1:0] fresh;
            always @(posedge clk)
                if (r_en) begin
                    hit <= w_en & {LANES{w_addr == r_addr}};
                    fresh <= w_data;
                end
            for (i = 0; i < LANES; i = i + 1) begin : select
                assign r_data[i*LANE +: LANE] = hit[i] ? fresh[i*LANE +: LANE] : stored[i*LANE +: LANE];
            end
        end else begin : plain
            assign r_data = stored;
        end
    endgenerate
endmodule
`default_nettype wire

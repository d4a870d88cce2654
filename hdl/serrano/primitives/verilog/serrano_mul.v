// SPDX-License-Identifier: Apache-2.0
//
// Signed multiplier, p = a * b after LATENCY cycles with en, one product in each of them; in the others everything stays
// as it is. No reset. Replace this module to use a target's own multiplier with the same number of internal registers,
// en being the clock enable of them all.
//
//   A_WIDTH, B_WIDTH  bits of the operands
//   LATENCY           cycles from operands to product, at least 1
`default_nettype none
module serrano_mul #(
    parameter A_WIDTH = 8,
    parameter B_WIDTH = 8,
    parameter LATENCY = 1
) (
    input  wire                               clk,
    input  wire                               en,
    input  wire signed [         A_WIDTH-1:0] a,
    input  wire signed [         B_WIDTH-1:0] b,
    output wire signed [ A_WIDTH+B_WIDTH-1:0] p
);
    localparam P_WIDTH = A_WIDTH + B_WIDTH;

    reg signed [P_WIDTH-1:0] product;

    always @(posedge clk) if (en) product <= a * b;

    generate
        if (LATENCY == 1) begin : direct
            assign p = product;
        end else begin : pipeline
            reg  [(LATENCY-1)*P_WIDTH-1:0] delay;
            wire [LATENCY*P_WIDTH-1:0] stages;
            assign stages = {delay, product};
            always @(posedge clk) if (en) delay <= stages[0 +: (LATENCY-1)*P_WIDTH];
            assign p = stages[(LATENCY-1)*P_WIDTH +: P_WIDTH];
        end
    endgenerate
endmodule
`default_nettype wire

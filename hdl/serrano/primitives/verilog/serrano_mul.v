// SPDX-License-Identifier: Apache-2.0
//
// Signed multiplier, p = a * b after LATENCY cycles, one product per cycle. No enable, no reset. Replace this module to
// use a target's own multiplier with the same number of internal registers.
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
    input  wire signed [         A_WIDTH-1:0] a,
    input  wire signed [         B_WIDTH-1:0] b,
    output wire signed [ A_WIDTH+B_WIDTH-1:0] p
);
    localparam P_WIDTH = A_WIDTH + B_WIDTH;

    reg signed [P_WIDTH-1:0] product;

    always @(posedge clk) product <= a * b;

    generate
        if (LATENCY == 1) begin : direct
            assign p = product;
        end else begin : pipeline
            reg [(LATENCY-1)*P_WIDTH-1:0] delay;
            always @(posedge clk) delay <= {delay, product};
            assign p = delay[(LATENCY-2)*P_WIDTH +: P_WIDTH];
        end
    endgenerate
endmodule
`default_nettype wire

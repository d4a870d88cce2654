// SPDX-License-Identifier: Apache-2.0
//
// Signed multiplier that keeps its second operand: p = a * b after LATENCY cycles, one product per cycle, b as it was in
// the last cycle with b_en. No enable, no reset. Replace this module to use a target's own multiplier with the same number
// of internal registers.
//
//   A_WIDTH, B_WIDTH  bits of the operands
//   LATENCY           cycles from operands to product, at least 2
`default_nettype none
module serrano_mul_held #(
    parameter A_WIDTH = 8,
    parameter B_WIDTH = 8,
    parameter LATENCY = 2
) (
    input  wire                               clk,
    input  wire signed [         A_WIDTH-1:0] a,
    input  wire signed [         B_WIDTH-1:0] b,
    input  wire                               b_en,
    output wire signed [ A_WIDTH+B_WIDTH-1:0] p
);
    localparam P_WIDTH = A_WIDTH + B_WIDTH;

    reg signed [A_WIDTH-1:0] first;
    reg signed [B_WIDTH-1:0] second;
    reg signed [P_WIDTH-1:0] product;

    always @(posedge clk) begin
        first <= a;
        if (b_en) second <= b;
        product <= first * second;
    end

    generate
        if (LATENCY == 2) begin : direct
            assign p = product;
        end else begin : pipeline
            reg  [(LATENCY-2)*P_WIDTH-1:0] delay;
            wire [(LATENCY-1)*P_WIDTH-1:0] stages;
            assign stages = {delay, product};
            always @(posedge clk) delay <= stages[0 +: (LATENCY-2)*P_WIDTH];
            assign p = stages[(LATENCY-2)*P_WIDTH +: P_WIDTH];
        end
    endgenerate
endmodule
`default_nettype wire

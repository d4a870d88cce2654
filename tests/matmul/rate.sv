// SPDX-License-Identifier: Apache-2.0
// Bench for long runs of the array engine: streams that never pause, with data that the test can compute too.
//
// Tile t (of `tiles`, a multiple of 4) has `rows` rows. Four tiles add up in the accumulators, the fourth emits.
// `cycles` goes from the first row that is taken to the last one, `checksum` is a weighted sum of all results.
`timescale 1ns / 1ps
module rate #(
    parameter N = 16,
    parameter VECTORS = 2,
    parameter ADDRESS_BITS = 8
) (
    output reg clk,
    input wire rst,
    input wire [31:0] tiles,
    input wire [7:0] rows,
    input wire by_column,
    output reg [31:0] cycles,
    output reg [31:0] active_cycles,
    output reg [31:0] checksum,
    output reg [31:0] results,
    output wire done
);
    localparam UNITS = N / VECTORS;

    initial clk = 1'b0;
    always #1 clk = ~clk;

    function automatic [31:0] mix(input [31:0] x);
        mix = x ^ (x >> 16);
        mix = mix * 32'h7feb352d;
        mix = mix ^ (mix >> 15);
        mix = mix * 32'h846ca68b;
        mix = mix ^ (mix >> 16);
    endfunction

    reg [31:0] unit, row, tile, clock, begun;
    reg [7:0] row_in_tile;

    reg [VECTORS * N * 8:0] tile_payload;
    reg [N * 9 + ADDRESS_BITS + 11 - 1:0] row_payload;
    reg [31:0] weighted;
    wire [40 * N - 1:0] result;
    wire tiles_ready, rows_ready, results_valid, active;
    wire tiles_valid = unit != tiles * UNITS;
    wire rows_valid = tile != tiles;
    integer k;
    reg [31:0] word;

    always @* begin
        for (k = 0; k < VECTORS * N / 4; k = k + 1)
            tile_payload[32 * k +: 32] = mix(unit * (VECTORS * N / 4) + k);
        tile_payload[VECTORS * N * 8] = by_column;
    end

    // An operand is a byte with or without sign.
    always @* begin
        for (k = 0; k < N; k = k + 1) begin
            word = mix(32'h80000000 + row * N + k);
            row_payload[9 * k +: 9] = {~word[8] & word[7], word[7:0]};
        end
        row_payload[9 * N +: ADDRESS_BITS] = ADDRESS_BITS'(row_in_tile);
        row_payload[9 * N + ADDRESS_BITS +: 11] = {
            row_in_tile == rows - 8'd1, 2'd0, 6'd0, tile[1:0] == 2'd3, tile[1:0] == 2'd0
        };
    end

    always @* begin
        weighted = 0;
        for (k = 0; k < N; k = k + 1)
            weighted = weighted + mix(32'h40000000 + results * N + k) * result[40 * k +: 32];
    end

    assign done = results == (tiles >> 2) * rows;

    always @(posedge clk) begin
        clock <= clock + 1;
        if (tiles_valid && tiles_ready) unit <= unit + 1;
        if (rows_valid && rows_ready) begin
            row <= row + 1;
            row_in_tile <= row_in_tile == rows - 8'd1 ? 8'd0 : row_in_tile + 8'd1;
            if (row_in_tile == rows - 8'd1) tile <= tile + 1;
        end
        // From the first row that enters the array on: one may have been taken before, and wait inside.
        if (active) begin
            active_cycles <= active_cycles + 1;
            if (active_cycles == 0) begun <= clock;
            cycles <= active_cycles == 0 ? 1 : clock - begun + 1;
        end
        if (results_valid) begin
            checksum <= checksum + weighted;
            results <= results + 1;
        end
        if (rst) begin
            {clock, unit, row, tile, begun, cycles, active_cycles, checksum, results} <= 0;
            row_in_tile <= 0;
        end
    end

    engine dut (
        .clk(clk), .rst(rst),
        .tiles__payload(tile_payload), .tiles__valid(tiles_valid), .tiles__ready(tiles_ready),
        .rows__payload(row_payload), .rows__valid(rows_valid), .rows__ready(rows_ready),
        .results__payload(result), .results__valid(results_valid), .results__ready(1'b1),
        .active(active), .wait_tile(), .wait_results()
    );
endmodule

// SPDX-License-Identifier: Apache-2.0
//
// A design for tests of the runner: four AXI4-Lite registers behind a slow subordinate, a counter, and a register
// without reset.
`timescale 1ns / 1ps
module plain (
    output reg         clk,
    input  wire        rst,
    output reg  [31:0] count,
    output reg  [31:0] unset,
    input  wire        s_axil_awvalid,
    output reg         s_axil_awready,
    input  wire [ 7:0] s_axil_awaddr,
    input  wire        s_axil_wvalid,
    output reg         s_axil_wready,
    input  wire [31:0] s_axil_wdata,
    input  wire [ 3:0] s_axil_wstrb,
    output reg         s_axil_bvalid,
    input  wire        s_axil_bready,
    output reg  [ 1:0] s_axil_bresp,
    input  wire        s_axil_arvalid,
    output wire        s_axil_arready,
    input  wire [ 7:0] s_axil_araddr,
    output reg         s_axil_rvalid,
    input  wire        s_axil_rready,
    output reg  [31:0] s_axil_rdata,
    output reg  [ 1:0] s_axil_rresp
);
    initial clk = 1'b0;
    always #1 clk = ~clk;

    reg [31:0] words [0:3];
    reg [7:0] address;
    reg [31:0] data;
    reg [3:0] strobe;
    reg have_address, have_data, read_pending;

    // Ready depends on valid for reads, and comes in turns for writes: both are allowed, both must work.
    assign s_axil_arready = s_axil_arvalid && !read_pending && count[0];

    integer i;
    always @(posedge clk) begin
        count <= count + 1;
        unset <= unset;
        s_axil_awready <= count[1:0] == 0;
        s_axil_wready <= count[1:0] == 2;
        if (s_axil_awvalid && s_axil_awready) {have_address, address} <= {1'b1, s_axil_awaddr};
        if (s_axil_wvalid && s_axil_wready) {have_data, data, strobe} <= {1'b1, s_axil_wdata, s_axil_wstrb};
        if (have_address && have_data && !s_axil_bvalid) begin
            s_axil_bvalid <= 1'b1;
            s_axil_bresp <= address < 16 ? 2'd0 : 2'd2;
            for (i = 0; i < 4; i = i + 1)
                if (strobe[i] && address < 16) words[address[3:2]][8*i +: 8] <= data[8*i +: 8];
            {have_address, have_data} <= 2'b00;
        end
        if (s_axil_bvalid && s_axil_bready) s_axil_bvalid <= 1'b0;
        if (s_axil_arvalid && s_axil_arready) begin
            read_pending <= 1'b1;
            s_axil_rdata <= words[s_axil_araddr[3:2]];
            s_axil_rresp <= s_axil_araddr < 16 ? 2'd0 : 2'd3;
        end
        if (read_pending && count[2]) s_axil_rvalid <= 1'b1;
        if (s_axil_rvalid && s_axil_rready) {s_axil_rvalid, read_pending} <= 2'b00;
        if (rst) begin
            count <= 0;
            {s_axil_awready, s_axil_wready, s_axil_bvalid, s_axil_rvalid} <= 4'b0000;
            {have_address, have_data, read_pending} <= 3'b000;
            for (i = 0; i < 4; i = i + 1) words[i] <= 0;
        end
    end
endmodule

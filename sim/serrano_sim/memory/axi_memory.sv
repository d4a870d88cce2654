// SPDX-License-Identifier: Apache-2.0
//
// Behavioural AXI4 memory, a subordinate on one clock. NAME.ctl holds its settings and counters, NAME.bin its contents,
// both in the folder of the run. Every output is a register. event_toggle changes when a write to a watched range takes
// effect, alarm_toggle every alarm_period cycles.
`default_nettype none

package axi_memory_dpi;
    import "DPI-C" function chandle serrano_axi_memory_open(input string name, input int data_bytes);
    import "DPI-C" function void serrano_axi_memory_clock(
        input chandle model,
        input int unsigned control,
        input longint unsigned araddr,
        input int unsigned arid,
        input int unsigned arinfo,
        input longint unsigned awaddr,
        input int unsigned awid,
        input int unsigned awinfo,
        input bit [511:0] wdata,
        input longint unsigned wstrb,
        output int unsigned status,
        output int unsigned rid,
        output int unsigned bid,
        output bit [511:0] rdata
    );
endpackage

module axi_memory #(
    parameter string NAME = "memory",
    parameter int DATA_BYTES = 4,   // 1, 2, 4 ... 64
    parameter int ADDR_WIDTH = 32,  // up to 64
    parameter int ID_WIDTH = 1      // up to 32
) (
    input  wire                    clk,
    input  wire                    aresetn,
    input  wire                    arvalid,
    output reg                     arready,
    input  wire [  ADDR_WIDTH-1:0] araddr,
    input  wire [    ID_WIDTH-1:0] arid,
    input  wire [             7:0] arlen,
    input  wire [             2:0] arsize,
    input  wire [             1:0] arburst,
    output reg                     rvalid,
    input  wire                    rready,
    output reg  [8*DATA_BYTES-1:0] rdata,
    output reg  [    ID_WIDTH-1:0] rid,
    output reg  [             1:0] rresp,
    output reg                     rlast,
    input  wire                    awvalid,
    output reg                     awready,
    input  wire [  ADDR_WIDTH-1:0] awaddr,
    input  wire [    ID_WIDTH-1:0] awid,
    input  wire [             7:0] awlen,
    input  wire [             2:0] awsize,
    input  wire [             1:0] awburst,
    input  wire                    wvalid,
    output reg                     wready,
    input  wire [8*DATA_BYTES-1:0] wdata,
    input  wire [  DATA_BYTES-1:0] wstrb,
    input  wire                    wlast,
    output reg                     bvalid,
    input  wire                    bready,
    output reg  [    ID_WIDTH-1:0] bid,
    output reg  [             1:0] bresp,
    output reg                     event_toggle,
    output reg                     alarm_toggle
);
    import axi_memory_dpi::*;

    chandle model;
    int unsigned status, rid_full, bid_full;
    bit [511:0] rdata_full;

    initial model = serrano_axi_memory_open(NAME, DATA_BYTES);

    always @(posedge clk) begin
        serrano_axi_memory_clock(
            model, {25'b0, bready, wlast, wvalid, awvalid, rready, arvalid, aresetn},
            64'(araddr), 32'(arid), {19'b0, arburst, arsize, arlen},
            64'(awaddr), 32'(awid), {19'b0, awburst, awsize, awlen},
            512'(wdata), 64'(wstrb), status, rid_full, bid_full, rdata_full);
        {alarm_toggle, event_toggle, bvalid, wready, awready, rlast, rvalid, arready} <= status[7:0];
        rresp <= status[9:8];
        bresp <= status[11:10];
        rid <= rid_full[ID_WIDTH-1:0];
        bid <= bid_full[ID_WIDTH-1:0];
        rdata <= rdata_full[8*DATA_BYTES-1:0];
    end
endmodule
`default_nettype wire

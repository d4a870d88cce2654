// SPDX-License-Identifier: Apache-2.0
//
// A memory behind AXI4, for simulation. Channels are in order, bursts are INCR with full-width beats; reads answer
// LATENCY cycles after their address, and each handshake waits for a while now and then. Addresses and data of writes are
// taken apart from each other, so that either may be ahead, with many writes outstanding; a write takes effect when its
// response is given. What breaks a rule is told by a message, and counted in `errors`.
`default_nettype none
module axi_memory_model #(
    parameter ADDRESS_BITS = 32,
    parameter PORT_BYTES = 4,
    parameter WORDS = 1024,
    parameter LATENCY = 20
) (
    input  wire                      clk,
    input  wire                      resetn,
    input  wire [               3:0] arid,
    input  wire [  ADDRESS_BITS-1:0] araddr,
    input  wire [               7:0] arlen,
    input  wire [               2:0] arsize,
    input  wire [               1:0] arburst,
    input  wire                      arvalid,
    output wire                      arready,
    output wire [               3:0] rid,
    output wire [8*PORT_BYTES-1:0]   rdata,
    output wire [               1:0] rresp,
    output wire                      rlast,
    output wire                      rvalid,
    input  wire                      rready,
    input  wire [               3:0] awid,
    input  wire [  ADDRESS_BITS-1:0] awaddr,
    input  wire [               7:0] awlen,
    input  wire [               2:0] awsize,
    input  wire [               1:0] awburst,
    input  wire                      awvalid,
    output wire                      awready,
    input  wire [8*PORT_BYTES-1:0]   wdata,
    input  wire [    PORT_BYTES-1:0] wstrb,
    input  wire                      wlast,
    input  wire                      wvalid,
    output wire                      wready,
    output wire [               3:0] bid,
    output wire [               1:0] bresp,
    output wire                      bvalid,
    input  wire                      bready
);
    localparam DEPTH = 16;
    localparam WRITES = 64;
    localparam BEATS = 512;

    reg [8*PORT_BYTES-1:0] words [0:WORDS-1];
    integer errors;
    integer cycle;
    reg [15:0] random;

    // One bit in four is low: a channel that waits.
    wire go_ar = random[0] | random[5];
    wire go_r = random[1] | random[7];
    wire go_aw = random[4] | random[8];
    wire go_w = random[2] | random[9];
    wire go_b = random[3] | random[11];

    // Reads: addresses wait in a queue until they are due.
    reg [           3:0] r_id     [0:DEPTH-1];
    reg [ADDRESS_BITS-1:0] r_address [0:DEPTH-1];
    reg [           7:0] r_length [0:DEPTH-1];
    integer r_due [0:DEPTH-1];
    integer r_in, r_out;
    reg [7:0] r_beat;
    reg r_offered;
    wire [3:0] r_head = r_out % DEPTH;
    wire [ADDRESS_BITS-1:0] r_word = r_address[r_head] / PORT_BYTES + r_beat;

    assign arready = go_ar && r_in - r_out < DEPTH;
    assign rvalid = r_in != r_out && cycle >= r_due[r_head] && (r_offered || go_r);
    assign rid = r_id[r_head];
    assign rdata = rvalid ? words[r_word] : {8 * PORT_BYTES{1'bx}};
    assign rresp = r_word < WORDS ? 2'd0 : 2'd3;
    assign rlast = r_beat == r_length[r_head];

    // Writes: addresses and beats wait in queues. The oldest one is complete when its address and its last beat are there.
    reg [           3:0] w_id     [0:WRITES-1];
    reg [ADDRESS_BITS-1:0] w_address [0:WRITES-1];
    reg [           7:0] w_length [0:WRITES-1];
    reg [8*PORT_BYTES-1:0] w_data [0:BEATS-1];
    reg [    PORT_BYTES-1:0] w_strobes [0:BEATS-1];
    reg w_last [0:BEATS-1];
    integer w_in, w_ends, w_out, beats_in, beats_out;
    reg b_offered;
    wire [5:0] w_head = w_out % WRITES;
    wire [ADDRESS_BITS-1:0] w_word = w_address[w_head] / PORT_BYTES;

    assign awready = go_aw && w_in - w_out < WRITES;
    assign wready = go_w && w_ends - w_out < WRITES && beats_in - beats_out < BEATS;
    assign bvalid = w_in != w_out && w_ends != w_out && (b_offered || go_b);
    assign bid = w_id[w_head];
    assign bresp = w_word + w_length[w_head] < WORDS ? 2'd0 : 2'd3;

    task broken(input [8*40-1:0] what);
        begin
            $display("axi_memory_model: cycle %0d: %0s", cycle, what);
            errors = errors + 1;
        end
    endtask

    task check_burst(input [ADDRESS_BITS-1:0] address, input [7:0] length, input [2:0] size, input [1:0] kind);
        begin
            if (^{address, length, size, kind} === 1'bx) broken("undefined bits in an address");
            if (kind != 2'd1) broken("a burst that is not INCR");
            if (1 << size != PORT_BYTES) broken("a beat that is not of full width");
            if (address % PORT_BYTES != 0) broken("an address that is not aligned");
            if (address % 4096 + (length + 1) * PORT_BYTES > 4096) broken("a burst across 4 KiB");
            if (address / PORT_BYTES + length >= WORDS) broken("an address outside the memory");
        end
    endtask

    // What was offered has to stay as it is until it is taken.
    reg ar_waits, aw_waits, w_waits;
    reg [ADDRESS_BITS+8-1:0] ar_held, aw_held;
    reg [9*PORT_BYTES:0] w_held;
    always @(posedge clk) begin
        ar_waits <= resetn && arvalid && !arready;
        aw_waits <= resetn && awvalid && !awready;
        w_waits <= resetn && wvalid && !wready;
        ar_held <= {araddr, arlen};
        aw_held <= {awaddr, awlen};
        w_held <= {wdata, wstrb, wlast};
        if (ar_waits === 1'b1 && {arvalid, araddr, arlen} !== {1'b1, ar_held}) broken("AR changed while it waited");
        if (aw_waits === 1'b1 && {awvalid, awaddr, awlen} !== {1'b1, aw_held}) broken("AW changed while it waited");
        if (w_waits === 1'b1 && {wvalid, wdata, wstrb, wlast} !== {1'b1, w_held}) broken("W changed while it waited");
        if (resetn && ^{arvalid, rready, awvalid, wvalid, bready} === 1'bx) broken("a handshake is undefined");
    end

    integer i, lane, beat;
    initial begin
        errors = 0;
        cycle = 0;
        random = 16'hACE1;
    end
    always @(posedge clk) begin
        cycle <= cycle + 1;
        random <= {random[14:0], random[15] ^ random[13] ^ random[12] ^ random[10]};
        if (!resetn) begin
            r_in <= 0;
            r_out <= 0;
            r_beat <= 0;
            r_offered <= 0;
            w_in <= 0;
            w_ends <= 0;
            w_out <= 0;
            beats_in <= 0;
            beats_out <= 0;
            b_offered <= 0;
        end else begin
            if (arvalid && arready) begin
                check_burst(araddr, arlen, arsize, arburst);
                r_id[r_in % DEPTH] <= arid;
                r_address[r_in % DEPTH] <= araddr;
                r_length[r_in % DEPTH] <= arlen;
                r_due[r_in % DEPTH] <= cycle + LATENCY;
                r_in <= r_in + 1;
            end
            r_offered <= rvalid && !rready;
            if (rvalid && rready) begin
                r_beat <= rlast ? 0 : r_beat + 1;
                if (rlast) r_out <= r_out + 1;
            end
            if (awvalid && awready) begin
                check_burst(awaddr, awlen, awsize, awburst);
                w_id[w_in % WRITES] <= awid;
                w_address[w_in % WRITES] <= awaddr;
                w_length[w_in % WRITES] <= awlen;
                w_in <= w_in + 1;
            end
            if (wvalid && wready) begin
                if (^{wstrb, wlast} === 1'bx) broken("undefined strobes");
                w_data[beats_in % BEATS] <= wdata;
                w_strobes[beats_in % BEATS] <= wstrb;
                w_last[beats_in % BEATS] <= wlast;
                beats_in <= beats_in + 1;
                if (wlast) w_ends <= w_ends + 1;
            end
            b_offered <= bvalid && !bready;
            if (bvalid && !b_offered)
                for (i = 0; i <= w_length[w_head]; i = i + 1) begin
                    beat = (beats_out + i) % BEATS;
                    if (w_last[beat] !== (i == w_length[w_head])) broken("WLAST early or missing");
                    for (lane = 0; lane < PORT_BYTES; lane = lane + 1)
                        if (w_strobes[beat][lane]) words[w_word + i][8*lane +: 8] = w_data[beat][8*lane +: 8];
                end
            if (bvalid && bready) begin
                w_out <= w_out + 1;
                beats_out <= beats_out + w_length[w_head] + 1;
            end
        end
    end
endmodule
`default_nettype wire

// SPDX-License-Identifier: Apache-2.0
//
// Stands in for serrano_top to try the bench: it has registers, and when the doorbell rings it plays back what
// playback.hex in the run's folder says. Each line is one action: bits 7:0 what, the rest with what.
//   1: a beat of the trace (bits 327:8 the record)    2: a write (address, 16 bytes, 16 strobes)
//   3: interrupt COMPLETION                           4: wait for so many cycles
//   5: interrupt FAULT                                6: nothing any more
//   7: a register (offset / 4, value)
// registers.hex holds the registers' first values, answers.hex status and auxiliary value of each KV command,
// in turn. The trace is that of eight lanes.
`default_nettype none
`timescale 1ns / 1ps
module serrano_top (
    input  wire         aclk,
    input  wire         aresetn,
    output wire         m_axi_arvalid,
    input  wire         m_axi_arready,
    output wire [ 39:0] m_axi_araddr,
    output wire [  7:0] m_axi_arlen,
    input  wire         m_axi_rvalid,
    output wire         m_axi_rready,
    input  wire [127:0] m_axi_rdata,
    input  wire         m_axi_rlast,
    output reg          m_axi_awvalid,
    input  wire         m_axi_awready,
    output reg  [ 39:0] m_axi_awaddr,
    output reg          m_axi_wvalid,
    input  wire         m_axi_wready,
    output reg  [127:0] m_axi_wdata,
    output reg  [ 15:0] m_axi_wstrb,
    output wire         m_axi_wlast,
    input  wire         m_axi_bvalid,
    output wire         m_axi_bready,
    input  wire         s_axi_awvalid,
    output wire         s_axi_awready,
    input  wire [ 11:0] s_axi_awaddr,
    input  wire         s_axi_wvalid,
    output wire         s_axi_wready,
    input  wire [ 31:0] s_axi_wdata,
    input  wire [  3:0] s_axi_wstrb,
    output reg          s_axi_bvalid,
    input  wire         s_axi_bready,
    output wire [  1:0] s_axi_bresp,
    input  wire         s_axi_arvalid,
    output wire         s_axi_arready,
    input  wire [ 11:0] s_axi_araddr,
    output reg          s_axi_rvalid,
    input  wire         s_axi_rready,
    output reg  [ 31:0] s_axi_rdata,
    output wire [  1:0] s_axi_rresp,
    output wire         irq,
    output reg          trace_valid,
    output wire [  3:0] trace_kind,
    output wire [ 15:0] trace_packet,
    output wire [  7:0] trace_row,
    output wire [ 19:0] trace_column,
    output wire [255:0] trace_values,
    output reg  [ 34:0] trace_activity
);
    localparam CONTROL = 10'h020, STATUS = 10'h021, IRQ = 10'h022, IRQ_ENABLE = 10'h023, SUBMIT_TAIL = 10'h02d;
    localparam KV_COMMAND = 10'h040, KV_RESPONSE = 10'h043, KV_AUX = 10'h044;

    reg [ 31:0] registers[0:1023];
    reg [327:0] actions  [0:65535];
    reg [ 63:0] answers  [0:1023];
    reg [  9:0] answered;
    initial begin
        $readmemh("answers.hex", answers);
        $readmemh("registers.hex", registers);
        $readmemh("playback.hex", actions);
    end

    // Registers.
    wire        write = s_axi_awvalid & s_axi_wvalid & ~s_axi_bvalid;
    wire [ 9:0] where = s_axi_awaddr[11:2];
    reg         loaded, busy;
    reg  [ 2:0] pending;
    reg  [ 7:0] loading;
    assign s_axi_awready = write;
    assign s_axi_wready  = write;
    assign s_axi_bresp   = 2'b00;
    assign s_axi_rresp   = 2'b00;
    assign s_axi_arready = ~s_axi_rvalid;
    assign irq           = |(pending & registers[IRQ_ENABLE][2:0]);

    // Playback.
    reg [ 15:0] place;
    reg [327:0] action;
    reg [ 31:0] waiting;
    assign m_axi_arvalid = 1'b0;
    assign m_axi_araddr  = 40'd0;
    assign m_axi_arlen   = 8'd0;
    assign m_axi_rready  = 1'b1;
    assign m_axi_wlast   = 1'b1;
    assign m_axi_bready  = 1'b1;
    assign trace_kind    = action[11:8];
    assign trace_row     = action[23:16];
    assign trace_packet  = action[39:24];
    assign trace_column  = action[59:40];
    assign trace_values  = action[327:72];
    wire [327:0] next = actions[place];

    always @(posedge aclk)
        if (!aresetn) begin
            s_axi_bvalid <= 1'b0;
            s_axi_rvalid <= 1'b0;
            loaded <= 1'b0;
            busy <= 1'b0;
            pending <= 3'd0;
            loading <= 8'd0;
            place <= 16'd0;
            answered <= 10'd0;
            waiting <= 32'd0;
            trace_valid <= 1'b0;
            m_axi_awvalid <= 1'b0;
            m_axi_wvalid <= 1'b0;
        end else begin
            if (s_axi_bready) s_axi_bvalid <= 1'b0;
            if (s_axi_rready) s_axi_rvalid <= 1'b0;
            if (s_axi_arvalid & s_axi_arready) begin
                s_axi_rvalid <= 1'b1;
                s_axi_rdata <= s_axi_araddr[11:2] == STATUS ? {30'd0, loaded, busy}
                             : s_axi_araddr[11:2] == IRQ ? {29'd0, pending} : registers[s_axi_araddr[11:2]];
            end
            if (loading != 0) begin
                loading <= loading - 8'd1;
                if (loading == 1) begin
                    loaded  <= 1'b1;
                    pending <= pending | 3'b100;
                end
            end
            if (write) begin
                s_axi_bvalid <= 1'b1;
                registers[where] <= s_axi_wdata;
                if (where == CONTROL && s_axi_wdata[0]) loading <= 8'd100;
                if (where == IRQ) pending <= pending & ~s_axi_wdata[2:0];
                if (where == SUBMIT_TAIL) busy <= 1'b1;
                if (where == KV_COMMAND) begin
                    registers[KV_RESPONSE] <= {1'b1, answers[answered][62:32]};
                    registers[KV_AUX] <= answers[answered][31:0];
                    answered <= answered + 10'd1;
                end
            end
            trace_valid <= 1'b0;
            // The number of the action, in the place of the packet.
            trace_activity <= {19'd0, place};
            if (m_axi_awready) m_axi_awvalid <= 1'b0;
            if (m_axi_wready) m_axi_wvalid <= 1'b0;
            if (waiting != 0) waiting <= waiting - 32'd1;
            else if (busy & ~m_axi_awvalid & ~m_axi_wvalid) begin
                action <= next;
                if (next[7:0] != 8'd6) place <= place + 16'd1;
                case (next[7:0])
                    8'd1: trace_valid <= 1'b1;
                    8'd2: begin
                        m_axi_awvalid <= 1'b1;
                        m_axi_wvalid <= 1'b1;
                        m_axi_awaddr <= next[47:8];
                        m_axi_wdata <= next[175:48];
                        m_axi_wstrb <= next[191:176];
                    end
                    8'd3: begin
                        pending <= pending | 3'b001;
                        busy <= 1'b0;
                    end
                    8'd4: waiting <= next[39:8];
                    8'd5: pending <= pending | 3'b010;
                    8'd7: registers[next[17:8]] <= next[49:18];
                    default: ;
                endcase
            end
        end
endmodule
`default_nettype wire

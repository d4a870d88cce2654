// SPDX-License-Identifier: Apache-2.0
//
// Brings serrano_top up as a host does and has it serve a few requests of a very small model: identity, addresses, LOAD,
// doorbell; then the completion records are compared with those that the golden model foretold when the folder was made.
// Ends with a line that begins with PASS or FAIL. Everything about the requests is in the folder `vectors`.
`default_nettype none
module tb_serrano_top;
`include "vectors.vh"

    reg aclk, aresetn;
    wire irq;
    integer cycle, failures;

    initial aclk = 0;
    always #5 aclk = !aclk;

    // The register port, driven after the falling edge.
    reg [11:0] awaddr, araddr;
    reg [31:0] wdata;
    reg awvalid, wvalid, bready, arvalid, rready;
    wire awready, wready, bvalid, arready, rvalid;
    wire [1:0] bresp, rresp;
    wire [31:0] rdata;

    wire [3:0] m_arid, m_rid, m_awid, m_bid;
    wire [ADDRESS_BITS-1:0] m_araddr, m_awaddr;
    wire [7:0] m_arlen, m_awlen;
    wire [2:0] m_arsize, m_awsize;
    wire [1:0] m_arburst, m_awburst, m_rresp, m_bresp;
    wire [8*PORT_BYTES-1:0] m_rdata, m_wdata;
    wire [PORT_BYTES-1:0] m_wstrb;
    wire m_arvalid, m_arready, m_rlast, m_rvalid, m_rready;
    wire m_awvalid, m_awready, m_wlast, m_wvalid, m_wready, m_bvalid, m_bready;

    serrano_top dut (
        .aclk(aclk), .aresetn(aresetn), .irq(irq),
        .m_axi_arid(m_arid), .m_axi_araddr(m_araddr), .m_axi_arlen(m_arlen), .m_axi_arsize(m_arsize),
        .m_axi_arburst(m_arburst), .m_axi_arlock(), .m_axi_arcache(), .m_axi_arprot(),
        .m_axi_arvalid(m_arvalid), .m_axi_arready(m_arready),
        .m_axi_rid(m_rid), .m_axi_rdata(m_rdata), .m_axi_rresp(m_rresp), .m_axi_rlast(m_rlast),
        .m_axi_rvalid(m_rvalid), .m_axi_rready(m_rready),
        .m_axi_awid(m_awid), .m_axi_awaddr(m_awaddr), .m_axi_awlen(m_awlen), .m_axi_awsize(m_awsize),
        .m_axi_awburst(m_awburst), .m_axi_awlock(), .m_axi_awcache(), .m_axi_awprot(),
        .m_axi_awvalid(m_awvalid), .m_axi_awready(m_awready),
        .m_axi_wdata(m_wdata), .m_axi_wstrb(m_wstrb), .m_axi_wlast(m_wlast),
        .m_axi_wvalid(m_wvalid), .m_axi_wready(m_wready),
        .m_axi_bid(m_bid), .m_axi_bresp(m_bresp), .m_axi_bvalid(m_bvalid), .m_axi_bready(m_bready),
        .s_axi_awaddr(awaddr), .s_axi_awprot(3'd0), .s_axi_awvalid(awvalid), .s_axi_awready(awready),
        .s_axi_wdata(wdata), .s_axi_wstrb(4'hF), .s_axi_wvalid(wvalid), .s_axi_wready(wready),
        .s_axi_bresp(bresp), .s_axi_bvalid(bvalid), .s_axi_bready(bready),
        .s_axi_araddr(araddr), .s_axi_arprot(3'd0), .s_axi_arvalid(arvalid), .s_axi_arready(arready),
        .s_axi_rdata(rdata), .s_axi_rresp(rresp), .s_axi_rvalid(rvalid), .s_axi_rready(rready),
        .trace_valid(), .trace_kind(), .trace_packet(), .trace_row(), .trace_column(), .trace_values(),
        .trace_activity()
    );

    axi_memory_model #(
        .ADDRESS_BITS(ADDRESS_BITS), .PORT_BYTES(PORT_BYTES), .WORDS(MEMORY_WORDS), .LATENCY(LATENCY)
    ) memory (
        .clk(aclk), .resetn(aresetn),
        .arid(m_arid), .araddr(m_araddr), .arlen(m_arlen), .arsize(m_arsize), .arburst(m_arburst),
        .arvalid(m_arvalid), .arready(m_arready),
        .rid(m_rid), .rdata(m_rdata), .rresp(m_rresp), .rlast(m_rlast), .rvalid(m_rvalid), .rready(m_rready),
        .awid(m_awid), .awaddr(m_awaddr), .awlen(m_awlen), .awsize(m_awsize), .awburst(m_awburst),
        .awvalid(m_awvalid), .awready(m_awready),
        .wdata(m_wdata), .wstrb(m_wstrb), .wlast(m_wlast), .wvalid(m_wvalid), .wready(m_wready),
        .bid(m_bid), .bresp(m_bresp), .bvalid(m_bvalid), .bready(m_bready)
    );

    // Registers by address (upper 16 bits) and value; records as docs/rings.md has them.
    reg [47:0] identity [0:IDENTITY_COUNT-1];
    reg [47:0] setup [0:SETUP_COUNT-1];
    reg [47:0] finally_is [0:FINAL_COUNT-1];
    reg [127:0] expected [0:RECORD_COUNT-1];
    reg [31:0] starts [0:REQUEST_COUNT];
    integer seen [0:REQUEST_COUNT-1];

    task fail(input [8*60-1:0] what, input [127:0] found, input [127:0] wanted);
        begin
            $display("cycle %0d: %0s: found %h, expected %h", cycle, what, found, wanted);
            failures = failures + 1;
        end
    endtask

    task finish;
        begin
            failures = failures + memory.errors;
            if (failures == 0) $display("PASS: %0d records of %0d requests in %0d cycles",
                                        RECORD_COUNT, REQUEST_COUNT, cycle);
            else $display("FAIL: %0d failures in %0d cycles", failures, cycle);
            $finish;
        end
    endtask

    // Nothing that leaves the chip, or decides on a transfer, may be undefined after reset.
    always @(posedge aclk) begin
        cycle <= cycle + 1;
        if (aresetn && ^{irq, awready, wready, bvalid, arready, rvalid} === 1'bx)
            fail("an output is undefined", {awready, wready, bvalid, arready, rvalid, irq}, 0);
        if (cycle > MOST_CYCLES || failures > 20) begin
            if (cycle > MOST_CYCLES) fail("time is up", cycle, MOST_CYCLES);
            finish;
        end
    end

    // Some cycles, most often none: either channel of a write may be ahead, and responses may have to wait.
    integer seed;
    task some_cycles;
        if ($random(seed) & 1) repeat ($random(seed) & 3) @(negedge aclk);
    endtask

    task write(input [15:0] address, input [31:0] value);
        begin
            @(negedge aclk);
            fork
                begin
                    some_cycles;
                    awaddr = address;
                    awvalid = 1;
                    #1;
                    while (!awready) @(negedge aclk) #1;
                    @(negedge aclk) awvalid = 0;
                end
                begin
                    some_cycles;
                    wdata = value;
                    wvalid = 1;
                    #1;
                    while (!wready) @(negedge aclk) #1;
                    @(negedge aclk) wvalid = 0;
                end
            join
            some_cycles;
            bready = 1;
            #1;
            while (!bvalid) @(negedge aclk) #1;
            if (bresp !== 2'd0) fail("the response to a register write", bresp, 0);
            @(negedge aclk) bready = 0;
        end
    endtask

    task read(input [15:0] address, output [31:0] value);
        begin
            @(negedge aclk);
            araddr = address;
            arvalid = 1;
            #1;
            while (!arready) @(negedge aclk) #1;
            @(negedge aclk) arvalid = 0;
            some_cycles;
            rready = 1;
            #1;
            while (!rvalid) @(negedge aclk) #1;
            value = rdata;
            if (rresp !== 2'd0) fail("the response to a register read", rresp, 0);
            @(negedge aclk) rready = 0;
        end
    endtask

    // A 128-bit record of the completion ring, from the memory itself.
    function [127:0] record(input integer index);
        integer i;
        integer byte_address;
        begin
            for (i = 0; i < 16; i = i + 1) begin
                byte_address = COMPLETE_ADDRESS + 16 * index + i;
                record[8*i +: 8] = memory.words[byte_address / PORT_BYTES] >> 8 * (byte_address % PORT_BYTES);
            end
        end
    endfunction

    task compare_record(input integer number, input [127:0] found);
        integer id;
        begin
            id = found[31:0];
            if (found[127:96] !== number + 1) fail("the number of a record", found, number + 1);
            if (!(found[31:0] < REQUEST_COUNT)) fail("the request of a record", found, 0);
            else if (starts[id] + seen[id] >= starts[id + 1]) fail("a record too many", found, 0);
            else begin
                if (found[95:0] !== expected[starts[id] + seen[id]][95:0]) begin
                    fail("a record", found[95:0], expected[starts[id] + seen[id]][95:0]);
                    // A request that ended too early: the records that are missing will never come.
                    if (found[73] !== expected[starts[id] + seen[id]][73]) finish;
                end else $display("cycle %0d: request %0d: token %0d, status %h%0s", cycle, id, found[63:32],
                              found[71:64], found[73] ? ", end" : "");
                $fflush;
                seen[id] = seen[id] + 1;
            end
        end
    endtask

    task wait_for_irq;
        begin
            while (irq !== 1'b1) @(negedge aclk);
        end
    endtask

    integer i, records;
    reg [31:0] value;
    initial begin
        $readmemh("vectors/memory.hex", memory.words);
        $readmemh("vectors/identity.hex", identity);
        $readmemh("vectors/setup.hex", setup);
        $readmemh("vectors/final.hex", finally_is);
        $readmemh("vectors/expected.hex", expected);
        $readmemh("vectors/starts.hex", starts);
        for (i = 0; i < REQUEST_COUNT; i = i + 1) seen[i] = 0;
        {cycle, failures} = 0;
        seed = 1;
        {awvalid, wvalid, bready, arvalid, rready} = 0;
        {awaddr, araddr, wdata} = 0;
        aresetn = 0;
        repeat (4) @(negedge aclk);
        aresetn = 1;

        for (i = 0; i < IDENTITY_COUNT; i = i + 1) begin
            read(identity[i][47:32], value);
            if (value !== identity[i][31:0]) fail("a constant register", value, identity[i]);
        end
        read(FIRST_COUNTER, value);
        if (value !== 0) fail("a counter before the first snapshot", value, 0);
        for (i = 0; i < SETUP_COUNT; i = i + 1) write(setup[i][47:32], setup[i][31:0]);
        write(CONTROL, CONTROL_LOAD);
        wait_for_irq;
        read(IRQ, value);
        if (value !== IRQ_LOADED) fail("IRQ after LOAD", value, IRQ_LOADED);
        write(IRQ, value);
        $display("cycle %0d: the model is loaded", cycle);
        $fflush;

        // From here on the host touches no register but the one that counts the records.
        write(SUBMIT_TAIL, REQUEST_COUNT);
        records = 0;
        while (records < RECORD_COUNT) begin
            repeat (100) @(negedge aclk);
            read(COMPLETE_TAIL, value);
            while (records != value && records < RECORD_COUNT) begin
                compare_record(records, record(records));
                records = records + 1;
            end
        end
        wait_for_irq;
        for (i = 0; i < 100; i = i + 1) read(STATUS, value);
        for (i = 0; i < FINAL_COUNT; i = i + 1) begin
            read(finally_is[i][47:32], value);
            if (value !== finally_is[i][31:0]) fail("a register in the end", value, finally_is[i]);
        end
        finish;
    end
endmodule
`default_nettype wire

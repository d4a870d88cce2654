// SPDX-License-Identifier: Apache-2.0
//
// Records an always-ready stream into the file NAME.trace in the folder of the run, each beat with the number of the
// cycle, counted as axi_memory counts: from 1, in cycles without reset.
`default_nettype none

package trace_sink_dpi;
    import "DPI-C" function chandle serrano_trace_open(input string name, input int width);
    import "DPI-C" function void serrano_trace_record(
        input chandle trace, input longint unsigned cycle, input bit [1023:0] payload);
endpackage

module trace_sink #(
    parameter string NAME = "trace",
    parameter int WIDTH = 64  // up to 1024
) (
    input wire             clk,
    input wire             aresetn,
    input wire             valid,
    input wire [WIDTH-1:0] payload
);
    import trace_sink_dpi::*;

    chandle trace;
    longint unsigned cycle = 1;

    initial trace = serrano_trace_open(NAME, WIDTH);

    always @(posedge clk)
        if (aresetn) begin
            if (valid) serrano_trace_record(trace, cycle, 1024'(payload));
            cycle <= cycle + 1;
        end
endmodule
`default_nettype wire

# SPDX-License-Identifier: Apache-2.0
#
# Every target makes the virtual environment in .venv by itself. `make help` lists the targets.

PYTHON ?= python3
JOBS   ?= 2

VENV := .venv
BIN  := $(VENV)/bin

# One tree, one set of sources: imports come from here, wherever the tree was moved or copied to.
export PYTHONPATH := $(CURDIR)/hdl:$(CURDIR)/sim:$(CURDIR)/host
# The same Verilog every time.
export PYTHONHASHSEED := 0
# The Yosys that comes with Amaranth, also where YOSYS or PATH names another.
export AMARANTH_USE_YOSYS := builtin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# What the user gives is taken literally, dollar signs and quotes included, and goes to the recipes through the
# environment: "$$PROMPT" in a recipe is safe for any text.
USER_VARS := MODEL TOKENIZER PROMPT PROMPT2 TOKENS PRESET LATENCY SEED RUNS WAVES TRACE TEXT FILE ARGS TESTS OUT SHAPE QUICK BOARD DIVISOR NETLIST SEEDS CLOCK UNIT STRICT
$(foreach v,$(USER_VARS),$(if $(filter-out undefined,$(origin $(v))),$(eval override $(v) := $$(value $(v)))$(eval export $(v))))

# option,VARIABLE: the option with its value if the variable is not empty.
option = $(if $($(2)),$(1) "$$$(2)")

# Tools that run a make of their own (Verilator) must not inherit this make's variables or job server.
RUN := env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u MAKEOVERRIDES $(BIN)/python

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

##@ Set-up

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 } \
	  /^#> / { printf "                        %s\n", substr($$0, 4) }' $(firstword $(MAKEFILE_LIST))
	@echo

.PHONY: venv
venv: $(VENV)/.stamp ## make or refresh the virtual environment in .venv (every other target does so when needed)
#> PYTHON=python3   the interpreter to make it with, 3.11 or newer

$(VENV)/.stamp: pyproject.toml
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	  echo "set-up: '$(PYTHON)' was not found; Serrano needs Python 3.11 or newer."; \
	  echo "        Install one (Debian, Ubuntu: sudo apt-get install python3 python3-venv) or name it: make PYTHON=python3.11"; \
	  exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "set-up: '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1); Serrano needs Python 3.11 or newer."; \
	  echo "        Name another one: make PYTHON=python3.11"; \
	  exit 1; }
	@echo "set-up: making $(VENV) with $$("$(PYTHON)" --version 2>&1); once, about a minute"
	@"$(PYTHON)" -m venv $(VENV) || { \
	  echo "set-up: '$(PYTHON) -m venv' failed (Debian, Ubuntu: sudo apt-get install python3-venv)"; \
	  exit 1; }
	@echo "set-up: installing the pinned packages of pyproject.toml"
	@$(BIN)/python -m pip install -qq --editable '.[dev]'
	@touch $@
	@echo "set-up: done"

# YoWASP is large and only some targets need it: it has a stamp of its own.
$(VENV)/.stamp-formal: $(VENV)/.stamp
	@echo "set-up: installing the formal tools (Yosys, SymbiYosys, z3); once"
	@$(BIN)/python -m pip install -qq --editable '.[dev,formal]'
	@touch $@

$(VENV)/.stamp-fpga: $(VENV)/.stamp
	@echo "set-up: installing Yosys and nextpnr from YoWASP; once"
	@$(BIN)/python -m pip install -qq --editable '.[dev,fpga]'
	@touch $@

$(VENV)/.stamp-train: $(VENV)/.stamp
	@echo "set-up: installing PyTorch for training; once, several gigabytes"
	@$(BIN)/python -m pip install -qq --editable '.[dev,train]'
	@touch $@

# The doctor needs no virtual environment: it says what keeps it from being made.
.PHONY: doctor
doctor: ## check the tools and packages, and name the command that mends each one that is missing or wrong
#> ARGS=--json      the same for a program to read
	@if ! test -x $(BIN)/python && ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 8))'; then \
	  echo "doctor: '$(PYTHON)' does not run or is older than 3.8; Serrano needs Python 3.11 or newer."; \
	  echo "        Install one (Debian, Ubuntu: sudo apt-get install python3 python3-venv) or name it: make PYTHON=python3.11"; \
	  exit 1; fi
	@if test -x $(BIN)/python; then $(BIN)/python -m serrano_sim.doctor $(ARGS); \
	  else "$(PYTHON)" -m serrano_sim.doctor $(ARGS); fi

##@ Run

.PHONY: sim
sim: $(VENV)/.stamp ## a trained model generates text on the RTL, checked bit for bit against the golden model
#> MODEL=           a checkpoint: a Hugging Face folder or a llama2.c file (default: the one in this repository)
#> TOKENIZER=       its tokenizer, where it is not beside the model
#> PROMPT=          the text to go on from (default for the model in this repository: :kludge:)
#> PROMPT2=         a second text, which uses the KV blocks of the first as far as both begin the same
#> TOKENS=32        how many tokens to generate
#> PRESET=base      hardware configuration: tiny, small, lean, ulx3s, base, wide
#> LATENCY=60       cycles from a memory request to its answer
#> SEED=            random stalls on the memory's channels, from this seed
#> WAVES=1          write waveforms; another build, and much slower
#> TRACE=1          write build/reports/timeline.json, to be opened in Perfetto or chrome://tracing
	@$(RUN) -m serrano_sim.run $(call option,--model,MODEL) $(call option,--tokenizer,TOKENIZER) \
	  $(if $(filter undefined,$(origin PROMPT)),,--prompt "$$PROMPT") $(call option,--tokens,TOKENS) \
	  $(if $(filter undefined,$(origin PROMPT2)),,--prompt2 "$$PROMPT2") \
	  $(call option,--preset,PRESET) $(call option,--latency,LATENCY) $(call option,--seed,SEED) \
	  $(if $(filter-out 0,$(WAVES)),--waves) $(if $(filter-out 0,$(TRACE)),--trace)

.PHONY: sim-board
sim-board: $(VENV)/.stamp $(if $(filter-out 0,$(NETLIST)),$(VENV)/.stamp-fpga) ## a whole board in simulation: SDRAM with all its rules, the host's driver at the serial line
#> BOARD=ulx3s_85f  the board
#> MODEL= TOKENIZER= PROMPT=   as above
#> TOKENS=16        how many tokens to generate
#> DIVISOR=4        clock cycles in a bit of the serial line
#> ARGS="--clock 50"   another clock than the board's, in MHz: the memory's times in cycles follow
#> SHAPE=15m        random weights of this shape instead of a checkpoint
#> NETLIST=1        the netlist that place and route would get, instead of the Verilog; half an hour the first time
	@$(RUN) -m serrano_sim.board $(call option,--board,BOARD) $(call option,--model,MODEL) \
	  $(call option,--tokenizer,TOKENIZER) $(if $(filter undefined,$(origin PROMPT)),,--prompt "$$PROMPT") \
	  $(call option,--tokens,TOKENS) $(call option,--divisor,DIVISOR) $(call option,--shape,SHAPE) \
	  $(if $(filter-out 0,$(NETLIST)),--netlist) $(ARGS)

.PHONY: demo
demo: $(VENV)/.stamp ## a 4 x 4 matrix product through the array, with its cycle table and a VCD
	@$(RUN) -m serrano_sim.demo

.PHONY: accuracy
accuracy: $(VENV)/.stamp ## the golden model against float64 on held-out text: perplexity, KL, top-1
#> MODEL= TOKENIZER=   as above
#> TEXT=            the text to measure on (default: the excerpt in this repository)
	@$(RUN) -m serrano_sim.accuracy $(call option,--model,MODEL) $(call option,--tokenizer,TOKENIZER) \
	  $(call option,--text,TEXT)

.PHONY: verilog
verilog: $(VENV)/.stamp ## write and check what synthesis of a preset needs: build/verilog/PRESET
#> PRESET=base      tiny, small, lean, ulx3s, base, wide
#> STRICT=1         Icarus Verilog has to be there, so that its check is not left out
	@$(RUN) -m serrano_sim.handoff "$(or $(PRESET),base)" -o "build/verilog/$(or $(PRESET),base)" \
	  $(if $(filter-out 0,$(STRICT)),--strict)

.PHONY: fpga
fpga: $(VENV)/.stamp-fpga ## synthesize, place and route a board: bitstream in build/fpga, build/reports/fpga.json
#> BOARD=ulx3s_85f  the board
#> SEEDS=1          place and route so many times, as many at once as there are processors
#> CLOCK=           MHz, instead of the board's own clock
#> UNIT=array       the array alone, between shift registers, instead of the whole board
#> ESTIMATE=1       synthesis only: what it takes of the device, by unit, build/reports/estimate-BOARD.json
#> PRESET=          another configuration than the board's
	@$(RUN) -m serrano_sim.synthesis.fpga $(if $(BOARD),"$$BOARD") $(call option,--seeds,SEEDS) \
	  $(call option,--clock,CLOCK) $(call option,--unit,UNIT) $(call option,--preset,PRESET) \
	  $(if $(filter-out 0,$(ESTIMATE)),--estimate) $(ARGS)

.PHONY: area
area: $(VENV)/.stamp-fpga ## cells of each unit by Yosys, for generic gates and ECP5: build/reports/area.json
#> PRESET=ulx3s     tiny, small, lean, ulx3s, base, wide
	@$(RUN) -m serrano_sim.synthesis.area $(call option,--preset,PRESET) $(ARGS)

##@ Check

.PHONY: test
test: lint ## lint, then every test but the proofs of `make formal`
#> TESTS=tests      files, folders or node ids to run instead of all
#> ARGS=            further options of pytest, for instance ARGS="-k array -x"
#> JOBS=2           tests at the same time
	@$(RUN) -m pytest -n $(JOBS) $(ARGS) $(or $(TESTS),tests --ignore=tests/formal)

.PHONY: lint
lint: $(VENV)/.stamp ## ruff: rules and format, changing nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: format
format: $(VENV)/.stamp ## ruff: mend what it can mend, and format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: faults
faults: $(VENV)/.stamp ## many requests under hundreds of bus errors, corrupt packets and cancels: build/reports/faults.json
#> PRESET=          one accelerator only: tiny (with 16 sequences), base
#> SEED=1 RUNS=     the first seed, and how many runs of each (default: 16 of tiny, 4 of base)
	@$(RUN) -m serrano_sim.faults $(call option,--preset,PRESET) $(call option,--seed,SEED) \
	  $(call option,--runs,RUNS) $(ARGS)

.PHONY: invariance
invariance: $(VENV)/.stamp ## the same requests alone and in any company, from many seeds: the same bits
#> PRESET=tiny SEED=1 RUNS=20   the accelerator, the first seed, and how many runs
	@$(RUN) -m serrano_sim.invariance $(call option,--preset,PRESET) $(call option,--seed,SEED) \
	  $(call option,--cases,RUNS) $(ARGS)

.PHONY: conformance
conformance: $(VENV)/.stamp ## replay recorded block-manager operations against the KV controller's RTL
#> FILE=            the recording (default: ../shared/conformance/kv-ops.jsonl)
	@$(RUN) -m serrano_sim.conformance $(call option,--file,FILE) $(ARGS)

.PHONY: bench-kvcache
bench-kvcache: $(VENV)/.stamp ## measure the KV controller and its data path on the RTL: build/reports/kvcache.json
#> ARGS=--quick     two minutes instead of a quarter of an hour
	@$(RUN) -m serrano_sim.kv_bench $(ARGS)

.PHONY: bench
bench: $(VENV)/.stamp ## cycles of steps of models from 260 k to 1.1 G parameters on the RTL: build/reports/bench.json
#> QUICK=1          at most a quarter of an hour; without it, about an hour, and docs/performance.md is written
#> SHAPE=file.json  a model of one's own instead, by its dimensions
#> ARGS="--only 15m,decode,b1 --packets"   further options: ARGS=--help
	@$(RUN) -m serrano_sim.bench $(if $(filter-out 0,$(QUICK)),--quick) $(call option,--shape,SHAPE) \
	  $(if $(filter-out 0,$(QUICK))$(SHAPE)$(ARGS),,--docs) $(ARGS)

.PHONY: gate-level
gate-level: $(VENV)/.stamp ## synthesize a preset to gates and run the netlist on the bench: build/reports/gates.json
#> PRESET=tiny      several minutes, Icarus Verilog needed; larger ones take very long
#> ARGS=--cocotb    the bench of make sim, under Verilator, instead of the stand-alone one; very long
	@$(RUN) -m serrano_sim.handoff.gates "$(or $(PRESET),tiny)" $(ARGS)

.PHONY: formal
formal: $(VENV)/.stamp-formal ## prove the KV controller's invariants (installs YoWASP and z3 the first time)
#> ARGS="--only NAME"   one property
	@$(RUN) -m serrano_sim.formal $(ARGS)

##@ Other

.PHONY: train
train: $(VENV)/.stamp-train ## train the project's own checkpoint again (installs PyTorch the first time)
#> ARGS=            options of the script
	@$(RUN) models/train.py $(ARGS)

.PHONY: clean
clean: ## remove build/ and the caches
	rm -rf build .pytest_cache .ruff_cache
	find hdl sim host tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## remove the virtual environment too
	rm -rf $(VENV) *.egg-info

# Names commands, holds no logic: that is in deploy/setup.sh and in the commands themselves.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-system test-chaos test-faults test-mutants chaos fuzz test-viewers test-geometry check run bench bench-walk bench-encode bench-recover bench-flushall bench-cases bench-ingest bench-many bench-interop bench-attack bench-quality prepare-cases train conformance constraints

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: ## set up all that is needed and show the whole way of a study (KEEP=1: leave it running)
	@PYTHON=$(PYTHON) deploy/setup.sh worker
	$(BIN)/pacs-node demo --out demo-out $(if $(KEEP),--keep-running)

test: ## set up all that is needed and run every test but the long ones
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	$(MAKE) --no-print-directory check
	$(BIN)/pytest -n 2 --dist loadfile -m "not system and not viewers and not chaos"

test-system: ## whole nodes, real peers, kill -9
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	$(BIN)/pytest -m system

test-chaos: ## every named place of a running node: killed, failed, hung there; the part of test-faults that is nowhere else
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	$(BIN)/pytest -m chaos

test-faults: ## every named place of a running node: killed, failed, hung there; on both databases
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	$(BIN)/pytest tests/chaos $$($(BIN)/python -m tests.chaos.faults)

SEED ?= $(shell date +%s)
MINUTES ?= 15
DB ?= sqlite
chaos: ## kill -9 everything, over and over, and count what is left: SEED=.. MINUTES=.. DB=sqlite|postgres
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	@$(BIN)/python -m tests.chaos --seed $(SEED) --minutes $(MINUTES) --db $(DB) $(if $(REPORT),--report $(REPORT))

test-mutants: ## take one guard away at a time: some test must notice each
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	@$(BIN)/python -m tests.chaos.mutants

INPUTS ?= 100000
fuzz: ## hostile bytes at the front door, by grammar and guided by coverage: INPUTS=.. SEED=..
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	@$(BIN)/python -m tests.fuzz --inputs $(INPUTS) --seed $(SEED)

test-viewers: ## every kind of result in OHIF and dwv, in a real browser (needs npm)
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	$(BIN)/pytest -m viewers

test-geometry: ## every way to sample a patient: the whole product of orientations, orders, tilts, containers
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	GEOMETRY=all $(BIN)/pytest tests/geometry

check: ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

run: ## run a node in ./pacs-node-home
	@PYTHON=$(PYTHON) deploy/setup.sh worker
	$(BIN)/pacs-node up

bench: ## list the benchmarks; each is a command of its own
	@grep -E '^bench-[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

conformance: ## docs/conformance.md anew, from the code and docs/example/pacs-node.toml
	@$(BIN)/python -m node.cli conformance --home docs/example > docs/conformance.new && mv docs/conformance.new docs/conformance.md

constraints: ## pin what is installed in .venv
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/pip freeze --exclude-editable | sed -E 's/\+cpu//'; } > constraints.new && mv constraints.new constraints.txt

bench-walk: ## seconds from the last image to the results in a real Orthanc, memory of each process
	@$(BIN)/python -m tests.benchmarks.walk

bench-encode: ## seconds and memory to encode segmentations, beside highdicom and dcmqi
	@$(BIN)/python -m tests.benchmarks.encode

bench-recover: ## seconds until what was killed works again; start over a table of 100,000 jobs
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	@$(BIN)/python -m tests.benchmarks.recover

bench-flushall: ## throughput while Redis is emptied every 30 s, beside peace: MINUTES=..
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	@$(BIN)/python -m tests.benchmarks.flushall --minutes $(MINUTES)

bench-cases: ## every series of the test data through reader, models and encoders, read back: docs/cases.md
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	@$(BIN)/python -m tests.benchmarks.cases

bench-ingest: ## instances a second beside DCMTK, Orthanc and pynetdicom: ROUNDS=5
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	@$(BIN)/python -m tests.benchmarks.ingest --rounds $(or $(ROUNDS),5)

bench-many: ## 100,000 instances into one table: are the last as fast as the first? INSTANCES=..
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	@$(BIN)/python -m tests.benchmarks.many --instances $(or $(INSTANCES),100000)

bench-interop: ## thousands of instances and associations in pynetdicom's own way, beside its storescp: COUNT=1000
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	@$(BIN)/python -m tests.benchmarks.interop --count $(or $(COUNT),1000)

bench-attack: ## an honest sender beside 2,020 hostile connections
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	@$(BIN)/python -m tests.benchmarks.attack

bench-quality: ## the models over every case of the test data, as it is and made harder: OUT=folder COMPARE=report.json MODEL=name ONLY=gate
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	@$(BIN)/python -m workers.evaluate --data $(or $(PACS_NODE_TEST_DATA),../shared/data) $(if $(OUT),--out $(OUT)) $(if $(COMPARE),--compare $(COMPARE)) $(if $(MODEL),--model $(MODEL)) $(if $(filter gate,$(ONLY)),--gate)

RECIPE ?= models/train/recipes/ct-lung-cpu.toml
train: ## train a network by a recipe: RECIPE=models/train/recipes/.. OPTIONS="--device cuda --minutes 60"
	@PYTHON=$(PYTHON) deploy/setup.sh worker,train
	@$(BIN)/python -m models.train $(RECIPE) $(OPTIONS)

prepare-cases: ## real cases for training, of the test data whose licence allows it: OUT=out/cases
	@PYTHON=$(PYTHON) deploy/setup.sh worker,dev
	@$(BIN)/python -m workers.prepare --data $(or $(PACS_NODE_TEST_DATA),../shared/data) --out $(or $(OUT),out/cases)

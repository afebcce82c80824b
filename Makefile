# fedsim: `make help` lists what can be typed here.
PYTHON ?= python3
VENV   := .venv
READY  := $(VENV)/.ready
NAME   ?=
ARGS   ?=
DATA   ?=
RUNS   ?= runs/table
HIPPOCAMPUS ?=
LEAVER ?= hk
SEEDS  ?= 1
CASES  ?= 1,2,5,10
LOSSES ?= 0.5,0.9
LOSSY  ?= 2,4
EPSILONS ?= 0.5 1 2 4 8
# Of the tests; 0 is one after the other.
WORKERS ?= 2

export FLWR_TELEMETRY_ENABLED ?= 0
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: help setup scenario table matrix league unlearning fewshot split reconstruction curve bench test test-fast lint docs clean
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22
	@echo
	@echo '  make scenario NAME=isic_noniid_gdd ARGS="rounds=1 --seed 1"    everything after the name goes into ARGS'

# torch comes first and pinned: a later, unpinned resolution could swap a CPU build for another one.
$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fedsim needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make setup PYTHON=python3.11" >&2; exit 2; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $$(grep -i '^torch==' constraints.txt)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(READY) ## Make .venv from the pinned versions

scenario: $(READY) ## Run a scenario: make scenario NAME=isic_noniid_gdd [ARGS="key=value --seed 1"]
	@test -n "$(NAME)" || { echo 'which scenario? type: make scenario NAME=isic_noniid_gdd' >&2; $(VENV)/bin/fedsim ls >&2; exit 2; }
	@$(VENV)/bin/fedsim run $(NAME) $(ARGS)

# One process a run, two runs at a time on two cores. What is finished below RUNS is not run again.
SWEEP = $(VENV)/bin/fedsim sweep --backend inline --quiet --runs "$(RUNS)" \
        data.name=ham10000 data.root="$(DATA)"

table: $(READY) ## The table of docs/results.md, some hours: make table DATA=DIR (HAM10000) [RUNS=DIR]
	@test -n "$(DATA)" || { echo 'which data? type: make table DATA=DIR, the folder of HAM10000' >&2; exit 2; }
	$(SWEEP) isic_centralised isic_noniid_local isic_noniid_random isic_noniid_gdd --seeds 0 1 2
	$(SWEEP) isic_noniid_gdd_plus --seeds 0 1 2
	$(SWEEP) isic_noniid_dm client.image_learning_rate=1.0,2.0 --seeds 0 1 2
	$(SWEEP) isic_noniid_fedavg strategy.codec=float32,uint8 --seeds 0 1 2
	$(SWEEP) isic_noniid_dsa isic_noniid_dc --seed 0
	$(VENV)/bin/fedsim compare $(RUNS) --baseline isic_noniid_local --csv $(RUNS)/table.csv --markdown $(RUNS)/table.md --latex $(RUNS)/table.tex
	@$(VENV)/bin/fedsim report $(RUNS) --together --baseline isic_noniid_local

COLLUDE = null,{name: label_flip, count: 4},{name: lie, count: 4},{name: min_max, count: 4},{name: disbelieve, count: 4, steps: 100},{name: adaptive, count: 4}
RULES   = {name: fedavg, weighting: uniform},{name: robust, rule: median},{name: robust, rule: trimmed_mean, byzantine: 4},{name: robust, rule: krum, byzantine: 4},{name: robust, rule: dos},{name: robust, rule: centred_clipping}

matrix: $(READY) ## Attacks over defences (docs/results.md), three hours: make matrix DATA=DIR (HAM10000)
	@test -n "$(DATA)" || { echo 'which data? type: make matrix DATA=DIR, the folder of HAM10000' >&2; exit 2; }
	$(VENV)/bin/fedsim sweep isic_noniid_disbelieve --backend inline --quiet --runs runs/matrix data.root="$(DATA)" \
	  evaluation.every=3 evaluation.inspect=true adversary='$(COLLUDE)' strategy='$(RULES)' --seeds 0 1 2 \
	  --matrix adversary strategy

# Three hours on two cores; stopped and typed again, it goes on.
league: $(READY) ## The shelf, tuned alike, three hours: make league DATA=DIR (HAM10000) HIPPOCAMPUS=DIR (MSD Task04)
	@test -n "$(DATA)" -a -n "$(HIPPOCAMPUS)" || { echo 'which data? type: make league DATA=DIR HIPPOCAMPUS=DIR, the folders of HAM10000 and of MSD Task04' >&2; exit 2; }
	$(VENV)/bin/fedsim league examples/league/shelf.yaml --backend inline --runs runs/league \
	  --data ham10000="$(DATA)" --data msd="$(HIPPOCAMPUS)" $(ARGS)

unlearning: $(READY) ## The table of unlearning (docs/results.md), half an hour: make unlearning [DATA=DIR LEAVER=hk (PROMISE12)]
	$(VENV)/bin/fedsim run prostate_unlearning 'seeds=[0,1,2]' --backend inline --runs runs/unlearning \
	  $(if $(DATA),data.root="$(DATA)" strategy.leaver=$(LEAVER))
	$(VENV)/bin/fedsim forget runs/unlearning --table --markdown runs/unlearning/table.md

fewshot: $(READY) ## Dice over 1, 2, 5, 10 outlined cases (docs/results.md), an hour: make fewshot [DATA=DIR (PROMISE12)]
	$(VENV)/bin/fedsim sweep prostate_fewshot_local prostate_fewshot prostate_fewshot_incontext --backend inline \
	  --quiet --runs runs/fewshot federation.labelled_groups=$(CASES) --seeds 0 1 2 $(if $(DATA),data.root="$(DATA)")
	$(VENV)/bin/fedsim compare runs/fewshot --columns dice,dice_2d,seconds --markdown runs/fewshot/table.md \
	  --over federation.labelled_groups --figure runs/fewshot/fewshot.png

AGGREGATORS = {name: fedavg, weighting: uniform},fedavg,auto_fedavg,{name: fed_ncl, version: v2},{name: fed_ncl, version: v4}
# Without loss both cuts are one model.
SPLIT = --backend inline --quiet --runs runs/split --seeds 0 1 2 strategy='$(AGGREGATORS)' \
        $(if $(DATA),data.root="$(DATA)")

split: $(READY) ## Lost packets by aggregator (docs/methods/split.md), some hours: make split [DATA=DIR (PROMISE12)] [LOSSES=0.5,0.9] [LOSSY=2,4]
	$(VENV)/bin/fedsim sweep lesion_split_shallow $(SPLIT) client.packet_loss=0.0
	$(VENV)/bin/fedsim sweep lesion_split_shallow lesion_split_deep $(SPLIT) client.packet_loss=$(LOSSES) client.lossy=$(LOSSY)
	for cut in shallow deep; do \
	  $(VENV)/bin/fedsim compare runs/split/lesion_split_$$cut --columns jaccard --tests \
	    --matrix client.packet_loss,client.lossy strategy --figure runs/split/$$cut.png || exit; \
	done
	$(VENV)/bin/fedsim compare runs/split/lesion_split_* --columns jaccard --tests \
	  --matrix client.packet_loss,client.lossy,strategy client.cut

# Seed by seed, so that a table that was cut short has whole seeds.
RECON = $(addprefix brain_recon_,modl fedautomri fedavg fedprox local centralised)

reconstruction: $(READY) ## The table of reconstruction (docs/results.md), half an hour: make reconstruction
	for seed in 0 1 2; do \
	  $(VENV)/bin/fedsim sweep $(RECON) --seed $$seed --backend inline --quiet --runs runs/reconstruction || exit; \
	done
	$(VENV)/bin/fedsim compare runs/reconstruction --baseline brain_recon_modl --markdown runs/reconstruction/table.md

# SEEDS is a count; typed again with more, only the new seeds run.
curve: $(READY) ## Utility over epsilon: make curve NAME=isic_noniid_dpsgd [SEEDS=3] [EPSILONS="1 4 inf"]
	@test -n "$(NAME)" || { echo 'which scenario? type: make curve NAME=isic_noniid_dpsgd' >&2; $(VENV)/bin/fedsim ls >&2; exit 2; }
	@$(VENV)/bin/fedsim curve $(NAME) --backend inline --epsilons $(EPSILONS) --seeds $(SEEDS) $(ARGS)

# Each in turn, for they measure time: hours on a quiet machine. ARGS=--tiny: to see that they run.
bench: $(READY) ## Measure fedsim itself, into bench/: make bench [ARGS=--tiny]
	for what in engine transport segmentation distil privacy memory scale; do \
	  $(VENV)/bin/fedsim bench $$what $(ARGS) || exit; \
	done

test: $(READY) ## Run the tests (real data from FEDSIM_TEST_DATA, skipped and counted when unset)
	$(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist loadgroup $(ARGS)

test-fast: $(READY) ## The tests that take seconds
	$(VENV)/bin/python -m pytest -q -m 'not slow' $(ARGS)

# mypy does not follow the import hook of an editable install: it gets a small tree of links.
lint: $(READY) ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	@rm -rf build/types && mkdir -p build/types/fedsim
	@for inner in fedsim/* strategies clients scenarios; do ln -s "$(CURDIR)/$$inner" "build/types/fedsim/$$(basename $$inner)"; done
	cd build/types && MYPYPATH=. "$(CURDIR)/$(VENV)/bin/mypy" --config-file "$(CURDIR)/pyproject.toml" -p fedsim

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(READY) ## The documentation as a site: site/index.html
	$(VENV)/bin/python -m mkdocs build --strict --site-dir site  # --quiet would hide warnings from --strict
	@echo 'site/index.html'

clean: ## Remove what was built (never runs/ nor data)
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

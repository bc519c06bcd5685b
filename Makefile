# Marill. `make` installs what is missing and builds; `make test` tests; `make demo` translates privately on this machine.
.PHONY: all setup build test sanitize demo fuzz bench study study-quick tasks clean

all: build

# MPI=1: with what training on several machines needs (docs/fine-tuning.md).
setup:
	@tools/setup $(if $(MPI),mpi)

build: setup
	@cmake -S . -B build -DCMAKE_BUILD_TYPE=Release > build.log 2>&1 || { cat build.log; rm -f build.log; exit 1; }; rm -f build.log
	@cmake --build build -j$$(nproc)

test: build
	@cd build && ctest --output-on-failure --no-tests=error

# The same tests under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: setup
	@cmake -S . -B build-sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSANITIZE=ON > /dev/null
	@cmake --build build-sanitize -j$$(nproc)
	@cd build-sanitize && ctest --output-on-failure --no-tests=error

demo: build
	@build/marill demo

# Runs every fuzz target for FUZZ_SECONDS each (needs clang).
FUZZ_SECONDS ?= 30
fuzz: setup
	@tools/fuzz $(FUZZ_SECONDS)

# Measures everything that is quoted, into bench/results/: about half an hour. BENCH="limits block" runs parts (tools/bench lists them).
bench: build
	@tools/bench $(BENCH)

# The data of three tasks, from ../shared/data (DATA=DIR: another place), into build/tasks/: what recipes/ read.
DATA ?= ../shared/data
tasks: build
	@for task in translate sql chat; do build/marill task $$task --out build/tasks/$$task --data $(DATA) || exit 1; done

# Every technique of fine-tuning, its cost and what it keeps of the quality, into docs/study.md: hours, and goes on where it was killed.
# study-quick: one task, five cells, below 15 minutes, into build/study-quick/.
study: build
	@tools/study

study-quick: build
	@tools/study --quick

clean:
	rm -rf build build-sanitize build-fuzz

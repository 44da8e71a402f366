# make        what there is to make
# make demo   the first thing to try
# make test   the tests
# make check  what CI checks beyond the tests

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO        ?= go
PKG       ?= ./...
TIMEOUT   ?= 25m
FUZZTIME  ?= 20s
COUNT     ?= 1
ARGS      ?=
SEEDS     ?= 200
STEPS     ?= 20000
CI        ?=

# Tools have a version here, never "latest", and go into bin/tools.
LINT_VERSION := v2.15.0
LINT         := bin/tools/golangci-lint-$(LINT_VERSION)

# What flush and restore are measured beside; as in cmd/forebay-rclone/go.mod.
RCLONE_VERSION := v1.76.0
RCLONE         := bin/tools/rclone-$(RCLONE_VERSION)

# Real servers that target drivers are tested against, built into bin/servers. MinIO is large: some minutes, once.
VERSITYGW_VERSION := v1.8.0
MINIO_VERSION     := v0.0.0-20260212201848-7aac2a2c5b7c
VERSITYGW         := bin/servers/versitygw-$(VERSITYGW_VERSION)
MINIO             := bin/servers/minio-$(MINIO_VERSION)

# The race detector needs a C compiler. Without one the tests run without it and say so; in CI that is a failure.
CC_FOUND := $(shell command -v $$($(GO) env CC) 2>/dev/null)
RACE     := $(if $(CC_FOUND),-race,)

.PHONY: help demo build rclone test test-rclone race lint fuzz bench microbench bench-targets targets sim crash clocks stores planted takeover chaos soak servers reliability scale generate check versions needs format vet tidy arm64

help:
	@echo "make demo      build, then show and prove all of it on this machine (ARGS='--keep', '--source DIR', …)"
	@echo "make build     bin/forebay, static"
	@echo "make rclone    bin/forebay-rclone, static: a module of its own (cmd/forebay-rclone); two minutes of a core, once"
	@echo "make test      the tests, most with the race detector (PKG=./agent/..., COUNT=1, TIMEOUT=25m)"
	@echo "make test-rclone  the tests of forebay-rclone, against Apache, samba, versitygw and rclone's own server (apt-get install apache2 samba)"
	@echo "make servers   versitygw and MinIO, which tests of the S3 driver run against; without them those are skipped"
	@echo "make race      the tests three times over, with the race detector"
	@echo "make lint      golangci-lint $(LINT_VERSION): the walls between packages and more"
	@echo "make fuzz      every fuzz test for FUZZTIME=20s"
	@echo "make bench     Forebay beside cp, rsync, rclone, restic and JetStream, an hour (BENCH='large|coded|source|small|small-s3|dense|rescan|ten|idle|primary';"
	@echo "               ROUNDS=5 COUNT=8 SIZE=268435456 FILES=1000000 FILESROUNDS=1 S3FILES=10000 DENSE=17179869184 IDLE=1m CACHES=cold, REPORT=docs/benchmarks;"
	@echo "               apt-get install rsync restic fio)"
	@echo "make bench-targets  flush and restore beside rclone, on each target (TIMES=5, REPORT=docs/benchmarks)"
	@echo "make microbench  the benchmarks of packages (PKG=./agent/...)"
	@echo "make targets   what real backup servers can do, and what goes to them for a 5 GiB object that is cut off and for 1 MiB that changes in 1 GiB (REPORT=docs/targets)"
	@echo "make sim       simulations of the whole (SEEDS=200, SEED=1, STEPS=20000; its short form is part of make test, REPORT=DIR)"
	@echo "make planted   plants known bugs one at a time and sees whether tests notice (ONLY=regexp, LIST=1, JOBS=1, REPORT=DIR)"
	@echo "make chaos     faults of all kinds at once against real processes (TIME=10m, CUTS=20 power cuts, SEED=0 draws one, REPORT=DIR)"
	@echo "make soak      the same for hours, watching for leaks (TIME=4h, SEED=0)"
	@echo "make crash     ends the relay at every named point and at every pair of them, fails its disks at FAULTS=300 writes (-1: all, 25 GB), and kills real processes at the points (REPORT=DIR)"
	@echo "make stores    damage and repair of stores at random (ROUNDS=2000, SEED=0: draws one), with a report"
	@echo "make clocks    random histories of clocks that jump, and the deletes that they lead to (RUNS=500, REPORT=DIR)"
	@echo "make reliability  docs/reliability.md, targets.md, scale.md and benchmarks.md from the reports of the campaigns"
	@echo "make takeover  takeovers in figures, as root, for docs/reliability (RUNS=5 SIZE=4294967296 HOLDERS=3 RATE=1000000000)"
	@echo "make scale     a thousand nodes simulated on the code that ships, for docs/scale (ONLY=cluster, NODES=1000 SIZE=300000 RUNS=3, REPORT=docs/scale)"
	@echo "make generate  generated code"
	@echo "make check     what CI runs beside the tests: format, vet, lint, generated code, go.mod, arm64"

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/...

rclone:
	cd cmd/forebay-rclone && CGO_ENABLED=0 $(GO) build -trimpath -o $(CURDIR)/bin/ .

# The tests of forebay-rclone, against real servers, without the race detector: rclone with it takes twice as long to build.
test-rclone:
	@mkdir -p bin
	cd cmd/forebay-rclone && $(GO) vet . && $(GO) mod tidy -diff && $(GO) test -v -count=$(COUNT) -timeout $(TIMEOUT) . 2>&1 | tee $(CURDIR)/bin/test-rclone.log | $(SHORTER)

demo: build
	bin/forebay demo $(ARGS)

versions:
	@$(GO) version
	@echo "race detector: $(if $(CC_FOUND),$$($(CC_FOUND) --version | head -1),none)"

needs:
ifeq ($(CC_FOUND),)
	@echo "The race detector needs a C compiler and there is none: apt-get install gcc libc6-dev (or dnf install gcc)." >&2
	@if [ -n "$(CI)" ]; then echo "In CI that is a failure." >&2; exit 1; fi
	@echo "SKIP: the tests run without it." >&2
endif

# Skipped tests are shown with their reason; what passed is one line a package. The whole is in bin/test.log. The race detector takes
# twenty times as long where a whole relay goes through hundreds of crashes in memory, and the simulation is one goroutine: SERIAL
# has it in `make race` only, or when PKG names it. So have the tests of the whole, with real processes: they run by themselves at
# the end, since beside compilers and other tests the processes would starve. LONG are tests in which days go by in one goroutine, or one
# history after the other: they have the race detector in `make race` only, too.
SERIAL := ./internal/crash ./internal/sim
LONG   := ^(TestSimulatedAndLivedThrough|TestOutageSecondsComesTrue|TestCrashAtEveryStep|TestBudgetHoldsThroughACrashAtEachStep|TestStreamGoesOnAfterACrashAtEveryStep|TestDeltaIsTheContent|TestNoHistoryOfJumpsDeletesBeforeTheGrace|TestModel|TestModelRebuild)$$
E2E    := ./internal/e2e
E2ERACE ?=
E2ETIME ?= 40m
SHORTER := { grep --line-buffered -Ev '^ *(=== (RUN|PAUSE|CONT|NAME)|--- PASS)|^PASS$$|\[no test files\]$$' || true; }

test: versions needs
	@mkdir -p bin
ifeq ($(PKG),./...)
	$(GO) test $(RACE) -v -count=$(COUNT) -timeout $(TIMEOUT) $(if $(E2ERACE),,-skip '$(LONG)') $$($(GO) list ./... | grep -Ev '/internal/(crash|sim|e2e)$$') 2>&1 | tee bin/test.log | $(SHORTER)
	$(if $(E2ERACE),,$(GO) test -v -count=$(COUNT) -timeout $(TIMEOUT) -run '$(LONG)' ./agent/index ./agent/upload ./flush ./flush/journal ./ledger ./relay 2>&1 | tee -a bin/test.log | $(SHORTER))
	$(GO) test $(E2ERACE) -v -count=$(COUNT) -timeout $(TIMEOUT) $(SERIAL) 2>&1 | tee -a bin/test.log | $(SHORTER)
	$(GO) test $(E2ERACE) -v -count=$(COUNT) -timeout $(E2ETIME) $(E2E) 2>&1 | tee -a bin/test.log | $(SHORTER)
else
	$(GO) test $(RACE) -v -count=$(COUNT) -timeout $(TIMEOUT) $(PKG) 2>&1 | tee bin/test.log | $(SHORTER)
endif

race:
	@$(MAKE) test COUNT=3 TIMEOUT=60m E2ETIME=180m E2ERACE=$(RACE)

$(LINT):
	@mkdir -p bin/tools
	GOBIN=$(CURDIR)/bin/tools $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	@mv bin/tools/golangci-lint $@

$(VERSITYGW):
	@mkdir -p bin/servers
	GOBIN=$(CURDIR)/bin/servers $(GO) install github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW_VERSION)
	@mv bin/servers/versitygw $@

$(MINIO):
	@mkdir -p bin/servers
	GOBIN=$(CURDIR)/bin/servers $(GO) install github.com/minio/minio@$(MINIO_VERSION)
	@mv bin/servers/minio $@

servers: $(VERSITYGW) $(MINIO)

$(RCLONE):
	@mkdir -p bin/tools
	GOBIN=$(CURDIR)/bin/tools $(GO) install github.com/rclone/rclone@$(RCLONE_VERSION)
	@mv bin/tools/rclone $@

lint: $(LINT)
	$(LINT) run --allow-parallel-runners --timeout 15m ./...
	cd cmd/forebay-rclone && $(CURDIR)/$(LINT) run --allow-parallel-runners --timeout 15m --config $(CURDIR)/.golangci.yml ./...

ROUNDS ?= 2000
SEED   ?= 0
stores:
	$(GO) test -count=1 -timeout 60m -v -run '^TestCampaign$$' ./shard/store -campaign $(ROUNDS) -campaign-seed $(SEED) -report $(CURDIR)/docs/reliability

fuzz:
	@found=$$(grep -rl --include='*_test.go' '^func Fuzz' . || true); for file in $$found; do \
		for name in $$(grep -o '^func Fuzz[A-Za-z0-9_]*' $$file | cut -c6-); do \
			echo "$$file $$name"; $(GO) test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) ./$$(dirname $$file); \
		done; \
	done

# What a relay flushes and brings back, beside rclone on the same servers: five minutes a round.
TIMES ?= 5
bench-targets: servers $(RCLONE)
	$(GO) test -v -count=1 -timeout 120m $(E2E) -run '^TestAgainstRclone$$' -against.rounds $(TIMES) -against.rclone $(abspath $(RCLONE)) \
		$(if $(REPORT),-report $(abspath $(REPORT))) 2>&1 | $(SHORTER)
	$(if $(REPORT),@$(MAKE) --no-print-directory reliability)

# What real backup servers can do, and what goes to them; docs/targets.md is made of it. As root, with 60 GiB of disk in TMPDIR.
targets: servers rclone
	$(GO) test -v -count=1 -timeout 30m ./flush -run '^TestSimulatedAndLivedThrough$$' $(if $(REPORT),-report $(abspath $(REPORT))) 2>&1 | $(SHORTER)
	$(GO) test -v -count=1 -timeout 120m $(E2E) -run '^(TestTargetsAsFound|TestBucket|TestChangeInALargeObject)$$' -parallel 1 -slow 10 \
		-bucket.size $(or $(BUCKET),5368709120) -delta.size $(or $(DELTA),1073741824) $(if $(REPORT),-report $(abspath $(REPORT))) 2>&1 | $(SHORTER)

microbench:
	$(GO) test -run '^$$' -bench . -benchmem -timeout 60m $(PKG)

# Forebay beside what operators would use instead. BENCH chooses the works by a regular expression; CACHES=cold takes the sources out of the
# page cache. What is missing of rsync, restic and fio is a SKIP in the report. What all of it needs in TMPDIR, an ext4 disk is best: DENSE
# twice, or 12 KiB for each of FILES; and COUNT times SIZE in /dev/shm.
BENCH  ?= .*
bench: servers $(RCLONE)
	@for peer in rsync restic fio; do command -v $$peer >/dev/null || echo "SKIP: without $$peer: apt-get install $$peer" >&2; done
	$(GO) test -v -count=1 -timeout 0 $(E2E) -run '^TestBench$$' -bench.works '^($(BENCH))$$' -bench.rclone $(abspath $(RCLONE)) -bench.rounds $(call given,ROUNDS,5) \
		-bench.count $(call given,COUNT,8) -bench.size $(call given,SIZE,268435456) -bench.files $(or $(FILES),1000000) -bench.filesrounds $(or $(FILESROUNDS),1) -bench.s3files $(or $(S3FILES),10000) \
		-bench.dense $(or $(DENSE),17179869184) -bench.idle $(or $(IDLE),1m) -bench.alone $(or $(ALONE),10s) $(if $(filter cold,$(CACHES)),-bench.cold) \
		$(if $(REPORT),-report $(abspath $(REPORT))) 2>&1 | $(SHORTER)
	$(if $(REPORT),@$(MAKE) --no-print-directory reliability)

# The short forms, some of the pairs, of the faults and of the points, are among the tests.
# A disk that fails leaves pebble behind that cannot be closed, some 10 MB each time: all 2,500 faults in one process need 25 GB.
FAULTS ?= 300
crash:
	$(GO) test -v -count=1 -timeout 120m ./internal/crash -pairs -1 -faults $(FAULTS) $(if $(REPORT),-report $(abspath $(REPORT))) 2>&1 | $(SHORTER)
	$(GO) test -v -count=1 -timeout 60m $(E2E) -run '^TestKilledAtPoints$$' -failpoints $(if $(REPORT),-report $(abspath $(REPORT)))

# Simulations of the whole system in one thread each. A failure names its seed and says how to run it again.
sim:
	$(GO) test -count=1 -timeout 12h -v -run 'TestSeeds|TestSameSeed' ./internal/sim -seeds $(SEEDS) -seed $(or $(filter-out 0,$(SEED)),1) -steps $(STEPS) -shrink $(if $(REPORT),-report $(abspath $(REPORT))) 2>&1 | $(SHORTER)

clocks:
	$(GO) test ./relay -count=1 -timeout 60m -run '^TestNoHistoryOfJumps' -clock-runs $(or $(RUNS),500) $(if $(REPORT),-report $(abspath $(REPORT)))

# Mutations of the shipped code, see docs/planting.md. The tree is not touched.
ONLY   ?=
LIST   ?=
JOBS   ?= 1
REPORT ?=
planted:
	$(GO) run ./internal/planted -only '$(ONLY)' -jobs $(JOBS) $(if $(LIST),-list) $(if $(REPORT),-report $(REPORT))

# Real processes under a schedule of faults that the seed chooses. As root with full disks, see .ci/run for what they need.
TIME ?=
SEED ?= 0
CUTS ?= 20
chaos:
	$(GO) test -v -count=1 -timeout 0 ./internal/e2e -run '^(TestChaos|TestPowerCuts|TestOverwrittenBeforeTheWindowOpens)$$' -seed $(SEED) -chaos $(or $(TIME),10m) -cuts $(CUTS) -overwrites 100 $(if $(REPORT),-report $(abspath $(REPORT)))

soak:
	$(GO) test -v -count=1 -timeout 0 ./internal/e2e -run '^TestSoak$$' -seed $(SEED) -soak $(or $(TIME),4h)

reliability:
	$(GO) test -count=1 ./internal/figures -run TestPagesAreCurrent -update

# Each fault is made RUNS times three times (at 10, 50 and 90 % of an object of SIZE bytes), on links of RATE bits a second. With the
# default values it takes about three quarters of an hour and 40 GiB of disk in TMPDIR.
RUNS    ?= 5
SIZE    ?= 4294967296
HOLDERS ?= 3
RATE    ?= 1000000000
takeover:
	$(GO) test -v -count=1 -timeout 12h $(E2E) -run '^TestTakeoverCampaign$$' -takeover.runs=$(RUNS) -takeover.size=$(SIZE) \
		-takeover.holders=$(HOLDERS) -takeover.rate=$(RATE) -report $(CURDIR)/docs/reliability

# A cluster of NODES nodes in simulated time, on the code that ships; fills of up to SIZE objects, RUNS times where CPU time is measured.
# All of it takes about twenty minutes of one core. What limits says is arithmetic on the others' figures.
NODES  ?= 1000
PICKS  ?= 100000000
SCALES := pick objects nodes cluster memory transport limits
given   = $(if $(findstring command,$(origin $(1))),$($(1)),$(2))
scale:
	$(GO) test -c -o bin/scale.test ./internal/scale
	cd internal/scale && for what in $(or $(ONLY),$(SCALES)); do \
		$(CURDIR)/bin/scale.test -test.v -test.timeout 0 -test.run "^TestScale$${what^}$$" -report $(abspath $(or $(REPORT),docs/scale)) \
			-runs $(call given,RUNS,3) -size $(call given,SIZE,300000) -nodes $(NODES) -picks $(PICKS); done
	@$(MAKE) --no-print-directory reliability

generate:
	$(GO) generate ./...

format:
	@bad=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); if [ -n "$$bad" ]; then echo "gofmt -w is needed for:" $$bad >&2; exit 1; fi

vet:
	$(GO) vet ./...

tidy:
	$(GO) mod tidy -diff

# Drivers and daemons are built for both platforms that they are made for.
arm64:
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./cmd/forebay

# Generated code is current when generating it again changes nothing.
check: versions format vet tidy arm64 lint
	@before=$$(git diff | sha256sum); $(GO) generate ./...; \
		if [ "$$before" != "$$(git diff | sha256sum)" ]; then echo "make generate changed something: commit it" >&2; exit 1; fi
	@echo "check: all is well"

# puna: build/puna, its tests and checks. Needs what script/setup installs. See `make help`.
#
#   make            the program, build/puna
#   make test       unit and command tests
#   make test-cuda  the GPU backend's tests, on a machine that has one
#   make check      layers, style, warnings as errors, tests under sanitizers, half a minute of fuzzing
#   make bench      speed of the default model; MODEL=file for another
#   make compare    the same beside llama.cpp (builds it once, outside the tree)
#   make install    program, manual pages, completions, documents; PREFIX=/usr/local DESTDIR=
#   make size       lines of code per folder
#   make clean
#
# GPU kernels are compiled where nvcc is; NVCC= leaves them out, CUDA_ARCHS="90a" makes fewer.
# BUILD=dir builds elsewhere, SAN=1 adds ASan and UBSan, WERROR=1 makes warnings errors, V=1 shows
# commands. All cores are used unless -j says otherwise. A change of flags rebuilds what it touches.

VERSION := 0.1.0
BUILD   ?= build
PREFIX  ?= /usr/local
CC      := gcc
CLANG   ?= clang
NVCC    := $(firstword $(wildcard /usr/local/cuda/bin/nvcc) $(shell command -v nvcc))
PKGS    := jansson libpcre2-8 libedit hwloc libcrypto libssl libseccomp libevent \
           libevent_openssl libevent_pthreads
# Opened at run time, so not linked.
OPENED  := libcurl

Q := $(if $(V),,@)
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc)
endif
comma := ,

# ---- flags ----

GOALS_WITHOUT_BUILD := clean size help check-layers compare
ifneq ($(if $(MAKECMDGOALS),$(filter-out $(GOALS_WITHOUT_BUILD),$(MAKECMDGOALS)),all),)
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) $(OPENED))
PKG_LIBS   := $(shell pkg-config --libs $(PKGS))
ifeq ($(PKG_LIBS),)
$(error libraries are missing (above): script/setup installs them)
endif
endif

WARN     := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wvla
# Following variables through what the sanitizers add takes gcc minutes for one file of kernels.
SANFLAGS := $(if $(SAN),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined \
            -fno-omit-frame-pointer $(if $(findstring clang,$(CC)),,-fno-var-tracking-assignments))
# Contraction is off so that one formula gives one result in every file; an fma is written where it
# is meant.
LANG_C   := -std=c11 -D_GNU_SOURCE -DPUNA_VERSION='"$(VERSION)"' -ffp-contract=off -fno-math-errno
CUDA_C   := $(if $(NVCC),-DPUNA_CUDA='"$(abspath $(BUILD))/cuda"' \
            -isystem $(patsubst %/bin/nvcc,%/include,$(NVCC)))
CFLAGS   := $(LANG_C) $(if $(SAN),-O1,-O2) -g $(WARN) $(SANFLAGS) $(if $(WERROR),-Werror)
INCLUDE  := -Isrc $(PKG_CFLAGS)
LIBS     := $(PKG_LIBS) -lm -lpthread

# Kernels: src/backend/cpu/x_avx2.c is compiled with ISA_avx2, and so on; only the table fillers leave
# such a file, and they are called after the CPU has been asked.
ISA_avx2   := -mavx2 -mfma -mf16c -mbmi2
ISA_avx512 := $(ISA_avx2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni \
              -mprefer-vector-width=512
ISA_avx512_bf16 := $(ISA_avx512) -mavx512bf16 -mavx512vbmi
ISA_amx    := $(ISA_avx512_bf16) -mamx-tile -mamx-bf16 -mamx-int8
ISAS       := amx avx512_bf16 avx512 avx2
isa_of      = $(firstword $(foreach i,$(ISAS),$(if $(filter %_$i,$(basename $(notdir $1))),$i)))
# What sanitized tests mostly run. Checks of locals' scopes, slow there, stay in kern.inc's others.
$(foreach f,kern_avx512 linear_avx512_bf16,$(eval SAN_$f := -O3 -fno-sanitize-address-use-after-scope))
$(foreach f,kern_avx2 q4_1 q8_0,$(eval SAN_$f := -O2))
flags_of    = $(ISA_$(call isa_of,$1)) $(if $(findstring backend/cuda,$1),$(CUDA_C)) \
              $(if $(SAN),$(SAN_$(basename $(notdir $1))),$(if $(findstring backend/cpu,$1),-O3))

# GPU kernels on the emulated device (below): not written for g++'s warnings, fibers not for sanitizers.
EMU_CXX := g++ -std=c++17 -O2 -g -fPIC -fno-extern-tls-init -fno-strict-aliasing -w -Wno-psabi -D_GNU_SOURCE -ffp-contract=off

# Every object depends on this file, which changes when the flags do.
FLAGS := $(BUILD)/flags
FLAGS_NOW := $(CC) $(CFLAGS) $(INCLUDE) $(LIBS) $(ISA_amx) $(CUDA_C) $(EMU_CXX)
ifneq ($(PKG_LIBS),)
ifneq ($(file <$(FLAGS)),$(FLAGS_NOW))
$(shell mkdir -p $(BUILD))
$(file >$(FLAGS),$(FLAGS_NOW))
endif
endif

# ---- the program ----

SRC    := $(filter-out $(if $(NVCC),src/backend/cuda/none.c, \
          $(filter-out %/none.c,$(wildcard src/backend/cuda/*.c))), \
          $(sort $(wildcard src/*/*.c src/*/*/*.c)))
OBJ    := $(SRC:src/%.c=$(BUILD)/obj/%.o)
LIBOBJ := $(filter-out $(BUILD)/obj/cmd/main.o,$(OBJ))

.DEFAULT_GOAL := all
.PHONY: all
all: $(BUILD)/puna

$(BUILD)/obj/%.o: src/%.c $(FLAGS)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC    $<")
	$(Q)$(CC) $(CFLAGS) $(INCLUDE) $(call flags_of,$<) -MMD -MP -c $< -o $@

$(BUILD)/obj/tools/code.o: src/tools/driver.py

# ---- GPU kernels: one fat binary for each .cu file, embedded by driver.c ----

# Code for 8.0 runs on 8.6 and 8.9; what is newer than 9.0 compiles the PTX when it loads.
CUDA_ARCHS ?= 80 90a
CUDA_PTX   ?= 90
CUDA_GEN   := $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$a$(comma)code=sm_$a) \
              $(foreach a,$(CUDA_PTX),-gencode arch=compute_$a$(comma)code=compute_$a)
FATBIN     := $(patsubst src/backend/cuda/%.cu,$(BUILD)/cuda/%.fatbin,$(wildcard src/backend/cuda/*.cu))
# What kernels may include; script/fatbin compiles those anew whose own files have changed.
CUDA_DEPS  := $(wildcard src/backend/cuda/*.cuh src/format/enc/*.h) \
              $(filter-out %/cuda.h %_int.h,$(wildcard src/backend/cuda/*.h)) \
              src/base/num.h src/base/rng.h src/ops/pick.h src/format/enc/enc.def

$(BUILD)/cuda/%.fatbin: src/backend/cuda/%.cu $(CUDA_DEPS)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  NVCC  $<")
	$(Q)script/fatbin $@ $< $(NVCC) -Isrc -O3 -std=c++17 -t 2 -fatbin $(CUDA_GEN)

ifneq ($(NVCC),)
$(BUILD)/obj/backend/cuda/driver.o: $(FATBIN)
else
$(BUILD)/obj/backend/cuda/none.o: | say-no-nvcc
.PHONY: say-no-nvcc
say-no-nvcc:
	@echo "  no nvcc: this puna computes on the CPU alone"
endif

$(BUILD)/libpuna.a: $(LIBOBJ)
	$(Q)rm -f $@ && ar rcs $@ $^

$(BUILD)/puna: $(BUILD)/obj/cmd/main.o $(BUILD)/libpuna.a
	$(if $(V),,@echo "  LINK  $@")
	$(Q)$(CC) $(CFLAGS) -o $@ $^ $(LIBS)

# ---- tests: tests/ROOM/NAME.c is one cmocka program; tests/*.c is shared by all ----

TESTSRC := $(sort $(wildcard tests/*/*.c))
TESTBIN := $(TESTSRC:tests/%.c=$(BUILD)/tests/%)
TESTLIB := $(patsubst tests/%.c,$(BUILD)/obj/tests/%.o,$(wildcard tests/*.c))

$(BUILD)/obj/tests/%.o: tests/%.c $(FLAGS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $(INCLUDE) -Itests -MMD -MP -c $< -o $@

$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(TESTLIB) $(BUILD)/libpuna.a
	@mkdir -p $(@D)
	$(if $(V),,@echo "  TEST  $@")
	$(Q)$(CC) $(CFLAGS) -o $@ $(filter %.o,$^) $(BUILD)/libpuna.a $(LIBS) -lcmocka
.SECONDARY:

# ---- the GPU's tests without one: tests/backend/cuda_host/device.h says what that shows ----

EMU      := $(BUILD)/tests/cuda_host
EMU_DIR  := tests/backend/cuda_host
EMU_CU   := $(basename $(notdir $(wildcard src/backend/cuda/*.cu)))
EMU_OBJ  := $(patsubst src/backend/cuda/%.c,$(EMU)/%.o, \
            $(filter-out %/none.c %/blas.c,$(wildcard src/backend/cuda/*.c))) $(EMU)/cublas.o

$(EMU)/fatbins: $(wildcard src/backend/cuda/*.cu)
	@mkdir -p $(@D)
	$(Q)for f in $(basename $(notdir $^)); do : >$(EMU)/$$f.fatbin; done; touch $@
$(EMU)/%.o: src/backend/cuda/%.c $(FLAGS) $(EMU)/fatbins
	$(Q)$(CC) $(CFLAGS) -DPUNA_CUDA='"$(abspath $(EMU))"' -I$(EMU_DIR) $(INCLUDE) -MMD -MP -c $< -o $@
$(EMU)/cublas.o: $(EMU_DIR)/cublas.c $(FLAGS) $(EMU)/fatbins
	$(Q)$(CC) $(CFLAGS) -DPUNA_CUDA='"$(abspath $(EMU))"' -I$(EMU_DIR) $(INCLUDE) -MMD -MP -c $< -o $@
# FILE NAME of every kernel; training's come in pairs, each in a namespace of its own (train_act.cuh).
$(EMU)/kernels: src/backend/cuda/cuda_int.h $(FLAGS)
	@mkdir -p $(@D)
	$(Q)printf '#include "%s"\n#define F(file, name) KERNEL file name\nCUDA_KERNELS(F)\n' $< | \
	    $(CC) -E -P $(LANG_C) -DPUNA_CUDA -I$(EMU_DIR) $(INCLUDE) - | \
	    grep -o 'KERNEL [a-z_0-9]* [a-z_0-9]*' | cut -d ' ' -f 2,3 >$@
$(EMU)/cu_%.o: $(EMU_DIR)/kernels.cpp $(EMU)/kernels
	$(Q)sed -n 's/^$* \(.*\)_f32$$/using namespace of_\1;/p; s/^$* \(.*_b16\)$$/using namespace of_\1;/p' \
	    $(EMU)/kernels | grep '^using namespace of_train' >$(EMU)/$*.list || :
	$(Q)sed -n 's/^$* \(.*\)/LIST(\1)/p' $(EMU)/kernels >>$(EMU)/$*.list
	$(Q)$(EMU_CXX) -I$(EMU_DIR) -Isrc -DSOURCE='"backend/cuda/$*.cu"' -DKERNELS='"$(EMU)/$*.list"' -I. \
	    -MMD -MP -c $< -o $@
$(EMU)/device.o: $(EMU_DIR)/device.cpp $(FLAGS)
	@mkdir -p $(@D)
	$(Q)$(EMU_CXX) -I$(EMU_DIR) -Isrc -MMD -MP -c $< -o $@
# EMULATED: the folder of another build's, for it is the same in all.
$(EMU)/libcuda.so.1: $(if $(EMULATED),$(EMULATED)/libcuda.so.1,$(EMU)/device.o $(EMU_CU:%=$(EMU)/cu_%.o))
	@mkdir -p $(@D)
	$(Q)$(if $(EMULATED),cp $< $@,g++ -shared -pthread -Wl$(comma)-z$(comma)defs -o $@ $^)
$(EMU)/cuda $(EMU)/cuda_prompts $(EMU)/cuda_train: $(EMU)/%: $(BUILD)/obj/tests/backend/%.o $(EMU_OBJ) $(TESTLIB) \
                                $(BUILD)/libpuna.a $(EMU)/libcuda.so.1
	$(if $(V),,@echo "  TEST  $@")
	$(Q)$(CC) $(CFLAGS) -o $@ $(filter %.o,$^) $(BUILD)/libpuna.a $(LIBS) -lcmocka
$(EMU)/puna: $(BUILD)/obj/cmd/main.o $(EMU_OBJ) $(BUILD)/libpuna.a $(EMU)/libcuda.so.1
	$(if $(V),,@echo "  LINK  $@")
	$(Q)$(CC) $(CFLAGS) -o $@ $(filter %.o,$^) $(BUILD)/libpuna.a $(LIBS)

.PHONY: tests test
tests: $(TESTBIN)
test: all tests $(EMU)/cuda $(EMU)/cuda_prompts $(EMU)/cuda_train
	$(Q)script/run-tests $(BUILD)

# Fails where there is no GPU: `make test` says there that these were not run.
.PHONY: test-cuda
test-cuda: $(addprefix $(BUILD)/tests/backend/,cuda cuda_prompts cuda_train) $(BUILD)/puna
	$(Q)for t in $(filter-out %puna,$^) tests/cmd/train_cuda.sh; do \
	    log=$(BUILD)/tests/$$(basename $$t).log; run=$$t; [ -x $$t ] || run="sh $$t"; \
	    PUNA=$(abspath $(BUILD))/puna $$run >$$log 2>&1 || { cat $$log; exit 1; }; \
	    cat $$log; ! grep -q '^not run' $$log || exit 1; done

# ---- fuzzing: fuzz/NAME.c is one libFuzzer target over the parsers, built by clang ----

FUZZ      := $(BUILD)/fuzz
FUZZFLAGS := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined
FUZZSRC   := $(filter-out src/backend/% src/cmd/main.c,$(SRC))
FUZZOBJ   := $(FUZZSRC:src/%.c=$(FUZZ)/obj/%.o)
FUZZBIN   := $(patsubst fuzz/%.c,$(FUZZ)/%,$(sort $(wildcard fuzz/*.c)))

$(FUZZ)/obj/%.o: src/%.c $(FLAGS)
	@mkdir -p $(@D)
	$(Q)$(CLANG) $(LANG_C) $(FUZZFLAGS) -fsanitize=fuzzer-no-link $(INCLUDE) -MMD -MP -c $< -o $@

$(FUZZ)/libpuna.a: $(FUZZOBJ)
	$(Q)rm -f $@ && ar rcs $@ $^

$(FUZZ)/%: fuzz/%.c $(FUZZ)/libpuna.a
	$(if $(V),,@echo "  FUZZ  $@")
	$(Q)$(CLANG) $(LANG_C) $(FUZZFLAGS) -fsanitize=fuzzer $(INCLUDE) -Ifuzz -o $@ $^ $(LIBS)

.PHONY: fuzz
fuzz: $(FUZZBIN)

# ---- checks ----

# One after the other: each uses all cores.
.PHONY: check check-layers check-style check-warnings check-san check-fuzz
check:
	$(Q)$(MAKE) check-layers
	$(Q)$(MAKE) check-style
	$(Q)$(MAKE) check-warnings
	$(Q)$(MAKE) check-san
	$(Q)$(MAKE) check-fuzz

check-layers:
	$(Q)script/check-layers

check-style:
	$(Q)CC='$(CC) $(LANG_C) $(INCLUDE)' script/check-style

check-warnings:
	$(Q)$(MAKE) $(if $(WERROR),,BUILD=$(BUILD)-werror WERROR=1) all tests

check-san:
	$(Q)$(MAKE) $(EMU)/libcuda.so.1
	$(Q)$(MAKE) BUILD=$(BUILD)-san SAN=1 EMULATED=$(EMU) test

check-fuzz: fuzz
	$(Q)script/fuzz-smoke $(FUZZ) 30

# ---- speed ----

MODEL ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/puna/models/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: bench compare
bench: all
	$(BUILD)/puna bench $(MODEL)

compare:
	$(Q)script/compare $(MODEL)

# ---- the rest ----

.PHONY: install clean size help
D := $(DESTDIR)$(PREFIX)
install: all
	install -D -m 755 $(BUILD)/puna $(D)/bin/puna
	install -d $(D)/share/man/man1 $(D)/share/doc/puna
	$(BUILD)/puna man >$(D)/share/man/man1/puna.1
	set -e; for c in $$(sed -n 's/^CMD(\(.*\))/\1/p' src/cmd/cmds.def); do \
	    $(BUILD)/puna man $$c >$(D)/share/man/man1/puna-$$c.1; done
	install -m 644 README.md MODEL.md CHANGELOG.md LICENSE NOTICE docs/*.md docs/*.svg $(D)/share/doc/puna
	install -d $(D)/share/bash-completion/completions $(D)/share/zsh/vendor-completions \
	    $(D)/share/fish/vendor_completions.d
	$(BUILD)/puna completion bash >$(D)/share/bash-completion/completions/puna
	$(BUILD)/puna completion zsh >$(D)/share/zsh/vendor-completions/_puna
	$(BUILD)/puna completion fish >$(D)/share/fish/vendor_completions.d/puna.fish

clean:
	rm -rf $(BUILD) $(BUILD)-san $(BUILD)-werror

size:
	@for d in src/*/ src/*/*/ tests fuzz script; do \
	    find $$d $$([ "$${d#src}" = "$$d" ] || echo -maxdepth 1) -type f ! -path '*/data/*' \
	        -exec cat {} + 2>/dev/null | wc -l | xargs printf "%7d  $$d\n"; \
	done

help:
	@sed -n 's/^#   //p' Makefile

-include $(OBJ:.o=.d) $(FUZZOBJ:.o=.d) $(TESTBIN:$(BUILD)/tests/%=$(BUILD)/obj/tests/%.d) $(TESTLIB:.o=.d) \
         $(wildcard $(EMU)/*.d)

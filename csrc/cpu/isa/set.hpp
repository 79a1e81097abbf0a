// The instruction set that an object is compiled for: its name, and the names of the tables that it exports.
#pragma once

#include "../kernels.hpp"

// The name comes from what the compiler was told to use, so that it proves which code is running.
#if defined(__AVX512F__) && defined(ENTROPIC_ISA_V4)
#define ENTROPIC_OF_SET(table) table##_v4
#define ENTROPIC_SET_NAME "v4"
#elif defined(__AVX2__) && defined(ENTROPIC_ISA_V3)
#define ENTROPIC_OF_SET(table) table##_v3
#define ENTROPIC_SET_NAME "v3"
#elif defined(ENTROPIC_ISA_NEON)
#define ENTROPIC_OF_SET(table) table##_neon
#define ENTROPIC_SET_NAME "neon"
#elif defined(ENTROPIC_ISA_BASELINE)
#define ENTROPIC_OF_SET(table) table##_baseline
#define ENTROPIC_SET_NAME "baseline"
#else
#error "the build must define ENTROPIC_ISA_<name> and the compiler flags that go with it"
#endif

namespace entropic {
namespace cpu {

extern const CouplingKernels ENTROPIC_OF_SET(coupling);
extern const NeighborKernels ENTROPIC_OF_SET(neighbors);
extern const SpectralKernels ENTROPIC_OF_SET(spectral);
extern const TransportKernels ENTROPIC_OF_SET(transport);

}  // namespace cpu
}  // namespace entropic

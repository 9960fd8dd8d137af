// The CPU kernels for any processor, by 16-byte vectors.

#include <cstring>
#include <type_traits>

#define MASK2FORMER_ISA portable
#define MASK2FORMER_VECTOR_BYTES 16
#include "kernels_impl.h"

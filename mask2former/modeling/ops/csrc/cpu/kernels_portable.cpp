// The CPU kernels for any processor, by 16-byte vectors.

#include <cstring>
#include <type_traits>

#define MASK2FORMER_ISA portable
#define MASK2FORMER_VECTOR_BYTES 16
#include "attention_impl.h"
#include "instance_masks_impl.h"

// The CPU kernels for any processor, by 16-byte vectors.

#include <cstring>
#include <type_traits>

#define MASK2FORMER_ISA portable
#define MASK2FORMER_VECTOR_BYTES 16
#include "attention_impl.h"
#include "instance_masks_impl.h"
#include "mask_losses_impl.h"
#include "point_samples_impl.h"
#include "upsample_add_impl.h"

// The bodies of the CPU kernels; see vectors.h. With MASK2FORMER_FORWARD_ONLY defined, they are
// only what runs a model outside of PyTorch: attention forward in float, which compiles in seconds.

#include "attention_impl.h"
#ifndef MASK2FORMER_FORWARD_ONLY
#include "attention_inputs_impl.h"
#include "instance_masks_impl.h"
#include "mask_losses_impl.h"
#include "point_samples_impl.h"
#include "residual_norm_impl.h"
#include "upsample_add_impl.h"
#endif
